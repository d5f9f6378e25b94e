"""The generated documents say what is declared, all of it, and going stale does not go unnoticed; all name what exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpumon import __version__
from gpumon.catalog import KINDS
from gpumon.docs import FILES, GENERATED, configuration, example, metrics
from gpumon.load import load
from gpumon.settings import options

SOURCE = Path(__file__).parents[1] / "src"
ENVIRONMENT = {"HOME": "/nowhere"}
ROOT = SOURCE.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += [page for folder in ("docs", "rules", "grafana-dashboards", "helm") for page in (ROOT / folder).rglob("*.md")]
# What looks like a name of ours and is another's: attributes of OpenTelemetry, variables that Kubernetes or Compose makes.
OTHERS = {
    "service.name",
    "service.version",
    "GPUMON_PORT",
    "GPUMON_SERVICE_HOST",
    "GPUMON_SERVICE_PORT",
    "GPUMON_ARGUMENTS",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a copy of what makes a source checkout, without any generated file."""
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SOURCE.parent / "pyproject.toml", tmp_path)
    (tmp_path / "helm/gpumon").mkdir(parents=True)
    shutil.copy(SOURCE.parent / "helm/gpumon/values.yaml", tmp_path / "helm/gpumon")
    return tmp_path


def docs(checkout: Path, *arguments: str) -> tuple[int, str]:
    """Run `gpumon docs` of a checkout; give its exit code and what it said."""
    path = os.pathsep.join([str(checkout / "src"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "gpumon", "docs", *arguments],
        env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_check_names_what_is_stale(checkout: Path) -> None:
    """Missing and changed files are named with exit code 1; writing them anew makes them fresh."""
    code, said = docs(checkout, "--check")
    assert (code, said) == (1, f"gpumon: {', '.join(FILES)} must be generated anew by `gpumon docs`.\n")
    assert docs(checkout) == (0, "")
    assert docs(checkout, "--check") == (0, "")
    (checkout / "docs/metrics.md").write_text("edited by hand\n")
    code, said = docs(checkout, "--check")
    assert (code, said) == (1, "gpumon: docs/metrics.md must be generated anew by `gpumon docs`.\n")


def test_an_installed_gpumon_says_that_it_cannot(checkout: Path) -> None:
    """Without a source checkout around it there is nowhere to write."""
    (checkout / "pyproject.toml").unlink()
    for arguments in ((), ("--check",)):
        code, said = docs(checkout, *arguments)
        assert code == 2
        assert said == "gpumon: The documents are generated in a source checkout only, and this gpumon is installed.\n"


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_generated_files_say_so_on_their_first_line(content: object) -> None:
    """Nobody edits them by mistake."""
    assert GENERATED in content().split("\n")[0]  # type: ignore[operator]


@pytest.mark.parametrize("content", [metrics, configuration])
def test_tables_are_whole(content: object) -> None:
    """Each row of a table has as many cells as its head."""
    widths: set[int] = set()
    for line in content().split("\n"):  # type: ignore[operator]
        if line.startswith("|"):
            widths.add(len(re.split(r"(?<!\\)\|", line)))
            assert len(widths) == 1, line
        else:
            widths.clear()


def test_every_metric_and_label_is_documented() -> None:
    """The document has each metric once per kind, with its help and all its storage columns."""
    text = metrics()
    for kind in KINDS:
        section = text.split(f"\n## {kind.name}\n")[1].split("\n## ")[0]
        for label in kind.labels:
            assert f"| `{label.name}` | {label.help} |" in section
        for reading in (*kind.readings, *kind.histograms):
            (row,) = (line for line in section.split("\n") if line.startswith(f"| `{kind.metric(reading)}` |"))
            assert reading.help in row
            assert kind.otel_name(reading) in row
            for column in kind.columns:
                if column.reading is reading and kind.table:
                    assert f"`{column.name}`" in row


def test_every_option_is_documented() -> None:
    """The document has each option's variable, default, what is allowed and its help."""
    text = configuration()
    for option in options():
        (row,) = (line for line in text.split("\n") if f"`{option.variable}`" in line and line.startswith("|"))
        assert option.help in row
        assert option.allowed in row


def test_the_example_changes_nothing_as_it_stands_and_uncommented(tmp_path: Path) -> None:
    """The example is valid, and every default in it is the default."""
    file = tmp_path / "config.toml"
    defaults = load(None, ENVIRONMENT)
    file.write_text(example())
    assert load(str(file), ENVIRONMENT) == defaults
    uncommented = re.sub(r"(?m)^# (\w+ = )", r"\1", example())
    assert uncommented.count("\n") == example().count("\n")
    file.write_text(uncommented)
    assert load(str(file), ENVIRONMENT) == defaults
    for option in options():
        assert re.search(rf"(?m)^{option.key} = ", uncommented)


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    """Give each document that people read."""
    assert isinstance(request.param, Path)
    return request.param


def anchors(page: Path) -> set[str]:
    """Give where links may lead within a document, as GitHub makes it of the headings."""
    text = re.sub(r"(?ms)^```.*?^```", "", page.read_text())
    headings = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line) for line in re.findall(r"(?m)^#+ (.*)", text))
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings}


def test_links_lead_to_what_is_there(page: Path) -> None:
    """Files, folders, pictures and headings."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        file, _, anchor = link.partition("#")
        if not re.match(r"https?:", link):
            target = page.parent / file if file else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_programs_and_targets_are_there(page: Path) -> None:
    """Those that a document has people run, or look at, by their path in the checkout or by `make`."""
    text = page.read_text()
    paths = re.findall(r"(?<![\w/.])(?:bench|image|rules|src|tests)/[\w/]+\.py", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([a-z][a-z0-9-]*)", text, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_variables_and_settings_exist(page: Path) -> None:
    """Those of the environment, and `section.key` in backticks; the chart's document has the chart's values as well."""
    text = page.read_text()
    known = {option.variable for option in options()} | OTHERS
    assert set(re.findall(r"\bGPUMON_[A-Z0-9_]*[A-Z0-9]\b", text)) - known == set()
    sections = "|".join({option.section for option in options()})
    known = {f"{option.section}.{option.key}" for option in options()} | OTHERS
    if page.name == "kubernetes.md":
        known |= {f"service.{value}" for value in ("enabled", "headless", "annotations")}
    assert set(re.findall(rf"`((?:{sections})\.(?!json)[a-z_0-9]+)(?: = [^`]*)?`", text)) - known == set()


def test_metrics_exist(page: Path) -> None:
    """Every metric that a document names is in the catalogue; `gpumon_alert_…` and the like stand for some of them."""
    known = {kind.metric(reading) for kind in KINDS for reading in (*kind.readings, *kind.histograms)}
    known |= {f"{metric}_{part}" for metric in known for part in ("bucket", "sum", "count")}
    known |= anchors(ROOT / "docs/runbooks.md")  # names of alerts
    named = re.findall(r"(?<![\w:.])(gpumon_[a-z0-9_]+)(?![…*]|\w)", page.read_text())
    assert {name for name in named if not name.endswith("_")} - known == set()


def test_versions_are_this_one() -> None:
    """What documents, Compose files and the image's label call the version is gpumon's."""
    texts = [path.read_text() for path in (*PAGES, *(ROOT / "examples/compose").glob("*.yaml"))]
    named = [version for text in texts for version in re.findall(r"\bgpumon:(\d[\w.]*\w)", text)]
    named += re.findall(r"(?m)^ARG VERSION=(.*)$", (ROOT / "Dockerfile").read_text())
    assert len(named) > 5
    assert set(named) == {__version__}

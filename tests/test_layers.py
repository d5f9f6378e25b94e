"""Imports run one way, and what is heavy is imported only where it is used and when it is needed."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"

GROUND = ("settings", "hub", "log", "memory", "trace", "source", "gpuprocess", "crew", "apart", "value", "load")
SOURCES = ("gpu", "process", "llm", "host")
SINKS = ("store", "export", "web")
# From the lowest layer up, by the part of the house; a part imports lower layers only.
LAYERS = (
    ("catalog",),
    GROUND,
    SOURCES + SINKS,
    ("sampler", "servers"),
    ("daemon",),
    ("health",),
    ("parts",),
    ("app", "chart"),
    ("check", "docs"),
    ("cli",),
    ("__main__",),
)
LAYER = {part: height for height, parts in enumerate(LAYERS) for part in parts}
# Parts that may import their like: the ground stands together, and a server serves what other sinks render and keep.
ALIKE = (GROUND, SINKS)

# Third-party packages that are heavy, and the modules that may import them.
HEAVY = {
    "dynaconf": ("gpumon.load",),
    "yaml": ("gpumon.web", "gpumon.chart"),
    "bcrypt": ("gpumon.web",),
    "pyarrow": ("gpumon.store",),
    "grpc": ("gpumon.export", "gpumon.process"),
    "opentelemetry": ("gpumon.export",),
    "google": ("gpumon.export",),
}
# What the service must not have in memory when nothing of it is switched on.
NOT_AT_START = (*HEAVY, "difflib", "tomllib", "gpumon.check", "gpumon.docs", "gpumon.gpu.simulate", "gpumon.gpu.smi")


def modules() -> dict[str, ast.Module]:
    """Give every module of gpumon by name."""
    found = {}
    for path in sorted((SOURCE / "gpumon").rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text())
    return found


MODULES = modules()


def imported(tree: ast.AST) -> Iterator[str]:
    """Give the full names of what is imported anywhere in `tree`; a relative import has no name and is refused."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(name: str) -> str:
    """Give the part of the house that a module, or a name in one, belongs to; "" for gpumon itself."""
    inside = name.split(".")[1:]
    return inside[0] if inside and inside[0] in LAYER else ""


def within(name: str, packages: tuple[str, ...]) -> bool:
    """Say whether a module is, or is inside, one of the packages."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_has_its_place(name: str) -> None:
    """A new file or folder is given a layer before it is written in."""
    assert name == "gpumon" or part(name)


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name: str) -> None:
    """A module imports its own part and lower layers; sources import no other source and no sink, sinks no source."""
    for other in imported(MODULES[name]):
        if not other.startswith("gpumon.") or not part(other) or part(other) == part(name):
            continue
        below = LAYER[part(other)] < LAYER[part(name)]
        beside = any(part(name) in parts and part(other) in parts for parts in ALIKE)
        assert below or beside, f"{name} imports {other}"


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) == "catalog"])
def test_the_catalogue_imports_the_standard_library_only(name: str) -> None:
    """Sinks, tools and documents can use it anywhere."""
    for other in imported(MODULES[name]):
        assert other.startswith("gpumon.catalog") or other.split(".")[0] in sys.stdlib_module_names


@pytest.mark.parametrize("name", MODULES)
def test_heavy_packages_stay_where_they_are_used(name: str) -> None:
    """Each is imported by its own part of the house only."""
    for other in imported(MODULES[name]):
        package = other.split(".")[0]
        if package in HEAVY:
            assert within(name, HEAVY[package]), f"{name} imports {other}"


@pytest.mark.parametrize("name", [name for name in MODULES if name != "gpumon.cli"])
def test_only_cli_ends_the_process(name: str) -> None:
    """Everything else gives back an exit code or raises; a forked child is its own affair."""
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            called = f"{node.value.id}.{node.attr}"
            assert called != "sys.exit"
            assert called != "os._exit" or name == "gpumon.apart"
        assert not (isinstance(node, ast.Name) and node.id in ("SystemExit", "exit", "quit"))


START = """
import sys
from gpumon import app, cli, load
from gpumon.web import metrics
print(*sys.modules)
"""


def test_the_service_starts_without_what_it_does_not_need() -> None:
    """Memory is promised: what is heavy, or only others need, is not there when the service starts."""
    done = subprocess.run(
        [sys.executable, "-c", START],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = done.stdout.split()
    assert "gpumon.app" in loaded
    assert [name for name in loaded if within(name, NOT_AT_START)] == []

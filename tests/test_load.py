"""Settings are read as promised: defaults, then the file, then the environment; anything wrong is one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gpumon.load import COMBINATIONS, KUBERNETES, Combination, load, read_apart
from gpumon.settings import FORMS, Option, Settings, SettingsError, options, reserved_in_use
from gpumon.value import accept

OPTIONS = {option.name: option for option in options()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Give an empty home folder."""
    return tmp_path


def write(path: Path, text: str | bytes) -> str:
    """Make a file and give its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def refusal(config: str | None, environ: dict[str, str]) -> str:
    """Give the sentence with which these settings are refused."""
    with pytest.raises(SettingsError) as caught:
        load(config, environ)
    sentence = str(caught.value)
    assert is_one_sentence(sentence), sentence
    return sentence


def is_one_sentence(text: str) -> bool:
    return text.endswith(".") and not text.endswith("..") and text.isprintable()


# What is declared


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_every_option_is_declared_whole(option: Option) -> None:
    """An option's type is its default's, numbers have bounds, helps are sentences, and the default is allowed."""
    section = getattr(Settings(), option.section)
    annotation = {f.name: f.type for f in fields(section)}[option.key]
    assert annotation == type(option.default).__name__
    assert option.help.endswith(".")
    assert option.form in FORMS
    assert accept(option, option.default) == option.default
    if type(option.default) in (int, float):
        assert option.minimum is not None
        assert option.maximum is not None
        assert accept(option, option.minimum - 1) is None
        assert accept(option, option.maximum + 1) is None
    else:
        assert (option.minimum, option.maximum) == (None, None)


def test_no_option_is_taken_for_a_variable_of_kubernetes() -> None:
    """No setting may be named as a variable that Kubernetes injects, because those are ignored."""
    assert not [option.variable for option in OPTIONS.values() if KUBERNETES.fullmatch(option.variable)]


def test_variables_of_options_are_unique() -> None:
    """Section and key are joined by one underscore, so no two options may end up with one variable."""
    assert len({option.variable for option in OPTIONS.values()}) == len(OPTIONS)


# Order


def test_without_file_and_environment_the_defaults_hold(home: Path) -> None:
    """Nothing given: the defaults, with `~` expanded."""
    read = load(None, {"HOME": str(home)})
    for name, option in OPTIONS.items():
        expected = str(option.default)
        if option.form == "path":
            assert read[name] == expected.replace("~", str(home))
        else:
            assert read[name] == option.default


def test_environment_wins_over_file_and_file_over_default(home: Path) -> None:
    """Each layer replaces only the keys it has."""
    write(
        home / ".config/gpumon/config.toml",
        "[service]\npoll_interval_secs = 5\nlog_level = 'debug'\n[gpu]\nenable_nvml = false\n",
    )
    read = load(None, {"HOME": str(home), "GPUMON_SERVICE_POLL_INTERVAL_SECS": "7.5"})
    assert read.service.poll_interval_secs == 7.5
    assert read.service.log_level == "debug"
    assert read.gpu.enable_nvml is False
    assert read.service.log_format == "auto"
    assert type(read.service.poll_interval_secs) is float


def test_config_replaces_the_default_file(home: Path) -> None:
    """With --config the default file is not read at all."""
    write(home / ".config/gpumon/config.toml", "[service]\npoll_interval_secs = 5\n")
    other = write(home / "other.conf", "[gpu]\nenable_nvml = false\n")
    read = load(other, {"HOME": str(home)})
    assert read.service.poll_interval_secs == 2.0
    assert not read.gpu.enable_nvml


def test_whole_numbers_are_taken_for_numbers(home: Path) -> None:
    """`poll_interval_secs = 5` is 5.0, so that nothing behind it meets another type."""
    read = load(write(home / "c.toml", "service.poll_interval_secs = 5"), {})
    assert type(read.service.poll_interval_secs) is float


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("1", True),
        ("YES", True),
        ("on", True),
        ("false", False),
        ("0", False),
        ("No", False),
        ("off", False),
    ],
)
def test_booleans_from_the_environment(text: str, value: bool) -> None:
    """true/false, 1/0, yes/no and on/off, in any case."""
    assert load(None, {"GPUMON_GPU_ENABLE_NVML": text}).gpu.enable_nvml is value


def test_an_empty_variable_counts_as_unset(home: Path) -> None:
    """Compose and Helm pass empty strings for what was not given."""
    config = write(home / "c.toml", "[telemetry]\notlp_endpoint = 'http://collector:4317'\nmetrics_port = 9400")
    read = load(config, {"GPUMON_TELEMETRY_OTLP_ENDPOINT": "", "GPUMON_TELEMETRY_METRICS_PORT": "", "GPUMON_X": ""})
    assert read.telemetry.otlp_endpoint == "http://collector:4317"
    assert read.telemetry.metrics_port == 9400


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GPUMON_SERVICE_HOST", "10.0.0.1"),
        ("GPUMON_SERVICE_PORT", "9090"),
        ("GPUMON_SERVICE_PORT_METRICS", "9090"),
        ("GPUMON_PORT", "tcp://10.0.0.1:9090"),
        ("GPUMON_PORT_9090_TCP", "tcp://10.0.0.1:9090"),
        ("GPUMON_PORT_9090_TCP_PROTO", "tcp"),
        ("GPUMON_PORT_9090_TCP_PORT", "9090"),
        ("GPUMON_PORT_9090_TCP_ADDR", "10.0.0.1"),
        ("GPUMON_TELEMETRY_SERVICE_HOST", "10.0.0.1"),
        ("GPUMON_TELEMETRY_PORT", "tcp://10.0.0.1:8010"),
        ("GPUMON_TELEMETRY_PORT_8010_TCP", "tcp://10.0.0.1:8010"),
    ],
)
def test_variables_of_kubernetes_are_ignored(name: str, value: str) -> None:
    """A Service called gpumon, or gpumon-something, in the namespace changes nothing."""
    assert load(None, {"HOME": "/nowhere", name: value}) == load(None, {"HOME": "/nowhere"})


def test_paths_are_expanded_once_when_read(home: Path) -> None:
    """`~` means the user's home folder in every option that is a path, and only there."""
    read = load(None, {"HOME": str(home), "GPUMON_TELEMETRY_WEB_CONFIG_FILE": "~/web.yml"})
    assert read.telemetry.web_config_file == f"{home}/web.yml"
    assert read.service.data_dir == f"{home}/.local/share/gpumon"


@pytest.mark.parametrize(
    "token", ["@format {env[HOME]}", "@int 5", "@del", "@read_file /etc/passwd", "@none", "@merge x"]
)
def test_a_text_is_a_text(home: Path, token: str) -> None:
    """Dynaconf's tokens mean nothing here, neither in a file nor in the environment."""
    config = write(home / "c.toml", f"[telemetry]\notlp_endpoint = '{token}'")
    assert load(config, {}).telemetry.otlp_endpoint == token
    assert load(None, {"GPUMON_TELEMETRY_OTLP_ENDPOINT": token}).telemetry.otlp_endpoint == token


# What is refused, and how it is said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[servce]\n", ["[servce]", "did you mean [service]?", "[telemetry]"]),
        (
            "[service]\npoll_intervall = 2",
            ["service.poll_intervall", "did you mean service.poll_interval_secs?", "log_level"],
        ),
        ("[service]\npoll_interval_secs = 0.1", ["service.poll_interval_secs is 0.1", "a number from 0.25 to 300"]),
        ("[service]\npoll_interval_secs = nan", ["is nan", "a number from 0.25 to 300"]),
        ("[service]\npoll_interval_secs = '2'", ['is "2"', "a number from"]),
        ("[service]\npoll_interval_secs = true", ["is true", "a number from"]),
        ("[telemetry]\nmetrics_port = 9090.0", ["is 9090.0", "a whole number from 1 to 65535"]),
        ("[telemetry]\nmetrics_port = 0", ["telemetry.metrics_port is 0", "from 1 to 65535"]),
        ("[telemetry]\nmetrics_port = [1]", ["is a list"]),
        ("[telemetry]\nmetrics_port = 0x" + "f" * 9000, ["more than 64 bits"]),
        ("[telemetry]\nmetrics_address = 'all'", ['is "all"', 'an IP address or "localhost"']),
        ("[gpu]\nenable_nvml = 1", ["gpu.enable_nvml is 1", "true or false"]),
        ("[service]\nlog_level = 'loud'", ['is "loud"', 'one of "debug", "info"']),
        ("[service]\ndata_dir = ''", ["service.data_dir", "a path."]),
        ('[service]\ndata_dir = "/a\\nb"', ["/a\\nb"]),
        ("[ollama]\napi_url = 'localhost:11434'", ["http:// or https://", "or empty"]),
        *(
            (f"[proxy]\nlisten = '{text}'", [f'proxy.listen is "{text}"', "an address and a port"])
            for text in ("11435", ":11435", "h:1", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:000065536", "::1:5", "[::1]")
        ),
        ("[proxy]\nlisten = 'localhost:11434'", ["proxy.listen is", "proxy.upstream is", "must have a port each"]),
        (
            "[proxy]\nlisten = '10.0.0.1:80'\nupstream = 'http://10.0.0.1'",
            ['proxy.listen is "10.0.0.1:80"', "must have a port each"],
        ),
        ("service = 5", ["service is 5", "a section, written [service]"]),
        ("[[service]]", ["service is a list"]),
        ("[service\n", ["not valid TOML", "line 1"]),
        ("a" * 100 + " = 1\n", ["a" * 60 + "…"]),
        ('"a\\nb" = 1\n', ["[a\\nb]"]),
        ("x = " + "[" * 5000, ["not valid TOML"]),
        (b"x = '\xff'", ["byte 5 is not UTF-8"]),
        (b" " * (1 << 20) + b"\n", ["larger than 1 MiB"]),
        (
            "[telemetry]\nmetrics_port = 11434",
            ["telemetry.metrics_port is 11434", "ollama.api_port is 11434 (default)", "must differ"],
        ),
    ],
)
def test_a_wrong_file_is_refused_by_one_sentence(home: Path, text: str | bytes, said: list[str]) -> None:
    """The sentence names the key, its value, the file and what is allowed."""
    config = write(home / "config.toml", text)
    sentence = refusal(config, {})
    assert config in sentence
    for words in said:
        assert words in sentence


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "GPUMON_SERVICE_POLL_INTERVAL",
            "5",
            ["did you mean GPUMON_SERVICE_POLL_INTERVAL_SECS?", "GPUMON_<SECTION>_<KEY>"],
        ),
        ("GPUMON_gpu_enable_nvml", "5", ["is not a setting"]),
        ("GPUMON_GPU_ENABLE_NVML", "maybe", ['gpu.enable_nvml is "maybe"', "true or false"]),
        ("GPUMON_TELEMETRY_METRICS_PORT", "http", ['telemetry.metrics_port is "http"', "from 1 to 65535"]),
        ("GPUMON_TELEMETRY_METRICS_PORT", "9" * 5000, ["9" * 60 + "…"]),
        ("GPUMON_SERVICE_POLL_INTERVAL_SECS", "inf", ["is inf"]),
        ("GPUMON_SERVICE_DATA_DIR", "/a\nb", ["/a\\nb", "a path"]),
        ("GPUMON_PORT", "9090", ["GPUMON_PORT is not a setting"]),
    ],
)
def test_a_wrong_variable_is_refused_by_one_sentence(name: str, value: str, said: list[str]) -> None:
    """The sentence names the key, its value, the variable and what is allowed."""
    sentence = refusal(None, {"HOME": "/nowhere", name: value})
    assert name in sentence
    for words in said:
        assert words in sentence


@pytest.mark.parametrize("option", [option for option in OPTIONS.values() if option.secret], ids=lambda o: o.name)
def test_a_secret_is_not_told_even_where_it_is_wrong(option: Option, home: Path) -> None:
    """What stops the start ends up in logs that more people read than settings."""
    config = write(home / "c.toml", f"[{option.section}]\n{option.key} = 4711081547110815")
    sentence = refusal(config, {})
    assert option.name in sentence
    assert "4711" not in sentence
    if option.form != "text":
        assert "hunter2" not in refusal(None, {"HOME": str(home), option.variable: "htp://me:hunter2@host"})


def test_a_file_that_cannot_be_read_is_refused(home: Path) -> None:
    """A named file must exist; a default file that is there must be readable."""
    assert "No such file" in refusal(str(home / "none.toml"), {})
    assert "Is a directory" in refusal(str(home), {})
    assert "null" in refusal("a\0b", {})
    (home / ".config/gpumon/config.toml").mkdir(parents=True)
    assert "Is a directory" in refusal(None, {"HOME": str(home)})


def test_a_home_that_is_no_folder_has_no_default_file(home: Path) -> None:
    """Neither a missing home nor a file in its place stops the start."""
    write(home / "file", "")
    for place in (home / "missing", home / "file"):
        assert load(None, {"HOME": str(place)}).service.poll_interval_secs == 2.0


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: "+".join(c.names))
def test_combinations_name_options_that_exist(combination: Combination) -> None:
    """A rule about options that were renamed would never be seen to fail."""
    assert set(combination.names) <= set(OPTIONS)


def test_reserved_options_in_use_are_listed(home: Path) -> None:
    """Options without effect are named only when somebody set them to something else."""
    assert reserved_in_use(Settings()) == []
    reserved = [option for option in OPTIONS.values() if option.reserved and isinstance(option.default, bool)]
    for option in reserved:
        assert reserved_in_use(load(None, {option.variable: "no" if option.default else "yes"})) == [option.name]


# Anything at all

NAMES = st.sampled_from([option.variable for option in OPTIONS.values()]) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0="), max_size=30
).map(lambda end: f"GPUMON_{end}")
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80)
WORDS = TEXTS | st.integers().map(str) | st.floats().map(str) | st.sampled_from(["yes", "off", "debug", "~/x", "@del"])
SCALARS = st.sampled_from(
    ["1", "-1", "0.5", "nan", "inf", "true", "''", "'@del'", "'~'", "[1]", "{a=1}", "1979-05-27", "0x10"]
)
KEYS = st.sampled_from(list(OPTIONS)) | st.sampled_from(["service", "x.y", "service.x", "dynaconf_merge", '"a b".c'])
LINES = st.builds("{} = {}".format, KEYS, SCALARS)


def holds(config: str | None, environ: dict[str, str]) -> None:
    """Hold these settings to be either read, every value allowed, or refused by one sentence."""
    try:
        read = load(config, environ)
    except SettingsError as error:
        refused = str(error)
    else:
        for name, option in OPTIONS.items():
            value = read[name]
            assert type(value) is type(option.default)
            assert accept(option, value) == value
        return
    assert is_one_sentence(refused)


@hypothesis_settings(deadline=None)  # the first example imports dynaconf
@given(st.dictionaries(NAMES, WORDS, max_size=4))
@example({"GPUMON_SERVICE_DATA_DIR": "~"})
def test_any_environment_gives_settings_or_one_sentence(environ: dict[str, str]) -> None:
    """Nothing else can leave `load`, whatever the environment holds."""
    holds(None, {"HOME": "/nowhere"} | environ)


@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, max_size=4).map("\n".join).map(str.encode) | TEXTS.map(str.encode) | st.binary(max_size=80))
def test_any_file_gives_settings_or_one_sentence(home: Path, content: bytes) -> None:
    """Nothing else can leave `load`, whatever the file holds."""
    holds(write(home / "any.toml", content), {"HOME": "/nowhere"})


# Apart

PROBE = """
import json, sys
from gpumon.load import read_apart
from gpumon.settings import options
read = read_apart(None)
left = sorted(module for module in sys.modules if "dynaconf" in module or module in ("tomllib", "difflib"))
print(json.dumps([{o.name: read[o.name] for o in options()}, left]))
"""


def probe(home: Path, environ: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE],
        env={"HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)} | environ,
        cwd=home,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_nothing_of_dynaconf_stays_or_reaches_in(home: Path) -> None:
    """What dynaconf would obey by itself changes nothing: variables, .env, .local files, hooks. Nor does it stay."""
    folder = home / ".config/gpumon"
    write(folder / "config.toml", "[service]\nlog_level = 'debug'\n")
    plain = probe(home, {})
    assert "[]" in plain
    write(folder / "config.local.toml", "[service]\nlog_level = 'error'\n")
    write(folder / "dynaconf_hooks.py", "def post(settings):\n    return {'SERVICE': {'log_level': 'error'}}\n")
    write(home / ".env", "GPUMON_SERVICE_LOG_LEVEL=error\n")
    write(home / "settings.toml", "[service]\nlog_level = 'error'\n")
    orders = {
        "LOAD_DOTENV_FOR_DYNACONF": "true",
        "ENVIRONMENTS_FOR_DYNACONF": "true",
        "AUTO_CAST_FOR_DYNACONF": "true",
        "MERGE_ENABLED_FOR_DYNACONF": "true",
        "SETTINGS_FILE_FOR_DYNACONF": str(home / "settings.toml"),
        "REDIS_PORT_FOR_DYNACONF": "not a number",
        "REDIS_ENABLED_FOR_DYNACONF": "true",
        "DYNACONF_SERVICE__LOG_LEVEL": "error",
        "DYNACONF_SERVICE": "@json {}",
    }
    assert probe(home, orders) == plain


def test_an_error_apart_is_the_same_sentence() -> None:
    """The child's refusal is raised in the parent as it is."""
    environ = {"HOME": "/nowhere", "GPUMON_GPU_ENABLE_NVML": "maybe"}
    with pytest.raises(SettingsError) as caught:
        read_apart(None, environ)
    assert str(caught.value) == refusal(None, environ)


@pytest.mark.parametrize("text", ["127.0.0.1:11435", "0.0.0.0:1", "localhost:65535", "[::1]:11434", "[::]:80"])
def test_what_the_proxy_listens_on_is_an_address_and_a_port(text: str) -> None:
    """IPv6 in brackets, as in a URL."""
    assert load(None, {"GPUMON_PROXY_LISTEN": text, "GPUMON_OLLAMA_API_PORT": "5"}).proxy.listen == text

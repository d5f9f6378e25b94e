"""Reads settings: defaults, then a TOML file, then the environment. Anything wrong is one sentence in a SettingsError.

Every layer is checked before dynaconf lays one over the other, so that only known options with plain values reach it:
its tokens (`@format …`), merge marks, `.env` files, hooks and `…_FOR_DYNACONF` variables can change nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from gpumon.apart import apart
from gpumon.settings import ENV_PREFIX, Option, Settings, SettingsError, Value, options
from gpumon.value import accept, from_text, plain, show

# A settings file with every option explained is 10 kB; what is larger is another file, or a device that never ends.
FILE_LIMIT_BYTES = 1 << 20
# A path is shown whole: PATH_MAX of Linux.
PATH_CHARACTERS = 4096

# What Kubernetes sets in every pod beside a Service called gpumon or gpumon-something.
KUBERNETES = re.compile(
    rf"{ENV_PREFIX}_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
KUBERNETES_PORT = re.compile(rf"{ENV_PREFIX}_([A-Z0-9_]+_)?PORT")
KUBERNETES_PORT_VALUE = re.compile(r"(tcp|udp|sctp)://.*")

Known = Mapping[str, Option]
Layer = dict[str, dict[str, Value]]
Origins = dict[str, str]


@dataclass(frozen=True, slots=True)
class Combination:
    """Options that are each allowed but not together."""

    names: tuple[str, ...]
    clash: Callable[[Settings], bool]
    rule: str


COMBINATIONS = (
    Combination(
        ("kubernetes.pod_labels", "kubernetes.node_name"),
        lambda s: bool(s.kubernetes.pod_labels) and not s.kubernetes.node_name,
        "labels are asked for one node only, so its name must be given",
    ),
    Combination(
        ("telemetry.metrics_port", "ollama.api_port"),
        lambda s: (
            s.telemetry.enable_prometheus
            and s.ollama.enabled
            and not s.ollama.api_url
            and s.telemetry.metrics_port == s.ollama.api_port
        ),
        "they must differ, because both are ports of this machine",
    ),
    Combination(
        ("proxy.listen", "proxy.upstream", "ollama.api_url", "ollama.api_port"),
        lambda s: bool(s.proxy.listen) and _calls_itself(s),
        "the proxy and the model server must have a port each",
    ),
)


def _calls_itself(settings: Settings) -> bool:
    """Say whether the proxy's upstream is the port it listens on."""
    upstream = urlsplit(settings.proxy.upstream or settings.ollama.api_url)
    host, port = (
        upstream.hostname or "localhost",
        upstream.port or (settings.ollama.api_port if not upstream.netloc else 80),
    )
    address, _, listen_port = settings.proxy.listen.rpartition(":")
    here = ("localhost", "127.0.0.1", "::1", address.strip("[]"))
    return str(port) == listen_port and host in here


def read_apart(config: str | None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Give what `load` gives, read in a child: dynaconf's 5 MB stay there. Call before any thread is started."""
    given = dict(environ)

    def read() -> Settings:
        os.environ.clear()  # dynaconf obeys …_FOR_DYNACONF variables as soon as it is imported
        return load(config, given)

    return apart(read)


def load(config: str | None, environ: Mapping[str, str]) -> Settings:
    """Read all settings; `config` names a file that must exist, None takes the default one where it is there.

    SettingsError: something is unknown, of the wrong type, out of bounds, impossible together, or cannot be read.
    """
    known = {option.name: option for option in options()}
    origins: Origins = {}
    path = default_file(environ) if config is None else Path(config)
    from_file = _file_layer(path, known, origins, optional=config is None) if path else {}
    values = _lay([_defaults(known), from_file, _environment_layer(environ, known, origins)])
    home = home_folder(environ)
    for option in known.values():
        if option.form == "path":
            section = values[option.section]
            section[option.key] = _expand(option, str(section[option.key]), home)
    tree = Settings()
    settings = replace(tree, **{name: replace(getattr(tree, name), **values[name]) for name in values})
    _check_combinations(settings, origins)
    return settings


def home_folder(environ: Mapping[str, str]) -> str | None:
    """Give the user's home folder; None where neither HOME nor the user database has one."""
    import pwd

    if environ.get("HOME"):
        return environ["HOME"]
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None


def default_file(environ: Mapping[str, str]) -> Path | None:
    """Give the path of the settings file that is read without --config; None without a home folder."""
    home = home_folder(environ)
    return Path(home, ".config", "gpumon", "config.toml") if home else None


def variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Give the names in the environment that are meant as settings: not empty and not Kubernetes's."""
    for name, value in sorted(environ.items()):
        if not name.startswith(f"{ENV_PREFIX}_") or not value or KUBERNETES.fullmatch(name):
            continue
        if KUBERNETES_PORT.fullmatch(name) and KUBERNETES_PORT_VALUE.fullmatch(value):
            continue
        yield name


def _lay(layers: list[Layer]) -> Layer:
    """Give the layers as one, later ones over earlier ones; the first has every section."""
    from dynaconf.base import Settings as Dynaconf

    store = Dynaconf(
        dynaconf_skip_loaders=True,
        dynaconf_skip_validators=True,
        AUTO_CAST_FOR_DYNACONF=False,
        DOTTED_LOOKUP_FOR_DYNACONF=False,
        NESTED_SEPARATOR_FOR_DYNACONF=None,
        ENVIRONMENTS_FOR_DYNACONF=False,
    )
    for layer in layers:
        store.update(layer, merge=True)
    return {section: dict(store[section]) for section in layers[0]}


def _defaults(known: Known) -> Layer:
    layer: Layer = {}
    for option in known.values():
        layer.setdefault(option.section, {})[option.key] = option.default
    return layer


def _file_layer(path: Path, known: Known, origins: Origins, *, optional: bool) -> Layer:
    """Give the settings of a TOML file; an optional one that is not there gives none."""
    origin = f"file {plain(str(path), limit=PATH_CHARACTERS)}"
    try:
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        if optional:
            return {}
        raise SettingsError(f"Cannot read {origin}: {error.strerror}.") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"Cannot read {origin}: {reason}.") from None
    if len(content) > FILE_LIMIT_BYTES:
        raise SettingsError(f"Cannot read {origin}: it is larger than 1 MiB, the most a settings file may be.")
    layer: Layer = {}
    for section, table in _parse(content, origin).items():
        layer[section] = _section(section, table, known, origin)
        origins.update((f"{section}.{key}", origin) for key in layer[section])
    return layer


def _parse(content: bytes, origin: str) -> dict[str, object]:
    import tomllib

    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
    except RecursionError:
        reason = "it is nested too deeply"
    except ValueError as error:  # TOMLDecodeError, and numbers or dates that Python cannot hold
        reason = plain(str(error))
    raise SettingsError(f"Settings {origin} is not valid TOML: {reason}.")


def _section(name: str, table: object, known: Known, origin: str) -> dict[str, Value]:
    """Give one section of a file, checked."""
    sections = {option.section: f"[{option.section}]" for option in known.values()}
    if name not in sections:
        raise SettingsError(
            f"There is no section [{plain(name)}]{_did_you_mean(name, sections)} ({origin}); "
            f"allowed are {', '.join(sections.values())}."
        )
    if not isinstance(table, dict):
        raise SettingsError(f"{name} is {show(table)} ({origin}); allowed is a section, written [{name}].")
    keys = {option.key: option.name for option in known.values() if option.section == name}
    values: dict[str, Value] = {}
    for key, value in table.items():
        if key not in keys:
            raise SettingsError(
                f"There is no setting {name}.{plain(key)}{_did_you_mean(key, keys)} ({origin}); "
                f"allowed in [{name}] are {', '.join(keys)}."
            )
        values[key] = _accept(known[keys[key]], value, origin)
    return values


def _environment_layer(environ: Mapping[str, str], known: Known, origins: Origins) -> Layer:
    """Give the settings of the environment, checked."""
    by_variable = {option.variable: option for option in known.values()}
    layer: Layer = {}
    for name in variables(environ):
        if name not in by_variable:
            near = _did_you_mean(name, {variable: variable for variable in by_variable})
            raise SettingsError(
                f"Environment variable {plain(name)} is not a setting{near}; "
                f"allowed is {ENV_PREFIX}_<SECTION>_<KEY> of a setting that exists."
            )
        option, origin = by_variable[name], f"environment variable {name}"
        value = _accept(option, from_text(option, environ[name]), origin)
        layer.setdefault(option.section, {})[option.key] = value
        origins[option.name] = origin
    return layer


def _accept(option: Option, value: object, origin: str) -> Value:
    accepted = accept(option, value)
    if accepted is None:
        shown = "nothing that is allowed" if option.secret else show(value)
        raise SettingsError(f"{option.name} is {shown} ({origin}); allowed is {option.allowed}.")
    return accepted


def _expand(option: Option, path: str, home: str | None) -> str:
    """Give `path` with a leading `~` replaced by the home folder."""
    if path != "~" and not path.startswith("~/"):
        return path
    if home is None:
        raise SettingsError(f"{option.name} is {path}, but this user has no home folder; allowed is a path without ~.")
    return home + path[1:]


def _check_combinations(settings: Settings, origins: Origins) -> None:
    for combination in COMBINATIONS:
        if combination.clash(settings):
            stated = (
                f"{name} is {show(settings[name])} ({origins.get(name, 'default')})" for name in combination.names
            )
            raise SettingsError(f"{' and '.join(stated)}; {combination.rule}.")


def _did_you_mean(name: str, known: Mapping[str, str]) -> str:
    """Give a suggestion in brackets, or nothing; `known` maps what may have been meant to how it is written."""
    from difflib import get_close_matches

    near: Iterable[str] = get_close_matches(name[:100], known, 1)  # cut, because it takes quadratic time
    return "".join(f" (did you mean {known[match]}?)" for match in near)

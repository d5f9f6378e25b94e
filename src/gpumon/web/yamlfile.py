"""A strict reading of a YAML file: every value is fetched as what it should be, or a sentence says what is wrong."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from gpumon.settings import SettingsError
from gpumon.value import plain, show
from gpumon.web.webconfig import state

# Several times the size of any honest file, certificates in it included.
LARGEST_FILE = 1 << 20
NOTHING = ("", "~", "null", "Null", "NULL")
FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
# Units of Go's durations, in nanoseconds.
UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
PART = r"(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})(ns|us|µs|ms|s|m|h)"


class _Loader(yaml.BaseLoader):
    """Makes only texts, lists and mappings, so that nothing in a file can be misread or run."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            raise yaml.constructor.ConstructorError(problem="a key is there twice", problem_mark=node.start_mark)
        return mapping


class YamlFile:
    """A file, and the states of all files read because of it, by which a change can be told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.states: dict[Path, tuple[int, ...]] = {}

    def error(self, trouble: str) -> SettingsError:
        """Give the error that says what is wrong with this file."""
        return SettingsError(plain(f"Web-config file {self.path}: {trouble}.", limit=1000))

    def section(self, keys: Collection[str]) -> Section:
        """Read the file, of which the outermost mapping has only these `keys`."""
        content = self.read(self.path, "")
        try:
            values = yaml.load(content, _Loader)  # noqa: S506 - it is safer than the safe one
        except RecursionError:
            raise self.error("is nested too deeply") from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" in line {mark.line + 1}" if mark else ""
            trouble = getattr(error, "problem", None) or "it has characters that YAML does not allow"
            raise self.error(f"is not YAML{where}: {trouble}") from error
        return Section(self, "", _mapping(self, "", values, keys))

    def read(self, path: Path, key: str) -> bytes:
        """Give the content of a file that `key` names."""
        name = f"{key}: " if key else ""
        self.states[path] = state(path)  # before reading: a change while we read is noticed later
        try:
            with path.open("rb") as file:
                content = file.read(LARGEST_FILE + 1)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "that is no file name"
            raise self.error(f"{name}cannot read {path} ({reason})") from error
        if len(content) > LARGEST_FILE:
            raise self.error(f"{name}{path} is larger than {LARGEST_FILE} bytes")
        return content


class Section:
    """A mapping of the file. Every method that fetches a value raises SettingsError with a sentence when it is wrong."""

    def __init__(self, file: YamlFile, name: str, values: Mapping[str, Any]) -> None:
        self.file = file
        self.name = name
        self.values = values

    def path(self, key: str) -> str:
        """Give the full name of a key."""
        return f"{self.name}.{key}" if self.name else key

    def error(self, trouble: str) -> SettingsError:
        """Give the error that says what is wrong; `trouble` begins with the key."""
        return self.file.error(self.path(trouble))

    def section(self, key: str, keys: Collection[str] | None = None) -> Section:
        """Give the mapping under `key`, empty when absent; `keys` are those it may have, None is any."""
        name = self.path(key)
        return Section(self.file, name, _mapping(self.file, name, self.values.get(key), keys))

    def text(self, key: str) -> str:
        """Give a text, empty when absent."""
        value = self.values.get(key, "")
        if not isinstance(value, str):
            raise self.error(f"{key} is a {_kind(value)}, not a text")
        return "" if value in NOTHING else value

    def texts(self, key: str) -> tuple[str, ...] | None:
        """Give a list of texts, None when absent."""
        value = self.values.get(key, "")
        if isinstance(value, str) and value in NOTHING:
            return None
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"{key} is not a list of texts")
        return tuple(value)

    def choice(self, key: str, allowed: Collection[str], default: str, refused: Mapping[str, str]) -> str:
        """Give one of the `allowed` words; `refused` are words that others allow, and why we do not."""
        value = self.text(key) or default
        if value in refused:
            raise self.error(f"{key} is {value}, which {refused[value]}")
        if value not in allowed:
            raise self.error(f"{key} is {show(value)}, allowed is one of {', '.join(allowed)}")
        return value

    def choices(self, key: str, allowed: Collection[str]) -> tuple[str, ...]:
        """Give a list of `allowed` words, empty when absent."""
        values = self.texts(key) or ()
        for value in values:
            if value not in allowed:
                raise self.error(f"{key} has {show(value)}, allowed are {', '.join(allowed)}")
        return values

    def flag(self, key: str, default: bool) -> bool:
        """Give a truth value."""
        value = self.text(key).lower()
        if value and value not in FLAGS:
            raise self.error(f"{key} is {show(value)}, allowed is true or false")
        return FLAGS.get(value, default)

    def whole(self, key: str) -> int:
        """Give a whole number, 0 when absent."""
        value = self.text(key) or "0"
        if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
            raise self.error(f"{key} is {show(value)}, allowed is a whole number from 0 on")
        return int(value)

    def seconds(self, key: str) -> float:
        """Give a duration written as in Go (`1s`, `1m30s`, `250ms`), 0 when absent."""
        value = self.text(key) or "0"
        if value == "0":
            return 0.0
        if not re.fullmatch(f"(?:{PART})+", value, re.ASCII):
            raise self.error(f"{key} is {show(value)}, allowed is a duration as in 1s, 1m30s or 250ms")
        return sum(float(amount) * UNITS[unit] for amount, unit in re.findall(PART, value, re.ASCII)) / 10**9

    def content(self, key: str) -> bytes | None:
        """Give what stands under `key`, or in the file that `key`_file names, taken from the folder of this one."""
        inline, named = self.text(key), self.text(f"{key}_file")
        if inline and named:
            raise self.error(f"{key} and {key}_file are both set: set one of them")
        if named:
            return self.file.read(self.file.path.parent / named, self.path(f"{key}_file"))
        return inline.encode("utf-8", "replace") if inline else None


def _mapping(file: YamlFile, name: str, value: Any, keys: Collection[str] | None) -> Mapping[str, Any]:
    if value is None or (isinstance(value, str) and value in NOTHING):
        return {}
    if not isinstance(value, dict):
        raise file.error(f"{name or 'it'} is a {_kind(value)}, not a mapping")
    for key in value:
        full = f"{name}.{_key(key)}" if name else _key(key)
        if keys is not None and key not in keys:
            raise file.error(f"{full} is not a key there, allowed are {', '.join(keys)}")
    return value


def _kind(value: Any) -> str:
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else "mapping"


def _key(key: object) -> str:
    return plain(str(key))

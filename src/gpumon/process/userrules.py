"""Rules of the settings file, `[[processes.rules]]`: tried before the built-in ones."""

from __future__ import annotations

import json
import re

from gpumon.process.rules import CATEGORIES, SUBJECTS, Rule
from gpumon.settings import SettingsError

_KEYS = ("name", "category", "confidence", "unless", *SUBJECTS)


def parse_rules(text: str) -> tuple[Rule, ...]:
    """Give the rules of the setting processes.rules, as JSON text.

    SettingsError says in one sentence which rule is wrong and what is allowed.
    """
    if not text:
        return ()
    try:
        tables = json.loads(text)
    except ValueError:
        tables = None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SettingsError("processes.rules is not a list of tables; allowed are tables written [[processes.rules]].")
    return tuple(_rule(number, table) for number, table in enumerate(tables, start=1))


def _rule(number: int, table: dict[str, object]) -> Rule:
    where = f"Rule {number} of processes.rules"
    for key in table:
        if key not in _KEYS:
            raise SettingsError(f"{where} has a key {key!r}; allowed are {', '.join(_KEYS)}.")
    category = table.get("category")
    if category not in CATEGORIES:
        raise SettingsError(f"{where} has the category {category!r}; allowed is one of {', '.join(CATEGORIES)}.")
    confidence = table.get("confidence", 1.0)
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 < confidence <= 1:
        raise SettingsError(f"{where} has the confidence {confidence!r}; allowed is a number above 0, up to 1.")
    when = {subject: _pattern(where, subject, table[subject]) for subject in SUBJECTS if subject in table}
    if not when:
        raise SettingsError(f"{where} looks at nothing; allowed are patterns for {', '.join(SUBJECTS)}.")
    unless = _pattern(where, "unless", table["unless"]) if "unless" in table else None
    return Rule(str(table.get("name", f"user-{number}")), str(category), float(confidence), when, unless)


def _pattern(where: str, key: str, value: object) -> str:
    try:
        return re.compile(value).pattern if isinstance(value, str) else _refuse(where, key, value)
    except re.error as error:
        raise SettingsError(f"{where} has the {key} {value!r}, which is no regular expression: {error}.") from None


def _refuse(where: str, key: str, value: object) -> str:
    raise SettingsError(f"{where} has the {key} {value!r}; allowed is a regular expression as text.")

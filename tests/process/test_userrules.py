"""Rules of the settings file are tried first, and a wrong one is one clear sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpumon.load import load
from gpumon.process.classify import Classifier, evidence_of_example
from gpumon.process.rules import RULES, Example
from gpumon.process.userrules import parse_rules
from gpumon.settings import SettingsError
from tests.process.split import split

TOML = """
[[processes.rules]]
name = "renderer"
category = "general_compute"
command = "Render-.*"
unless = "render-train"

[[processes.rules]]
category = "ml_training"
confidence = 0.7
command = "ollama"
argument = "--fine-tune"
"""


def test_rules_of_the_file_come_first(tmp_path: Path) -> None:
    """Tables of the settings file become rules; case does not matter, and built-in rules still hold for the rest."""
    (tmp_path / "c.toml").write_text(TOML)
    settings = load(str(tmp_path / "c.toml"), {"HOME": "/x"})
    classifier = Classifier((*parse_rules(settings.processes.rules), *RULES))

    def category(line: str) -> tuple[str, str, float]:
        found = classifier.classify(evidence_of_example(Example(line), split))
        return found.category, found.rule, found.confidence

    assert category("/opt/render-7 x") == ("general_compute", "renderer", 1.0)
    assert category("render-train")[1] == "script-says-training"
    assert category("ollama --fine-tune x") == ("ml_training", "user-2", 0.7)
    assert category("ollama runner")[1] == "ollama"


def test_rules_can_be_given_by_the_environment() -> None:
    """As JSON text."""
    rules = json.dumps([{"category": "gaming", "command": "x"}])
    settings = load(None, {"HOME": "/nowhere", "GPUMON_PROCESSES_RULES": rules})
    assert [rule.category for rule in parse_rules(settings.processes.rules)] == ["gaming"]
    assert parse_rules("") == ()


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ("no json", "tables written [[processes.rules]]"),
        ("{}", "tables written [[processes.rules]]"),
        ('["x"]', "tables written [[processes.rules]]"),
        ('[{"category": "games", "command": "x"}]', "'games'; allowed is one of gaming"),
        ('[{"command": "x"}]', "None; allowed is one of gaming"),
        ('[{"category": "gaming"}]', "looks at nothing; allowed are patterns for command"),
        ('[{"category": "gaming", "comand": "x"}]', "'comand'; allowed are name"),
        ('[{"category": "gaming", "command": "("}]', "no regular expression"),
        ('[{"category": "gaming", "command": 3}]', "3; allowed is a regular expression"),
        ('[{"category": "gaming", "command": "x", "confidence": 2}]', "2; allowed is a number above 0"),
    ],
)
def test_a_wrong_rule_is_one_clear_sentence(tables: str, said: str) -> None:
    """It names the rule, what is wrong and what is allowed."""
    with pytest.raises(SettingsError) as caught:
        parse_rules(tables)
    assert said in str(caught.value)
    assert "processes.rules" in str(caught.value)

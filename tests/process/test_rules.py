"""Each rule decides its own examples, and what is no evidence decides nothing."""

from __future__ import annotations

import re

import pytest

from gpumon.process.classify import Classifier, evidence_of_example
from gpumon.process.rules import CATEGORIES, RULES, SUBJECTS, Example, Rule
from tests.process.split import split

CLASSIFIER = Classifier()


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_each_rule_decides_its_examples(rule: Rule) -> None:
    """No rule before takes an example away, and each rule has one."""
    assert rule.examples
    for example in rule.examples:
        found = CLASSIFIER.classify(evidence_of_example(example, split))
        assert (found.category, found.rule) == (rule.category, rule.name), example.line


def test_rules_are_well_formed() -> None:
    """Names are unique; categories and subjects exist; words are in lower case; confidence is a share."""
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.category in CATEGORIES
        assert rule.when
        assert set(rule.when) <= set(SUBJECTS)
        assert 0 < rule.confidence <= 1
        for pattern in rule.when.values():
            assert not re.search(r"(?<!\\)[A-Z]", pattern), pattern


@pytest.mark.parametrize(
    "line",
    [
        "/home/{}/work.py",
        "/usr/bin/python3 /home/{}/work.py",
        "python /srv/{}/models/{}/work.py --out /data/{}/x --in=/data/{}/y",
        "/opt/{}/bin/python -u /scratch/users/{}/projects/{}/main.py /data/{}/file",
        "bash -c 'cd /home/{} && exec ./work'",
    ],
)
@pytest.mark.parametrize(
    "word", ["ollama", "vllm", "train", "inference", "llama-server", "steam", "torchrun", "serve", "game.exe", "sglang"]
)
def test_words_of_folders_decide_nothing(line: str, word: str) -> None:
    """A user or a folder that is called like a server or like a kind of work is no evidence."""
    example = Example(line.replace("{}", word), contexts=("compute", "graphics"))
    assert CLASSIFIER.classify(evidence_of_example(example, split)).rule == "none"


def test_what_could_not_be_known_is_part_of_the_answer() -> None:
    """Where the kernel refuses the list of libraries, rules that look at it are said not to have been tried."""
    refused = Example("python main.py", libraries=None, ports=None)
    found = CLASSIFIER.classify(evidence_of_example(refused, split))
    assert (found.category, found.rule) == ("unknown", "none")
    assert {"llama.cpp-library", "works-like-training", "numeric-python"} <= set(found.untried)
    assert not {"ollama", "game-like", "framework-and-serving-name"} & set(found.untried)
    sure = CLASSIFIER.classify(evidence_of_example(Example("ollama runner", libraries=None), split))
    assert sure.untried == ()

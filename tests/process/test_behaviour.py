"""Kinds of work behave differently, and before a process was watched for a while nothing is said."""

from __future__ import annotations

import pytest

from gpumon.process.behaviour import LEAST_SECONDS, Watch
from gpumon.process.classify import Classifier, evidence_of_example
from gpumon.process.rules import Example
from tests.process.node import Children, ProcessNode
from tests.process.split import split


def test_nothing_is_said_too_early() -> None:
    """Loading a model looks like nothing else."""
    watch = Watch()
    watch.add(LEAST_SECONDS - 1, 90, 0)
    assert watch.words() is None
    watch.add(2, 90, 0)
    assert watch.words() is not None


@pytest.mark.parametrize(
    ("load", "profile", "words", "category"),
    [
        ("training", "h100x1", {"trains", "busy"}, "ml_training"),
        ("serving", "h100x1", {"answers"}, "llm_inference"),
        ("training", "a100x1", {"trains", "busy"}, "ml_training"),
        ("gaming", "rtx4090x1", {"busy", "encoding"}, "gaming"),
    ],
)
def test_simulated_loads_are_told_apart(load: str, profile: str, words: set[str], category: str) -> None:
    """By one process that does all the work, with profiling counters (H100) and without."""
    context = "graphics" if load == "gaming" else "compute"
    with Children() as children, ProcessNode(profile) as node:
        node.library.set_load(0, load)
        node.put(0, children.start("thing"), kind=context)
        node.tick(120)
        (one,) = node.source._tracked.values()
        found = one.watch.words()
    assert found is not None
    assert words <= set(found)
    example = Example(
        "python3 x.py" if load != "gaming" else "./x",
        contexts=(context,),
        behaviours=found,
        libraries=("libtorch_cuda.so",),
    )
    assert Classifier().classify(evidence_of_example(example, split)).category == category


def test_an_idle_process_is_none_of_them() -> None:
    """It holds memory and waits."""
    watch = Watch()
    watch.add(600, None, None)
    assert watch.words() == ()

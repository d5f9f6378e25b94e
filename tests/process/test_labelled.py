"""Labelled processes are classified as promised, and the document says how right that is."""

from __future__ import annotations

from collections import Counter

from gpumon.process.rules import CATEGORIES
from tests.process.confusion import DOCUMENT, document, labelled, results


def test_there_are_enough_of_each_category() -> None:
    """At least 120 in all, and enough of each that a share means something."""
    counts = Counter(one.label for one in labelled())
    assert set(counts) == set(CATEGORIES)
    assert sum(counts.values()) >= 120
    assert min(counts.values()) >= 10


def test_95_percent_are_right_and_no_category_is_under_90() -> None:
    """Every one that is wrong is listed in the document."""
    found = results()
    right = Counter(one.label for one, result in found if one.label == result.category)
    total = Counter(one.label for one, _ in found)
    assert sum(right.values()) >= 0.95 * len(found)
    for category in CATEGORIES:
        assert right[category] >= 0.9 * total[category], category
    text = document()
    for one, result in found:
        if one.label != result.category:
            assert one.example.line in text


def test_the_document_is_fresh() -> None:
    """Changed rules or labels need `python -m tests.process.confusion`."""
    assert DOCUMENT.read_text() == document()

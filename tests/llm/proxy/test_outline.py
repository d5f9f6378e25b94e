"""Reading JSON of any length, keeping little of it."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st

from gpumon.llm.proxy.apis import KEPT
from gpumon.llm.proxy.outline import LONG, LONGEST_TEXT, MOST_ITEMS, Outline, outlined

keys = st.one_of(st.sampled_from(sorted(KEPT)), st.text(max_size=6))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=30)
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=30,
)


def outline(text: bytes, size: int) -> object:
    """Give the outline of a text fed in pieces of this size."""
    reader = Outline(KEPT)
    for at in range(0, len(text), size):
        reader.feed(text[at : at + size])
    return reader.end()


@given(values, st.booleans(), st.integers(1, 9), st.sampled_from([None, 1]))
@example({"error": "a\\", "model": '"', "x": ['\\"']}, True, 1, None)
@example(
    [[[[[[[[[[1]]]]]]]]], {"model": {"model": {"model": {"model": {"model": {"model": {"model": {"model": {}}}}}}}}}],
    False,
    3,
    None,
)
def test_an_outline_is_what_a_parser_would_keep(value: object, ascii_only: bool, size: int, indent: int | None) -> None:
    """Whatever the JSON is, and however it is cut."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    assert outline(text, size) == outlined(json.loads(text.decode("utf-8", "surrogatepass")), KEPT)


def test_long_things_are_not_kept() -> None:
    """A text is shown to be there, a list to have members; nothing of either stays."""
    text = json.dumps(
        {
            "response": "s" * (LONGEST_TEXT + 1),
            "context": list(range(100_000)),
            "choices": [1] * 1000,
            "model": "m" * LONGEST_TEXT,
        }
    ).encode()
    for size in (7, 1000, len(text)):
        assert outline(text, size) == {"response": LONG, "choices": [1] * MOST_ITEMS, "model": "m" * LONGEST_TEXT}


@given(st.binary(max_size=200), st.integers(1, 5))
def test_any_bytes_give_something_or_nothing(data: bytes, size: int) -> None:
    """No error leaves the reader, and it comes to an end."""
    outline(data, size)
    outline(b'{"model":[' + data, size)


def test_what_is_incomplete_is_nothing() -> None:
    """Half an object is no object."""
    for text in (b'{"model": "m"', b'{"model": "m', b'[{"model": 1}', b'"m'):
        assert outline(text, 3) is None

"""Whatever processes call themselves, nothing breaks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gpumon.process.classify import Classifier, evidence_of
from gpumon.process.command import parse
from gpumon.process.container import find
from gpumon.process.proc import Origin
from gpumon.process.rules import CATEGORIES
from gpumon.process.secrets import KEPT_CHARACTERS, redact
from gpumon.process.steam import Steam
from gpumon.process.steam import parse as parse_vdf

CLASSIFIER = Classifier()
WORDS = st.lists(
    st.text(max_size=30) | st.sampled_from(["python3", "-m", "-c", "bash", "/", "\\", "a.exe", "--x=", ""])
)


@given(WORDS, st.text(max_size=15))
@settings(max_examples=300, deadline=None)
def test_any_command_line_has_a_category(argv: list[str], name: str) -> None:
    """And a form that can be kept."""
    origin = Origin(1, 1, name, parse(argv, name), argv[0] if argv else "", (), None)
    evidence = evidence_of(
        origin, "CG", place=lambda: "", behaviour=lambda: None, port=lambda: None, library=lambda: None
    )
    assert CLASSIFIER.classify(evidence).category in CATEGORIES
    text = redact(argv)
    assert len(text) <= KEPT_CHARACTERS
    assert text.isprintable() or text == ""


@given(st.text(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read(text: str) -> None:
    """As a cgroup file, as Steam's, and as a path."""
    find(text)
    parse_vdf(text)
    Steam().place(text, None)

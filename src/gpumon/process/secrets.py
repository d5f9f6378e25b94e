"""A command line as it may be kept: cut short, and without what could be a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

# What is kept of a command line, in characters.
KEPT_CHARACTERS = 200
HIDDEN = "***"

_NAMES = (
    r"[\w.-]*(?:token|passw(?:or)?d|passphrase|pwd|secret|api[-_]?key|access[-_]?key|private[-_]?key|auth|credential|bearer"
    r"|cookie|session[-_]?id|signature|license[-_]?key|webhook|dsn|connection[-_]?string)[\w.-]*|-{0,2}key|-p"
)
_OPTION = re.compile(rf"(-{{0,2}}(?:{_NAMES}))([=:]?)(.*)", re.IGNORECASE | re.DOTALL)
_USER = re.compile(r"(\w+://)[^/@\s]+@")
_QUERY = re.compile(r"([?&;][^=&;\s]+=)[^&;\s]+")
# Forms that services give their secrets, and anything long that no one would type.
_TOKEN = re.compile(
    r"\b(?:hf_|sk-|pk-|rk_|gh[oprsu]_|github_pat_|glpat-|xox[abprs]-|nvapi-|AKIA|ASIA|AIza|ya29\.|eyJ)[\w./+=-]{8,}"
    r"|(?<![\w/])(?=[\w+=-]*\d)(?=[\w+=-]*[A-Za-z])[\w+=-]{32,}"
)


def redact(argv: Sequence[str]) -> str:
    """Give a command line on one line, without values of options that name a secret, of URLs and of what looks like one.

    Code given on the command line is left out as a whole. It errs on the side of hiding too much.
    """
    if not argv:
        return ""
    text = " ".join(_words(argv))
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= KEPT_CHARACTERS else f"{text[: KEPT_CHARACTERS - 1]}…"


def _words(argv: Sequence[str]) -> Iterator[str]:
    hide = code = False
    for word in argv:
        if hide or code:
            # An option that takes no value may be followed by another option, which is no secret.
            if code or not word.startswith("-"):
                yield HIDDEN
                hide = code = False
                continue
            hide = False
        match = _OPTION.fullmatch(word)
        if match is not None and match[2]:
            yield f"{match[1]}{match[2]}{HIDDEN}"
            continue
        hide = match is not None and not match[3] and word.startswith("-")
        code = word in ("-c", "-e", "--command", "--eval")
        yield _TOKEN.sub(HIDDEN, _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", word)))

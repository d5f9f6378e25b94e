"""What a command line starts: the words that may decide what a process is.

Folders of paths never become words, so that /home/ollama/train.py is train.py and nothing of ollama.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# So many words of a command line are looked at: what decides stands at the beginning.
MOST_WORDS = 128

# Interpreters: what they run is what counts. Options that take a value of their own are named, so that it is no script.
_INTERPRETERS: dict[str, tuple[str, ...]] = {
    r"(python|pypy|ipython)[\d.]*[a-z]?(-dbg|-config)?": ("-W", "-X", "-Q", "--check-hash-based-pycs"),
    r"(ba|da|z|k|c|fi)?sh": ("-o", "-O"),
    r"node(js)?|bun|deno": ("-r", "--require", "--loader", "--import"),
    r"java": ("-cp", "-classpath", "--class-path", "--module-path", "--add-opens", "--add-modules", "-p"),
    r"julia": ("-t", "--threads", "-p", "-J", "-L", "-e", "-E"),
    r"perl|ruby|rscript": (),
}
_PYTHON = re.compile(next(iter(_INTERPRETERS)))
_COMPILED = [(re.compile(pattern), options) for pattern, options in _INTERPRETERS.items()]


@dataclass(frozen=True, slots=True)
class Command:
    """A command line taken apart, in lower case: file names without folders.

    `module` is what `python -m` names, `inline` marks code given on the command line, of which no word counts.
    """

    program: str
    script: str = ""
    module: str = ""
    inline: bool = False
    arguments: tuple[str, ...] = ()

    @property
    def interpreter(self) -> str:
        """Give "python" for a program that is one, else ""."""
        return "python" if _PYTHON.fullmatch(self.program) else ""

    @property
    def names(self) -> Iterator[str]:
        """Give everything that names what runs: program, script, module."""
        yield self.program
        if self.script:
            yield self.script
        if self.module:
            yield self.module


def file_name(path: str) -> str:
    """Give the last part of a path of Linux or Windows."""
    return path.rstrip("/\\").replace("\\", "/").rpartition("/")[2]


def parse(argv: Sequence[str], name: str = "") -> Command:
    """Take a command line apart; `name` is the kernel's name of the process, for one without a command line."""
    if not argv or not argv[0].strip():
        return Command(name.lower())
    if len(argv) == 1 and not argv[0].startswith(("/", "\\")) and argv[0][1:3] != ":\\":
        first, *rest = argv[0].split()
        if rest:  # a title that the process gave itself, as in "postgres: writer"
            return parse((first.rstrip(":"), *rest), name)
    program = file_name(argv[0].lower().lstrip("-")) or name.lower()
    for pattern, options in _COMPILED:
        if pattern.fullmatch(program):
            return _interpreted(program, argv[1:], options)
    return Command(program, arguments=tuple(_words(argv[1:])))


def _interpreted(program: str, words: Sequence[str], options: Sequence[str]) -> Command:
    """Find what an interpreter runs."""
    position = 0
    while position < len(words):
        word = words[position]
        rest = tuple(_words(words[position + 1 :]))
        if word in ("-m", "-jar") and position + 1 < len(words):
            module = words[position + 1].lower()
            rest = tuple(_words(words[position + 2 :]))
            return Command(program, module=file_name(module) if word == "-jar" else module, arguments=rest)
        if word in ("-c", "-e", "-"):
            return Command(program, inline=True, arguments=tuple(_words(words[position + 2 :])))
        if re.fullmatch(r"-[a-zA-Z]*c", word) and not _PYTHON.fullmatch(program):  # bash -lc
            return Command(program, inline=True)
        if not word.startswith("-"):
            return Command(program, script=file_name(word.lower()), arguments=rest)
        position += 2 if word in options else 1
    return Command(program)


def _words(arguments: Sequence[str]) -> Iterator[str]:
    """Give each option's name and each value; of a path its last part, with a slash before it to tell it from a word."""
    for argument in arguments[:MOST_WORDS]:
        word = argument.lower()
        if word.startswith("-"):
            option, equals, value = word.partition("=")
            yield option.replace("_", "-")
            if equals:
                yield _value(value)
        else:
            yield _value(word)


def _value(word: str) -> str:
    return f"/{file_name(word)}" if "/" in word or "\\" in word else word

"""What may stand in a request's query: parameters declared as fields, read, checked and described from there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, timedelta
from typing import Any, Protocol, TypeVar

Json = dict[str, Any]  # a JSON schema, or a part of one; nested as deep as it likes, so it has no useful static type
Q = TypeVar("Q")

# No honest parameter is longer: twenty names of columns are 800 characters.
LONGEST_TEXT = 2048
DAY = 86_400.0
# Times that can be stored and written as text, whatever zone they are given in.
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)


class BadRequestError(ValueError):
    """A request that cannot be answered, as one sentence that says which parameter and what is allowed."""


class Form(Protocol):
    """What a parameter's text may be."""

    @property
    def allowed(self) -> str:
        """Say what is allowed, to follow "allowed is"."""

    def take(self, text: str) -> object:
        """Give the value of a text; ValueError when it is none."""

    def schema(self) -> Json:
        """Give the same as a JSON schema."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number between bounds, which are allowed themselves."""

    minimum: float
    maximum: float
    whole: bool = False

    @property
    def allowed(self) -> str:
        return f"a {'whole ' if self.whole else ''}number from {self.minimum:g} to {self.maximum:.10g}"

    def take(self, text: str) -> float | int:
        if not text.isascii() or "_" in text or text != text.strip():  # Python takes more for a number than others do
            raise ValueError(text)
        value = int(text) if self.whole else float(text)
        if not self.minimum <= value <= self.maximum:
            raise ValueError(text)
        return value

    def schema(self) -> Json:
        return {"type": "integer" if self.whole else "number", "minimum": self.minimum, "maximum": self.maximum}


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment with its zone; as Unix seconds."""

    allowed: str = "a time with its zone, as in 2026-01-31T12:00:00Z"

    def take(self, text: str) -> float:
        # In a query "+" stands for a blank, and many forget to write it as %2B.
        moment = datetime.fromisoformat(text.replace(" ", "+") if "T" in text else text)
        if moment.tzinfo is None or not EARLIEST <= moment <= LATEST:
            raise ValueError(text)
        return moment.timestamp()

    def schema(self) -> Json:
        return {"type": "string", "format": "date-time"}


@dataclass(frozen=True, slots=True)
class Day:
    """A day in UTC, or a moment; as Unix seconds. As the `end` of a range a day is meant up to its last moment."""

    end: bool = False
    allowed: str = "a day, as in 2026-01-31, or a time with its zone, as in 2026-01-31T12:00:00Z"

    def take(self, text: str) -> float:
        if len(text) > len("2026-01-31"):
            return Moment().take(text)
        day = date.fromisoformat(text) + timedelta(days=int(self.end))
        moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
        if not EARLIEST <= moment <= LATEST:
            raise ValueError(text)
        return moment.timestamp()

    def schema(self) -> Json:
        return {"anyOf": [{"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}]}


@dataclass(frozen=True, slots=True)
class Text:
    """A text of some length; with `choices` one of those."""

    longest: int = 253  # what Kubernetes allows for a name, and longer than names of models are
    choices: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        return f"one of {', '.join(self.choices)}" if self.choices else f"a text of 1 to {self.longest} characters"

    def take(self, text: str) -> str:
        if not 1 <= len(text) <= self.longest or (self.choices and text not in self.choices):
            raise ValueError(text)
        return text

    def schema(self) -> Json:
        if self.choices:
            return {"type": "string", "enum": list(self.choices)}
        return {"type": "string", "minLength": 1, "maxLength": self.longest}


@dataclass(frozen=True, slots=True)
class Names:
    """Names with commas between them; which names there are depends on other parameters."""

    most: int
    allowed: str

    def take(self, text: str) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
        if len(names) > self.most or not all(name.isidentifier() and name.isascii() for name in names):
            raise ValueError(text)
        return names

    def schema(self) -> Json:
        name = "[A-Za-z_][A-Za-z0-9_]*"
        return {"type": "string", "pattern": f"^{name}(,{name}){{0,{self.most - 1}}}$", "maxLength": LONGEST_TEXT}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter as it was declared."""

    name: str
    form: Form
    help: str
    default: object
    example: object


def parameter(default: Any, form: Form, help: str, *, example: object = None) -> Any:  # noqa: A002 - the field's own word
    """Declare one parameter of a query; a default of None means that it may be left out, and then nothing is meant."""
    return field(default=default, metadata={"form": form, "help": help, "example": example})


def parameters(query: type) -> tuple[Parameter, ...]:
    """Give the parameters that a class of queries declares, in order."""
    return tuple(Parameter(name=each.name, default=each.default, **each.metadata) for each in fields(query))


def read(query: type[Q], given: Iterable[tuple[str, str]]) -> Q:
    """Give the query that was sent as these names and texts; BadRequestError says what is wrong with the first that is."""
    known = {each.name: each for each in parameters(query)}
    values: dict[str, object] = {}
    for name, text in given:
        if name not in known:
            there = f"allowed are {', '.join(known)}" if known else "none is allowed here"
            raise BadRequestError(f"{_shown(name)} is no parameter: {there}")
        if name in values:
            raise BadRequestError(f"{name} is given twice: allowed is once")
        try:
            if len(text) > LONGEST_TEXT:
                raise ValueError(text)
            values[name] = known[name].form.take(text)
        except (ValueError, OverflowError):
            raise BadRequestError(f"{name} is {_shown(text)}: allowed is {known[name].form.allowed}") from None
    return query(**values)


def _shown(text: str) -> str:
    """Give what a client sent as part of a sentence: cut, and without what is not printed."""
    cut = text if len(text) <= 60 else text[:60] + "…"
    return '"' + "".join(c if c.isprintable() else "?" for c in cut) + '"'

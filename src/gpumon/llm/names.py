"""Names of models as labels: the server's own, and not more of them than a limit."""

from __future__ import annotations

OTHER = "other"


def usual(model: str) -> str:
    """Give a model's name as the server lists it: Ollama leaves `:latest` off what people type, and lists it."""
    return model.removesuffix(":latest")


class ModelNames:
    """Decides under which label a model is counted, so that nobody can make series by asking for names.

    A name has a label of its own if a server lists it, and if there are not `limit` others already;
    a model of a server that lists nothing has one, too, within the limit.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._labels: dict[tuple[str, str], str] = {}
        self._listed: dict[str, frozenset[str]] = {}

    def listed(self, server: str, models: list[str]) -> None:
        """Note what a server says it has."""
        self._listed[server] = frozenset(usual(model) for model in models)

    def label(self, server: str, model: str, *, own: bool = False) -> str:
        """Give the label of a model of a server; "" stays "", which is a model that nobody named.

        `own` says that the name comes from the server itself.
        """
        name = usual(model)
        label = self._labels.get((server, name))
        if label is not None or not name:
            return label or ""
        listed = self._listed.get(server)
        if (own or listed is None or name in listed) and len(self._labels) < self._limit:
            self._labels[server, name] = name
            return name
        return OTHER

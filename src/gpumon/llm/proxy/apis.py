"""The interfaces whose requests are measured: one row per path, and where each dialect says what.

Sources: Ollama api/types.go and docs/api.md, OpenAI's and Anthropic's API references, llama.cpp tools/server/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gpumon.llm.proxy.outline import Document

Path = tuple[str, ...]

NANOSECONDS = 1e-9
MILLISECONDS = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """Where the documents of a reply say what; a path goes through lists by itself.

    `facts` says which values are kept, by name; of several paths the first that is there counts, of several documents
    the last. `content` are the places whose first non-empty text, list or object is the first token.
    `errors` are the places where anything at all means that the request failed.
    `cache_apart` marks prompt tokens that do not include the cached ones.
    `says_done` marks streams that are broken when they end without saying that they are done.
    """

    facts: Mapping[str, tuple[Path, ...]]
    content: tuple[Path, ...] = ()
    errors: tuple[Path, ...] = (("error",),)
    cache_apart: bool = False
    says_done: bool = False
    # The facts as they are looked for in every piece of a stream: name, first key, path; the best place last.
    places: tuple[tuple[str, str, Path], ...] = field(init=False)

    def __post_init__(self) -> None:
        places = tuple((name, path[0], path) for name, paths in self.facts.items() for path in reversed(paths))
        object.__setattr__(self, "places", places)


OLLAMA = Dialect(
    facts={
        "model": (("model",),),
        "done": (("done",),),
        "finish_reason": (("done_reason",),),
        "prompt_tokens": (("prompt_eval_count",),),
        "completion_tokens": (("eval_count",),),
        "total_ns": (("total_duration",),),
        "load_ns": (("load_duration",),),
        "prompt_ns": (("prompt_eval_duration",),),
        "generation_ns": (("eval_duration",),),
    },
    content=(
        ("message", "content"),
        ("response",),
        ("message", "thinking"),
        ("thinking",),
        ("message", "tool_calls"),
        ("message", "images"),
        ("tool_calls",),
    ),
    says_done=True,
)

# llama.cpp adds `timings` to OpenAI's form; LM Studio adds `stats`, which says nothing more.
OPENAI = Dialect(
    facts={
        "model": (("model",),),
        "done": (("done",),),
        "finish_reason": (("choices", "finish_reason"),),
        "prompt_tokens": (("usage", "prompt_tokens"),),
        "cached_tokens": (("usage", "prompt_tokens_details", "cached_tokens"), ("timings", "cache_n")),
        "completion_tokens": (("usage", "completion_tokens"), ("timings", "predicted_n")),
        "generation_ms": (("timings", "predicted_ms"),),
    },
    content=(
        ("choices", "delta", "content"),
        ("choices", "delta", "reasoning_content"),
        ("choices", "delta", "reasoning"),
        ("choices", "text"),
        ("choices", "delta", "tool_calls"),
        ("choices", "delta", "refusal"),
    ),
)

RESPONSES = Dialect(
    facts={
        "model": (("response", "model"), ("model",)),
        "finish_reason": (
            ("response", "incomplete_details", "reason"),
            ("incomplete_details", "reason"),
            ("response", "status"),
            ("status",),
        ),
        "prompt_tokens": (("response", "usage", "input_tokens"), ("usage", "input_tokens")),
        "cached_tokens": (
            ("response", "usage", "input_tokens_details", "cached_tokens"),
            ("usage", "input_tokens_details", "cached_tokens"),
        ),
        "completion_tokens": (("response", "usage", "output_tokens"), ("usage", "output_tokens")),
    },
    content=(("delta",),),
    errors=(("error",), ("response", "error")),
)

ANTHROPIC = Dialect(
    facts={
        "model": (("message", "model"), ("model",)),
        "finish_reason": (("delta", "stop_reason"), ("stop_reason",)),
        "prompt_tokens": (("usage", "input_tokens"), ("message", "usage", "input_tokens")),
        "cached_tokens": (("usage", "cache_read_input_tokens"), ("message", "usage", "cache_read_input_tokens")),
        "cache_write_tokens": (
            ("usage", "cache_creation_input_tokens"),
            ("message", "usage", "cache_creation_input_tokens"),
        ),
        "completion_tokens": (("usage", "output_tokens"), ("message", "usage", "output_tokens")),
    },
    content=(("delta", "text"), ("delta", "thinking"), ("delta", "partial_json")),
    cache_apart=True,
)


@dataclass(frozen=True, slots=True)
class Api:
    """One path that takes requests to a model.

    `operation` is OpenTelemetry's gen_ai.operation.name; `streams` says whether replies stream unless the request says.
    """

    path: str
    operation: str
    dialect: Dialect
    streams: bool = False
    generates: bool = field(default=True)


APIS = {
    api.path: api
    for api in (
        Api("/api/generate", "text_completion", OLLAMA, streams=True),
        Api("/api/chat", "chat", OLLAMA, streams=True),
        Api("/api/embed", "embeddings", OLLAMA, generates=False),
        Api("/api/embeddings", "embeddings", OLLAMA, generates=False),
        Api("/v1/chat/completions", "chat", OPENAI),
        Api("/v1/completions", "text_completion", OPENAI),
        Api("/v1/responses", "chat", RESPONSES),
        Api("/v1/embeddings", "embeddings", OPENAI, generates=False),
        Api("/v1/messages", "chat", ANTHROPIC),
        Api("/api/v0/chat/completions", "chat", OPENAI),  # LM Studio's own
        Api("/api/v0/completions", "text_completion", OPENAI),
    )
}


# The words of all paths, and what is wanted of a request: what is kept of documents too long to be kept whole.
# Texts of a reply are among them only so that it is seen whether they are empty.
KEPT = frozenset(
    word
    for api in APIS.values()
    for paths in (*api.dialect.facts.values(), api.dialect.content, api.dialect.errors)
    for path in paths
    for word in path
) | {"stream"}


def api_of(method: bytes, target: bytes) -> Api | None:
    """Give what a request asks of a model, None when it asks something else; a prefix before the path is no matter."""
    if method != b"POST":
        return None
    path = target.partition(b"?")[0].rstrip(b"/").decode("latin-1")
    for root in ("/api/", "/v1/"):
        at = path.find(root)
        if at >= 0:
            return APIS.get(path[at:])
    return None


def facts(dialect: Dialect, document: Document) -> Iterator[tuple[str, object]]:
    """Give what a document says, by name; what is said in a better place comes after what is said in a worse one."""
    for name, first, path in dialect.places:
        if first in document:
            found = value(document, path)
            if found is not None and found != "":
                yield name, found


def value(document: object, path: Path) -> object:
    """Give what stands at a path, None when nothing does; of a list's items the first that has something."""
    for i, key in enumerate(path):
        if isinstance(document, list):
            return next((found for item in document if (found := value(item, path[i:])) is not None), None)
        if not isinstance(document, dict):
            return None
        document = document.get(key)
    return document


def has_content(dialect: Dialect, document: Document) -> bool:
    """Say whether a piece of a stream has content: a text, a thought, a tool call; a role alone is none."""
    return any(path[0] in document and value(document, path) for path in dialect.content)


def has_error(dialect: Dialect, document: Document) -> bool:
    """Say whether a document tells of an error."""
    return any(path[0] in document and value(document, path) not in (None, False, "") for path in dialect.errors)

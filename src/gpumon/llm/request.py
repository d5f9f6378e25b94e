"""One finished request to a model server, as any source measured it; what sessions and histograms are made of."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """How a request ended; the value is the label."""

    OK = "ok"
    ERROR = "error"  # the server refused, failed or broke off
    CANCELLED = "cancelled"  # the client went away first


class RequestSource(Enum):
    """Who measured a request; the value is the label `source`. In order of trust: the first that saw a token counts it."""

    PROXY = "proxy"  # the bytes of the reply passed through gpumon
    SERVER = "server"  # the server's own counters and histograms
    RUNNER = "runner"  # the counters of a child of the server: Ollama's llama-server
    SLOTS = "slots"  # looked at from time to time; short requests are missed, so it is an estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRequest:
    """What is known of one finished request; None is not known. It holds nothing of a prompt or a reply.

    `server` is the address that tells servers apart, as in `127.0.0.1:11434`; `kind` the name of its kind in
    `gpumon.llm.kinds`; `model` a name from the server's own list, or "other"; `endpoint` the path without a query.
    `started_at` is Unix seconds. `prompt_tokens` includes `cached_tokens`, those whose work was not done again.
    `load_seconds` is loading the model and `queue_seconds` waiting for a place, where the server tells them apart;
    `time_to_first_token_seconds` runs from the request's arrival to the first content (a thought or a tool call is
    content, a role or a header is not), and is known of streamed replies only.
    `time_per_output_token_seconds` is the time after the first token per token after it.
    `completion_tokens_estimated` says that pieces of the reply were counted because the server gave no number.
    """

    server: str
    kind: str
    model: str
    source: RequestSource
    started_at: float
    duration_seconds: float
    outcome: Outcome
    streamed: bool
    endpoint: str
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    completion_tokens_estimated: bool = False
    load_seconds: float | None = None
    queue_seconds: float | None = None
    time_to_first_token_seconds: float | None = None
    time_per_output_token_seconds: float | None = None
    finish_reason: str | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Give how fast the reply was written once it had begun; None where its speed is not known."""
        pace = self.time_per_output_token_seconds
        return 1 / pace if pace else None

    @property
    def total_tokens(self) -> int | None:
        """Give prompt and reply together; None where one of them is not known."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens

"""What is remembered besides readings: things that happen at a moment, one frozen dataclass per storage table.

A record's fields are its table's columns, in this order; `None` is stored as NULL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened; `kind` says what in one word, `message` in a sentence, `detail` is a JSON object.

    `timestamp` is Unix seconds.
    """

    table: ClassVar[str] = "events"
    time: ClassVar[str] = "timestamp"

    timestamp: float
    kind: str
    message: str
    gpu_id: int | None = None
    gpu_uuid: str | None = None
    subject: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessEvent:
    """A process took a GPU up (`event` "start"), let go of it ("end"), or showed to be of another category ("change").

    `timestamp` is Unix seconds; `gpu_memory_mb` in units of 10^6 bytes, the most it held when it ends.
    At the end the totals on this GPU are known: `duration_seconds` it held it, `gpu_seconds` it kept it busy, its energy.
    """

    table: ClassVar[str] = "process_events"
    time: ClassVar[str] = "timestamp"

    timestamp: float
    event: str
    pid: int
    category: str
    gpu_memory_mb: float | None = None
    gpu_id: int | None = None
    gpu_uuid: str | None = None
    process_name: str | None = None
    namespace: str | None = None
    pod: str | None = None
    container: str | None = None
    job: str | None = None
    duration_seconds: float | None = None
    gpu_seconds: float | None = None
    energy_joules: float | None = None
    previous_category: str | None = None
    command_line: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LlmSession:
    """One request that a model server answered.

    `started_at` is Unix seconds; `source` says how it was seen. No prompt or reply is ever in it.
    """

    table: ClassVar[str] = "llm_sessions"
    time: ClassVar[str] = "started_at"

    started_at: float
    model: str
    server: str | None = None
    source: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    tokens_per_second: float | None = None
    time_to_first_token_ms: float | None = None
    time_per_output_token_ms: float | None = None
    duration_ms: float | None = None
    energy_joules: float | None = None
    outcome: str | None = None


Record = Event | ProcessEvent | LlmSession

RECORDS: tuple[type[Record], ...] = (Event, ProcessEvent, LlmSession)

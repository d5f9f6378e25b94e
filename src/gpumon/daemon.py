"""What the parts of the daemon share while it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpumon.catalog import Entity
from gpumon.gpu.nvml import Nvml
from gpumon.gpu.source import GpuSource
from gpumon.hub import Hub
from gpumon.llm.sessions import Sessions
from gpumon.log import Logger
from gpumon.settings import Settings
from gpumon.source import Source
from gpumon.trace import OFF, Off, Recorder

if TYPE_CHECKING:
    from gpumon.process.source import ProcessSource
    from gpumon.servers import Servers
    from gpumon.store.sink import Store
    from gpumon.web.webconfig import WebConfig

# What is not this machine's own driver, and what to say then.
STAND_INS = {
    "simulated": "GPUs are simulated: no number about them is real",
    "replayed": "GPUs are replayed from a capture: no number about them is of now",
}


class StartError(Exception):
    """The service cannot start; the message is one sentence that says what to change."""


@dataclass(slots=True)
class Daemon:
    """The settings, the hub, and what each part has put here for those after it; see `gpumon.parts`."""

    settings: Settings
    logger: Logger
    nvml: Nvml | None
    opened_driver: str  # what to call the driver when it is open: nvml, simulated, replayed or none
    web_config: WebConfig | None = None
    hub: Hub = field(default_factory=Hub)
    started: float = field(default_factory=time.time)
    started_monotonic: float = field(default_factory=time.monotonic)
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    sources: list[Source] = field(default_factory=list)  # read beside each other
    then: list[Source] = field(default_factory=list)  # read after them
    own: list[Callable[[], Iterable[Entity]]] = field(default_factory=list)  # what gpumon says of itself, every tick
    listens: dict[str, str] = field(default_factory=dict)  # where people find what

    recorder: Recorder | Off = OFF
    gpu: GpuSource = field(init=False)
    sessions: Sessions = field(init=False)
    processes: ProcessSource | None = None
    servers: Servers | None = None
    store: Store | None = None

    @property
    def driver(self) -> str:
        """Give what reads the GPUs now."""
        return self.opened_driver if self.gpu.driver_name == "nvml" else self.gpu.driver_name

    @property
    def stands_in(self) -> bool:
        """Say whether the GPUs are not this machine's own."""
        return self.opened_driver in STAND_INS

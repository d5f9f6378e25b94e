"""Which changes of readings are events: one row per kind of event that two snapshots can tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gpumon.catalog.gpu import GPU, GPU_XID
from gpumon.catalog.health import GPU_DOWN, GPU_HEALTH
from gpumon.catalog.llm import LLM_MODEL_LOADS
from gpumon.catalog.model import EntityKind
from gpumon.catalog.xids import Xid, explain


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An event when `column` of an entity of `kind` grows (`rises`) or shrinks from one snapshot to the next.

    `message` may name the entity's labels, and `{value}` and `{previous}`.
    `reason_from` names a kind whose entity of the same GPU has a label `reason` to add.
    `explain` gives meaning and advice from the labels, `advice` the same advice always.
    `since` names an event of the same entity: how long ago that was is added to the message.
    `fault` says that work on the GPU may end by it: what the GPU did before, and who was on it, is told with it.
    An entity that was not there before had `first`; None: its first value is no change.
    """

    event: str
    kind: EntityKind
    column: str
    message: str
    rises: bool = True
    reason_from: EntityKind | None = None
    first: float | None = None
    explain: Callable[[Mapping[str, str]], Xid] | None = None
    advice: str = ""
    since: str = ""
    fault: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """Two events around the time in which `column` is not 0: `event` with "_start" and "_end".

    It ends when the column has been 0 for `rest_seconds`, so that what flickers is one episode.
    """

    event: str
    kind: EntityKind
    column: str
    message: str
    advice: str = ""
    rest_seconds: float = 60.0


CHANGES = (
    Change(
        event="device_lost",
        kind=GPU_HEALTH,
        column="up",
        rises=False,
        message="GPU {gpu_id} does not answer",
        reason_from=GPU_DOWN,
        first=1.0,
        advice="Look for an XID of the same moment; if there is none and it stays away, drain and restart the node.",
        fault=True,
    ),
    Change(
        event="device_back",
        kind=GPU_HEALTH,
        column="up",
        message="GPU {gpu_id} answers again",
        since="device_lost",
    ),
    Change(
        event="xid",
        kind=GPU_XID,
        column="xid_errors_total",
        message="XID {xid} on GPU {gpu_id}",
        first=0.0,
        explain=explain,
        fault=True,
    ),
    Change(
        event="ecc_uncorrected",
        kind=GPU,
        column="ecc_errors_uncorrected_volatile_total",
        message="Uncorrected memory errors on GPU {gpu_id}: {value:.0f} since the driver was loaded",
        advice="Restart what ran on the GPU; if it comes again, drain and reset the GPU.",
        fault=True,
    ),
    Change(
        event="row_remap_pending",
        kind=GPU,
        column="row_remap_pending",
        message="GPU {gpu_id} waits for a reset to replace rows of its memory",
        advice="Drain and reset the GPU when its work allows.",
    ),
    Change(
        event="row_remap_failure",
        kind=GPU,
        column="row_remap_failure",
        message="GPU {gpu_id} could not replace a row of its memory: the device should be replaced",
        advice="Drain the GPU and have the vendor replace it.",
    ),
    Change(
        event="model_load",
        kind=LLM_MODEL_LOADS,
        column="loads_total",
        message="{server} has taken {model} into memory",
        first=0.0,
    ),
    Change(
        event="model_unload",
        kind=LLM_MODEL_LOADS,
        column="unloads_total",
        message="{server} has let {model} go from memory",
        first=0.0,
    ),
)

# Throttling that is a fault, with what to do about it. Software power capping is how a GPU under load keeps to its limit:
# that is in the readings.
EPISODES = tuple(
    Episode(
        event=f"throttle_{reason}",
        kind=GPU,
        column=f"throttle_active_{reason}",
        message=f"GPU {{gpu_id}} is slowed down: {words}",
        advice=advice,
    )
    for reason, words, advice in (
        ("hw_slowdown", "the hardware protects itself from heat or lack of power", "Look at cooling and power supply."),
        ("sw_thermal", "it is too hot", "Look at air flow, fans and the intake temperature."),
        ("hw_thermal", "it is far too hot, the hardware stepped in", "Look at air flow and fans now."),
        ("hw_power_brake", "the system pulled its power brake", "Look at the power supplies and the rack's limit."),
    )
)


@dataclass(frozen=True, slots=True)
class Said:
    """A reading that is told with an event, by column; `words` say it in the message, in units of `scale`."""

    column: str
    words: str = ""
    scale: float = 1.0


# What a GPU was doing before something happened to it.
BEFORE = (
    Said("utilization_gpu", "{:.0f} % busy"),
    Said("memory_used", "{:.1f} GB of memory in use", 1e-9),
    Said("memory_total"),
    Said("temperature", "{:.0f} °C"),
    Said("memory_temperature_celsius"),
    Said("power", "{:.0f} W"),
    Said("power_limit_enforced_watts"),
    Said("clock_sm_hertz"),
    Said("recovery_action"),
)

# Told of a process that ended so soon after a fault of its GPU that the one may be why of the other.
ENDED_AFTER_FAULT = "process_ended_after_fault"

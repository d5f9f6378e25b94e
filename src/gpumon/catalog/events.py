"""Which changes of readings are events: one row per kind of event that two snapshots can tell."""

from __future__ import annotations

from dataclasses import dataclass

from gpumon.catalog.gpu import GPU, GPU_XID
from gpumon.catalog.health import GPU_DOWN, GPU_HEALTH
from gpumon.catalog.llm import LLM_MODEL_LOADS
from gpumon.catalog.model import EntityKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An event when `column` of an entity of `kind` grows (`rises`) or shrinks from one snapshot to the next.

    `message` may name the entity's labels, and `{value}` and `{previous}`.
    `reason_from` names a kind whose entity of the same GPU has a label `reason` to add.
    An entity that was not there before had `first`; None: its first value is no change.
    """

    event: str
    kind: EntityKind
    column: str
    message: str
    rises: bool = True
    reason_from: EntityKind | None = None
    first: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """Two events around the time in which `column` is not 0: `event` with "_start" and "_end".

    It ends when the column has been 0 for `rest_seconds`, so that what flickers is one episode.
    """

    event: str
    kind: EntityKind
    column: str
    message: str
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
    ),
    Change(event="device_back", kind=GPU_HEALTH, column="up", message="GPU {gpu_id} answers again"),
    Change(event="xid", kind=GPU_XID, column="xid_errors_total", message="XID {xid} on GPU {gpu_id}", first=0.0),
    Change(
        event="ecc_uncorrected",
        kind=GPU,
        column="ecc_errors_uncorrected_volatile_total",
        message="Uncorrected memory errors on GPU {gpu_id}: {value:.0f} since the driver was loaded",
    ),
    Change(
        event="row_remap_pending",
        kind=GPU,
        column="row_remap_pending",
        message="GPU {gpu_id} waits for a reset to replace rows of its memory",
    ),
    Change(
        event="row_remap_failure",
        kind=GPU,
        column="row_remap_failure",
        message="GPU {gpu_id} could not replace a row of its memory: the device should be replaced",
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

# Throttling that is a fault. Software power capping is how a GPU under load keeps to its limit: that is in the readings.
EPISODES = tuple(
    Episode(
        event=f"throttle_{reason}",
        kind=GPU,
        column=f"throttle_active_{reason}",
        message=f"GPU {{gpu_id}} is slowed down: {reason}",
    )
    for reason in ("hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")
)

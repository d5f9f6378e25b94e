"""The catalogue: every metric is declared in this package and nowhere else."""

from __future__ import annotations

from gpumon.catalog.gpu import FAN, GPU, GPU_INFO, GPU_KINDS, GPU_XID, MIG, MIG_INFO, NVLINK
from gpumon.catalog.health import (
    AGE,
    BUILD,
    DAEMON,
    EXPORT,
    GPU_DOWN,
    GPU_HEALTH,
    HEALTH_KINDS,
    HOST,
    NVML_ERRORS,
    PROCESS,
    SOURCE,
    SUPPORT,
)
from gpumon.catalog.model import (
    Cadence,
    Call,
    Column,
    Computed,
    Entity,
    EntityKind,
    Field,
    Gpm,
    Label,
    Otel,
    Reading,
    Since,
    Snapshot,
    Source,
)

# In the order in which they are documented and exposed.
KINDS = (DAEMON, AGE, BUILD, SOURCE, GPU_HEALTH, GPU_DOWN, SUPPORT, NVML_ERRORS, EXPORT, *GPU_KINDS, HOST, PROCESS)

__all__ = [
    "AGE",
    "BUILD",
    "DAEMON",
    "EXPORT",
    "FAN",
    "GPU",
    "GPU_DOWN",
    "GPU_HEALTH",
    "GPU_INFO",
    "GPU_KINDS",
    "GPU_XID",
    "HEALTH_KINDS",
    "HOST",
    "KINDS",
    "MIG",
    "MIG_INFO",
    "NVLINK",
    "NVML_ERRORS",
    "PROCESS",
    "SOURCE",
    "SUPPORT",
    "Cadence",
    "Call",
    "Column",
    "Computed",
    "Entity",
    "EntityKind",
    "Field",
    "Gpm",
    "Label",
    "Otel",
    "Reading",
    "Since",
    "Snapshot",
    "Source",
]

"""What a simulated node consists of, and the text people name it by."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gpumon.gpu.simulate.architectures import Model
from gpumon.gpu.simulate.models import MODELS

# NVML itself has room for 64 devices and no node has more than 16.
MOST_GPUS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A simulated node: its GPUs, how each is divided, and its driver.

    `loads` forces the load pattern of each GPU; empty draws them from what its models usually run.
    `partition` divides every GPU into MIG devices; None leaves MIG mode off where there is one.
    Drivers 535.43 to 535.86 write process lists in the wrong layout: name such a version to get that.
    """

    models: tuple[Model, ...]
    loads: tuple[str, ...] = ()
    partition: tuple[str, ...] | None = None
    driver_version: str = "570.124.06"
    cuda_version: int = 12080

    @property
    def misplaced_processes(self) -> bool:
        """Say whether this driver writes nvmlDeviceGet…RunningProcesses_v3 in the wrong layout."""
        major, minor = (int(part) for part in self.driver_version.split(".")[:2])
        return major == 535 and 43 <= minor <= 86


def parse_profile(text: str) -> Profile:
    """Give the profile that `text` names, as in h100x8 or h100x8-mig; ValueError says what is allowed."""
    match = re.fullmatch(r"([a-z0-9]+)x(\d{1,3})(-mig)?", text)
    model = MODELS.get(match[1]) if match else None
    if match is None or model is None or not 1 <= int(match[2]) <= MOST_GPUS or (match[3] and not model.mig):
        raise ValueError(
            f"simulated node {text!r} is not known: give <model>x<count> with a model of {', '.join(MODELS)} "
            f"and 1 to {MOST_GPUS} GPUs, as in h100x8, and -mig after it for a divided "
            f"{', '.join(key for key, row in MODELS.items() if row.mig)}"
        )
    return Profile(models=(model,) * int(match[2]), partition=model.partition if match[3] else None)

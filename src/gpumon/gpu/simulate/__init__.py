"""A simulated NVIDIA driver below nvidia-ml-py, so that the real code runs over it: for demos, tests and benchmarks."""

from __future__ import annotations

from gpumon.gpu.simulate.architectures import Model
from gpumon.gpu.simulate.library import SimulatedLibrary
from gpumon.gpu.simulate.loads import LOADS
from gpumon.gpu.simulate.models import MODELS
from gpumon.gpu.simulate.processes import NO_INSTANCE, SimulatedAccount, SimulatedProcess
from gpumon.gpu.simulate.profiles import Profile, parse_profile

__all__ = [
    "LOADS",
    "MODELS",
    "NO_INSTANCE",
    "Model",
    "Profile",
    "SimulatedAccount",
    "SimulatedLibrary",
    "SimulatedProcess",
    "parse_profile",
]

"""Recording what a real driver answers, and replaying it below nvidia-ml-py."""

from __future__ import annotations

from gpumon.gpu.capture.file import Capture, CaptureError, dump, load, read_file
from gpumon.gpu.capture.masking import mask
from gpumon.gpu.capture.record import RecordingLibrary
from gpumon.gpu.capture.replay import ReplayLibrary
from gpumon.gpu.capture.session import capture, record

__all__ = [
    "Capture",
    "CaptureError",
    "RecordingLibrary",
    "ReplayLibrary",
    "capture",
    "dump",
    "load",
    "mask",
    "read_file",
    "record",
]

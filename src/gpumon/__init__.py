"""gpumon: one small daemon per GPU node that reads its GPUs and tells everyone who asks."""

__version__ = "0.1.0"

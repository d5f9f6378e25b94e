"""Run gpumon with `python -m gpumon`."""

from gpumon.cli import main

main()

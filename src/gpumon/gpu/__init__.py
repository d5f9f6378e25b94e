"""The driver: one guarded door to NVML, devices and what is read of them, events, the nvidia-smi fallback, a simulated driver."""

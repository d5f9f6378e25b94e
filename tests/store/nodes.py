"""Snapshots like those of a real node of H100s, made fast enough for weeks of them.

Each GPU goes through hours of idling, training and serving; readings follow the load, with the noise and the number of
digits that the driver gives: whole percents and degrees, milliwatts, millijoules, clock steps of 15 MHz, profiling
ratios with all the digits of a double. Counters only grow. Everything is decided by the seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from gpumon.catalog import GPU, HOST, MIG, Entity, EntityKind, Snapshot

GIB = 1024.0**3
START = 1_795_392_000.0  # 2026-11-23 00:00:00 UTC, a Monday
# Mean length of a phase in seconds, by what the GPU does in it.
PHASES = {"idle": 5400.0, "training": 10800.0, "serving": 7200.0}

# Readings an H100 never changes while it is not reconfigured, and what it says.
CONSTANT: dict[str, float] = {
    "encoder_utilization_percent": 0.0,
    "decoder_utilization_percent": 0.0,
    "jpeg_utilization_percent": 0.0,
    "ofa_utilization_percent": 0.0,
    "memory_total": 85_520_809_984.0,
    "memory_reserved_bytes": 679_804_928.0,
    "bar1_total_bytes": 137_438_953_472.0,
    "protected_memory_used_bytes": 0.0,
    "temperature_threshold_shutdown_celsius": 92.0,
    "temperature_threshold_slowdown_celsius": 89.0,
    "temperature_threshold_memory_max_celsius": 95.0,
    "temperature_threshold_gpu_max_celsius": 87.0,
    "temperature_margin_threshold_shutdown_celsius": -8.0,
    "temperature_margin_threshold_slowdown_celsius": -2.0,
    "temperature_margin_threshold_memory_max_celsius": 0.0,
    "temperature_margin_threshold_gpu_max_celsius": 0.0,
    "power_limit_enforced_watts": 700.0,
    "power_limit_requested_watts": 700.0,
    "power_limit_default_watts": 700.0,
    "power_limit_min_watts": 200.0,
    "power_limit_max_watts": 700.0,
    "clock_max_graphics_hertz": 1980e6,
    "clock_max_sm_hertz": 1980e6,
    "clock_max_memory_hertz": 2619e6,
    "clock_max_video_hertz": 1545e6,
    "clock_memory_hertz": 2619e6,
    "performance_state": 0.0,
    "pcie_link_generation_current": 5.0,
    "pcie_link_generation_max": 5.0,
    "pcie_link_width_current": 16.0,
    "pcie_link_width_max": 16.0,
    "fabric_state": 3.0,
    "row_remap_banks_max": 640.0,
}
# Readings an H100 lacks, or for which there is a better one.
ABSENT = ("busy_polled_seconds_total", "energy_integrated_joules_total", "retired_pages", "xid_last_timestamp_seconds")


def _start_value(name: str) -> float | None:
    if name in CONSTANT:
        return CONSTANT[name]
    return None if name.startswith(ABSENT) else 0.0


class Device:
    """One GPU: `values` holds its readings in the order of the catalogue and is moved on by `tick`."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.values = [_start_value(column.name) for column in GPU.columns]
        self.phase = "idle"
        self.phase_left = self.random.expovariate(1 / 3600)
        self.load = 0.0  # the share of the time that kernels run
        self.temperature = 35.0
        self.watts = 70.0
        self.memory = 0.6 * GIB
        self.energy_mj = self.random.randrange(10**12)
        self.busy_us = 0
        self.power_cap_ns = 0
        self.sent = self.received = 0

    def _change_phase(self) -> None:
        self.phase = self.random.choice(tuple(PHASES))
        self.phase_left = self.random.expovariate(1 / PHASES[self.phase])
        share = {"idle": 0.007, "training": self.random.uniform(0.6, 0.95), "serving": 0.9}[self.phase]
        self.memory = float(int(share * 80 * GIB) // 2097152 * 2097152)

    def tick(self, seconds: float) -> None:
        """Move all readings on by `seconds`."""
        self.phase_left -= seconds
        if self.phase_left < 0:
            self._change_phase()
        chance = self.random.random
        gauss = self.random.gauss
        if self.phase == "idle":
            self.load = 0.0
        elif self.phase == "training":
            self.load = min(1.0, max(0.0, gauss(0.97, 0.03))) if chance() > 0.01 else 0.1
        elif chance() < 0.1:  # requests come and go
            self.load = chance() * 0.9
        load = self.load
        self.watts += 0.5 * (70 + 600 * load - self.watts) + gauss(0, 0.3 + 9 * load)
        self.watts = min(702.0, max(60.0, self.watts))
        self.temperature += 0.05 * (30 + self.watts / 16 - self.temperature) + gauss(0, 0.15)
        if self.phase == "training" and chance() < 0.02:
            self.memory += self.random.choice((-1, 1)) * 2097152 * self.random.randrange(8)
        self.energy_mj += int(self.watts * seconds * 1000)
        self.busy_us += int(round(load * 100) * seconds * 1e4)
        capped = self.watts > 690
        self.power_cap_ns += int(seconds * 1e9) if capped else 0
        traffic = {"idle": 0.0, "training": 5e8, "serving": 3e7}[self.phase] * load * abs(gauss(1, 0.1))
        self.sent += int(seconds * (abs(gauss(3e3, 200)) + traffic / 3))
        self.received += int(seconds * (abs(gauss(9e3, 400)) + traffic))
        self._write(load, capped)

    def _write(self, load: float, capped: bool) -> None:
        gauss = self.random.gauss
        clock = 1e6 * (1980 - 15 * int(abs(gauss(0, 6)) if capped else 0)) if self.phase != "idle" else 345e6
        used = self.memory + CONSTANT["memory_reserved_bytes"]
        die = float(round(self.temperature))

        def ratio(mean: float) -> float:
            return min(1.0, max(0.0, mean * load * gauss(1, 0.04))) if load else 0.0

        now = {
            "utilization_gpu": float(round(100 * load)),
            "busy_samples_seconds_total": self.busy_us / 1e6,
            "memory_utilization_percent": float(round(60 * load * gauss(1, 0.05))),
            "memory_used": used,
            "memory_free_bytes": CONSTANT["memory_total"] - used,
            "bar1_used_bytes": 1_048_576.0 if self.phase == "idle" else 4_194_304.0,
            "temperature": die,
            "memory_temperature_celsius": float(round(self.temperature * 1.08 + 3)),
            "temperature_margin_celsius": 87 - die,
            "power": round(self.watts * 1000) / 1000,
            "power_instant_watts": round((self.watts + gauss(0, 1 + 8 * load)) * 1000) / 1000,
            "energy_driver_joules_total": self.energy_mj / 1000,
            "clock_graphics_hertz": clock,
            "clock_sm_hertz": clock,
            "clock_video_hertz": 1545e6 if self.phase != "idle" else 765e6,
            "throttle_active_gpu_idle": float(self.phase == "idle"),
            "throttle_active_sw_power_cap": float(capped),
            "throttle_sw_power_cap_seconds_total": self.power_cap_ns * 1e-9,
            "pcie_transmit_bytes_total": float(self.sent),
            "pcie_receive_bytes_total": float(self.received),
            "graphics_active_ratio": ratio(1.0),
            "sm_active_ratio": ratio(0.9),
            "sm_occupancy_ratio": ratio(0.4),
            "tensor_active_ratio": ratio(0.55),
            "dram_active_ratio": ratio(0.5),
            "fp16_active_ratio": ratio(0.05),
            "fp32_active_ratio": ratio(0.1),
            "integer_active_ratio": ratio(0.15),
        }
        for name, value in now.items():
            self.values[GPU.index[name]] = value


def labels(kind: EntityKind, number: int) -> tuple[str, ...]:
    """Give label values for GPU `number`, for a kind whose labels are the GPU's."""
    given = {
        "gpu_id": str(number),
        "gpu_name": "NVIDIA H100 80GB HBM3",
        "gpu_uuid": f"GPU-0b2d561f-46bf-467a-a73c-{number:012x}",
    }
    return tuple(given.get(label.name, "") for label in kind.labels)


class Node:
    """A node of `gpus` GPUs, read every `interval` seconds from `start` on."""

    def __init__(self, gpus: int = 8, interval: float = 2.0, start: float = START, seed: int = 1) -> None:
        self.interval = interval
        self.time = start
        self.number = 0
        self.random = random.Random(seed)
        self.devices = [Device(seed * 1000 + i) for i in range(gpus)]
        self.labels = [labels(GPU, i) for i in range(gpus)]
        self.cpu_seconds = 1000.0
        self.load1 = 4.0

    def _host(self) -> Entity:
        self.cpu_seconds = round(self.cpu_seconds + self.interval * self.random.uniform(2, 30), 2)
        self.load1 = round(max(0.0, self.load1 + self.random.gauss(0, 0.2)), 2)
        available = float(self.random.randrange(480, 500) * 2**30 // 4096 * 4096 + self.random.randrange(2**18) * 4096)
        now = {
            "cpu_seconds_total": self.cpu_seconds,
            "cpus": 96.0,
            "load1": self.load1,
            "memory_total_bytes": 512 * GIB,
            "memory_available_bytes": available,
            "boot_time_seconds": START - 86_400.5,
        }
        return Entity(HOST, (), tuple(now[column.name] for column in HOST.columns))

    def tick(self) -> Snapshot:
        """Give the next snapshot; a tick comes up to three milliseconds late, as a loop's timer does."""
        self.time += self.interval
        self.number += 1
        entities = []
        for device, names in zip(self.devices, self.labels, strict=True):
            device.tick(self.interval)
            entities.append(Entity(GPU, names, tuple(device.values)))
        entities.append(self._host())
        return Snapshot(self.time + self.random.uniform(0.0002, 0.003), self.time, self.number, tuple(entities))

    def snapshots(self, count: int) -> Iterator[Snapshot]:
        """Give the next `count` snapshots."""
        for _ in range(count):
            yield self.tick()


def mig_entity(gpu: int, instance: int, values: tuple[float | None, ...]) -> Entity:
    """Give one MIG device with these values."""
    name, uuid = labels(GPU, gpu)[1:]
    return Entity(MIG, (str(gpu), name, uuid, str(instance), "0", f"MIG-{gpu:04x}-{instance:04x}"), values)

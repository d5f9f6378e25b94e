"""Alerts over the real source and the simulated driver: what goes wrong there is told, and a node that is well is silent."""

from __future__ import annotations

import pynvml
import pytest
from tests.node import Node, gpus

from gpumon.export.alerts_settings import rules
from gpumon.export.alerts_watch import Incident, Watch
from gpumon.gpu.simulate import SimulatedLibrary
from gpumon.settings import Settings


class Watched:
    """A node whose snapshots are looked at."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.watch = Watch(rules(Settings()))

    def go(self, seconds: float) -> list[tuple[str, str, bool]]:
        """Let time pass; give what began and ended as (alert, GPU, whether it began)."""
        found: list[Incident] = []
        for _ in range(round(seconds / self.node.interval)):
            found += self.watch.take(self.node.tick())
        return [(each.alert.name, each.labels.get("gpu_id", ""), each.ended is None) for each in found]


@pytest.mark.parametrize("profile", ["h100x2", "a100x1", "rtx4090x1", "t4x1", "h100x1-mig", "gb10x1"])
def test_a_node_that_is_well_has_no_alerts(profile: str) -> None:
    """Two minutes of each kind of GPU at work."""
    with Node(profile) as node:
        assert Watched(node).go(120) == []


def test_a_gpu_that_falls_off_the_bus_is_told_with_its_xid_and_so_is_its_return() -> None:
    """The other GPU has no alert."""
    with Node("h100x2") as node:
        assert isinstance(node.library, SimulatedLibrary)
        watched = Watched(node)
        watched.go(10)
        uuid = gpus(node.tick())[1].label("gpu_uuid")
        node.xids.seen(uuid, 79, node.now, "nvml")
        node.library.lose(1)
        assert watched.go(20) == [("gpu_xid", "1", True), ("gpu_lost", "1", True)]
        node.library.restore(1)
        assert watched.go(90) == [("gpu_lost", "1", False)]
        assert [incident.alert.name for incident in watched.watch.active()] == ["gpu_xid"]


def test_a_gpu_that_hangs_is_told_once() -> None:
    """And not as one that is lost."""
    with Node("h100x2", interval=1.0) as node:
        assert isinstance(node.library, SimulatedLibrary)
        watched = Watched(node)
        watched.go(4)
        release = node.library.hang(0)
        try:
            watched.watch.take(node.tick())
            node.wait(31)
            assert watched.go(1) == [("gpu_hung", "0", True)]
        finally:
            release()


def test_a_driver_that_is_released_for_maintenance_is_no_alert() -> None:
    """Nor is taking it up again."""
    with Node("h100x1") as node:
        watched = Watched(node)
        watched.go(4)
        node.run(node.source.release())
        assert watched.go(120) == []
        node.run(node.source.resume())
        assert watched.go(20) == []


COUNTERS = {
    "gpu_nvlink_recovery": (pynvml.NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL, 1),
    "gpu_nvlink_errors": (pynvml.NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL, 11),
}


@pytest.mark.parametrize(("name", "fault"), COUNTERS.items(), ids=COUNTERS)
def test_errors_that_the_driver_counts_are_told(name: str, fault: tuple[int, int]) -> None:
    """What it counted before is not."""
    field, errors = fault
    with Node("a100x1") as node:
        assert isinstance(node.library, SimulatedLibrary)
        watched = Watched(node)
        node.library.set_counter(0, field, 1000)
        assert watched.go(40) == []
        node.library.set_counter(0, field, 1000 + errors)
        assert watched.go(40) == [(name, "0", True)]

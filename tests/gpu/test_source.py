"""The driver as a whole: devices that hang, get lost and return; drivers that go, come back, and never will."""

from __future__ import annotations

from pathlib import Path

import pynvml
import pytest
from structlog.testing import capture_logs
from tests.node import Node, down_reasons, flat, gpus, up

from gpumon.catalog import DAEMON, GPU, GPU_HEALTH, GPU_INFO, GPU_KINDS, GPU_XID, MIG, MIG_INFO, SOURCE, Snapshot
from gpumon.crew import TURN_SECONDS
from gpumon.settings import Gpu as GpuSettings


def success(snapshot: Snapshot) -> bool:
    """Give what the GPU source said of itself."""
    return bool(snapshot.of(SOURCE)[0]["success"])


def count(snapshot: Snapshot) -> float | None:
    """Give the number of GPUs the driver lists."""
    return snapshot.of(DAEMON)[0]["gpu_count"]


def lost(snapshot: Snapshot, gpu: int) -> float | None:
    """Give how often a GPU went down."""
    return snapshot.of(GPU_HEALTH)[gpu]["lost_total"]


@pytest.mark.parametrize("profile", ["h100x8", "a100x8", "rtx4090x1", "l40sx4", "h100x8-mig", "t4x1", "gb10x1"])
def test_every_gpu_of_a_healthy_node_is_read(profile: str) -> None:
    """All GPUs are up, named, and none reports an unexpected error; two ticks later as well."""
    with Node(profile) as node:
        for _ in range(3):
            snapshot = node.tick()
            gpu_count = len(snapshot.of(GPU))
            assert count(snapshot) == gpu_count == len(snapshot.of(GPU_INFO)) > 0
            assert all(up(snapshot).values())
            assert success(snapshot)
            assert node.nvml.errors == {}
            assert len({gpu.label("gpu_uuid") for gpu in snapshot.of(GPU)}) == gpu_count


# Hung devices.


def test_a_device_that_hangs_holds_nobody_up_and_is_not_asked_again() -> None:
    """The others stay fresh, the hung one is said to be, is left alone until its call returns, and is then back."""
    with Node("h100x8", interval=1.0) as node, capture_logs() as logs:
        while not all(up(node.tick()).values()):
            pass  # a busy machine may not open all of them within the first tick
        logs.clear()
        release = node.library.hang(3)
        try:
            for _ in range(3):
                snapshot = node.tick()
                assert up(snapshot) == {i: i != 3 for i in range(8)}
                assert down_reasons(snapshot) == {3: "HUNG"}
                assert snapshot.of(GPU_HEALTH)[3]["hung"] == 1
                assert set(gpus(snapshot)) == {0, 1, 2, 4, 5, 6, 7}
                assert not success(snapshot)
            # The call has been under way since the first of these ticks.
            assert node.source.hung_seconds() == pytest.approx(3 * 1.0)
        finally:
            release()
        while not all(up(node.tick()).values()):
            pass
        assert node.source.hung_seconds() == 0
    events = [line["event"] for line in logs if line.get("gpu") == 3]
    assert events == ["GPU is down", "GPU is back"]


def test_several_hung_devices_cost_a_turn_each_and_no_more() -> None:
    """Half a node may hang; the rest is read within its deadline."""
    with Node("h100x8", interval=3.0) as node, capture_logs():  # turns take longer on a busy machine
        node.tick()
        releases = [node.library.hang(i) for i in range(4)]
        try:
            snapshot = node.tick()
            assert up(snapshot) == {i: i >= 4 for i in range(8)}
            assert 4 * TURN_SECONDS < 3.0
        finally:
            for release in releases:
                release()


def test_a_hung_device_keeps_the_driver_from_being_released_and_says_so() -> None:
    """A release that cannot be had is refused with the GPU that stands in the way."""
    with Node("h100x2", interval=1.0) as node, capture_logs():
        while not all(up(node.tick()).values()):
            pass
        release = node.library.hang(1)
        try:
            node.tick()
            assert "GPU 1" in str(node.run(node.source.release()))
            assert up(node.tick()) == {0: True, 1: False}
        finally:
            release()


# Lost devices.


def test_a_lost_device_goes_down_alone_and_comes_back_by_itself() -> None:
    """Its readings vanish, the others' go on; once it answers it is read again, with its counters."""
    with Node("h100x3") as node, capture_logs() as logs:
        before = gpus(node.tick(2))[1]
        node.library.lose(1)
        snapshot = node.tick()
        assert up(snapshot) == {0: True, 1: False, 2: True}
        assert down_reasons(snapshot) == {1: "GPU_IS_LOST"}
        assert set(gpus(snapshot)) == {0, 2}
        assert snapshot.of(GPU_HEALTH)[1].label("gpu_uuid") == before.label("gpu_uuid")
        node.library.restore(1)
        # Tried again after 2, 4, 8 … s; the counters of its life go on.
        snapshot = node.tick(4)
        assert up(snapshot) == {0: True, 1: True, 2: True}
        back = gpus(snapshot)[1]
        assert (back["energy_driver_joules_total"] or 0) > (before["energy_driver_joules_total"] or 0)
        assert (back["busy_samples_seconds_total"] or 0) >= (before["busy_samples_seconds_total"] or 0)
        assert lost(snapshot, 1) == 1
    assert [line["event"] for line in logs if line.get("gpu") == 1] == ["GPU is down", "GPU is back"]


def test_a_device_that_needs_a_new_start_of_the_driver_gets_one() -> None:
    """When retrying does not help, the driver is opened anew, and the device is there again."""
    with Node("h100x2") as node, capture_logs():
        node.tick()
        node.library.lose(0, stale=True)
        assert up(node.tick()) == {0: False, 1: True}
        node.library.restore(0)
        inits = node.library.calls["nvmlInitWithFlags"]
        for _ in range(40):
            if all(up(node.tick()).values()):
                break
        assert all(up(node.tick()).values())
        assert node.library.calls["nvmlInitWithFlags"] == inits + 1


def test_a_device_that_stays_away_is_tried_ever_more_rarely() -> None:
    """An hour of a dead GPU costs a bounded number of attempts and a handful of new starts of the driver."""
    with Node("h100x2") as node, capture_logs() as logs:
        node.tick()
        node.library.lose(0)
        inits = node.library.calls["nvmlInitWithFlags"]
        node.tick(1800)
        assert up(node.tick()) == {0: False, 1: True}
        assert node.library.calls["nvmlInitWithFlags"] - inits <= 3600 / 600 + 5
    assert len([line for line in logs if line["event"] == "GPU is down"]) == 1


def test_a_device_that_answers_nothing_is_taken_for_gone() -> None:
    """A GPU every call of which fails is down, whatever the error is called."""
    with Node("h100x2") as node, capture_logs():
        node.tick()
        for function in list(node.library.calls):
            if function.startswith(("nvmlDevice", "nvmlGpm")):
                node.library.fail(function, pynvml.NVML_ERROR_UNKNOWN, device=0)
        snapshot = node.tick()
        assert up(snapshot) == {0: False, 1: True}
        assert down_reasons(snapshot) == {0: "UNKNOWN"}


# The driver as a whole.


def test_without_a_driver_health_is_served_and_the_driver_is_looked_for() -> None:
    """No driver is no error: the count is 0, and once the driver is there its GPUs are."""
    with Node("h100x2") as node, capture_logs() as logs:
        node.library.unload()
        snapshot = node.tick(10)
        assert count(snapshot) == 0
        assert success(snapshot)
        assert snapshot.of(GPU) == ()
        node.library.load()
        node.tick(15)
        snapshot = node.tick(2)
        assert count(snapshot) == 2
        assert all(up(snapshot).values())
    assert [line["event"] for line in logs] == ["no NVIDIA driver", "NVIDIA driver is there"]


def test_a_driver_reload_is_survived_and_counters_start_anew() -> None:
    """After a reload the GPUs are back, and what the driver counts begins at its zero again."""
    with Node("h100x2") as node, capture_logs():
        node.tick(50)
        before = gpus(node.tick())[0]["energy_driver_joules_total"] or 0
        node.library.unload()
        snapshot = node.tick(2)
        assert not any(up(snapshot).values())
        assert count(snapshot) == 0
        node.library.load()
        node.tick(20)
        snapshot = node.tick()
        assert all(up(snapshot).values())
        after = gpus(snapshot)[0]["energy_driver_joules_total"]
        assert after is not None
        assert after < before


def test_a_version_mismatch_ends_the_process_with_a_sentence() -> None:
    """Only a new process can load another library: the source says so and what to do."""
    with Node("h100x1") as node, capture_logs():
        node.library.version_mismatch()
        node.tick()
        assert node.source.fatal is not None
        assert "different versions" in node.source.fatal


def test_a_driver_that_was_there_and_refuses_for_good_ends_the_process() -> None:
    """A container that lost its devices gets UNKNOWN for ever; a driver that was never there may still come."""
    with Node("h100x1") as node, capture_logs():
        node.tick()
        node.library.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_UNKNOWN)
        node.library.fail("nvmlDeviceGetUtilizationRates", pynvml.NVML_ERROR_UNINITIALIZED)
        node.tick(20)
        assert node.source.fatal is None
        node.tick(40)
        assert node.source.fatal is not None
        assert "lost access" in node.source.fatal
    with Node("h100x1") as node, capture_logs():
        node.library.fail("nvmlInitWithFlags", pynvml.NVML_ERROR_UNKNOWN)
        node.tick(100)
        assert node.source.fatal is None


def test_a_gpu_that_is_plugged_in_is_picked_up(tmp_path: Path) -> None:
    """The kernel lists one more device; the driver is opened anew and it is read."""
    (tmp_path / "0000:00:00.0").mkdir()
    with Node("h100x1", devices_path=tmp_path) as node, capture_logs():
        node.tick()
        node.library.plug("h100")
        assert count(node.tick(20)) == 1  # nothing tells of it yet
        (tmp_path / "0000:01:00.0").mkdir()
        node.tick(16)
        snapshot = node.tick(2)
        assert count(snapshot) == 2
        assert up(snapshot) == {0: True, 1: True}


def test_a_gpu_that_was_pulled_out_is_said_to_be_missing(tmp_path: Path) -> None:
    """A GPU that is not listed any more is down with that reason, and not forgotten."""
    for index in range(2):
        (tmp_path / f"0000:0{index}:00.0").mkdir()
    with Node("h100x2", devices_path=tmp_path) as node, capture_logs():
        uuid = gpus(node.tick())[1].label("gpu_uuid")
        node.library.unplug(1)
        (tmp_path / "0000:01:00.0").rmdir()
        node.tick(20)
        snapshot = node.tick()
        assert count(snapshot) == 1
        (missing,) = (entity for entity in snapshot.of(GPU_HEALTH) if not entity["up"])
        assert missing.label("gpu_uuid") == uuid
        assert down_reasons(snapshot) == {1: "NOT_LISTED"}


def test_mig_devices_come_and_go() -> None:
    """A re-partitioned GPU shows its new MIG devices, and none of the old ones."""
    with Node("h100x1-mig") as node, capture_logs():
        before = {mig.label("mig_uuid") for mig in node.tick().of(MIG)}
        assert len(before) > 1
        node.library.repartition(0, ["3g.40gb", "3g.40gb"])
        node.tick(16)
        snapshot = node.tick()
        after = {mig.label("mig_uuid") for mig in snapshot.of(MIG)}
        assert len(after) == 2
        assert not before & after
        assert {info.label("profile") for info in snapshot.of(MIG_INFO)} == {"3g.40gb"}


def test_mig_switched_off_gives_the_device_its_own_readings_back() -> None:
    """Utilisation is not supported while MIG is on, and is read again once it is off."""
    with Node("h100x1-mig") as node, capture_logs():
        assert gpus(node.tick())[0]["utilization_gpu"] is None
        node.library.repartition(0, None)
        node.tick(16)
        snapshot = node.tick()
        assert snapshot.of(MIG) == ()
        assert gpus(snapshot)[0]["utilization_gpu"] is not None


# Maintenance.


def test_release_gives_every_handle_back_and_resume_takes_them_up() -> None:
    """While released nothing is asked of the driver and the GPUs are said to be released; then all goes on."""
    with Node("h100x2") as node, capture_logs():
        before = gpus(node.tick(2))
        assert "no driver handle" in str(node.run(node.source.release()))
        calls = node.library.calls.total()
        snapshot = node.tick(5)
        assert node.library.calls.total() == calls
        assert node.library.calls["nvmlShutdown"] == 1
        assert down_reasons(snapshot) == {0: "RELEASED", 1: "RELEASED"}
        assert snapshot.of(GPU) == ()
        assert "already" in str(node.run(node.source.release()))
        assert "resumed" in str(node.run(node.source.resume()))
        snapshot = node.tick(2)
        assert up(snapshot) == {0: True, 1: True}
        after = gpus(snapshot)
        assert (after[0]["busy_samples_seconds_total"] or 0) >= (before[0]["busy_samples_seconds_total"] or 0)
        assert "not released" in str(node.run(node.source.resume()))


# XIDs.


def test_xids_are_counted_by_code_across_a_new_start_of_the_driver() -> None:
    """Each XID of NVML's events is in the counter of its code, and the last one's time on the GPU."""
    with Node("h100x2") as node, capture_logs():
        node.tick()
        node.library.xid(1, 79)
        node.library.xid(1, 79)
        node.library.xid(1, 31)
        watcher = node.source._driver._watcher  # type: ignore[union-attr]
        assert watcher is not None
        watcher.poll()
        snapshot = node.tick()
        assert {entity.label("xid"): entity.values[0] for entity in snapshot.of(GPU_XID)} == {"31": 1, "79": 2}
        times = [entity["xid_error_timestamp_seconds"] or 0.0 for entity in snapshot.of(GPU_XID)]
        assert gpus(snapshot)[1]["xid_last_timestamp_seconds"] == max(times) > 0
        assert gpus(snapshot)[0]["xid_last_timestamp_seconds"] is None
        node.run(node.source.release())
        node.run(node.source.resume())
        snapshot = node.tick(2)
        assert {entity.label("xid"): entity.values[0] for entity in snapshot.of(GPU_XID)} == {"31": 1, "79": 2}


# Determinism.


def test_the_same_seed_and_clock_give_the_same_numbers() -> None:
    """Two runs of a simulated node agree in every value."""
    runs = []
    for _ in range(2):
        with Node("h100x4-mig") as node, capture_logs():
            runs.append(flat(node.tick(20), [kind for kind in GPU_KINDS if kind is not GPU_HEALTH]))
    assert runs[0] == runs[1]


def test_a_slow_reading_is_made_at_its_own_cadence() -> None:
    """What changes by the hour is asked for every slow interval and not at every tick."""
    with Node("h100x1", settings=GpuSettings(slow_interval_secs=30)) as node:
        node.tick()
        after_first = node.library.calls["nvmlDeviceGetTotalEccErrors"]
        node.tick(14)
        assert node.library.calls["nvmlDeviceGetTotalEccErrors"] == after_first
        node.tick()
        assert node.library.calls["nvmlDeviceGetTotalEccErrors"] == 2 * after_first


def test_field_values_are_read_by_one_call_per_device_and_tick() -> None:
    """All of a device's counters come from one nvmlDeviceGetFieldValues call."""
    with Node("h100x2") as node:
        node.tick(2)
        before = node.library.calls["nvmlDeviceGetFieldValues"]
        node.tick(5)
        assert node.library.calls["nvmlDeviceGetFieldValues"] - before == 2 * 5


def test_a_clock_that_is_set_back_delays_nothing() -> None:
    """What is due, and what is integrated, goes by the monotonic clock; only time stamps follow the one on the wall."""
    with Node("h100x1") as node, capture_logs():
        node.tick(3)
        asked = node.library.calls["nvmlDeviceGetTotalEccErrors"]
        before = gpus(node.tick())[0]["busy_samples_seconds_total"] or 0
        node.wall = -86_400.0
        snapshot = node.tick(20)
        assert snapshot.time < snapshot.monotonic
        assert node.library.calls["nvmlDeviceGetTotalEccErrors"] == asked + 4  # the slow readings went on
        assert (gpus(snapshot)[0]["busy_samples_seconds_total"] or 0) >= before

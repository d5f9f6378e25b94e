"""Who comes an hour later sees why a job died: what the GPU did, who was on it, what it means and what to do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gpumon.catalog import GPU, GPU_DOWN, GPU_XID, Entity
from gpumon.catalog.events import BEFORE, CHANGES, ENDED_AFTER_FAULT, EPISODES
from gpumon.catalog.records import Event, ProcessEvent
from gpumon.catalog.xids import UNKNOWN_XID, XIDS
from gpumon.store.events import Watch
from gpumon.store.incident import AFTERWARDS_SECONDS, ENDED_SECONDS, MOST_PROCESSES
from tests.store.nodes import START, labels
from tests.store.test_events import gpu, health, of

UUID = labels(GPU, 0)[2]
TRAINING = {"pid": 4711, "name": "python", "category": "ml_training", "namespace": "ml", "pod": "train-0"}


def on(uuid: str) -> list[dict[str, Any]]:
    """Say who is on a GPU."""
    return [TRAINING] if uuid == UUID else []


def busy() -> Entity:
    """Give a GPU at work."""
    return gpu(utilization_gpu=97.0, memory_used=71.2e9, temperature=64.0, power=655.4)


def xid(code: str, count: float = 1.0) -> Entity:
    """Give a GPU's count of one XID."""
    return Entity(GPU_XID, (*labels(GPU, 0), code), (count, *(None for _ in GPU_XID.columns[1:])))


def detail(event: Event) -> dict[str, Any]:
    """Give the facts of an event."""
    found: dict[str, Any] = json.loads(event.detail or "{}")
    return found


def ended(after: float, pid: int = 4711) -> ProcessEvent:
    """Give the end of a process, so many seconds after the start."""
    return ProcessEvent(
        timestamp=START + after,
        event="end",
        pid=pid,
        category="ml_training",
        process_name="python",
        namespace="ml",
        pod="train-0",
        gpu_id=0,
        gpu_uuid=UUID,
    )


def test_a_lost_device_is_told_with_its_last_readings_and_who_was_on_it() -> None:
    """In words, and as numbers for programs."""
    watch = Watch(on)
    watch.events(of(0, health(1), busy()))
    down = Entity(GPU_DOWN, (*labels(GPU, 0), "GPU_IS_LOST"), (1.0,))
    (lost,) = watch.events(of(2, health(0), down))
    assert lost.message == (
        "GPU 0 does not answer: GPU_IS_LOST; 2 s before 97 % busy, 71.2 GB of memory in use, 64 °C, 655 W; "
        "on it python (pid 4711, pod ml/train-0)"
    )
    facts = detail(lost)
    assert facts["readings_before"]["power"] == 655.4
    assert facts["readings_seconds_before"] == 2.0
    assert facts["processes"] == [TRAINING]
    assert "restart the node" in facts["advice"]


def test_readings_from_before_the_fault_are_told_not_those_after_it() -> None:
    """An XID is seen at a tick whose readings may be those of an empty GPU already."""
    watch = Watch(on)
    watch.events(of(0, busy()))
    (event,) = watch.events(of(2, gpu(utilization_gpu=0.0), xid("31")))
    assert detail(event)["readings_before"]["utilization_gpu"] == 97.0


@pytest.mark.parametrize("code", [*map(str, XIDS), "9999", "x"])
def test_every_xid_is_told_with_its_meaning_and_what_to_do(code: str) -> None:
    """Also one that gpumon does not know."""
    known = XIDS.get(int(code), UNKNOWN_XID) if code.isdecimal() else UNKNOWN_XID
    watch = Watch()
    watch.events(of(0))
    (event,) = watch.events(of(2, xid(code)))
    assert event.message == f"XID {code} on GPU 0: {known.meaning}"
    assert detail(event)["advice"] == known.advice
    assert detail(event)["meaning"] == known.meaning


def test_who_left_just_before_a_fault_was_seen_is_told_with_it() -> None:
    """XIDs are told some seconds late; the process they end is gone by then."""
    watch = Watch()
    watch.events(of(0, busy()))
    assert watch.follow([ended(1), ended(1 - ENDED_SECONDS, pid=4712)]) == []
    (event,) = watch.events(of(2, xid("79")))
    (process,) = detail(event)["processes"]
    assert (process["pid"], process["pod"], process["ended_seconds_before"]) == (4711, "train-0", 1.0)


def test_a_process_that_ends_soon_after_a_fault_is_told_with_it() -> None:
    """And one that ends later, or on another GPU, is not."""
    watch = Watch()
    watch.events(of(0, busy()))
    watch.events(of(2, xid("79")))
    (event,) = watch.follow([ended(5)])
    assert event.kind == ENDED_AFTER_FAULT
    assert event.message == (
        "python (pid 4711, pod ml/train-0) ended 3 s after: XID 79 on GPU 0: GPU has fallen off the bus"
    )
    assert (event.gpu_id, event.subject) == (0, "train-0")
    assert detail(event)["advice"] == XIDS[79].advice
    assert watch.follow([ended(2 + AFTERWARDS_SECONDS + 1)]) == []
    assert watch.follow([ProcessEvent(timestamp=START + 5, event="end", pid=1, category="unknown", gpu_uuid="x")]) == []


def test_a_lost_device_does_not_hide_the_xid_it_was_lost_by() -> None:
    """What ends after both is told with what says more."""
    watch = Watch()
    watch.events(of(0, health(1), busy()))
    watch.events(of(2, health(1), xid("79")))
    watch.events(of(4, health(0), xid("79")))
    (event,) = watch.follow([ended(5)])
    assert "XID 79" in event.message


def test_a_gpu_that_hundreds_share_is_told_by_number() -> None:
    """An event stays short enough to read and to store."""
    many = [{"pid": pid, "name": "python", "category": "unknown"} for pid in range(1, 201)]
    watch = Watch(lambda _: many)
    watch.events(of(0, busy()))
    (event,) = watch.events(of(2, xid("79")))
    assert event.message.endswith("python (pid 1), python (pid 2), python (pid 3) and 197 more")
    assert len(detail(event)["processes"]) == MOST_PROCESSES
    assert detail(event)["further_processes"] == 200 - MOST_PROCESSES


def test_readings_that_are_not_known_are_not_told() -> None:
    """Promise one holds for events as well."""
    nothing = Entity(GPU, labels(GPU, 0), (None,) * len(GPU.columns))
    watch = Watch()
    watch.events(of(0, nothing))
    (event,) = watch.events(of(2, xid("79")))
    assert event.message == "XID 79 on GPU 0: GPU has fallen off the bus"
    assert detail(event)["readings_before"] == {}


def test_throttling_is_told_with_what_the_gpu_reads_and_what_to_do() -> None:
    """How hot it is, and where to look."""
    watch = Watch()
    watch.events(of(0, busy()))
    (start,) = watch.events(of(2, gpu(temperature=91.0, power=300.0, throttle_active_hw_thermal=1.0)))
    assert "91 °C" in start.message
    assert "fans" in detail(start)["advice"]


def test_every_rule_says_what_to_do_about_a_fault() -> None:
    """Sweeps the catalogue's rules."""
    assert all(said.column in GPU.index for said in BEFORE)
    assert all(rule.advice or rule.explain for rule in CHANGES if rule.fault)
    assert all(rule.advice for rule in EPISODES)

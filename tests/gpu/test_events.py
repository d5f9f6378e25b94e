"""XIDs come from NVML's events of every GPU, and one GPU's trouble is no other's."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import pynvml
import pytest

from gpumon.gpu.events import EventWatcher
from gpumon.gpu.nvml import SUCCESS, Nvml, RefusedError
from gpumon.gpu.xid import XidLog

XID = pynvml.nvmlEventTypeXidCriticalError
ECC = pynvml.nvmlEventTypeDoubleBitEccError
UUIDS = ("GPU-a", "GPU-b")


class Library:
    """What is below nvidia-ml-py: the event functions of a driver with two GPUs, whose handles are 0 and 1.

    `answers` takes the place of the next return values of a function, by (function, GPU).
    """

    def __init__(self) -> None:
        self.sets: dict[int, int | None] = {}  # the GPU registered in each open set
        self.registered: list[tuple[int, int]] = []
        self.queues: tuple[deque[tuple[int, int]], deque[tuple[int, int]]] = (deque(), deque())
        self.answers: dict[tuple[str, int], deque[int]] = {}
        self.supported = XID | ECC
        self.waits = 0
        self.hang = threading.Event()
        self.hang.set()
        self.hanging = threading.Event()
        self.taken = threading.Event()

    def _answer(self, function: str, gpu: int) -> int:
        answers = self.answers.get((function, gpu))
        return answers.popleft() if answers else SUCCESS

    def nvmlInitWithFlags(self, _flags: Any) -> int:
        return SUCCESS

    def nvmlEventSetCreate(self, out: Any) -> int:
        number = max(self.sets, default=0) + 1
        self.sets[number] = None
        out._obj.contents = pynvml.struct_c_nvmlEventSet_t()
        out._obj.number = number
        return SUCCESS

    def nvmlEventSetFree(self, event_set: Any) -> int:
        del self.sets[event_set.number]
        return SUCCESS

    def nvmlDeviceGetSupportedEventTypes(self, gpu: int, out: Any) -> int:
        out._obj.value = self.supported
        return self._answer("nvmlDeviceGetSupportedEventTypes", gpu)

    def nvmlDeviceRegisterEvents(self, gpu: int, types: Any, event_set: Any) -> int:
        if types.value & ~self.supported:
            return int(pynvml.NVML_ERROR_NOT_SUPPORTED)
        code = self._answer("nvmlDeviceRegisterEvents", gpu)
        if code == SUCCESS:
            self.sets[event_set.number] = gpu
            self.registered.append((gpu, types.value))
        return code

    def nvmlEventSetWait_v2(self, event_set: Any, out: Any, timeout: Any) -> int:
        assert timeout.value > 0
        self.waits += 1
        gpu = self.sets[event_set.number]
        assert gpu is not None
        if not self.hang.is_set():
            self.hanging.set()
            self.hang.wait(10)
        code = self._answer("nvmlEventSetWait_v2", gpu)
        if code != SUCCESS:
            return code
        if not self.queues[gpu]:
            self.taken.set()
            return int(pynvml.NVML_ERROR_TIMEOUT)
        out._obj.eventType, out._obj.eventData = self.queues[gpu].popleft()
        return SUCCESS


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """Put a driver below nvidia-ml-py, and take it away again."""
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    yield Library()
    pynvml._nvmlGetFunctionPointer_cache.clear()


class Scene:
    """A watcher of both GPUs and what it feeds."""

    def __init__(self, library: Library) -> None:
        self.nvml = Nvml(library)
        self.nvml.open()
        self.xids = XidLog()
        self.watcher = EventWatcher(self.nvml, self.xids, clock=lambda: 1000.0, poll_seconds=0.001)

    def watch_all(self) -> None:
        for gpu, uuid in enumerate(UUIDS):
            assert self.watcher.watch(uuid, gpu)


def test_every_xid_that_waits_is_taken_for_its_own_gpu(library: Library) -> None:
    """Several may have come between two looks."""
    scene = Scene(library)
    scene.watch_all()
    library.queues[0].extend([(XID, 31), (XID, 31), (XID, 43)])
    library.queues[1].append((XID, 79))
    scene.watcher.poll()
    assert [dict(scene.xids.counts(uuid)) for uuid in UUIDS] == [{31: 2, 43: 1}, {79: 1}]
    assert scene.nvml.errors == {}, "a time-out is no error"


def test_only_supported_types_are_asked_for(library: Library) -> None:
    """NVML refuses the whole request when it holds a type the device lacks."""
    scene = Scene(library)
    scene.watch_all()
    assert library.registered == [(0, XID), (1, XID)]


def test_a_gpu_without_xid_events_is_not_watched(library: Library) -> None:
    """And no event set is left behind for it."""
    library.supported = ECC
    scene = Scene(library)
    assert not scene.watcher.watch("GPU-a", 0)
    assert library.sets == {}


@pytest.mark.parametrize(
    "code", [pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_GPU_IS_LOST]
)
def test_a_refused_registration_frees_its_set_and_leaves_the_other_gpu_alone(library: Library, code: int) -> None:
    """After UNKNOWN a set is undefined: that is why no two GPUs share one."""
    scene = Scene(library)
    assert scene.watcher.watch("GPU-a", 0)
    library.answers["nvmlDeviceRegisterEvents", 1] = deque([code])
    with pytest.raises(RefusedError) as refused:
        scene.watcher.watch("GPU-b", 1)
    assert refused.value.code == code
    assert list(library.sets.values()) == [0]
    library.queues[0].append((XID, 13))
    scene.watcher.poll()
    assert scene.xids.counts("GPU-a") == {13: 1}


def test_a_gpu_whose_wait_fails_holds_no_other_up_and_is_taken_up_again(library: Library) -> None:
    """What the driver kept meanwhile is not lost."""
    scene = Scene(library)
    scene.watch_all()
    library.answers["nvmlEventSetWait_v2", 0] = deque([pynvml.NVML_ERROR_GPU_IS_LOST] * 3)
    for _ in range(3):
        library.queues[1].append((XID, 31))
        scene.watcher.poll()
    assert scene.xids.counts("GPU-b") == {31: 3}
    library.queues[0].append((XID, 79))
    scene.watcher.poll()
    assert scene.xids.counts("GPU-a") == {79: 1}


def test_an_unexpected_refusal_is_counted_by_function_and_code(library: Library) -> None:
    """It shows in gpumon_nvml_errors_total."""
    scene = Scene(library)
    scene.watch_all()
    library.answers["nvmlEventSetWait_v2", 0] = deque([pynvml.NVML_ERROR_UNKNOWN])
    scene.watcher.poll()
    assert scene.nvml.errors == {("nvmlEventSetWait_v2", "UNKNOWN"): 1}


def test_a_gpu_opened_anew_is_watched_once(library: Library) -> None:
    """Its old set is given back."""
    scene = Scene(library)
    scene.watch_all()
    assert scene.watcher.watch("GPU-a", 0)
    assert sorted(gpu for gpu in library.sets.values() if gpu is not None) == [0, 1]
    library.queues[0].append((XID, 31))
    scene.watcher.poll()
    assert scene.xids.counts("GPU-a") == {31: 1}


def test_a_storm_on_one_gpu_does_not_keep_the_others_waiting(library: Library) -> None:
    """A look takes so many events of a GPU and no more."""
    scene = Scene(library)
    scene.watch_all()
    library.queues[0].extend([(XID, 31)] * 2500)
    library.queues[1].append((XID, 79))
    scene.watcher.poll()
    assert scene.xids.counts("GPU-b") == {79: 1}
    assert scene.xids.counts("GPU-a") == {31: 1000}
    scene.watcher.poll()
    scene.watcher.poll()
    assert scene.xids.counts("GPU-a") == {31: 2500}


def test_events_of_other_kinds_are_no_xids(library: Library) -> None:
    """The number of an ECC event is not an XID."""
    scene = Scene(library)
    scene.watch_all()
    library.queues[0].append((ECC, 48))
    scene.watcher.poll()
    assert scene.xids.counts("GPU-a") == {}


def test_the_thread_takes_events_and_ends_at_once_when_told(library: Library) -> None:
    """Every event set is given back."""
    scene = Scene(library)
    library.queues[0].append((XID, 79))
    scene.watch_all()
    scene.watcher.start()
    assert library.taken.wait(5)
    assert scene.watcher.stop()
    assert scene.xids.counts("GPU-a") == {79: 1}
    assert library.sets == {}


def test_a_watcher_that_was_never_started_can_be_stopped(library: Library) -> None:
    """The driver may go before the thread was needed."""
    scene = Scene(library)
    scene.watch_all()
    assert scene.watcher.stop()
    assert library.sets == {}
    assert not scene.watcher.watch("GPU-a", 0)
    assert library.sets == {}


def test_a_driver_call_that_hangs_does_not_hold_up_the_stop(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hanging set is left to the end of the process, the others are given back."""
    monkeypatch.setattr("gpumon.gpu.events.PATIENCE_SECONDS", 0.05)
    scene = Scene(library)
    library.hang.clear()
    scene.watch_all()
    scene.watcher.start()
    try:
        assert library.hanging.wait(5)
        assert not scene.watcher.stop()
        assert list(library.sets.values()) == [0]
    finally:
        library.hang.set()
        scene.watcher._thread.join(5)

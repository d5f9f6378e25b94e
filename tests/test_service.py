"""The whole service in a process of its own, over the driver's library in C: what it does with the driver, and when."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import stub
from tests.daemon import PATIENCE, environment, free_port, until

GPUS = 3
# The shortest that the settings allow, so that tests need not wait for ticks.
TICK = 0.25


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a driver's library in C."""
    try:
        return stub.build(tmp_path_factory.mktemp("nvml"))
    except stub.UnbuildableError as missing:
        pytest.skip(f"the service is NOT tested over a driver's library: {missing}")


class Service:
    """A running gpumon, the orders its driver obeys, and the count of calls its driver keeps."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.control = folder / "control"
        self.process = process
        self._count = folder / "count"
        self._url = f"http://127.0.0.1:{port}/metrics"

    def page(self) -> str:
        """Scrape; an empty page while nobody listens yet."""
        try:
            with urllib.request.urlopen(self._url, timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def values(self, name: str) -> dict[str, float]:
        """Give a metric's values by `gpu_id`."""
        lines = re.findall(rf'^{name}{{gpu_id="(\d+)".*}} (\S+)$', self.page(), re.MULTILINE)
        return {gpu: float(value) for gpu, value in lines}

    def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds."""
        until(self.process, holds, self.page)

    @property
    def count(self) -> stub.Count:
        """Give what the driver has counted."""
        return stub.read_count(self._count)


@contextmanager
def serving(library: Path, folder: Path, *, interval: float = TICK, **variables: str) -> Iterator[Service]:
    """Run gpumon over the library until the first readings of all GPUs; end it with what is under it."""
    port = free_port()
    stub.order(folder / "control")
    own = stub.environment(library, gpus=GPUS, control=folder / "control", count=folder / "count")
    own |= environment(folder, port) | {"GPUMON_SERVICE_POLL_INTERVAL_SECS": f"{interval}"}
    log = (folder / "log").open("wb")
    with log, subprocess.Popen([sys.executable, "-m", "gpumon"], env=own | variables, stderr=log) as process:
        service = Service(folder, port, process)
        try:
            service.until(lambda: len(service.values("gpumon_gpu_power_watts")) == GPUS)
            yield service
        finally:
            process.kill()


@pytest.fixture
def service(library: Path, tmp_path: Path) -> Iterator[Service]:
    """Give gpumon reading its GPUs."""
    with serving(library, tmp_path) as running:
        yield running


def test_a_scrape_makes_no_driver_call(library: Path, tmp_path: Path) -> None:
    """Scrapes are answered from the snapshot: between two ticks the driver is left alone, however many there are."""
    with serving(library, tmp_path, interval=300) as service:
        before = service.count
        for _ in range(20):
            assert "gpumon_gpu_power_watts" in service.page()
        assert service.count.calls == before.calls


def test_a_hung_gpu_is_said_to_hang_and_the_others_stay_fresh(service: Service) -> None:
    """A call that does not return costs its GPU; the others go on, and it comes back by itself."""
    stub.order(service.control, "hang 1")
    service.until(lambda: service.values("gpumon_gpu_hung") == {"0": 0, "1": 1, "2": 0})
    assert service.values("gpumon_gpu_up") == {"0": 1, "1": 0, "2": 1}
    before = service.values("gpumon_gpu_energy_joules_total")
    assert "1" not in before
    service.until(
        lambda: all(service.values("gpumon_gpu_energy_joules_total")[gpu] > before[gpu] for gpu in ("0", "2"))
    )
    stub.order(service.control)
    service.until(lambda: len(service.values("gpumon_gpu_energy_joules_total")) == GPUS)
    assert set(service.values("gpumon_gpu_hung").values()) == {0}


def test_a_lost_gpu_goes_alone_and_comes_back(service: Service) -> None:
    """A GPU off the bus is down with the driver's reason and without values; back on it, it is read again."""
    stub.order(service.control, "lost 2")
    service.until(lambda: service.values("gpumon_gpu_up") == {"0": 1, "1": 1, "2": 0})
    assert sorted(service.values("gpumon_gpu_power_watts")) == ["0", "1"]
    assert re.search(r'^gpumon_gpu_down_info{gpu_id="2".*reason="GPU_IS_LOST"', service.page(), re.MULTILINE)
    stub.order(service.control)
    service.until(lambda: len(service.values("gpumon_gpu_power_watts")) == GPUS)
    assert service.values("gpumon_gpu_lost_total")["2"] == 1


def test_an_xid_is_counted_for_its_gpu(service: Service) -> None:
    """An XID that the driver reports appears with its code, once."""
    stub.order(service.control, "xid 1 79")
    service.until(lambda: service.values("gpumon_gpu_xid_errors_total"))
    assert service.values("gpumon_gpu_xid_errors_total") == {"1": 1}
    assert 'xid="79"' in service.page()


def test_the_driver_is_released_for_maintenance_and_taken_up_again(service: Service) -> None:
    """After SIGUSR1 nothing of the driver is held and nothing asked of it; after SIGUSR2 it is read again."""
    service.process.send_signal(signal.SIGUSR1)
    service.until(lambda: service.count[2:] == (0, 0, 0))
    service.until(lambda: set(service.values("gpumon_gpu_up").values()) == {0})
    calls = service.count.calls
    assert service.values("gpumon_gpu_power_watts") == {}
    assert service.count.calls == calls
    service.process.send_signal(signal.SIGUSR2)
    service.until(lambda: len(service.values("gpumon_gpu_power_watts")) == GPUS)


def test_the_end_gives_back_all_that_was_taken(service: Service) -> None:
    """SIGTERM ends the service with exit code 0, and no initialisation, event set or GPM sample is left behind."""
    assert service.count.initialised == 1
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(PATIENCE) == 0
    assert service.count[2:] == (0, 0, 0)


def test_the_end_does_not_wait_for_a_hung_driver(service: Service) -> None:
    """SIGTERM ends the service also while a driver call does not return."""
    stub.order(service.control, *(f"hang {gpu}" for gpu in range(GPUS)))
    service.until(lambda: set(service.values("gpumon_gpu_hung").values()) == {1})
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(PATIENCE) == 0


def test_a_library_that_does_not_fit_the_driver_ends_the_service(service: Service, tmp_path: Path) -> None:
    """A mismatch of versions, as after an upgrade of the driver, cannot heal in the process: exit code and a sentence."""
    stub.order(service.control, "mismatch")
    assert service.process.wait(PATIENCE) == 1
    assert "different versions" in (tmp_path / "log").read_text()

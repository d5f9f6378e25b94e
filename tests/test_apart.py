"""Work done apart comes back whole, and nothing it does to its process reaches ours."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from gpumon.apart import apart


class StubbornError(Exception):
    """An error that cannot be copied to another process."""

    def __reduce__(self) -> str:
        raise TypeError


def test_what_the_work_gives_comes_back() -> None:
    """Also when it is larger than a pipe holds at once."""
    large = bytes(1 << 20)
    assert apart(lambda: {"large": large}) == {"large": large}
    assert apart(lambda: None) is None


def test_what_the_work_raises_is_raised() -> None:
    """The same class with the same text; one that cannot be copied is named in a RuntimeError."""
    with pytest.raises(KeyError, match="GPUMON_GONE"):
        apart(lambda: os.environ["GPUMON_GONE"])

    def refuse() -> None:
        raise StubbornError("no copy")

    with pytest.raises(RuntimeError, match="StubbornError: no copy"):
        apart(refuse)


def test_what_the_work_changes_stays_apart(capfd: pytest.CaptureFixture[str]) -> None:
    """Modules, environment and exit hooks of the child are not ours, and our buffered output is written once."""
    sys.stdout.write("before")

    def change() -> int:
        os.environ["GPUMON_LEFT_BEHIND"] = "1"
        sys.modules["left_behind"] = sys
        return os.getpid()

    assert apart(change) != os.getpid()
    assert "GPUMON_LEFT_BEHIND" not in os.environ
    assert "left_behind" not in sys.modules
    sys.stdout.flush()
    assert capfd.readouterr().out == "before"


def test_a_child_that_dies_is_said_to_have_died() -> None:
    """A crash in a driver's library costs the child only."""
    with pytest.raises(ChildProcessError, match="ended by signal 9"):
        apart(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(ChildProcessError, match="ended with exit code 3"):
        apart(lambda: os._exit(3))


def test_work_that_hangs_ends_at_its_limit() -> None:
    """The child is ended and the caller goes on."""
    children: tuple[int, int] = os.pipe()

    def hang() -> None:
        os.write(children[1], b"%d" % os.getpid())
        signal.pause()

    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no answer within 0.2 s"):
        apart(hang, limit_secs=0.2)
    assert time.monotonic() - begun < 5
    child = int(os.read(children[0], 20))
    for end in children:
        os.close(end)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_no_file_is_left_open() -> None:
    """Every way out closes the pipe."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    apart(lambda: 1)
    with pytest.raises(KeyError):
        apart(lambda: os.environ["GPUMON_GONE"])
    with pytest.raises(TimeoutError):
        apart(signal.pause, limit_secs=0.05)
    assert len(list(Path("/proc/self/fd").iterdir())) == before

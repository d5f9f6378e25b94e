"""Do a piece of work in a forked child, so that what it imports, breaks or hangs on stays out of this process."""

from __future__ import annotations

import os
import pickle
import select
import signal
from collections.abc import Callable
from typing import NoReturn, TypeVar

T = TypeVar("T")


def apart(work: Callable[[], T], limit_secs: float | None = None) -> T:
    """Give what `work` gives, worked out in a child; what it raises is raised here.

    Call before any thread is started. TimeoutError: not done within `limit_secs`; the child is killed, but not waited
    for, because a call that hangs in the kernel outlasts even that. ChildProcessError: it ended without an answer.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _answer(work, writer, silent=limit_secs is not None)
    os.close(writer)
    try:
        if limit_secs is not None and not select.select([reader], [], [], limit_secs)[0]:
            os.kill(child, signal.SIGKILL)
            raise TimeoutError(f"no answer within {limit_secs:g} s")
        with os.fdopen(os.dup(reader), "rb") as pipe:
            answer = pipe.read()
    finally:
        os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not answer:
        raise ChildProcessError(f"ended by signal {-status}" if status < 0 else f"ended with exit code {status}")
    worked, result = pickle.loads(answer)  # noqa: S301 - our own child wrote it
    if not worked:
        raise result
    return result  # type: ignore[no-any-return]


def _answer(work: Callable[[], object], writer: int, *, silent: bool) -> NoReturn:
    """Do `work` in the child and send its outcome. Never returns: the parent's buffers and exit hooks are not ours."""
    code = 1
    try:
        if silent:  # a child that outlives its limit must not hold our caller's terminal or pipe open
            null = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(null, stream)
        try:
            answer = pickle.dumps((True, work()))
        except Exception as error:  # noqa: BLE001 - raised again in the parent
            answer = _dump_error(error)
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(answer)
        code = 0
    finally:
        os._exit(code)


def _dump_error(error: Exception) -> bytes:
    """Give `error` as the parent can load it; one that cannot be copied becomes a RuntimeError with its text."""
    try:
        answer = pickle.dumps((False, error))
        pickle.loads(answer)  # noqa: S301 - made in the line above
    except Exception:  # noqa: BLE001 - any class may refuse to be copied in its own way
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))
    return answer

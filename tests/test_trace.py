"""Spans are recorded when asked to, cost nothing when not, and hold no content."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from gpumon.trace import OFF, Context, Recorder, child, model_request, read_traceparent

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_off_keeps_nothing_and_makes_nothing() -> None:
    """The recorder that is off gives the same object for every span."""
    with OFF.span("tick") as tick, OFF.span("device", {"gpu_id": "0"}) as device:
        assert tick is device is OFF
    assert OFF.around("device", {}, int) is int
    assert not hasattr(OFF, "__dict__") or vars(OFF) == {}


def test_a_span_has_its_times_its_parent_and_its_error() -> None:
    """What happens inside a span belongs to its trace; an exception is noted by its name and goes on."""
    times = iter((1, 2, 3, 4))
    recorder = Recorder(clock=lambda: next(times))
    with (
        pytest.raises(RuntimeError),
        recorder.span("tick") as tick,
        recorder.span("device", {"gpu_id": "0"}),
    ):
        raise RuntimeError("secret")
    device, outer = recorder.drain()
    assert (device.name, device.start, device.end, device.error) == ("device", 2, 3, "RuntimeError")
    assert (outer.start, outer.end, outer.parent) == (1, 4, None)
    assert device.parent == outer.context == tick.context
    assert device.context.trace_id == outer.context.trace_id
    assert device.context.span_id != outer.context.span_id
    assert recorder.drain() == ()


def test_work_on_another_thread_belongs_to_the_span_that_sent_it() -> None:
    """A device's thread knows nothing of the tick: the work carries it along, and gives its result as ever."""
    recorder = Recorder()
    with recorder.span("tick") as tick, ThreadPoolExecutor(1) as pool:
        assert pool.submit(recorder.around("device", {"gpu_id": "0"}, lambda: 42)).result() == 42
    device, _ = recorder.drain()
    assert device.parent == tick.context
    with recorder.span("next") as following:
        pass
    assert following.context.trace_id != tick.context.trace_id


def test_the_recorder_is_bounded() -> None:
    """What nobody drains pushes out the oldest, and is counted."""
    recorder = Recorder(limit=3)
    for number in range(5):
        with recorder.span(str(number)):
            pass
    assert [span.name for span in recorder.drain()] == ["2", "3", "4"]
    assert recorder.pushed_out == 2


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-00", False),
        (f" 00-{TRACE}-{PARENT}-03 ", True),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-brings", True),
    ],
)
def test_a_callers_context_is_read(header: str, sampled: bool) -> None:
    """W3C Trace Context, this version and later ones."""
    assert read_traceparent(header) == Context(bytes.fromhex(TRACE), bytes.fromhex(PARENT), sampled)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}",
    ],
)
def test_a_malformed_context_is_none(header: str | None) -> None:
    """It starts a trace of its own instead of joining a wrong one."""
    assert read_traceparent(header) is None


def test_a_model_request_joins_its_callers_trace() -> None:
    """One server span with the conventions' attributes; one the caller does not want kept is not kept."""
    facts = {"operation": "chat", "provider": "ollama", "model": "llama3.2", "start": 5, "end": 9}
    span = model_request(traceparent=f"00-{TRACE}-{PARENT}-01", input_tokens=3, output_tokens=8, **facts)  # type: ignore[arg-type]
    assert span.context.trace_id.hex() == TRACE
    assert span.parent is not None
    assert span.parent.span_id.hex() == PARENT
    assert span.server
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": "llama3.2",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 8,
    }
    failed = model_request(traceparent=None, error="503", **facts)  # type: ignore[arg-type]
    assert (failed.parent, failed.error, failed.attributes["error.type"]) == (None, "503", "503")
    recorder = Recorder()
    recorder.add(model_request(traceparent=f"00-{TRACE}-{PARENT}-00", **facts))  # type: ignore[arg-type]
    assert recorder.drain() == ()
    assert not child(read_traceparent(f"00-{TRACE}-{PARENT}-00")).sampled

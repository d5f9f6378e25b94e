"""What is learnt of requests from a copy of their bytes."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumon.llm.proxy.conversation import Conversation
from gpumon.llm.request import Outcome
from tests.llm.proxy.imitation import ndjson, ollama_chat, openai_chat, sse, stream, stream_head
from tests.llm.proxy.learning import CASES, CHAT, NDJSON, SSE, Case, Ledger, learn
from tests.llm.proxy.test_http import cut

ALWAYS = (
    "server",
    "kind",
    "source",
    "started_at",
    "duration_seconds",
    "streamed",
    "endpoint",
    "completion_tokens_estimated",
)


@pytest.mark.parametrize("name", CASES)
def test_requests_are_measured(name: str) -> None:
    """Every field that is expected, and no other; what cannot be read is counted."""
    case = CASES[name]
    learnt = learn(case, [case.request_bytes], [case.response])
    assert learnt.unread == case.unread
    if case.fields is None:
        assert not learnt.requests
        return
    (request,) = learnt.requests
    known = {key: value for key, value in asdict(request).items() if value is not None}
    assert {key: known[key] for key in known if key in case.fields or key not in ALWAYS} == case.fields
    assert learnt.errors == [case.error]


SHORT = [name for name, case in CASES.items() if len(case.response) + len(case.request_bytes) < 3000]


@pytest.mark.parametrize("name", SHORT)
def test_a_cut_at_any_byte_changes_nothing(name: str) -> None:
    """Request and reply, cut in two at every place."""
    case = CASES[name]
    whole = learn(case, [case.request_bytes], [case.response])
    for at in range(len(case.request_bytes)):
        assert learn(case, [case.request_bytes[:at], case.request_bytes[at:]], [case.response]) == whole
    for at in range(len(case.response)):
        assert learn(case, [case.request_bytes], [case.response[:at], case.response[at:]]) == whole


@settings(deadline=None)
@given(
    st.sampled_from(sorted(CASES)),
    st.lists(st.integers(0, 300_000), max_size=20),
    st.lists(st.integers(0, 300_000), max_size=5),
)
def test_cuts_anywhere_change_nothing(name: str, response_at: list[int], request_at: list[int]) -> None:
    """Any number of cuts in any case."""
    case = CASES[name]
    assert learn(case, cut(case.request_bytes, request_at), cut(case.response, response_at)) == learn(
        case, [case.request_bytes], [case.response]
    )


@settings(deadline=None)
@given(st.sampled_from(sorted(CASES)), st.integers(0, 300_000), st.binary(min_size=1, max_size=20))
def test_whatever_comes_is_a_measurement_or_counted(name: str, at: int, noise: bytes) -> None:
    """No error leaves the copy's reader, and no request stays under way, with bytes spoilt anywhere."""
    case = CASES[name]
    ledger = Ledger()
    conversation = Conversation(ledger)
    at %= len(case.response)
    conversation.request_bytes(case.request_bytes, 1.0)
    conversation.response_bytes(case.response[:at] + noise + case.response[at + len(noise) :], 1.0)
    conversation.client_gone(1.0)
    assert not ledger.errors
    assert ledger.running == 0


def timed(case: Case, pieces: list[tuple[float, bytes]]) -> Ledger:
    """Give what is learnt when the request comes at 10 s and these pieces of the reply at their times."""
    ledger = Ledger()
    conversation = Conversation(ledger)
    request = case.request_bytes
    conversation.request_bytes(request[:10], 10.0)
    conversation.request_bytes(request[10:], 10.5)
    for now, piece in pieces:
        conversation.response_bytes(piece, now)
    return ledger


def test_the_first_token_is_the_first_content() -> None:
    """Neither the head nor a role is one; time per token is what came after it over the tokens after it."""
    role, first, *rest = sse(openai_chat("a", "b", "c"))
    head = stream_head(SSE)
    pieces = [head, *(b"%x\r\n%b\r\n" % (len(e), e) for e in (role, first, *rest)), b"0\r\n\r\n"]
    case = CASES["openai chat"]
    ledger = timed(case, list(zip((11.0, 12.0, 13.0, 15.0, 19.0, 20.0, 21.0, 22.0, 23.0), pieces, strict=True)))
    request = ledger.measured[0].request
    assert request.time_to_first_token_seconds == 3.0
    assert request.duration_seconds == 13.0
    assert request.time_per_output_token_seconds == pytest.approx(6.0 / 6)  # 13 to 19 s, 7 tokens by the server's count
    assert request.started_at == 999.5


def test_an_empty_piece_is_no_token() -> None:
    """Ollama's thinking parser sends pieces without content before the first."""
    lines = ndjson([*ollama_chat("", "", "a")[:3], ollama_chat()[-1]])
    pieces = [(11.0, stream_head(NDJSON))] + [
        (12.0 + i, b"%x\r\n%b\r\n" % (len(line), line)) for i, line in enumerate(lines)
    ]
    ledger = timed(CASES["ollama chat"], [*pieces, (20.0, b"0\r\n\r\n")])
    assert ledger.measured[0].request.time_to_first_token_seconds == 4.0


def begun(name: str, length: int) -> tuple[Ledger, Conversation]:
    """Begin a case, and break off after so many bytes of its reply."""
    case = CASES[name]
    ledger = Ledger()
    conversation = Conversation(ledger)
    conversation.request_bytes(case.request_bytes, 1.0)
    assert ledger.running == 1
    conversation.response_bytes(case.response[:length], 2.0)
    return ledger, conversation


@pytest.mark.parametrize("name", ["ollama chat", "openai chat", "anthropic messages", "openai responses"])
@pytest.mark.parametrize("tokens", [None, 2])
def test_who_breaks_off_decides_the_outcome(name: str, tokens: int | None) -> None:
    """A client that leaves cancels; a server that breaks off fails, unless the client had said that it leaves.

    What had come until then is counted, also where the server began with a count of its own.
    """
    response = CASES[name].response
    length = response.index(b"\r\n", response.index(b'"b"')) if tokens else 0
    for end, outcome in (("client", Outcome.CANCELLED), ("server", Outcome.ERROR), ("both", Outcome.CANCELLED)):
        ledger, conversation = begun(name, length)
        if end == "client":
            conversation.client_gone(3.0)
        else:
            if end == "both":
                conversation.client_left()
            conversation.server_gone(3.0)
        (measured,) = ledger.measured
        assert measured.request.outcome is outcome
        assert measured.request.finish_reason is None
        assert ledger.running == 0
        assert measured.request.completion_tokens == tokens
        assert measured.request.completion_tokens_estimated == bool(tokens)


@pytest.mark.parametrize("name", ["ollama chat", "openai chat", "anthropic messages"])
def test_who_leaves_after_the_last_word_cancels_nothing(name: str) -> None:
    """Clients close as soon as they have what they need, before the last chunk has come."""
    ledger, conversation = begun(name, len(CASES[name].response) - 5)
    conversation.client_gone(3.0)
    assert ledger.measured[0].request.outcome is Outcome.OK


def test_requests_of_one_connection_are_told_apart() -> None:
    """Pipelined, and one after the other; what is not a model's request keeps the order."""
    chat, other = CASES["ollama chat"], CASES["something else"]
    ledger = Ledger()
    conversation = Conversation(ledger)
    head = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
    conversation.request_bytes(chat.request_bytes + head + other.request_bytes + chat.request_bytes, 1.0)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n"
    conversation.response_bytes(b"HTTP/1.1 100 Continue\r\n\r\n" + chat.response + answer + other.response, 1.0)
    assert len(ledger.measured) == 1
    assert conversation.busy
    conversation.response_bytes(chat.response, 2.0)
    assert [m.request.completion_tokens for m in ledger.measured] == [5, 5]
    assert not conversation.busy


def test_nothing_of_a_prompt_or_a_reply_is_kept() -> None:
    """A measurement holds words of the protocol only."""
    secret = "grandmother"
    case = Case(
        "/api/chat",
        {**CHAT, "messages": [{"role": "user", "content": secret}]},
        stream(NDJSON, ndjson(ollama_chat(secret, done_reason=f"{secret} {secret}"))),
        {},
        headers="traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nAuthorization: grandmother\r\n",
    )
    ledger = timed(case, [(12.0, case.response)])
    assert len(ledger.measured) == 1
    assert secret not in repr(ledger.measured)
    assert ledger.measured[0].traceparent == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert ledger.measured[0].operation == "chat"


def test_a_tunnel_is_not_read() -> None:
    """After a switch of protocols nothing is looked at, and nothing is counted as unreadable."""
    ledger = Ledger()
    conversation = Conversation(ledger)
    conversation.request_bytes(b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n", 1.0)
    conversation.response_bytes(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x01a", 1.0)
    conversation.request_bytes(b"\x81\x81....a", 1.0)
    conversation.response_bytes(b"\x81\x01b", 1.0)
    assert conversation.busy
    conversation.server_gone(2.0)
    assert (ledger.unread, ledger.measured) == (0, [])


def test_http_2_is_not_read() -> None:
    """Its preface is known, and what follows passes."""
    ledger = Ledger()
    conversation = Conversation(ledger)
    conversation.request_bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00", 1.0)
    conversation.response_bytes(b"\x00\x00\x12\x04", 1.0)
    assert ledger.unread == 0


def test_what_is_no_http_is_counted_once_per_connection() -> None:
    """And then the connection is not followed any more."""
    ledger = Ledger()
    conversation = Conversation(ledger)
    conversation.request_bytes(CASES["ollama chat"].request_bytes, 1.0)
    for _ in range(3):
        conversation.response_bytes(b"SSH-2.0-x\r\n\r\n", 1.0)
    assert (ledger.unread, ledger.measured, ledger.running) == (1, [], 0)
    assert conversation.end_looks_clean

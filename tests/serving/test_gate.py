"""Bodies are bounded in size, time and number, whoever sends them."""

import asyncio
import json

import pytest

from supcon_tf.serving import metrics
from supcon_tf.serving.faults import BusyError
from supcon_tf.serving.gate import Gate, Memory


async def echo(scope, receive, send):
    """An application that answers with the length of the body."""
    message = await receive()
    assert not message.get("more_body")
    body = b"%d" % len(message["body"])
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def ask(app, parts=(b"",), headers=(), path="/v1/models/digits:predict"):
    """Status, headers and body of the answer, and how many messages were received."""
    parts, sent, received = list(parts), [], 0

    async def receive():
        nonlocal received
        received += 1
        if not parts:
            return {"type": "http.disconnect"}
        part = parts.pop(0)
        if part is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [*headers]}
    if not any(name == b"content-length" for name, _ in headers):
        scope["headers"].append((b"transfer-encoding", b"chunked"))
    asyncio.run(app(scope, receive, send))
    if not sent:
        return None, {}, b"", received
    body = b"".join(message["body"] for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), body, received


@pytest.fixture
def memory():
    return Memory(100)


def gate(app, memory, is_ending=False):
    return Gate(app, 10, memory, lambda: is_ending, body_seconds=0.05)


@pytest.fixture
def app(memory):
    return gate(echo, memory)


def test_a_body_within_bounds_reaches_the_application_whole(app, memory):
    assert ask(app, [b"123", b"45"])[2] == b"5"
    assert ask(app, [b"1234567890"], [(b"content-length", b"10")])[2] == b"10"
    assert ask(app, [b""])[2] == b"0"
    assert memory.held == 0


def test_a_body_that_says_it_is_too_large_is_not_read(app):
    headers = [(b"content-length", b"11"), (b"expect", b"100-continue")]
    status, headers, body, received = ask(app, [b"12345678901"], headers)
    assert status == 413
    assert received == 0
    assert headers[b"connection"] == b"close"
    assert "larger than 1e-05 MB (max_request_mb)" in json.loads(body)["error"]


@pytest.mark.parametrize("length", [b"-1", b"x", b"\xb2", b"9" * 30])
def test_an_impossible_length_is_refused(app, length):
    status, _, body, _ = ask(app, [b"1"], [(b"content-length", length)])
    assert status in (400, 413)
    assert "error" in json.loads(body)


def test_a_streamed_body_is_counted(app, memory):
    assert ask(app, [b"123456"] * 2)[0] == 413
    status, _, _, received = ask(app, [b"123456"] * 100)
    assert status == 413
    assert received < 10  # What follows is let go by, up to a limit.
    assert memory.held == 0


def test_a_body_that_does_not_arrive_is_given_up(app, memory):
    status, headers, body, _ = ask(app, [b"123", None])
    assert status == 408
    assert headers[b"connection"] == b"close"
    assert "did not arrive within 0.05 seconds" in json.loads(body)["error"]
    assert memory.held == 0


def test_a_client_that_goes_away_is_not_answered(app, memory):
    parts = [b"123"]

    async def receive():
        if parts:
            return {"type": "http.request", "body": parts.pop(), "more_body": True}
        return {"type": "http.disconnect"}

    async def send(message):
        raise AssertionError(message)

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-length", b"9")]}
    asyncio.run(app(scope, receive, send))
    assert memory.held == 0


def test_all_bodies_together_are_bounded(memory):
    seen = []

    async def hold(scope, receive, send):
        seen.append(memory.held)
        if len(seen) < 30:
            await asyncio.to_thread(ask, gate(hold, memory), [b"1234567"])
        await echo(scope, receive, send)

    results = ask(gate(hold, memory), [b"1234567"])
    assert results[0] == 200
    assert len(seen) == 100 // 7
    assert memory.held == 0
    assert metrics.HELD_BYTES._value.get() == 0


def test_too_much_at_once_is_told_to_come_back(memory):
    with memory.share() as take:
        take(95)
        status, headers, _, _ = ask(gate(echo, memory), [b"123456"])
        assert status == 503
        assert headers[b"retry-after"] == b"1"
        assert memory.held == 95


def test_a_share_is_given_back_whatever_happens(memory):
    with memory.share() as take:
        take(60)
        with pytest.raises(BusyError):
            take(60)
        assert memory.held == 60
    assert memory.held == 0


def test_compressed_bodies_are_refused(app):
    for encoding, status in ((b"gzip", 415), (b"identity", 200)):
        headers = [(b"content-encoding", encoding), (b"content-length", b"1")]
        assert ask(app, [b"1"], headers)[0] == status


def test_what_breaks_is_answered_logged_and_counted(memory, caplog):
    async def broken(scope, receive, send):
        raise RuntimeError("broken")

    app = gate(broken, memory, is_ending=True)
    status, headers, body, _ = ask(app)
    assert status == 500
    assert headers[b"connection"] == b"close"
    assert json.loads(body) == {"error": "the server failed; the server's log says why."}
    assert "RuntimeError: broken" in caplog.text
    assert app.answered == 1


def test_what_is_cut_off_is_told(memory):
    async def cancelled(scope, receive, send):
        raise asyncio.CancelledError

    status, _, body, _ = ask(gate(cancelled, memory))
    assert status == 503
    assert json.loads(body) == {"error": "the server has stopped."}


async def _cut_off(app, scope, seconds):
    """The status that a client hears whose body never ends, when the server does."""
    sent = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    task = asyncio.create_task(app(scope, receive, send))
    await asyncio.sleep(seconds)
    task.cancel()
    await task
    return sent[0]["status"]


@pytest.mark.parametrize(("seconds", "expected"), [(0.01, 503), (0.3, 408)])
def test_a_body_that_never_ends_is_answered_at_the_end(app, seconds, expected):
    """While it is waited for, and while what is left of it goes by after its time is over."""
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    assert asyncio.run(_cut_off(app, scope, seconds)) == expected


def test_one_line_is_logged_for_a_bad_request(app, caplog):
    async def observed(scope, receive, send):
        scope["client"] = ("10.0.0.1", 3)
        await app(scope, receive, send)

    ask(observed, [b"1" * 11], path="/v1/models/a\nb:predict")
    [record] = caplog.records
    assert "\n" not in record.getMessage()
    assert r"10.0.0.1 POST '/v1/models/a\nb:predict' 413: the body is" in record.getMessage()

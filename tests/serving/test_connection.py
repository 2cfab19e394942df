"""Connections: how requests are counted, refused and waited for; no model is needed."""

import asyncio
import contextlib
import re
import time

import pytest
import uvicorn
from uvicorn.server import ServerState

from supcon_tf.serving import connection
from supcon_tf.serving.connection import Connection, Load


def test_connections_beyond_those_that_fit_are_told_so_and_closed():
    load = Load(1, 1, lambda: False)
    assert load.takes(b"POST", b"/v1/models/digits:predict")
    load.running = 1
    assert not load.takes(b"POST", b"/v1/models/digits:predict?x")
    assert not load.takes(b"POST", b"/v2/models/digits/infer")
    assert load.takes(b"GET", b"/v2/health/ready")
    assert load.takes(b"HEAD", b"/v2/models/digits/infer")  # Its answer has no body: 405.
    load = Load(9, 1, lambda: True)
    assert not load.takes(b"POST", b"/v2/models/digits/infer")
    assert b"\r\nconnection: close\r\n\r\n{" in load.refusal(closes=True)
    assert load.refused == 1


@contextlib.asynccontextmanager
async def _connected(app, load, **settings):
    """A connection to an application: a reader and a writer, and the server's open connections."""
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, **settings)
    config.load()
    state = ServerState()

    def connect():
        return Connection(load, config=config, server_state=state, app_state={})

    server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        yield reader, writer, state.connections
    finally:
        writer.close()
        server.close()
        for one in tuple(state.connections):  # One that rests does not see its client go.
            one.transport.close()
        await asyncio.sleep(0)


async def _answer(send):
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def _running(content, requests):
    """The requests that count as under way when each of a pipeline is served, and at the end."""
    load, found = Load(9, 9, lambda: False), []

    async def app(scope, receive, send):
        found.append(load.running)
        await _answer(send)

    async with _connected(app, load) as (reader, writer, _):
        writer.write(content)
        for _ in range(requests):
            await reader.readuntil(b"\r\n\r\n")
    return [*found, load.running]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", [1, 1, 1, 0]),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n", [1, 1, 0, 0]),  # Its body is missing.
    ],
)
def test_a_pipelined_request_is_counted_once_it_has_arrived(last, expected):
    content = b"GET / HTTP/1.1\r\n\r\n" * 2 + last
    assert asyncio.run(_running(content, 3)) == expected


async def _running_after_the_end(content):
    """The requests that count as under way when the last has ended, after its connection."""
    load, goes_on, ended = Load(9, 9, lambda: False), asyncio.Event(), asyncio.Event()

    async def app(scope, receive, send):
        await receive()  # Reading continues, so that the end of the connection is noticed.
        await goes_on.wait()
        await _answer(send)
        ended.set()

    async with _connected(app, load) as (_, writer, connections):
        writer.write(content)
        while not load.running:
            await asyncio.sleep(0.01)
        writer.close()
        while connections:
            await asyncio.sleep(0.01)
        goes_on.set()
        await ended.wait()
    return load.running


def test_a_pipeline_that_is_broken_off_is_counted_no_longer():
    content = b"GET / HTTP/1.1\r\n\r\n" * 2
    assert asyncio.run(asyncio.wait_for(_running_after_the_end(content), 10)) == 0


async def _what_comes_back(content, load):
    """All that is written on a connection until the server ends it."""

    async def app(scope, receive, send):
        await _answer(send)

    async with _connected(app, load, timeout_keep_alive=0.3) as (reader, writer, _):
        writer.write(content)
        return await asyncio.wait_for(reader.read(), 10)


REFUSED = b"POST /v2/models/digits/infer HTTP/1.1\r\nContent-Length: 9\r\n\r\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"GET / HT", []),
        (b"GET / HTTP/1.1\r\n\r\n", [b"204"]),
        (b"GET / HTTP/1.1\r\n\r\nGET / HT", [b"204"]),
        (REFUSED + b"123456789", [b"503"]),
        (REFUSED + b"123", [b"503"]),  # The rest of the body never comes.
    ],
)
def test_a_connection_on_which_nothing_more_arrives_is_ended(content, expected):
    found = asyncio.run(_what_comes_back(content, Load(0, 9, lambda: False)))
    assert re.findall(rb"HTTP/1.1 (\d{3})", found) == expected


def test_what_follows_the_last_refusal_of_a_connection_is_not_answered(caplog):
    load = Load(9, 0, lambda: False)  # One connection too many.
    found = asyncio.run(_what_comes_back(b"GET / HTTP/1.1\r\n\r\n" * 20, load))
    assert found.count(b"503 Service Unavailable") == load.refused == 1
    assert "socket.send()" not in caplog.text


async def _seconds_of_refusals():
    """When each of three requests, sent at once one after the other, is refused."""
    found = []
    async with _connected(None, Load(0, 9, lambda: False)) as (reader, writer, _):
        for _ in range(3):
            began = time.monotonic()
            writer.write(REFUSED + b"123456789")
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(re.search(rb"content-length: (\d+)", answer).group(1)))
            found.append(time.monotonic() - began)
    return found


def test_a_client_that_has_tried_again_at_once_waits_for_its_next_refusal(monkeypatch):
    monkeypatch.setattr(connection, "_RETRY_SECONDS", 0.4)
    first, second, third = asyncio.run(asyncio.wait_for(_seconds_of_refusals(), 10))
    assert max(first, second) < 0.3 < third


async def _let_in():
    """Answers of one who is served, and of one who is refused and tries again meanwhile."""
    load, goes_on = Load(1, 9, lambda: False), asyncio.Event()

    async def app(scope, receive, send):
        await receive()
        await goes_on.wait()
        await _answer(send)

    async with (
        _connected(app, load) as (served, asks, _),
        _connected(app, load) as (refused, insists, _),
    ):
        asks.write(REFUSED + b"123456789")
        while not load.running:
            await asyncio.sleep(0.01)
        answers = []
        for _ in range(2):
            insists.write(REFUSED + b"123456789")
            answers.append(await refused.readuntil(b"\r\n\r\n{"))
        insists.write(REFUSED + b"123456789")
        goes_on.set()
        answers += [await served.readuntil(b"\r\n\r\n"), await refused.readuntil(b"HTTP/1.1 204")]
    return [re.search(rb"HTTP/1.1 (\d{3})", answer).group(1) for answer in answers]


def test_a_refused_client_is_let_in_as_soon_as_there_is_room(monkeypatch):
    monkeypatch.setattr(connection, "_RETRY_SECONDS", 60)
    answers = asyncio.run(asyncio.wait_for(_let_in(), 10))
    assert answers == [b"503", b"503", b"204", b"204"]

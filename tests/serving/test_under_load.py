"""Versions come and go and the queue fills, while clients go on asking; also over gRPC."""

import asyncio
import contextlib
import re
import shutil
import signal
import threading
import time

import pytest
import uvicorn
from serving.clients import PNG, Clients, grpc_clients
from serving.fakes import serving, write_version
from uvicorn.server import ServerState

from supcon_tf.serving.connection import Connection, Load


@pytest.fixture(scope="module")
def folder(served_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("changing") / "digits"
    folder.mkdir()
    write_version(served_bundle, folder, 1)
    return folder


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder, "--poll_seconds=0.2", "--max_queue=24", "--max_batch_size=8") as running:
        yield running


def test_versions_change_without_a_failed_request(server, folder, served_bundle):
    with Clients(server, 3) as clients:
        clients.wait_for_more()
        write_version(served_bundle, folder, 2)
        server.wait_for_line("serving digits version 2 instead of 1")
        clients.wait_for_more()
        write_version(served_bundle, folder, 3, broken=True)
        line = server.wait_for_line("version 3 is refused; version 2 goes on: ")
        assert "damaged: saved_model.pb has another SHA-256" in line
        about = server.ask("/v1/models/digits/metadata")[1]
        assert about["model_spec"]["version"] == "2"
        assert about["refused_versions"]["3"].startswith("bundle 3 is damaged: saved_model.pb has")
        metrics = server.ask("/metrics")[1].decode()
        assert "supcon_refused_versions 1.0" in metrics
        assert 'supcon_model_version{model_name="digits"} 2.0' in metrics
        clients.wait_for_more()
        shutil.rmtree(folder / "3")
        shutil.rmtree(folder / "2")
        server.wait_for_line("serving digits version 1 instead of 2")
        clients.wait_for_more()
    assert clients.lost == []
    assert {status for status, _, _ in clients.answers} == {200}
    # Answers of three clients may overtake each other for a moment.
    assert clients.versions()[0] == "1"
    assert {version for _, version, _ in clients.answers} == {"1", "2"}
    assert {version for _, version, _ in clients.answers[-15:]} == {"1"}
    assert len([line for line in server.lines if "refused" in line]) == 1


def test_a_copy_that_takes_its_time_is_waited_for(server, folder, served_bundle, tmp_path):
    write_version(served_bundle, tmp_path, 5)
    files = sorted(path for path in (tmp_path / "5").rglob("*") if path.is_file())
    for path in files:  # The sums come before most of the others.
        target = folder / path.relative_to(tmp_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        time.sleep(0.05)
    server.wait_for_line("serving digits version 5 instead of 1")
    assert server.predict({"b64": PNG})[0] == 200


def test_a_full_queue_is_told_at_once(server):
    results = []

    def client():
        body = {"instances": [{"b64": PNG}] * 12}
        with server.connect() as connection:
            for _ in range(8):
                began = time.monotonic()
                status, answer = server.ask("/v1/models/digits:predict", body, (), None, connection)
                results.append((status, time.monotonic() - began, answer.get("error", "")))

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    full = [seconds for status, seconds, _ in results if status == 503]
    assert {status for status, _, _ in results} == {200, 503}
    assert all("(max_queue)" in error for status, _, error in results if status == 503)
    assert sorted(full)[len(full) // 2] < 0.5
    assert server.ask("/v2/health/ready")[0] == 200
    assert "supcon_queue_images 0.0" in server.ask("/metrics")[1].decode()


def test_grpc_calls_are_answered_while_versions_change_and_to_the_end(
    served_bundle, messages, tmp_path
):
    folder = tmp_path / "digits"
    folder.mkdir()
    write_version(served_bundle, folder, 1)
    with serving(folder, "--poll_seconds=0.2", grpc=True) as server:
        with grpc_clients(server, messages, 3, must_be_served=True) as clients:
            clients.wait_for_more()
            write_version(served_bundle, folder, 2)
            server.wait_for_line("serving digits version 2 instead of 1")
            clients.wait_for_more()
        assert clients.lost == []
        assert {version for _, version, _ in clients.answers} == {"1", "2"}
        assert clients.answers[-1][1] == "2"
        before = len(clients.answers)
        with grpc_clients(server, messages, 3, must_be_served=False) as clients:
            clients.wait_for_more()
            server.process.send_signal(signal.SIGTERM)
            for thread in clients.threads:
                thread.join(30)
        assert server.process.wait(30) == 0
    assert clients.lost == []
    assert clients.turned_away == 3
    # Every call that the server took up was answered, and the client has the answer; at the end
    # each client may have been told once to send no more.
    told = int(re.fullmatch(r"stopped; (\d+) requests were answered", server.lines[-1]).group(1))
    assert 0 <= told - before - len(clients.answers) <= 3


async def _burst(server, clients, rounds):
    """Statuses and seconds of requests that all come at once; refused ones wait for a moment."""
    body = b'{"instances": [{"b64": "%s"}]}' % PNG.encode()
    head = "POST /v1/models/digits:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    found = []

    async def client():
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        for _ in range(rounds):
            began = time.monotonic()
            writer.write((head % len(body)).encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", answer).group(1))
            content = await reader.readexactly(length)
            found.append((int(answer[9:12]), time.monotonic() - began, answer, content))
            await asyncio.sleep(0.2 * (found[-1][0] == 503))
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


def test_many_more_clients_than_the_queue_are_refused_cheaply_and_may_ask_again(server):
    before = len(server.lines)
    found = asyncio.run(_burst(server, 300, 4))
    assert {status for status, *_ in found} == {200, 503}
    refused = [one for one in found if one[0] == 503]
    assert all(b"retry-after: 1\r\n" in answer for _, _, answer, _ in refused)
    assert all(b"(max_queue)" in content for *_, content in refused)
    assert all(b"connection: close" not in answer for _, _, answer, _ in refused)
    assert len(server.lines) - before < len(refused) / 2  # Told together.
    measured = server.ask("/metrics")[1].decode()
    assert 'supcon_requests_total{route="refused",status="503"}' in measured
    assert server.predict({"b64": PNG})[0] == 200


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
async def _connected(app, load):
    """A connection to an application: a reader and a writer, and the server's open connections."""
    config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False)
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
        await receive()  # Reading goes on, so that the end of the connection is noticed.
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

    async with _connected(app, load) as (reader, writer, _):
        writer.write(content)
        return await asyncio.wait_for(reader.read(), 10)


def test_what_follows_the_last_refusal_of_a_connection_is_not_answered(caplog):
    load = Load(9, 0, lambda: False)  # One connection too many.
    found = asyncio.run(_what_comes_back(b"GET / HTTP/1.1\r\n\r\n" * 20, load))
    assert found.count(b"503 Service Unavailable") == load.refused == 1
    assert "socket.send()" not in caplog.text

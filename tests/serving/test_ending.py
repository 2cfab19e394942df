"""SIGTERM and SIGINT: what has been accepted is answered, and the end does not wait for more."""

import contextlib
import signal
import socket
import sys
import time

import pytest
from serving.clients import PNG, Clients
from serving.fakes import serving, write_version

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(served_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ending") / "digits"
    folder.mkdir()
    write_version(served_bundle, folder, 1)
    return folder


SLOW = """
import sys, time

from supcon_tf.cli import flags, serve
from supcon_tf.config import ServeConfig
from supcon_tf.serving import loading
load = loading.load_version
def slow_load(path, *arguments):
    if path.name == "2":
        print("loading", file=sys.stderr, flush=True)
        time.sleep(60)
    return load(path, *arguments)
loading.load_version = slow_load
flags.run(serve.main, ServeConfig, "")
"""


def test_the_end_does_not_wait_for_a_version_that_is_loading(served_bundle, tmp_path):
    folder = tmp_path / "digits"
    folder.mkdir()
    write_version(served_bundle, folder, 1)
    flags = ["--poll_seconds=0.1", "--drain_seconds=1"]
    command = [sys.executable, "-c", SLOW]
    with serving(folder, *flags, command=command) as server:
        write_version(served_bundle, folder, 2)
        server.wait_for_line("loading")
        assert server.predict({"b64": PNG})[0] == 200
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 3
    assert server.lines[-1] == "stopped; 1 requests were answered"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_end_loses_no_accepted_request(number, status, folder):
    with serving(folder, grpc=True) as server:
        with Clients(server, 6) as clients:
            clients.wait_for_more(60)
            server.process.send_signal(number)
            for thread in clients.threads:
                thread.join(30)
        assert server.process.wait(30) == status
    assert clients.lost == []
    assert clients.turned_away == 6
    assert {status for status, _, _ in clients.answers} == {200}
    assert server.lines[-1] == f"stopped; {len(clients.answers)} requests were answered"
    assert not any("Traceback" in line for line in server.lines)


def test_the_end_waits_no_longer_than_it_is_told_to(folder):
    with serving(folder, "--drain_seconds=1") as server, contextlib.ExitStack() as stack:

        def connect(content):
            address = ("127.0.0.1", server.http_port)
            connection = stack.enter_context(socket.create_connection(address, 20))
            connection.sendall(content)
            return connection

        never = connect(b"POST /v1/models/digits:predict HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
        begun = connect(b"GET /v2/health/live HTTP/1.1\r\nHost:")
        idle = connect(b"")
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        begun.sendall(b" x\r\n\r\n")
        assert b" 200 OK" in begun.recv(9999)
        assert idle.recv(9999) == b""
        assert b"503 Service Unavailable" in never.recv(9999)
        assert server.process.wait(20) == 0
    assert server.lines[-1] == "stopped; 2 requests were answered"

"""Versions come and go, the queue fills, and the server ends, while clients go on asking."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time

import pytest
from serving.fakes import base64_of, picture, serving

from supcon_tf.bundles import write_sums

PNG = base64_of(picture())


def write_version(source, target, version, broken=False):
    """Copies a bundle as another version, in one step."""
    hidden = target / f".writing-{version}"
    shutil.copytree(source, hidden)
    metadata = json.loads((hidden / "metadata.json").read_text())
    (hidden / "metadata.json").write_text(json.dumps({**metadata, "version": version}))
    write_sums(hidden)
    if broken:
        with open(hidden / "saved_model.pb", "r+b") as file:
            file.write(b"broken")
    os.rename(hidden, target / str(version))


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


class Clients:
    """Threads that ask until told to stop; every answer is kept."""

    def __init__(self, server, count):
        self.server, self.stopped = server, threading.Event()
        self.answers, self.lost, self.turned_away = [], [], 0
        self.threads = [threading.Thread(target=self.client) for _ in range(count)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def client(self):
        tensor = {"name": "encoded", "datatype": "BYTES", "shape": [2], "data": [PNG, PNG]}
        body = json.dumps({"inputs": [tensor], "outputs": [{"name": "class_id"}]})
        connection = http.client.HTTPConnection("127.0.0.1", self.server.http_port, timeout=30)
        with contextlib.closing(connection):
            while not self.stopped.is_set():
                try:
                    if connection.sock is None:
                        connection.connect()
                except ConnectionError:
                    self.turned_away += 1
                    return
                self.ask(connection, body)

    def ask(self, connection, body):
        try:
            connection.request("POST", "/v2/models/digits/infer", body)
            answer = connection.getresponse()
            content = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.lost.append(error)
            connection.close()
            return
        self.answers.append((answer.status, content.get("model_version"), content))

    def wait_for_more(self, count=20):
        """Waits until so many further requests have been answered."""
        goal = len(self.answers) + count
        self.server.wait_for(lambda: len(self.answers) >= goal or self.lost)

    def versions(self):
        """The versions that answered, without repeats."""
        found = [version for _, version, _ in self.answers]
        return [
            version
            for index, version in enumerate(found)
            if index == 0 or version != found[index - 1]
        ]


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
        assert "another SHA-256" in about["refused_versions"]["3"]
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

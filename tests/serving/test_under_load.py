"""Versions come and go and the queue fills while clients keep asking; also over gRPC."""

import asyncio
import re
import shutil
import signal
import threading
import time

import pytest
from serving.clients import PNG, Clients, grpc_clients
from serving.fakes import serving, write_version

pytestmark = pytest.mark.slow


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
        line = server.wait_for_line("version 3 is refused; version 2 stays in service: ")
        assert "damaged: the SHA-256 of saved_model.pb does not match" in line
        about = server.ask("/v1/models/digits/metadata")[1]
        assert about["model_spec"]["version"] == "2"
        assert about["refused_versions"]["3"].startswith("bundle 3 is damaged: the SHA-256 of")
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

"""The server's connections: odd, large, broken off, and where it listens."""

import contextlib
import json
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serving.fakes import FILES, base64_of

PREDICT = "/v1/models/digits:predict"
PNG = base64_of(FILES["png"])


def raw_http(server, content, pause=0.0):
    """The response on a connection that sends these bytes."""
    with socket.create_connection(("127.0.0.1", server.http_port), 20) as connection:
        for part in content if isinstance(content, list) else [content]:
            connection.sendall(part)
            time.sleep(pause)
        connection.settimeout(1)  # Of connections that stay open.
        found = b""
        with contextlib.suppress(OSError):
            while part := connection.recv(2**16):
                found += part
    return found


def post(body=b"", *headers, path=PREDICT):
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


ODD_HTTP = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00", [400]),
    "another protocol": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
    "endless headers": ([b"GET / HTTP/1.1\r\n", b"A: b\r\n" * 40_000], [400]),
    "long header": ([b"GET / HTTP/1.1\r\nA: ", b"b" * 300_000], [400]),
    "two lengths": (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12", [400]),
    "negative length": (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", [400]),
    "gzip": (post(b"\x1f\x8b\x08", "Content-Encoding: gzip"), [415]),
    "a strange type": (post(b"{}", "Content-Type: text/\xff; x"), [400]),
    "a cloud event": (
        post(b"{}", "ce-id: 1", "ce-source: x", "ce-type: y", "ce-specversion: 9"),
        [400],
    ),
    "upgrade": (b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", [200]),
    "pipelining": (post(b"{}") * 20, [400] * 20),
    "bad chunk": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", [400]),
    "HTTP/1.0": (b"GET /v2/health/live HTTP/1.0\r\n\r\n", [200]),
}


@pytest.mark.parametrize("case", ODD_HTTP)
def test_odd_http_is_no_trouble(server, case):
    content, expected = ODD_HTTP[case]
    found = raw_http(server, content)
    assert [int(status) for status in re.findall(rb"HTTP/1.1 (\d{3})", found)] == expected, found
    assert server.ask("/v2/health/ready")[0] == 200


def test_expect_continue_is_heard(server):
    body = json.dumps({"instances": [{"b64": PNG}]}).encode()
    found = raw_http(server, [post(body, "Expect: 100-continue")[: -len(body)], body], 0.1)
    assert re.findall(rb"HTTP/1.1 (\d{3})", found) == [b"100", b"200"]
    lines = f"POST {PREDICT} HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9000000\r\n\r\n"
    assert re.findall(rb"HTTP/1.1 (\d{3})", raw_http(server, lines.encode())) == [b"413"]


def test_a_large_body_that_is_sent_anyway_hears_why(server):
    found = raw_http(server, post(bytes(4_000_000)))
    assert b"413" in found.split(b"\r\n")[0]
    assert b"max_request_mb" in found


def test_health_is_answered_while_large_requests_are_read(server):
    body = json.dumps({"instances": [np.zeros((420, 430, 3), int).tolist()]}).encode()
    with ThreadPoolExecutor(4) as pool:
        large = [pool.submit(server.ask, PREDICT, body) for _ in range(8)]
        slowest = 0.0
        while not all(request.done() for request in large):
            began = time.monotonic()
            assert server.ask("/v2/health/live")[0] == 200
            slowest = max(slowest, time.monotonic() - began)
    assert [request.result()[0] for request in large] == [200] * 8
    assert slowest < 2


def test_clients_that_go_away_leave_nothing(server):
    body = json.dumps({"instances": [{"b64": PNG}] * 20}).encode()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", server.http_port)) as connection:
            connection.sendall(post(body))
        with socket.create_connection(("127.0.0.1", server.http_port)) as connection:
            connection.sendall(post(body)[:-5])
    until = time.monotonic() + 20
    while time.monotonic() < until:
        text = server.ask("/metrics")[1].decode()
        if "supcon_queue_images 0.0" in text and "supcon_request_bytes 0.0" in text:
            break
        time.sleep(0.1)
    else:
        raise AssertionError(text)
    assert server.predict({"b64": PNG})[0] == 200


def test_it_listens_where_it_is_told_to(server):
    """On 127.0.0.1 only: no socket of the process has the address 0.0.0.0 or [::]."""
    inodes = set()
    folder = f"/proc/{server.process.pid}/fd"
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(f"{folder}/{name}")))
    listening = []
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{server.process.pid}/net/{table}") as file:
            for fields in (line.split() for line in list(file)[1:]):
                if fields[3] == "0A" and fields[9] in inodes:
                    listening.append(fields[1].split(":"))
    assert {int(port, 16) for _, port in listening} == {server.http_port, server.grpc_port}
    mapped = "0000000000000000FFFF0000" + "0100007F"  # The same for IPv6.
    assert {address for address, _ in listening} <= {"0100007F", mapped}

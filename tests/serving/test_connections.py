"""A client that never reads its answer does not keep it in memory."""

import asyncio
import socket

import pytest
import uvicorn

from supcon_tf.serving import connections

ANSWER = bytes(20_000_000)


async def answer(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": ANSWER})


async def received(client, first, pause):
    """Bytes of the answer until the connection ends, reading with pauses before and in between."""
    loop, count = asyncio.get_running_loop(), 0
    await loop.sock_sendall(client, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
    await asyncio.sleep(first)
    while True:
        await asyncio.sleep(pause)
        try:
            part = await loop.sock_recv(client, 2_000_000)
        except ConnectionError:
            return count
        if not part:
            return count
        count += len(part)


@pytest.mark.parametrize(
    ("first", "pause", "whole"), [(0, 0.05, True), (1.5, 0, False)], ids=["slow", "stuck"]
)
def test_only_who_reads_nothing_is_cut_off(first, pause, whole, monkeypatch):
    monkeypatch.setattr(connections, "_STUCK_SECONDS", 0.5)

    async def test():
        config = uvicorn.Config(
            answer, http=connections.Connection, ws="none", lifespan="off", log_config=None
        )
        server = connections.HttpServer(config)
        with connections.bind("127.0.0.1", 0, "http_port") as bound, socket.socket() as client:
            serving = asyncio.create_task(server.serve([bound]))
            while not server.started:
                await asyncio.sleep(0.01)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, bound.getsockname())
            count = await received(client, first, pause)
            assert (count > len(ANSWER)) == whole
            assert not server.server_state.connections
            server.should_exit = True
            await serving

    asyncio.run(test())

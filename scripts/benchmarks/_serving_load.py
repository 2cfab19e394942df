"""The load of the serving benchmark, in a process of its own.

    python _serving_load.py TASK

TASK is JSON: `url`, `requests` (a file of JSON bodies, one per line), `concurrency`, `seconds` and
`warm_up_seconds`. `concurrency` clients send one request after the other over connections that stay
open. Prints JSON: `seconds`, `answers`, `errors` (by status or exception) and `latencies_ms`.
"""

import asyncio
import collections
import itertools
import json
import sys
import time


async def client(session, url, bodies, until, measured, answers):
    """Sends requests until the time is up."""
    import aiohttp

    while time.perf_counter() < until:
        started = time.perf_counter()
        try:
            async with session.post(url, data=next(bodies)) as answer:
                await answer.read()
                status = answer.status
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            status = type(error).__name__
        if started >= measured:
            answers.append((status, time.perf_counter() - started))


async def load(task):
    """Runs all clients."""
    import aiohttp

    with open(task["requests"], "rb") as file:
        bodies = itertools.cycle(file.read().splitlines())
    measured = time.perf_counter() + task["warm_up_seconds"]
    until, answers = measured + task["seconds"], []
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        clients = (
            client(session, task["url"], bodies, until, measured, answers)
            for _ in range(task["concurrency"])
        )
        await asyncio.gather(*clients)
    seconds = time.perf_counter() - measured
    errors = collections.Counter(str(status) for status, _ in answers if status != 200)
    latencies = [1000 * spent for status, spent in answers if status == 200]
    return {
        "seconds": seconds,
        "answers": len(latencies),
        "errors": dict(errors),
        "latencies_ms": latencies,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(json.loads(sys.argv[1])))))

"""The servers of the serving benchmark, and the load on them. Linux only (it reads /proc)."""

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

from supcon_tf.core.errors import UserError

PERCENTILES = (50, 90, 99)
_HERE = Path(__file__).parent
_START_SECONDS = 120
_GROWTH, _GROWTH_BYTES = 0.1, 50 * 2**20  # More than both together is not flat.


class Server:
    """A server of the model, on free ports.

    Args:
        model_dir: the exported model.
        flags: of `supcon-tf serve`.
    """

    def __init__(self, model_dir, flags):
        command = [sys.executable, "-m", "supcon_tf.cli", "serve", f"--model_dir={model_dir}"]
        command += ["--http_port=0", "--max_queue=4096", *flags]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        self.lines, self._ready = [], threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(_START_SECONDS) or self.url is None:
            self.close()
            raise UserError(f"the server did not start: {' '.join(self.lines[-1:]) or 'no output'}")

    def _read(self):
        self.url = None
        for line in self.process.stderr:
            self.lines.append(line.strip())
            found = re.search(r"http://[^\s/]+", line)
            if found and self.url is None:
                self.url = found.group()
                self._ready.set()
        self._ready.set()

    def memory(self):
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status).group(1))

    def close(self):
        """Ends it as an operator would."""
        self.process.terminate()
        self.process.wait(timeout=60)
        self._reader.join()
        self.process.stderr.close()


def run_load(server, name, requests, concurrency, config):
    """Runs one load.

    Args:
        server: a `Server`.
        name: the model's.
        requests: file of JSON bodies, one per line.
        concurrency: number of clients.
        config: `seconds` and `warm_up_seconds`.

    Returns:
        `seconds`, `answers`, `errors`, `per_second`, percentiles (None without answers), and the
        server's memory before and after.

    Raises:
        UserError: if it could not be run.
    """
    task = {
        "url": f"{server.url}/v1/models/{name}:predict",
        "requests": str(requests),
        "concurrency": concurrency,
        "seconds": config.seconds,
        "warm_up_seconds": config.warm_up_seconds,
    }
    before = server.memory()
    command = [sys.executable, str(_HERE / "_serving_load.py"), json.dumps(task)]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode:
        errors = finished.stderr.strip().splitlines()
        reason = errors[-1] if errors else f"it ended with {finished.returncode}, saying nothing"
        raise UserError(f"the load could not be run: {reason}")
    found = json.loads(finished.stdout)
    latencies = sorted(found.pop("latencies_ms"))
    found["per_second"] = len(latencies) / found["seconds"]
    for percentile in PERCENTILES:
        at = min(len(latencies) - 1, len(latencies) * percentile // 100)
        found[f"p{percentile}_ms"] = latencies[at] if latencies else None
    return {**found, "memory_before": before, "memory_after": server.memory()}


def memory_growth(loads):
    """By server: memory before its first load and after its last, and whether it stayed flat."""
    found = {}
    for row in loads:
        memory = found.setdefault(row["server"], {"before": row["memory_before"]})
        memory["after"] = row["memory_after"]
        memory["flat"] = memory["after"] <= (1 + _GROWTH) * memory["before"] + _GROWTH_BYTES
    return found

"""Shared parts of the benchmarks: contestants, each a process of its own, that take turns.

A worker prints a line of JSON when it is ready, then answers every line that it reads with another.
A peer's Python imports this module too, so it needs nothing but the standard library.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import tempfile
import time

# OpenMP's threads, which PyTorch uses, keep a core busy for 0.2 s after their work.
_PAUSE_SECONDS = 0.25


class Contestant:
    """A worker process.

    Args:
        name: what it is called in messages.
        command: list of str, the process to start.

    Raises:
        UserError: if the worker ends before it is ready, or later before it is told to.
    """

    def __init__(self, name, command):
        self.name, self.seconds = name, []
        # A file: a pipe that nobody reads would stop a worker that writes much.
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.ready = self._answer()

    def _answer(self):
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        from supcon_tf.core.errors import UserError

        self.process.wait()
        self.errors.seek(0)
        errors = self.errors.read().strip().splitlines()
        raise UserError(f"{self.name} could not be run: {errors[-1] if errors else 'no output'}.")

    def ask(self, what):
        """Has something done, once the other contestants' threads have gone to sleep.

        Args:
            what: the line that the worker reads.

        Returns:
            Its answer.
        """
        time.sleep(_PAUSE_SECONDS)
        with contextlib.suppress(BrokenPipeError):  # It has ended; that is said below.
            print(what, file=self.process.stdin, flush=True)
        return self._answer()

    def step(self):
        """Runs and times one step."""
        answer = self.ask("step")
        self.seconds.append(answer["seconds"])
        self.extra_bytes = answer["extra_bytes"]

    def close(self):
        """Ends the process; once more does nothing."""
        if not self.process.stdin.closed:
            self.process.communicate()
            self.errors.close()


def forget_peak():
    """Has the kernel count this process's peak of resident memory from here on.

    Returns:
        The resident bytes now.
    """
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return resident_bytes("VmRSS")


def resident_bytes(name="VmHWM"):
    """Resident memory of this process: VmRSS now, VmHWM at the peak."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))


def hardware():
    """The machine, the versions and the day, for a results file."""
    with open("/proc/cpuinfo") as file:
        fields = [line.partition(":") for line in file]
    models = [value.strip() for name, _, value in fields if name.strip() == "model name"]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "tensorflow": importlib.metadata.version("tensorflow"),
        "keras": importlib.metadata.version("keras"),
        "date": time.strftime("%Y-%m-%d"),
    }

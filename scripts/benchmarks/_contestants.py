"""Shared parts of the benchmarks: contestants, each a process of its own, that take turns.

A worker prints a line of JSON when it is ready, then answers every line that it reads with another.
A peer's Python imports this module too, so it needs nothing but the standard library.
"""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import subprocess
import tempfile
import time

# Settings of a timed training step: the work that the peer's script does.
STEP_SETTINGS = {
    "method": "supcon_out",
    "temperature": 0.1,
    "optimizer": "sgd",
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "schedule": "constant",
    "warmup_epochs": 0.0,
    "epochs": 10**6,
    "strategy": "one_device",
}

# Variables that hold ours and a peer to an instruction set: oneDNN, XLA, PyTorch.
ISA = {
    "native": {},
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
    },
}

# OpenMP's threads, which PyTorch uses, keep a core busy for 0.2 s after their work.
_PAUSE_SECONDS = 0.25


def numbers(text, name):
    """The positive whole numbers of a setting, such as "1,8"."""
    from supcon_tf.core.errors import UserError

    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{name} must be whole numbers separated by commas. Received: {text!r}.")
    return [int(part) for part in parts]


def open_output(output_dir):
    """The folder of the results, made before the measurement, so that they cannot be lost."""
    from supcon_tf.core.errors import UserError

    try:
        os.makedirs(output_dir, exist_ok=True)
        tempfile.TemporaryFile(dir=output_dir).close()
    except OSError as error:
        raise UserError(
            f"cannot write to output_dir {output_dir!r}: {error.strerror}. Give another."
        ) from error
    return pathlib.Path(output_dir)


class Contestant:
    """A worker process.

    Args:
        name: what it is called in messages.
        command: list of str, the process to start.
        environment: variables of the process, in addition to this one's own.
        hold: whether it waits for a first line, which `wait` sends.

    Raises:
        UserError: if the worker ends before it is ready, or later before it is told to.
    """

    def __init__(self, name, command, environment=None, hold=False):
        self.name, self.seconds = name, []
        # A file: a pipe that nobody reads would stop a worker that writes much.
        self.errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.ready = None if hold else self._answer()

    def wait(self):
        """Lets a contestant that was held begin, and waits until it is ready."""
        self.ready = self.ask("begin")

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
        """Asks for something, once the other contestants' threads have gone to sleep.

        Args:
            what: the line that the worker reads.

        Returns:
            Its answer.
        """
        time.sleep(_PAUSE_SECONDS)
        with contextlib.suppress(BrokenPipeError):  # It has ended; reported below.
            print(what, file=self.process.stdin, flush=True)
        return self._answer()

    def step(self):
        """Runs and times one step."""
        answer = self.ask("step")
        self.seconds.append(answer["seconds"])
        self.extra_bytes = answer["extra_bytes"]

    def close(self):
        """Ends the process; a second call does nothing."""
        if not self.process.stdin.closed:
            self.process.communicate()
            self.errors.close()


def forget_peak():
    """Makes the kernel count this process's peak of resident memory from here on.

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


def hardware(isa="native"):
    """The machine, the versions and the day, for a results file.

    Args:
        isa: a key of `ISA`, to which the measurement was held.
    """
    from supcon_tf.core.provenance import processor  # Not in a peer's Python.

    found = processor()
    held = {"native": "", "avx2": ", held to AVX2"}[isa]
    return {
        "cpu": found.get("cpu", ""),
        "instructions": found.get("instructions", "") + held,
        "cores": len(os.sched_getaffinity(0)),
        "tensorflow": importlib.metadata.version("tensorflow"),
        "keras": importlib.metadata.version("keras"),
        "date": time.strftime("%Y-%m-%d"),
    }

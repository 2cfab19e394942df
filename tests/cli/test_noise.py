"""Known remarks of libraries do not appear; everything else does, to the last word of a crash."""

import os
import subprocess
import sys

import pytest

_PROGRAM = """
import os, signal, sys
from supcon_tf.cli.noise import without_remarks
with without_remarks():
    os.write(2, b"Improper call to JPEG library in state 201\\n")
    os.write(2, b"fully_quantize: 0, inference_type: 6, input_inference_type: UINT8\\n")
    os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\\n")
    os.write(2, b"I0000 00:00:1.2 3 cudart_stub.cc:31] Could not find cuda drivers\\n")
    os.write(2, b"ERROR: the kernel failed, \\xff\\n")
    print("from Python", file=sys.stderr)
    {ending}
os.write(2, b"Improper call: nobody filters it any more\\n")
"""


def run(ending):
    command = [sys.executable, "-c", _PROGRAM.format(ending=ending)]
    finished = subprocess.run(command, capture_output=True, timeout=30)
    return finished.returncode, sorted(finished.stderr.splitlines())


_SAID = [b"ERROR: the kernel failed, \xff", b"from Python"]
_AFTER = b"Improper call: nobody filters it any more"


def test_remarks_are_left_out_and_errors_are_not():
    assert run("pass") == (0, sorted([*_SAID, _AFTER]))


def test_an_exception_leaves_the_block_as_it_was():
    status, said = run("raise SystemExit(7)")
    assert (status, said) == (7, sorted(_SAID))


@pytest.mark.parametrize("ending", ["os.abort()", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_last_words_of_a_crash_come_through(ending):
    status, said = run(f'os.write(2, b"F0000 check failed"); {ending}')
    assert status < 0
    assert b"F0000 check failed" in said
    assert set(_SAID) <= set(said)


def test_without_grep_nothing_is_filtered(monkeypatch):
    monkeypatch.setitem(os.environ, "PATH", "/nonexistent")
    status, said = run("pass")
    assert status == 0
    assert b"Improper call to JPEG library in state 201" in said

"""Keeps known log messages of libraries off standard error.

TensorFlow Lite and libjpeg write them past Python and every log level; libjpeg does so whenever it
reads a damaged file.
"""

import contextlib
import os
import shutil
import subprocess
import sys

_REMARKS = (
    "^fully_quantize: ",
    "^INFO: (Created|Initialized) TensorFlow Lite ",
    "^(Corrupt JPEG data|Improper call to JPEG library|Premature end of JPEG file)",
    "^WARNING: All log messages before absl::InitializeLog",
    "^[IW]0000 00:00:",
)
_END_SECONDS = 2.0


@contextlib.contextmanager
def without_remarks():
    """Filters the output of C and C++ code on standard error.

    The filter is a separate process: if this one is killed or crashes, its last words still come
    through. Python's own lines bypass the filter. Without grep nothing is filtered.
    """
    command = shutil.which("grep")
    if command is None:
        yield
        return
    sys.stderr.flush()
    terminal, given = os.dup(2), sys.stderr
    # In its own session, so that Ctrl-C does not end it before this process has written its lines.
    grep = subprocess.Popen(
        [command, "--line-buffered", "--text", "-vE", "|".join(_REMARKS)],
        stdin=subprocess.PIPE,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C"},
        start_new_session=True,
    )
    os.dup2(grep.stdin.fileno(), 2)
    grep.stdin.close()
    sys.stderr = os.fdopen(terminal, "w", 1, given.encoding, "backslashreplace", closefd=False)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = given
        os.dup2(terminal, 2)
        with contextlib.suppress(subprocess.TimeoutExpired):  # Another process may hold it open.
            grep.wait(_END_SECONDS)
        os.close(terminal)

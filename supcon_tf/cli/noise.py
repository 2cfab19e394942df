"""Known remarks of libraries, kept off standard error.

TensorFlow Lite and libjpeg write them past Python and past every log level, libjpeg again whenever
it reads a damaged file.
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
    """Lets what C and C++ code writes to standard error pass a filter.

    The filter is a process of its own: where this one is killed or crashes, the last words still
    come through. Python's own lines do not pass it. Nothing is filtered where there is no grep.
    """
    command = shutil.which("grep")
    if command is None:
        yield
        return
    sys.stderr.flush()
    terminal, given = os.dup(2), sys.stderr
    # In a session of its own, so that Ctrl-C ends it after the lines that it causes here.
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
        with contextlib.suppress(subprocess.TimeoutExpired):  # Another process may write to it.
            grep.wait(_END_SECONDS)
        os.close(terminal)

"""Runs many scripts in this one process, which saves an import of TensorFlow for each.

Reads a JSON list of command lines; writes a JSON list of exit status, standard output and error.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path

from absl import app, flags

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def status(name, arguments):
    """The exit status of a script that is run as `python scripts/name.py arguments`."""
    path = SCRIPTS / f"{name}.py"
    sys.argv, sys.path[0] = [str(path), *arguments], str(path.parent)
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    except Exception:
        traceback.print_exc()
        return 1
    return 0


def forget_flags(before):
    """Removes the flags that a script defined, and what it was given."""
    for name in set(flags.FLAGS) - before:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


def captured(name, *arguments):
    """Status, output and error, of which TensorFlow's C++ writes a part too."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as error:
        kept = os.dup(1), os.dup(2)
        os.dup2(out.fileno(), 1)
        os.dup2(error.fileno(), 2)
        try:
            code = status(name, arguments)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, old in zip((1, 2), kept, strict=True):
                os.dup2(old, descriptor)
                os.close(old)
        for stream in (out, error):
            stream.seek(0)
        return code, out.read(), error.read()


def main():
    """Runs them, each with flags of its own."""
    app.define_help_flags()  # absl does so once.
    before, results = set(flags.FLAGS), []
    for command in json.load(sys.stdin):
        results.append(captured(*command))
        forget_flags(before)
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()

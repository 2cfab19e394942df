"""Command-line programs: flags from configurations, and one way to end."""

import os
import sys


def _fill_closed_streams():
    """Opens /dev/null in place of a standard stream that the caller has closed, as with `>&-`.

    The next file that is opened would otherwise take its number, and receive what is printed.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


_fill_closed_streams()

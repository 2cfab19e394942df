"""Ctrl-C that is not lost: Python drops an exception that is raised inside a callback.

Callbacks are `__del__`, those of weak references, and what C++ calls.
"""

import contextlib
import signal
import threading

# A list, so that the signal handler and the checks share one; its length is the Ctrl-Cs so far.
_noted = []


@contextlib.contextmanager
def noting_interrupts():
    """Raises KeyboardInterrupt at the end of the block at the latest, if there was a Ctrl-C in it.

    It is raised at once as well, as always; `check_interrupts` raises it where that was dropped.
    In other threads than the main one, and where the program handles Ctrl-C itself, it does
    nothing. It may be nested, and used as a decorator.
    """
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield
        return
    _noted.clear()
    signal.signal(signal.SIGINT, _note)
    try:
        yield
        check_interrupts()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _noted.clear()


def _note(number, frame):
    _noted.append(number)
    raise KeyboardInterrupt


def check_interrupts() -> None:
    """Raises KeyboardInterrupt if there was a Ctrl-C inside `noting_interrupts`."""
    if _noted:
        raise KeyboardInterrupt

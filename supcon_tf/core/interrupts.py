"""Ctrl-C that is not lost, although Python drops an exception raised inside a callback.

Callbacks are `__del__`, those of weak references, and functions that C++ calls.
"""

import contextlib
import signal
import threading

# A list that the signal handler and the checks share; its length is the number of Ctrl-Cs so far.
_noted = []


@contextlib.contextmanager
def noting_interrupts():
    """Raises KeyboardInterrupt at the end of the block at the latest, if there was a Ctrl-C in it.

    KeyboardInterrupt is also raised at once, as usual; if it was dropped there, `check_interrupts`
    raises it again. In threads other than the main one, and where the program handles Ctrl-C
    itself, the block does nothing. It may be nested, and used as a decorator.
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

"""SIGTERM and Ctrl-C, noted so that a step is finished and saved before they end the process."""

import signal
import threading


class StopSignals:
    """Notes the first SIGTERM or Ctrl-C while the block runs; a second one acts at once.

    Args:
        wanted: whether to note them; in threads other than the main one they never are.

    Attributes:
        signal: number of the signal; None until there is one.
    """

    def __init__(self, wanted: bool):
        self.wanted = wanted and threading.current_thread() is threading.main_thread()
        self.signal = None
        self.before = {}

    def __enter__(self):
        for number in (signal.SIGTERM, signal.SIGINT) if self.wanted else ():
            self.before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number, frame):
        again, self.signal = self.signal is not None, number
        if again:
            self.check()

    def check(self) -> None:
        """Ends the process as the signal asks, if there was one."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)

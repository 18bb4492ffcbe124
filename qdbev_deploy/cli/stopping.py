"""Signals that ask a command to stop: each becomes one exception, and leaves the command the time to tidy up."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

PATIENCE_S = 10.0  # in which a command that was told to stop is not told again
_ONCE_MORE_S = 0.05
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal came; whoever tidies up after Ctrl-C does so after this."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number


class Stops:
    """A context manager around a command. Signals that are ignored (nohup), or have a handler, stay as they are."""

    def __init__(self, *, process_ends: bool) -> None:
        self._process_ends = process_ends
        self._before: dict[int, Any] = {}
        self._hook: Any = None
        self._pid = os.getpid()
        self._told_s = 0.0
        self.came: Stopped | None = None

    def __enter__(self) -> Stops:
        if threading.current_thread() is threading.main_thread():  # which alone receives signals
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = before
                    signal.signal(number, self._handle)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        return self

    def __exit__(self, *_: object) -> None:
        """A process that ends is ended at once by what comes still: everything is tidy."""
        if self._hook is None:
            return
        sys.unraisablehook = self._hook
        for number, before in self._before.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, signal.SIG_DFL if self._process_ends else before)

    def _handle(self, number: int, _: object) -> None:
        if os.getpid() != self._pid:  # a helper that was forked: nothing of it is to be kept
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        now_s = time.monotonic()
        if self.came is None or now_s - self._told_s > PATIENCE_S:
            self.came, self._told_s = Stopped(number), now_s
            raise self.came

    def _unraisable(self, told: Any) -> None:
        """An exception where none can go up, in a callback of an import say, comes again a moment later."""
        if not isinstance(told.exc_value, Stopped):
            self._hook(told)
            return
        signal.signal(signal.SIGALRM, self._once_more)
        signal.setitimer(signal.ITIMER_REAL, _ONCE_MORE_S)

    def _once_more(self, *_: object) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if self.came is not None:
            raise self.came

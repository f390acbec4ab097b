"""Count repeated log lines where writing them all would flood the log. For `refold.telemetry.logging`.

Lines of one kind (level, event, code) are written up to a number within a window of time; the rest are counted, and
reported when the window ends.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

WINDOW_SECONDS: Final = 10.0
"""A window begins with the first line of a kind."""

LINES_MAX: Final = 20
"""Lines of one kind that are written within a window."""

KINDS_MAX: Final = 256
"""Kinds that have a window at the same time; one more ends the oldest."""

EVENT_CHARS_MAX: Final = 200
"""Events with the same beginning are one kind: a library's event is a text of any length."""

WRITTEN_EVENTS: Final = frozenset({"alert"})
"""Events whose lines are always written, as critical ones are: a notifier delivers by them, at a bounded rate."""


class Kind(NamedTuple):
    """What makes lines the same; `code` is an error's code or the type of an exception, empty if there is none."""

    level: str
    event: str
    code: str


class Repeated(NamedTuple):
    """Lines of a kind that were not written, within so many seconds."""

    kind: Kind
    lines: int
    seconds: float


class _Window:
    """The lines of a kind since a time, written or not."""

    __slots__ = ("begun_at", "lines")

    def __init__(self, begun_at: float) -> None:
        self.begun_at = begun_at
        self.lines = 0


class Repetitions:
    """Decide which lines are written; every other is in the count of exactly one `Repeated`."""

    def __init__(self, report: Callable[[Repeated], None], now: Callable[[], float] = time.monotonic) -> None:
        """`report` is called in any thread; while it runs, lines are still admitted."""
        self._report = report
        self._now = now
        self._lock = threading.Lock()
        # In the order in which they began.
        self._windows: dict[Kind, _Window] = {}
        self._timer: threading.Timer | None = None
        self._wakes_at = math.inf
        self._is_closed = False

    def admits(self, kind: Kind) -> bool:
        """Return whether a line is to be written; it is counted if not."""
        if kind.level == "critical" or kind.event in WRITTEN_EVENTS:
            return True
        ended: list[Repeated] = []
        with self._lock:
            if self._is_closed:
                return True
            window = self._windows.get(kind)
            if window is None or self._now() - window.begun_at >= WINDOW_SECONDS:
                window = self._begin(kind, ended)
            window.lines += 1
            is_written = window.lines <= LINES_MAX
            if not is_written:
                self._wake_at_end_of(window)
        self._report_all(ended)
        return is_written

    def close(self) -> None:
        """End all windows and report what they counted; every later line is written."""
        with self._lock:
            self._is_closed = True
            self._cancel_timer()
            ended = [self._end(kind) for kind in list(self._windows)]
        self._report_all(ended)

    def _begin(self, kind: Kind, ended: list[Repeated]) -> _Window:
        """Begin a window; end the kind's last one, or the oldest of all where there are too many."""
        if kind in self._windows:
            ended.append(self._end(kind))
        elif len(self._windows) == KINDS_MAX:
            ended.append(self._end(next(iter(self._windows))))
        window = self._windows[kind] = _Window(self._now())
        return window

    def _end(self, kind: Kind) -> Repeated:
        window = self._windows.pop(kind)
        return Repeated(kind, max(0, window.lines - LINES_MAX), self._now() - window.begun_at)

    def _wake_at_end_of(self, window: _Window) -> None:
        """Set the timer to the end of a window, unless it is set to the same time or an earlier one."""
        ends_at = window.begun_at + WINDOW_SECONDS
        if ends_at >= self._wakes_at:
            return
        self._cancel_timer()
        timer = threading.Timer(max(0.0, ends_at - self._now()), self._end_due)
        timer.daemon = True
        # No thread can be started: what is counted is reported with the kind's next window, or at the end.
        with suppress(RuntimeError):
            timer.start()
            self._timer, self._wakes_at = timer, ends_at

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._wakes_at = None, math.inf

    def _end_due(self) -> None:
        """End the windows that are over; wake again for the next that has counted lines."""
        with self._lock:
            due_at = self._now() - WINDOW_SECONDS
            due = [kind for kind, window in self._windows.items() if window.begun_at <= due_at]
            ended = [self._end(kind) for kind in due]
            self._cancel_timer()
            waiting = [window for window in self._windows.values() if window.lines > LINES_MAX]
            if waiting:
                self._wake_at_end_of(waiting[0])
        self._report_all(ended)

    def _report_all(self, ended: list[Repeated]) -> None:
        for repeated in ended:
            if repeated.lines:
                self._report(repeated)

"""A circuit breaker: stop asking a store that fails, and let one call at a time find out whether it is back.

Used by `refold.store.layers.fallback`, one for each store, and by `refold.alerts.delivery`, one for each notifier.
Clock and randomness are injected; libraries read the wall clock, which may step.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from refold.core.errors import StoreUnavailable

FAILURES_IN_A_ROW: Final = 5
"""So many failures in a row open the breaker."""

WINDOW_SECONDS: Final = 10
WINDOW_CALLS_MIN: Final = 20
"""It also opens when half of the calls of the window fail, of at least so many."""

OPEN_SECONDS: Final = 1.0
OPEN_SECONDS_MAX: Final = 30.0
"""The pause before a probe is drawn below the first, doubled after each failed probe up to the second."""


class Breaker:
    """Count calls of one store. Only `failures` are failures: after other errors, it has answered."""

    def __init__(
        self,
        *,
        timer: Callable[[], float],
        random: Callable[[], float],
        failures: tuple[type[Exception], ...] = (StoreUnavailable,),
    ) -> None:
        """`timer` returns monotonic seconds, `random` a number from 0 to 1.

        `on_change` can be set: it is called when the breaker opens, and when a probe has ended.
        """
        self._timer, self._random, self._failures = timer, random, failures
        self._in_a_row = self._probes = 0
        self._is_probing = False
        # Second, calls and failures.
        self._window: deque[list[int]] = deque(maxlen=WINDOW_SECONDS)
        self.is_open = False
        self.retry_at = 0.0
        self.openings = self.closings = 0
        self.last_failure = ""
        self.on_change: Callable[[], None] = lambda: None

    @property
    def admits(self) -> bool:
        """Tell whether a call may be made now; where it is open, one at a time and only after the pause."""
        return not self.is_open or (not self._is_probing and self._timer() >= self.retry_at)

    @property
    def state(self) -> str:
        """Return `closed`, `open` or `half_open`."""
        return "closed" if not self.is_open else "half_open" if self._timer() >= self.retry_at else "open"

    @contextmanager
    def call(self) -> Iterator[None]:
        """Make one call, which must be admitted, and count what comes of it. A cancelled call counts as none."""
        openings, is_probe = self.openings, self.is_open
        self._is_probing = self._is_probing or is_probe
        is_failure: bool | None = False
        try:
            yield
        except self._failures as error:
            is_failure, self.last_failure = True, str(error)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            is_failure = None
            raise
        finally:
            if is_probe:
                self._is_probing = False
            # Calls that began before it opened say nothing of now.
            if is_failure is not None and (is_probe or openings == self.openings):
                self._count(is_failure=is_failure)
            if is_probe:
                self.on_change()

    def retry_now(self) -> None:
        """Let the next call be made at once: there is a sign that the store is back."""
        self._probes, self.retry_at = 0, self._timer()

    def _count(self, *, is_failure: bool) -> None:
        if self.is_open:
            self._end_probe(is_failure=is_failure)
            return
        second = int(self._timer())
        if not self._window or self._window[-1][0] != second:
            self._window.append([second, 0, 0])
        self._window[-1][1] += 1
        self._window[-1][2] += is_failure
        self._in_a_row = self._in_a_row + 1 if is_failure else 0
        recent = [counted for counted in self._window if counted[0] > second - WINDOW_SECONDS]
        calls, failures = (sum(counted[column] for counted in recent) for column in (1, 2))
        is_half = calls >= WINDOW_CALLS_MIN and 2 * failures >= calls
        if is_failure and (self._in_a_row >= FAILURES_IN_A_ROW or is_half):
            self.is_open, self._probes = True, 0
            self.openings += 1
            self._pause()
            self.on_change()

    def _end_probe(self, *, is_failure: bool) -> None:
        if is_failure:
            self._probes += 1
            self._pause()
            return
        self.is_open, self._in_a_row = False, 0
        self._window.clear()
        self.closings += 1

    def _pause(self) -> None:
        seconds = min(OPEN_SECONDS * 2.0**self._probes, OPEN_SECONDS_MAX)
        self.retry_at = self._timer() + self._random() * seconds

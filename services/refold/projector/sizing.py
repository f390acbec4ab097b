"""How many events a commit may have: as many as wait, while it does not take too long.

Asked by the projector's loop. Large commits cost least, but whoever waits for one event of them waits for all.
"""

from __future__ import annotations

from refold.core.limits import COMMIT_SECONDS, RECORDS_FOLDED_MAX


class CommitSize:
    """The bound for the next commit, learnt from the last one."""

    def __init__(self, events_max: int) -> None:
        """Begin with, and never exceed, so many."""
        self._most = events_max
        self.events_max = events_max

    def learn(self, events: int, seconds: float) -> None:
        """Take in how long a commit of so many events took."""
        if seconds <= COMMIT_SECONDS:
            self.events_max = min(2 * self.events_max, self._most)
        else:
            fitting = int(events * COMMIT_SECONDS / seconds)
            self.events_max = min(max(fitting, RECORDS_FOLDED_MAX), self._most)

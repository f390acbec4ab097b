"""Lines that are tried again, each document's in their order: a few first, twice as many after each success.

Only `refold.client.importing` may use it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from refold.client.importing.line import Line

ATTEMPTS_MAX: Final = 5
"""A line whose document others keep changing is tried so often."""


class Turns:
    """What waits for its turn. What follows a failure in its document is sent in vain: hence few at first."""

    def __init__(self, lines: Iterable[Line]) -> None:
        """Take lines in their file's order."""
        self._waiting: defaultdict[str, list[Line]] = defaultdict(list)
        for line in lines:
            self._waiting[line.document].append(line)
        self._widths = dict.fromkeys(self._waiting, 1)
        self._misses: Counter[str] = Counter()
        self.given_up: list[Line] = []

    def take(self) -> list[Line]:
        """Return the lines whose turn it is; none at the end."""
        lines = [line for name, waiting in self._waiting.items() for line in waiting[: self._widths[name]]]
        return sorted(lines, key=lambda line: line.number)

    def settle(self, tried: Sequence[Line], left: Sequence[Line]) -> None:
        """Take note of which of them are still to be done: each document's last ones."""
        missed = Counter(line.document for line in left)
        for document, count in Counter(line.document for line in tried).items():
            waiting = self._waiting[document]
            done = count - missed[document]
            del waiting[:done]
            self._misses[document] = 0 if done else self._misses[document] + 1
            self._widths[document] = 1 if missed[document] else 2 * count
            if self._misses[document] == ATTEMPTS_MAX:
                self.given_up += waiting
                waiting.clear()

"""Measure what stale events cost the fold: by the distance of their base, and where one session is idle for long.

A command of its own, in one process without servers: `PYTHONPATH=tests python -m bench.conflicts`. Times are CPU time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import orjson

from bench.internals import collect_seldom
from refold.core.document import Document
from refold.core.fold.window import Recent
from refold.core.fold_state import FoldState, WindowNeeded, first_checkpoints
from refold.core.history import NEVER, Entry, Segment
from refold.core.stream import Record

DISTANCES = (1, 10, 100, 900)
EVENTS = 200
SESSIONS = 4


class Folding:
    """One document and its log, folded event by event."""

    def __init__(self, state: Any) -> None:
        self._fold_state = _under_fold_2()
        self._where = self._fold_state.route(b"state.n.d")
        self.document = Document.new(self._where)
        self.entries: list[Entry] = []
        self.publish({"put": state})

    def publish(self, event: dict[str, Any]) -> float:
        """Fold an event; return the CPU time in seconds, with that of its window where it must be loaded."""
        sequence = len(self.entries) + 1
        record = Record(sequence, sequence, b"state.n.d", b"", orjson.dumps(event))
        started_at = time.process_time()
        try:
            step = self._fold_state.fold(record, self._where, self.document)
        except WindowNeeded:
            self.document.recent = Recent(Segment(NEVER, 0, list(self.entries)), self.document.events)
            step = self._fold_state.fold(record, self._where, self.document)
        seconds = time.process_time() - started_at
        assert step.entry.status.is_effective, step.entry
        self.entries.append(step.entry)
        return seconds


def _under_fold_2() -> FoldState:
    checkpoints = first_checkpoints("bench")
    for checkpoint in checkpoints:
        checkpoint.fold = 2
    return FoldState(checkpoints)


def elements(random: Random) -> dict[str, Any]:
    """Insert into an array of 10,000 elements."""
    return {"patch": [{"op": "add", "path": f"/l/{random.randrange(9_000)}", "value": "new"}]}


def characters(random: Random) -> dict[str, Any]:
    """Insert into a string of 100,000 characters."""
    return {"patch": [{"op": "str_ins", "path": "/t", "pos": random.randrange(90_000), "str": "ab"}]}


def members(random: Random) -> dict[str, Any]:
    """Replace one of 1,000 members."""
    return {"patch": [{"op": "replace", "path": f"/o/k{random.randrange(1_000)}", "value": "new"}]}


CASES: dict[str, tuple[Callable[[], Any], Callable[[Random], dict[str, Any]]]] = {
    "array of 10,000 elements": (lambda: {"l": [f"e{n}" for n in range(10_000)]}, elements),
    "string of 100,000 characters": (lambda: {"t": "x" * 100_000}, characters),
    "object of 1,000 members": (lambda: {"o": {f"k{n}": "v" for n in range(1_000)}}, members),
}


def by_distance() -> Iterator[str]:
    """Yield, for each case and distance, the cost of a stale event: the first one's, and the median of the others."""
    for name, (state, change) in CASES.items():
        for distance in DISTANCES:
            random, folding, costs = Random(1), Folding(state()), []
            for _ in range(distance):
                folding.publish(change(random))
            for _ in range(EVENTS):
                base = folding.document.version - distance
                costs.append(folding.publish(change(random) | {"base": base, "session": "stale"}))
                folding.publish(change(random))
            median, high = statistics.median(costs[1:]), sorted(costs[1:])[int(0.99 * EVENTS) - 1]
            yield (
                f"{name}, {distance} versions behind: {median * 1e3:.3f} ms (99th {high * 1e3:.3f} ms); "
                f"with the window to load {costs[0] * 1e3:.2f} ms"
            )


def beside_an_idle_session() -> Iterator[str]:
    """Yield the rate of sessions a few versions behind, and the cost of one that is far behind."""
    for name, (state, change) in CASES.items():
        for idle in (0, 100, 950):
            random, folding = Random(1), Folding(state())
            for _ in range(idle):
                folding.publish(change(random))
            folding.publish(change(random) | {"base": folding.document.version - idle, "session": "idle"})
            busy, late = 0.0, []
            for number in range(1, 1_001):
                version = folding.document.version
                base, session = version - number % SESSIONS, f"s{number % SESSIONS}"
                busy += folding.publish(change(random) | {"base": base, "session": session})
                if idle and not number % 20:
                    base = folding.document.version - idle
                    late.append(folding.publish(change(random) | {"base": base, "session": "idle"}))
            idle_text = f"; its own events {statistics.median(late) * 1e3:.3f} ms" if late else ""
            yield f"{name}, one session {idle} versions behind: {1_000 / busy:,.0f} events/s of the others{idle_text}"


if __name__ == "__main__":
    collect_seldom()
    for line in (*by_distance(), *beside_an_idle_session()):
        print(line, flush=True)

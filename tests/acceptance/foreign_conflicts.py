"""Compare the fold in JavaScript with Refold's own on random histories of documents that several authors change.

A command of its own: `PYTHONPATH=tests python -m acceptance.foreign_conflicts [--cases N] [--seed S]`. The seed is
printed. A case is one document: authors with delay and several events in flight, or events of which most mean nothing.
Namespaces differ in their settings. Outcomes, conflicts and states must be the same to the byte.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Any

from refold.core import json_text
from refold.core.fold import RULES, genesis
from refold.core.stream import Record
from support.authors import KINDS, STRATEGIES, Folded, Garbage, Mismatch, Simulation
from support.events import START, subject_of
from support.node import ForeignFold, foreign_fold, own_fold

LOG_CASES = 250
SETTINGS: dict[str, dict[str, Any]] = {
    "first": {"on_conflict": "first_write_wins"},
    "merged": {"on_conflict": "merge"},
    "narrow": {"limits": {"operations": 3, "state_bytes": 400, "depth": 5}},
    "slow": {"limits": {"copy_bytes": 40, "shifts": 12, "event_bytes": 250}},
    "checked": {
        "schema": {"type": "object", "properties": {"n": {"type": "integer"}, "t": {"maxLength": 6}}}
    },
}


def differences(foreign: ForeignFold, seed: object, cases: int) -> Iterator[str]:
    """Fold one log of random cases by both, and say where they first differ in a document."""
    log, cases_of = _log(Random(f"{seed}"), cases)
    ours, theirs = own_fold(log, "log-1"), foreign.fold(log)
    different: set[str] = set()
    for record, own, other in zip(log, ours["outcomes"], theirs["outcomes"], strict=True):
        sequence = str(record.sequence)
        found, expected = [
            (outcome, result["conflicts"].get(sequence)) for outcome, result in ((other, theirs), (own, ours))
        ]
        case = cases_of.get(record.sequence, "")
        if found != expected and case not in different:
            different.add(case)
            yield f"{case}, {record.body.decode()}: {found} instead of {expected}"
    if not different and theirs != ours:
        yield "the heads or the chains"


def _log(random: Random, cases: int) -> tuple[list[Record], dict[int, str]]:
    """Return a log, and the case of each of its records."""
    system = [("_refold", "log", genesis("log-1", RULES[2]))]
    system += [("_refold", f"settings:{name}", {"put": settings}) for name, settings in SETTINGS.items()]
    events = [(random.choice(["n", *SETTINGS]), f"d{case}", _events(random)) for case in range(cases)]
    said = [*system, *((name, document, event) for name, document, some in events for event in some)]
    log = [
        Record(at, START + at, subject_of(name, document), b"", json_text.dumps(event))
        for at, (name, document, event) in enumerate(said, 1)
    ]
    return log, {at: f"{name}/{document}" for at, (name, document, _) in enumerate(said, 1)}


def _events(random: Random) -> list[dict[str, Any]]:
    """Return the events of one document."""
    if random.random() < 0.4:
        return _garbage(random)
    simulation = Simulation(
        random,
        authors=random.randint(2, 4),
        operations=random.choice([1, 2, 4]),
        strategies=[*STRATEGIES, "merge", "merge"],
        kinds=random.choice([KINDS, KINDS | {"put": 1, "merge": 2}, KINDS | {"put": 1, "delete": 1}]),
    )
    with suppress(Mismatch):
        simulation.play(random.choice([6, 10, 20]))
    (_, state), *history = simulation.history
    return [{"put": state}, *(event for event in history if isinstance(event, dict))]


def _garbage(random: Random) -> list[dict[str, Any]]:
    garbage = Garbage(random)
    folded, events = Folded(garbage.first), [{"put": garbage.first}]
    for _ in range(random.choice([6, 12, 25])):
        event = garbage.event(folded.document.version)
        events.append(event)
        # Its values become part of the document.
        folded.publish(json_text.loads(json_text.dumps(event)))
    return events


def main() -> int:
    """Compare all cases, log by log; 1 where there is a difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = int.from_bytes(os.urandom(4)) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    wrong = 0
    with foreign_fold() as foreign:
        for begin in range(0, given.cases, LOG_CASES):
            for difference in differences(foreign, f"{seed}/{begin}", min(LOG_CASES, given.cases - begin)):
                wrong += 1
                print(f"log {begin}: {difference}", flush=True)
    print(f"{given.cases} cases, {wrong} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

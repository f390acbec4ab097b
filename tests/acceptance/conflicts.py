"""Plays many cases of authors who write to one document at the same time, and names those that went wrong.

A command of its own: `PYTHONPATH=tests python -m acceptance.conflicts [--cases N] [--seed S] [--jobs N]`.
A case is some authors with delay and several events in flight; `support.identities` says what must come of it. Most
cases have one operation an event, one in 200 is long. It prints its seed; `--seed` and `--case` repeat one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from random import Random

from support.authors import Room

SHOWN_MAX = 10
CHUNK = 250


def play(seed: int, case: int) -> Room:
    """Play one case."""
    random = Random(f"{seed}/{case}")
    operations = random.randint(2, 4) if case % 3 == 0 else 1
    turns = 80 if case % 200 == 0 else random.choice([4, 6, 8, 10, 14])
    room = Room(random, authors=random.randint(2, 4), operations=operations)
    room.play(turns)
    return room


def play_some(
    seed: int, begin: int, end: int, until: float
) -> tuple[int, Counter[str], list[tuple[int, str]]]:
    """Play cases; return how many there were, what they had in them, and those that went wrong."""
    counts: Counter[str] = Counter()
    wrong: list[tuple[int, str]] = []
    played = 0
    for case in range(begin, end):
        if time.monotonic() > until:
            break
        played += 1
        try:
            counts += play(seed, case).counts
        except Exception:  # noqa: BLE001 - whatever goes wrong is counted
            wrong.append((case, traceback.format_exc(limit=-1)))
    return played, counts, wrong


def main() -> int:
    """Play all cases on all cores; 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--case", type=int, default=None, help="play this one only")
    parser.add_argument("--seconds", type=float, default=3_600)
    given = parser.parse_args()
    seed = int.from_bytes(os.urandom(4)) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    if given.case is not None:
        play(seed, given.case)
        return 0
    started_at = time.monotonic()
    until = started_at + given.seconds
    played, counts, wrong = 0, Counter[str](), []
    with ProcessPoolExecutor(given.jobs) as pool:
        begins = range(0, given.cases, CHUNK)
        ends = [min(begin + CHUNK, given.cases) for begin in begins]
        for some in pool.map(play_some, [seed] * len(ends), begins, ends, [until] * len(ends)):
            played += some[0]
            counts += some[1]
            wrong += some[2]
    for case, text in wrong[:SHOWN_MAX]:
        print(f"case {case}: {text}")
    print(f"{played:,} cases in {time.monotonic() - started_at:.0f} s:", dict(sorted(counts.items())))
    print(f"{len(wrong)} went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

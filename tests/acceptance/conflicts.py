"""Play many cases of authors who write to one document at the same time, and report those that went wrong.

A command of its own: `PYTHONPATH=tests python -m acceptance.conflicts [--cases N] [--seed S] [--jobs N]`.
A case is some authors with delay and several events in flight. Every outcome and state is compared with the oracle of
`support.identities`. Two thirds of the cases have one operation an event, the others up to four; one in 25 is long.
The seed is printed; `--seed` and `--case` repeat one case and print its events.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from random import Random

from support.authors import KINDS, STRATEGIES, Simulation

SHOWN_MAX = 10
CHUNK = 250


def play(seed: int, case: int, without: Sequence[str] = (), *, is_shown: bool = False) -> Counter[str]:
    """Play one case; return what was in it."""
    random = Random(f"{seed}/{case}")
    simulation = Simulation(
        random,
        authors=random.randint(2, 4),
        operations=random.randint(2, 4) if case % 3 == 0 else 1,
        strategies=[*STRATEGIES, "merge", "merge"],
        kinds=random.choice(
            [KINDS, KINDS, KINDS | {"put": 1, "merge": 2}, KINDS | {"put": 1, "merge": 1, "delete": 1}]
        ),
        without=without,
    )
    try:
        simulation.play(60 if case % 25 == 0 else random.choice([4, 6, 8, 10, 14, 20]))
    finally:
        if is_shown:
            print(*simulation.history, sep="\n")
    return simulation.counts


def play_some(
    seed: int, begin: int, end: int, until: float, without: Sequence[str]
) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Play cases; return what was in them, and those that went wrong."""
    counts: Counter[str] = Counter()
    wrong: list[tuple[int, str]] = []
    for case in range(begin, end):
        if time.monotonic() > until:
            break
        counts["cases"] += 1
        try:
            counts += play(seed, case, without)
        except Exception:  # noqa: BLE001 - whatever goes wrong is counted
            wrong.append((case, traceback.format_exc(limit=-1)))
    return counts, wrong


def main() -> int:
    """Play all cases on all cores; 1 where one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--case", type=int, default=None, help="play this one only, and print its events")
    parser.add_argument("--seconds", type=float, default=3_600)
    parser.add_argument("--without", action="append", default=[], help="an operation that does not occur")
    given = parser.parse_args()
    seed = int.from_bytes(os.urandom(4)) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    if given.case is not None:
        play(seed, given.case, given.without, is_shown=True)
        return 0
    started_at = time.monotonic()
    until = started_at + given.seconds
    counts, wrong = Counter[str](), []
    with ProcessPoolExecutor(given.jobs) as pool:
        begins = range(0, given.cases, CHUNK)
        ends = [min(begin + CHUNK, given.cases) for begin in begins]
        same = [[each] * len(ends) for each in (seed, until, given.without)]
        for some in pool.map(play_some, same[0], begins, ends, same[1], same[2]):
            counts += some[0]
            wrong += some[1]
    for case, text in wrong[:SHOWN_MAX]:
        print(f"case {case}: {text}")
    seconds = time.monotonic() - started_at
    print(f"{counts['cases'] / seconds:.0f} cases/s in {seconds:.0f} s:", dict(sorted(counts.items())))
    print(f"{len(wrong)} went wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

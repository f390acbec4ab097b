"""Kills `refold usage` at any moment while it counts the real history: the counts and their checkpoint always agree.

A command of its own: `PYTHONPATH=tests python tests/acceptance/usage_kills.py [--kills N] [--lines N] [--seed N]`.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from refold.transfer import LinesFile
from support.up import Up, environment, run_refold

HISTORY = Path(__file__).parents[2].parent / "shared" / "data" / "eol-history.jsonl.zst"
BATCH_EVENTS = 25
"""Many transactions: most kills come between two, or in one."""

COUNT = f"""
import asyncio, sys
from pathlib import Path
from refold.usage import reader
from refold.wiring.settings import load
from refold.wiring.usage import read_usage

reader.BATCH_EVENTS_MAX = {BATCH_EVENTS}
asyncio.run(read_usage(load(data=Path(sys.argv[1])), {{"namespace": None}}, lambda *_: print(flush=True)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--lines", type=int, default=22_803)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with TemporaryDirectory(prefix="refold-usage-kills-") as folder:
        path = Path(folder)
        lines = path / "lines.jsonl"
        lines.write_bytes(
            b"".join(text + b"\n" for _, text in islice(LinesFile(HISTORY).lines(), given.lines))
        )
        up = Up.start(path / "data", "--store", "files", "--durability", "os")
        try:
            imported = run_refold("import", "eol", str(lines), "--url", up.url)
            assert imported.returncode == 0, imported.stderr
            for name, count in drill(up.data, kills=given.kills, seed=given.seed).items():
                print(f"{count:>8,}  {name}")
        finally:
            up.stop()


def drill(data: Path, *, kills: int, seed: int) -> dict[str, int]:
    """Kill a process that counts, again and again; return what was seen. Raises `AssertionError`."""
    dice, path = random.Random(seed), data / "usage.sqlite"
    expected, batches, end = _count_whole(data, path)
    seen = {"kills": 0, "kills between the first and the last event": 0, "runs to the end": 0}
    while seen["kills"] < kills:
        with _counting(data) as process:
            assert process.stdout is not None
            for _ in range(dice.randrange(max(2, batches // 4))):
                if not process.stdout.readline():
                    break
            # Up to a few transactions later.
            time.sleep(dice.uniform(0, 0.005))
            process.kill()
        seen["kills"] += 1
        sequence = _check(path)
        seen["kills between the first and the last event"] += 0 < sequence < end
        if process.returncode == 0:
            assert content(path) == expected, f"after {seen}"
            path.unlink()
            seen["runs to the end"] += 1
    with _counting(data) as process:
        process.communicate()
    assert process.returncode == 0
    assert content(path) == expected
    return seen


def _count_whole(data: Path, path: Path) -> tuple[str, int, int]:
    """Count without a kill and remove the file; return its content, its number of transactions and its sequence."""
    path.unlink(missing_ok=True)
    with _counting(data) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0
    found, sequence = content(path), _check(path)
    path.unlink()
    return found, len(printed.splitlines()), sequence


def _counting(data: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", COUNT, str(data)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment())


def _check(path: Path) -> int:
    """Check that the counts are those of all events up to the checkpoint; return its sequence, 0 without a file."""
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as file:
        if not file.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'sessions_by_start'").fetchone()[
            0
        ]:
            return 0
        sequence = int((file.execute("SELECT sequence FROM log").fetchone() or (0,))[0])
        for table in ("counts", "sessions"):
            found = file.execute(f"SELECT coalesce(sum(events), 0) FROM {table}").fetchone()[0]
            assert found == sequence, f"{table}: {found} events, and the checkpoint is {sequence}"
    return sequence


def content(path: Path) -> str:
    """Return all that is in the file."""
    with closing(sqlite3.connect(path)) as file:
        return "\n".join(file.iterdump())


if __name__ == "__main__":
    main()

"""Kills the writer of a store on disk in the middle of its commits, and cuts its files short; then reads all back.

A command of its own: `PYTHONPATH=tests python tests/acceptance/store_damage.py [--rounds N] [--seed N]`: so many kills,
and as many kills after which the end of a file is lost. What must hold after each: the checkpoints and every document
are of the same commit, and a kill alone loses no commit that had returned. Of the write-ahead log, only what was not
synced is cut, as by a power cut; a database file that is cut short must be refused, or be whole.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

from refold.core import json_text
from refold.core.errors import StoreDamaged
from refold.core.history import Clock, Point
from refold.store.sqlite import SqliteStore
from refold.store.sqlite.schema import LIVE
from refold.telemetry.logging import configure
from support.scribe import NAMESPACE
from support.stores import begin

DOCUMENTS: Final = 40
EVENTS_MAX: Final = 60
"""Events of one commit."""

RUN_SECONDS_MAX: Final = 0.25
COMMITTED: Final = struct.Struct(">Q")

# The write-ahead log's file (https://sqlite.org/walformat.html): its header, and the frames of one page each.
HEADER_BYTES: Final = 32
FRAME_BYTES: Final = 24 + 4096
# In its index: the last frame of a commit, and how many frames may be in the database already.
FRAMES_AT, BACKFILLED_AT, ATTEMPTED_AT = 16, 96, 128


def name_of(sequence: int) -> str:
    """Return the document of the event at a sequence."""
    return f"d{sequence * 7919 % DOCUMENTS}"


def state_of(sequence: int) -> bytes:
    """Return the state that it writes: of any size from a few bytes to 40 KB."""
    text = str(sequence) * (1 if sequence % 50 else 6_000)
    return json_text.dumps({"n": sequence, "text": text})


async def write(folder: Path, committed: int, seed: int) -> None:
    """Continue a store commit by commit, and report each as it returns."""
    rng = random.Random(seed)
    store = await SqliteStore.open(folder)
    scribe = await begin(store)
    keys = [(NAMESPACE, f"d{number}") for number in range(DOCUMENTS)]
    for document in await store.load(keys):
        scribe.documents[document.namespace, document.document] = document
    while True:
        for _ in range(rng.randrange(1, EVENTS_MAX)):
            sequence = scribe.sequence + 1
            name = name_of(sequence)
            scribe.put(name, json_text.loads(state_of(sequence)))
            if rng.random() < 0.05:
                scribe.cut(name)
        await store.commit(scribe.commit())
        os.write(committed, COMMITTED.pack(scribe.sequence))


def killed_while_writing(folder: Path, rng: random.Random) -> int:
    """Fork a writer, kill it after a while, and return the last sequence whose commit had returned."""
    reading, writing = os.pipe()
    seed = rng.randrange(1 << 30)
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            asyncio.run(write(folder, writing, seed))
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as reports:
        last = reports.read(COMMITTED.size)
        time.sleep(rng.random() * RUN_SECONDS_MAX)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL, "the writer has failed by itself"
        last += reports.read()
    return COMMITTED.unpack_from(last, (len(last) // COMMITTED.size - 1) * COMMITTED.size)[0]


def cut_log(folder: Path, rng: random.Random) -> bool:
    """Lose a part of the write-ahead log that no checkpoint has synced."""
    file = (folder / LIVE).resolve()
    index = file.with_name(f"{file.name}-shm").read_bytes()
    frames, backfilled, attempted = (
        struct.unpack_from("=I", index, at)[0] for at in (FRAMES_AT, BACKFILLED_AT, ATTEMPTED_AT)
    )
    first, end = (HEADER_BYTES + FRAME_BYTES * count for count in (max(backfilled, attempted), frames))
    if first >= end:
        return False
    os.truncate(file.with_name(f"{file.name}-wal"), rng.randrange(first, end))
    return True


def cut_database(folder: Path, rng: random.Random) -> None:
    """Lose the end of the database file."""
    file = (folder / LIVE).resolve()
    size = file.stat().st_size
    os.truncate(file, size - rng.randrange(1, min(size, 256 * 1024)))


async def read_back(folder: Path) -> tuple[int, list[str]]:
    """Return the sequence of the checkpoints, and what is not of that sequence."""
    store = await SqliteStore.open(folder)
    try:
        checkpoints = await store.checkpoints()
        # None where the binding to the log was cut off, too: then everything must be empty.
        (sequence,) = {checkpoint.read_sequence for checkpoint in checkpoints} or {0}
        events: dict[str, list[int]] = {f"d{number}": [] for number in range(DOCUMENTS)}
        for at in range(1, sequence + 1):
            events[name_of(at)].append(at)
        torn = []
        counted = sum(checkpoint.counts[0] for checkpoint in checkpoints)
        if counted != sequence or sum(each.events for each in await store.namespaces()) != sequence:
            torn.append("counts")
        for name, sequences in events.items():
            head = await store.head(NAMESPACE, name)
            expected = (len(sequences), state_of(sequences[-1])) if sequences else None
            if (head and (head.snapshot.version, head.snapshot.state)) != expected:
                torn.append(f"{name}: its state")
            parts = store.segments(NAMESPACE, name, after_version=None, is_descending=False)
            if [entry.sequence async for part in parts for entry in part.entries] != sequences:
                torn.append(f"{name}: its history")
            middle = Point(Clock.version, len(sequences) // 2)
            found = await store.snapshot_at(NAMESPACE, name, middle)
            if middle.value and (found is None or found.state != state_of(sequences[middle.value - 1])):
                torn.append(f"{name}: its version {middle.value}")
        return sequence, torn
    finally:
        await store.close()


def run(folder: Path, rounds: int, seed: int) -> tuple[Counter[str], int]:
    """Kill, damage, read back, again and again; return what happened, and the number of rounds that failed."""
    rng, counts, failed = random.Random(seed), Counter[str](), 0
    for number in range(2 * rounds):
        committed = killed_while_writing(folder, rng)
        kind = "kill" if number < rounds else rng.choice(["log cut", "log cut", "database cut"])
        if kind == "database cut":
            cut_database(folder, rng)
        elif kind == "log cut" and not cut_log(folder, rng):
            kind = "log cut, nothing to lose"
        counts[kind] += 1
        try:
            sequence, torn = asyncio.run(read_back(folder))
        except StoreDamaged:
            torn = [] if kind == "database cut" else ["refused as damaged"]
            sequence = committed if torn else 0
            counts[f"{kind}: refused as damaged"] += 1
            shutil.rmtree(folder)
        if kind in {"kill", "log cut, nothing to lose"} and sequence < committed:
            torn.append(f"lost {committed - sequence} events that were committed")
        elif kind == "log cut" and sequence < committed:
            counts["log cut: rolled back"] += 1
        counts["events"] = max(counts["events"], sequence)
        if torn:
            failed += 1
            print(f"round {number}, {kind}, at {sequence} of {committed}: {torn[:5]}")
    return counts, failed


def main() -> int:
    """Read the arguments, run, print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    given = parser.parse_args()
    configure("error", service="store_damage")
    print(f"seed {given.seed}")
    with tempfile.TemporaryDirectory(prefix="refold-store-damage-") as folder:
        counts, failed = run(Path(folder) / "store", given.rounds, given.seed)
    for what, count in sorted(counts.items()):
        print(f"{what}: {count:,}")
    print(f"torn: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The work that every peer does, and how it is timed. For the peers' programs: standard library only.

A peer's program is called with the arguments of `arguments`, on a store of its own that is empty, and prints a line of
JSON a figure: `{"figure": "append_8", "value": 1234.5}`. `work.mjs` does the same in JavaScript; both must agree.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Awaitable, Callable, Iterator
from hashlib import sha256
from itertools import count, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

MEMBERS = 16
WRITERS = (1, 8, 64)
BATCHES = (100, 1_000)
LOADED = 100
"""Documents of this many events are loaded: those of the first batches."""

STRIDE = 37
"""Documents are read in steps of this many: not in the order in which they were written."""

Change = list[dict[str, Any]]
"""A JSON Patch of one operation, about 180 bytes as JSON."""

Append = Callable[[str, int, Change], None]
"""A writer: appends one event to a document that must be at a version."""


class Peer(Protocol):
    """What a peer can do; what it has no way to do is absent (see `run`).

    A store with a blocking client also has `writer`: called once per writer, it returns an `Append` for a thread.
    """

    async def append(self, document: str, version: int, changes: list[Change]) -> None:
        """Append events to the document, which must be at the version."""

    async def load(self, document: str, version: int | None) -> Any:
        """Return the document's state, at its head or at a version."""


def arguments() -> Namespace:
    """Read the command line, the same for every peer."""
    parser = ArgumentParser()
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--loads", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument(
        "--address", required=True, help="DSN, URL or data folder of what the runner started."
    )
    parser.add_argument("--home", type=Path, required=True, help="Folder that the peers are installed in.")
    parser.add_argument("--variant", default="")
    return parser.parse_args()


def change(document: str, version: int) -> Change:
    """Return the event that makes a version (from 1 on): other text each, the same in every run."""
    text = sha256(f"{document}/{version}".encode()).hexdigest()
    value = {"number": version, "text": text + text[:48]}
    return [{"op": "add", "path": f"/member-{version % MEMBERS:02}", "value": value}]


def fold(state: dict[str, Any], patch: Change) -> dict[str, Any]:
    """Apply a change: the peers' own fold needs only one operation, which sets a member."""
    for operation in patch:
        state[operation["path"][1:]] = operation["value"]
    return state


def expected(document: str, version: int) -> dict[str, Any]:
    """Return the state that a document must have at a version."""
    state: dict[str, Any] = {}
    for number in range(max(1, version - MEMBERS + 1), version + 1):
        fold(state, change(document, number))
    return state


def say(figure: str, value: float) -> None:
    """Print a figure."""
    print(json.dumps({"figure": figure, "value": value}), flush=True)


async def run(peer: Any, work: Namespace) -> None:
    """Do all the work that the peer has a way to do, in the same order for each."""
    for size in BATCHES:
        documents = [f"b{size}-{number}" for number in range(work.events // size)]
        await measure_batches(peer, documents, size)
        if size == LOADED:
            await measure_loads(peer, documents, size, work.loads)
    await measure_replay(peer, work.events * len(BATCHES))
    for writers in WRITERS:
        documents = [f"w{writers}-{number}" for number in range(work.documents)]
        waiting = Line(documents, work.events // work.documents, work.seconds)
        await measure_singles(peer, waiting, writers)
    say("memory", peak_bytes())


async def measure_singles(peer: Any, waiting: Line, writers: int) -> None:
    """Append single events by concurrent writers, all of them or until the deadline."""
    # Connecting is not timed.
    appends = [peer.writer() for _ in range(writers)] if hasattr(peer, "writer") else []
    started_at = time.perf_counter()
    if appends:
        in_threads(appends, waiting)
    else:
        await in_tasks(peer, waiting, writers)
    say(f"append_{writers}", waiting.appended / (time.perf_counter() - started_at))
    await catch_up(peer)


async def measure_replay(peer: Any, total: int) -> None:
    """Read every event and fold it in memory; make a read model of them."""
    for way in ("read_all", "rebuild"):
        if hasattr(peer, way):
            started_at = time.perf_counter()
            # A peer that measures itself, or takes fewer events, returns how many a second.
            rate = await getattr(peer, way)(total)
            say(way, rate or total / (time.perf_counter() - started_at))


async def measure_batches(peer: Any, documents: list[str], size: int) -> None:
    """Append batches, each all of one document's events, one batch after another."""
    batches = {document: [change(document, version + 1) for version in range(size)] for document in documents}
    started_at = time.perf_counter()
    for document, changes in batches.items():
        await peer.append(document, 0, changes)
    say(f"batch_{size}", len(documents) * size / (time.perf_counter() - started_at))
    await catch_up(peer)
    if hasattr(peer, "load"):
        assert await peer.load(documents[-1], None) == expected(documents[-1], size)


async def measure_loads(peer: Any, documents: list[str], versions: int, loads: int) -> None:
    """Load the latest state, then the one of the middle version, of scattered documents one after another."""
    for name, version in (("latest", None), ("middle", versions // 2)):
        if name not in getattr(peer, "loads", ("latest", "middle")):
            continue
        for document in documents:
            assert await peer.load(document, version) == expected(document, version or versions)
        asked = [documents[number * STRIDE % len(documents)] for number in range(loads)]
        await time_loads(peer.load, asked, version, name)


async def time_loads(
    load: Callable[[str, int | None], Awaitable[Any]], asked: list[str], version: int | None, name: str
) -> None:
    """Time each load."""
    taken = []
    started_at = time.perf_counter()
    for document in asked:
        started = time.perf_counter()
        await load(document, version)
        taken.append(time.perf_counter() - started)
    say(f"load_{name}", len(asked) / (time.perf_counter() - started_at))
    taken.sort()
    say(f"load_{name}_p50", taken[len(taken) // 2] * 1_000)
    say(f"load_{name}_p99", taken[len(taken) * 99 // 100] * 1_000)


async def catch_up(peer: Any) -> None:
    """Wait, untimed, until appended events can be read, if that is later."""
    if hasattr(peer, "catch_up"):
        await peer.catch_up()


async def in_tasks(peer: Peer, waiting: Line, writers: int) -> None:
    """Append from several tasks, which take documents in turn."""

    async def write() -> None:
        for document, version in waiting:
            await peer.append(document, version, [change(document, version + 1)])

    async with asyncio.TaskGroup() as group:
        for _ in range(writers):
            group.create_task(write())


def in_threads(appends: list[Append], waiting: Line) -> None:
    """Append from several threads, each with its own append, which take documents in turn."""
    failures: list[BaseException] = []

    def write(append: Append) -> None:
        try:
            for document, version in waiting:
                append(document, version, change(document, version + 1))
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread.
            failures.append(error)

    threads = [threading.Thread(target=write, args=(append,)) for append in appends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


class Line:
    """A queue of documents: each is queued again once its event is appended.

    So a document's events never overtake each other, and all writers have work until the end.
    """

    def __init__(self, documents: list[str], versions: int, seconds: float) -> None:
        """Queue them at version 0; yield none after the deadline."""
        self._waiting: SimpleQueue[tuple[str, int]] = SimpleQueue()
        for document in documents:
            self._waiting.put((document, 0))
        self._versions = versions
        self._deadline = time.perf_counter() + seconds
        self._served = count()

    @property
    def appended(self) -> int:
        """Close the queue and return the number of events."""
        return next(self._served)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Yield the next document and its version."""
        while time.perf_counter() < self._deadline:
            try:
                document, version = self._waiting.get_nowait()
            except Empty:
                return
            yield document, version
            next(self._served)
            if version + 1 < self._versions:
                self._waiting.put((document, version + 1))


def batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Yield lists of at most so many items."""
    while taken := list(islice(items, size)):
        yield taken


def peak_bytes() -> int:
    """Return the peak resident memory of this process (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

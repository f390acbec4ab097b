"""Memory: what the processes take, and what Python has in place of pools of objects."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from services import process_of, resident_bytes, until_ready

from refold import System
from refold.bench.workload import NAMESPACE, Workload
from refold.core.document import Document
from refold.core.fold import genesis
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.stream import Record, Route
from refold.wiring.service import COLLECT_AFTER

LOG_ID = "example"
EVENTS, DOCUMENTS = 20_000, 1_000
OBJECTS = 300_000
PYTHON_THRESHOLD = gc.get_threshold()


async def show_processes(system: System) -> None:
    """Print the memory of the system's processes, and that of a projector that has just been started again."""
    print("\n▸ Memory: what the processes have after all this")
    for name in ("projector", "gateway", "nats-server", "postgres"):
        print(f"  {name:12} {_megabytes(name):4.0f} MB")
    projector = process_of("projector")
    projector.kill()
    begun = time.monotonic()
    await until_ready(system.services["projector"], not_pid=projector.pid)
    print(
        f"  kill -9 of the projector: ready after {time.monotonic() - begun:.1f} s, "
        f"with {_megabytes('projector'):.0f} MB"
    )


def _megabytes(name: str) -> float:
    return resident_bytes(process_of(name)) / 2**20


def compare_collections() -> None:
    """Fold the same events in memory under different thresholds of the garbage collector."""
    print(
        f"\n▸ Memory: {EVENTS:,} events are folded in memory, with three settings of Python's garbage collector"
    )
    records = _records()
    print("  gc.set_threshold            µs an event  collections  of the time  freed")
    for name, threshold in (
        ("Python's own", PYTHON_THRESHOLD),
        ("Refold's", COLLECT_AFTER),
        ("never", (0, 0, 0)),
    ):
        gc.collect()
        gc.set_threshold(*threshold)
        with _collections() as collections:
            begun = time.process_time()
            versions = _fold(records)
            seconds = time.process_time() - begun
        gc.set_threshold(*PYTHON_THRESHOLD)
        share = sum(taken for taken, _ in collections) / seconds
        freed = sum(found for _, found in collections)
        print(
            f"  {f'{name} {threshold}':26} {1e6 * seconds / EVENTS:12.1f} {len(collections):12} {share:12.0%} {freed:6}"
        )
        assert versions == EVENTS


def compare_pool() -> None:
    """Create small objects, and take them from a pool to which they return."""
    print(f"\n▸ Memory: {OBJECTS:,} objects of five members, one after the other")
    pool: list[dict[str, Any]] = [{}]

    def pooled(number: int) -> None:
        event = pool.pop()
        event["id"], event["type"], event["actor"], event["base"], event["patch"] = number, "t", "a", 1, None
        event.clear()
        pool.append(event)

    def created(number: int) -> None:
        _ = {"id": number, "type": "t", "actor": "a", "base": 1, "patch": None}

    def as_tuple(number: int) -> None:
        _ = (number, "t", "a", 1, None)

    for name, make in (
        ("a dictionary from a pool", pooled),
        ("a new dictionary", created),
        ("a new tuple", as_tuple),
    ):
        print(f"  {name:24} {_nanoseconds(make):4.0f} ns")


def _nanoseconds(make: Callable[[int], None]) -> float:
    """Return the shortest of three measurements, for one object."""
    best = float("inf")
    for _ in range(3):
        begun = time.process_time()
        for number in range(OBJECTS):
            make(number)
        best = min(best, time.process_time() - begun)
    return 1e9 * best / OBJECTS


@contextmanager
def _collections() -> Iterator[list[tuple[float, int]]]:
    """Record each run of the garbage collector: its seconds, and how many objects it freed."""
    found: list[tuple[float, int]] = []
    begun = 0.0

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal begun
        if phase == "start":
            begun = time.process_time()
        else:
            found.append((time.process_time() - begun, info["collected"]))

    gc.callbacks.append(note)
    try:
        yield found
    finally:
        gc.callbacks.remove(note)


def _records() -> list[Record]:
    """Return a log: its beginning, and a workload's events."""
    now = time.time_ns()
    workload = Workload(documents=DOCUMENTS)
    first = Record(1, now, Route.of("_refold", "log").subject, b"", orjson.dumps(genesis(LOG_ID)))
    events = enumerate(workload.events(EVENTS), 2)
    return [
        first,
        *(
            Record(n, now + n, Route.of(NAMESPACE, event.document).subject, b"", event.body)
            for n, event in events
        ),
    ]


def _fold(records: list[Record]) -> int:
    """Fold all, and keep documents and entries as a projector does; return how many versions there are."""
    fold, documents, entries = FoldState(first_checkpoints(LOG_ID)), dict[bytes, Document](), list[object]()
    for record in records:
        where = fold.route(record.subject)
        document = documents.get(record.subject)
        if document is None:
            document = documents[record.subject] = Document.new(where)
        entries.append(fold.fold(record, where, document).entry)
    return sum(document.version for document in documents.values()) - 1

"""The memory adapter, PostgreSQL and SQLite return the same results for any commits."""

from __future__ import annotations

import asyncio
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from refold.core.history import Clock, Point
from refold.store.ports import SnapshotStore
from refold.store.postgres.commit import STORE_FEW_EVENTS_MAX
from support.scribe import NAMESPACE
from support.stores import HOSTILE, all_entries, begin, memory_stores, postgres_stores, sqlite_stores

DOCUMENTS = ("a", "b", "c:~")
EVENTS = (
    {"put": HOSTILE},
    {"put": None},
    {"put": [], "occurred_at": "1969-07-20T20:17:40Z"},
    {"merge": {"a": {"b": 1}, "\u0000": None}, "id": "x"},
    {"merge": {"a": None}, "id": "y", "occurred_at": "2023-11-14T22:13:25Z"},
    {"patch": [{"op": "add", "path": "", "value": 1.5}], "id": "x"},
    {"patch": [{"op": "test", "path": "/a/b", "value": 1}, {"op": "copy", "from": "/a", "path": "/z"}]},
    {"delete": True},
    {"put": 1, "base": 2, "id": "rejected"},
    b"\x00garbage",
)

steps = st.tuples(
    st.sampled_from(DOCUMENTS),
    st.sampled_from(EVENTS),
    st.integers(0, 30),
    st.sampled_from(["", "cut", "commit", "cut, commit", "lag", "cut, lag", "flush"]),
)
_schemas = count(1)


EVERY_EVENT = [("a", event, 0, "") for event in (*EVENTS, *EVENTS)]
"""Twice, so that ids repeat, in one commit."""


@pytest.mark.parametrize("few_events", [0, STORE_FEW_EVENTS_MAX], ids=["copied", "in one statement"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=1, max_size=30))
@example(EVERY_EVENT)
def test_every_adapter_returns_the_same_for_any_commits(postgres_dsn, few_events, plan):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("refold.store.postgres.commit.STORE_FEW_EVENTS_MAX", few_events)
        asyncio.run(play(plan, postgres_dsn))


async def play(plan, dsn):
    with TemporaryDirectory(prefix="refold-twins-") as folder:
        async with (
            memory_stores() as open_memory,
            postgres_stores(dsn, schema=f"s{next(_schemas)}") as open_postgres,
            sqlite_stores(Path(folder)) as open_sqlite,
        ):
            twins = Twins(await open_memory(), await open_postgres(), await open_sqlite())
            await play_on(plan, twins)


class Twins(NamedTuple):
    """A store of each adapter."""

    memory: SnapshotStore
    postgres: SnapshotStore
    sqlite: SnapshotStore


async def play_on(plan, twins):
    scribe, *_ = [await begin(store) for store in twins]
    for document, event, seconds, then in plan:
        is_conflict = isinstance(event, dict) and event.get("id") == "x"
        scribe.publish(document, event, at=seconds, conflict=b'{"strategy":"m"}' if is_conflict else None)
        if "cut" in then:
            scribe.cut(document)
        if "commit" in then or "lag" in then:
            await commit(twins, scribe, omitted=DOCUMENTS if "lag" in then else ())
        if "flush" in then:
            await twins.postgres.flusher.write(NAMESPACE, document)
    await commit(twins, scribe)
    questions = list(points(scribe))
    expected = await answers(twins.memory, questions)
    assert expected == await answers(twins.postgres, questions)
    assert expected == await answers(twins.sqlite, questions)
    await twins.postgres.flush_states(is_final=True)
    rows = await stored(twins.memory)
    assert rows == await stored(twins.postgres)
    assert rows == await stored(twins.sqlite)


async def commit(twins, scribe, **how):
    """Commit to all; only PostgreSQL omits some states."""
    made = scribe.commit(**how)
    whole = scribe.with_states(made)
    await twins.memory.commit(whole)
    await twins.postgres.commit(made)
    await twins.sqlite.commit(whole)


def points(scribe):
    """Yield versions, sequences, and the times around events."""
    yield from (Point(Clock.version, version) for version in range(-1, 9))
    yield from (Point(Clock.sequence, sequence) for sequence in range(0, scribe.sequence + 2, 2))
    entries = [entry for entries in scribe.entries.values() for entry in entries]
    for time in sorted({time for entry in entries for time in (entry.recorded_at, entry.occurred_at)})[::3]:
        yield from (
            Point(clock, time + late) for clock in (Clock.recorded, Clock.occurred) for late in (0, -1)
        )


async def answers(store, questions):
    """Read everything through every method of a store."""
    keys = [(NAMESPACE, document) for document in DOCUMENTS]
    found = [await store.checkpoints(), await store.namespaces()]
    found += [sorted(await store.load(keys), key=lambda document: document.document)]
    found += [await store.list_documents(NAMESPACE, prefix="", where=None, limit=2, cursor=None)]
    for document in DOCUMENTS:
        found += [await store.head(NAMESPACE, document), await all_entries(store, document)]
        found += [await all_entries(store, document, is_descending=True, after_version=3)]
        found += [await all_entries(store, document, after_version=3)]
        found += [await store.rejections(NAMESPACE, document, limit=50, before_sequence=None)]
        for order in ({"after_sequence": None}, {"after_sequence": 9}):
            for is_descending in (False, True):
                parts = store.conflicts(NAMESPACE, document, **order, is_descending=is_descending)
                found += [[entry async for part in parts for entry in part]]
        found += [
            await store.find_id(NAMESPACE, document, event_id) for event_id in ("x", "y", "rejected", "z")
        ]
        found += [await store.entry(NAMESPACE, document, sequence) for sequence in range(0, 32, 3)]
        found += [await store.snapshot_at(NAMESPACE, document, point) for point in questions]
    return found


async def stored(store):
    """Read every row."""
    async with store.read_snapshot() as snapshot:
        found = [await snapshot.checkpoints(), await snapshot.namespaces()]
        for asked in ((None, None), (NAMESPACE, None), (NAMESPACE, "b"), ("other", None)):
            found += [[item async for item in snapshot.items(*asked)]]
    return found

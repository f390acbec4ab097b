"""The memory adapter, PostgreSQL, SQLite, Redis and Valkey return the same results for any commits."""

from __future__ import annotations

import asyncio
import random
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from refold.core.errors import HistoryElsewhere
from refold.core.history import Clock, Point
from refold.store import Depth
from refold.store.memory import Tables
from refold.store.ports import SnapshotStore, Store
from refold.store.postgres.commit import STORE_FEW_EVENTS_MAX
from support.scribe import NAMESPACE
from support.stores import (
    HOSTILE,
    all_entries,
    begin,
    memory_stores,
    postgres_stores,
    redis_stores,
    sqlite_stores,
)

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

NEXT = ("", "cut", "commit", "cut, commit", "lag", "cut, lag", "flush")
steps = st.tuples(
    st.sampled_from(DOCUMENTS), st.sampled_from(EVENTS), st.integers(0, 30), st.sampled_from(NEXT)
)
_schemas = count(1)


EVERY_EVENT = [("a", event, 0, "") for event in (*EVENTS, *EVENTS)]
"""Twice, so that ids repeat, in one commit."""


FEW_EVENTS = {"copied": 0, "in one statement": STORE_FEW_EVENTS_MAX}


@pytest.mark.parametrize("few_events", FEW_EVENTS.values(), ids=FEW_EVENTS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, min_size=1, max_size=30))
@example(EVERY_EVENT)
def test_every_adapter_returns_the_same_for_any_commits(postgres_dsn, valkey_url, few_events, plan):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("refold.store.postgres.commit.STORE_FEW_EVENTS_MAX", few_events)
        asyncio.run(play(plan, postgres_dsn, valkey_url))


COMMITS = 5_000
STEPS_MAX = 120
POINTS = 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("few_events", "recent"), [(0, "redis"), (STORE_FEW_EVENTS_MAX, "valkey")], ids=FEW_EVENTS
)
async def test_thousands_of_random_commits_give_the_same_answers(
    request, postgres_dsn, monkeypatch, few_events, recent
):
    monkeypatch.setattr("refold.store.postgres.commit.STORE_FEW_EVENTS_MAX", few_events)
    url = request.getfixturevalue(f"{recent}_url")
    drawn = random.Random(recent)
    commits = 0
    while commits < COMMITS:
        plan = [
            (drawn.choice(DOCUMENTS), drawn.choice(EVENTS), drawn.randint(0, 30), drawn.choice(NEXT))
            for _ in range(drawn.randint(1, STEPS_MAX))
        ]
        commits += await play(
            plan, postgres_dsn, url, lambda found: drawn.sample(found, min(POINTS, len(found)))
        )


async def play(plan, dsn, redis_url, choose=list):
    """Commit by a plan to a store of each adapter, and compare; return how many commits were made.

    Documents are read at the points that are chosen of all.
    """
    schema, tables = f"s{next(_schemas)}", Tables()
    with TemporaryDirectory(prefix="refold-twins-") as folder:
        async with (
            memory_stores(tables=tables) as open_memory,
            memory_stores(Depth.recent, tables=tables) as open_recent,
            postgres_stores(dsn, schema=schema) as open_postgres,
            sqlite_stores(Path(folder)) as open_sqlite,
            redis_stores(redis_url, schema=schema) as open_redis,
        ):
            full = Twins(await open_memory(), await open_postgres(), await open_sqlite(), await open_redis())
            return await play_on(plan, full, await open_recent(), choose)


class Twins(NamedTuple):
    """A store of each adapter."""

    memory: SnapshotStore
    postgres: SnapshotStore
    sqlite: SnapshotStore
    redis: Store


async def play_on(plan, twins, recent, choose):
    """`recent` reads what the one in memory has as a store of recent depth does."""
    scribe, *_ = [await begin(store) for store in twins]
    commits = 1
    for document, event, seconds, then in plan:
        is_conflict = isinstance(event, dict) and event.get("id") == "x"
        scribe.publish(document, event, at=seconds, conflict=b'{"strategy":"m"}' if is_conflict else None)
        if "cut" in then:
            scribe.cut(document)
        if "commit" in then or "lag" in then:
            await commit(twins, scribe, omitted=DOCUMENTS if "lag" in then else ())
            commits += 1
        if "flush" in then:
            await twins.postgres.flusher.write(NAMESPACE, document)
    await commit(twins, scribe)
    questions = choose(list(points(scribe)))
    expected = await answers(twins.memory, questions)
    assert expected == await answers(twins.postgres, questions)
    assert expected == await answers(twins.sqlite, questions)
    assert await answers(recent, questions) == await answers(twins.redis, questions)
    await twins.postgres.flush_states(is_final=True)
    rows = await stored(twins.memory)
    assert rows == await stored(twins.postgres)
    assert rows == await stored(twins.sqlite)
    return commits


async def commit(twins, scribe, **how):
    """Commit to all; only PostgreSQL omits some states."""
    made = scribe.commit(**how)
    whole = scribe.with_states(made)
    await twins.memory.commit(whole)
    await twins.postgres.commit(made)
    await twins.sqlite.commit(whole)
    await twins.redis.commit(whole)


def points(scribe):
    """Yield versions, sequences, and the times around events."""
    yield from (Point(Clock.version, version) for version in range(-1, 9))
    yield from (Point(Clock.sequence, sequence) for sequence in range(0, scribe.sequence + 2, 2))
    entries = [entry for entries in scribe.entries.values() for entry in entries]
    for time in sorted({time for entry in entries for time in (entry.recorded_at, entry.occurred_at)})[::3]:
        yield from (
            Point(clock, time + late) for clock in (Clock.recorded, Clock.occurred) for late in (0, -1)
        )


async def kept(reading):
    """Return what a store reads, or what it says of what it does not keep."""
    try:
        return await reading
    except HistoryElsewhere as error:
        return error.facts


async def all_conflicts(store, document, **order):
    return [entry async for part in store.conflicts(NAMESPACE, document, **order) for entry in part]


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
        found += [await kept(store.rejections(NAMESPACE, document, limit=50, before_sequence=None))]
        for order in ({"after_sequence": None}, {"after_sequence": 9}):
            for is_descending in (False, True):
                order["is_descending"] = is_descending
                found += [await kept(all_conflicts(store, document, **order))]
        for event_id in ("x", "y", "rejected", "z"):
            found += [await kept(store.find_id(NAMESPACE, document, event_id))]
        for sequence in range(0, 32, 3):
            found += [await kept(store.entry(NAMESPACE, document, sequence))]
        found += [await kept(store.snapshot_at(NAMESPACE, document, point)) for point in questions]
    return found


async def stored(store):
    """Read every row."""
    async with store.read_snapshot() as snapshot:
        found = [await snapshot.checkpoints(), await snapshot.namespaces()]
        for asked in ((None, None), (NAMESPACE, None), (NAMESPACE, "b"), ("other", None)):
            found += [[item async for item in snapshot.items(*asked)]]
    return found

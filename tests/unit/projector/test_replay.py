"""A replay's loop, over the memory adapters: the result of the projector's loop, in other transactions."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from refold.core.errors import FenceLost
from refold.log.memory import MemoryLog
from refold.projector import replay as replays
from refold.projector.replay import begin_replay
from refold.store.memory import MemoryStore, Tables
from support.fold2 import inc
from support.projection import ROOMY, append, project
from support.services import until

EVENTS = 600
DOCUMENTS = 7
EVERY = range(64)


@pytest.fixture
async def log():
    """Make a log with ids, rejections, absent documents and events that name none."""
    made = MemoryLog("log-1")
    for number in range(EVENTS):
        event = {"merge": {"n": number, f"k{number % 5}": "x" * 30}, "id": f"e{number % 300}"}
        await append(made, f"d{number % DOCUMENTS}", event)
    await append(made, "bad", b"garbage")
    await append(made, "reserved", {"put": 1}, namespace="_mine")
    await append(made, "d1", {"delete": True})
    return made


class Watched(MemoryStore):
    """A store that counts what is written to it."""

    def __init__(self, tables=None):
        super().__init__(tables)
        self.commits = self.signs = 0
        self.pages_ahead = []

    async def commit(self, commit):
        await super().commit(commit)
        self.commits += 1

    def open_commit(self):
        return _Watching(self, super().open_commit())


class _Watching:
    def __init__(self, store, opening):
        self._store, self._opening = store, opening

    async def __aenter__(self):
        self._opened = await self._opening.__aenter__()
        return self

    async def __aexit__(self, *error):
        return await self._opening.__aexit__(*error)

    async def write_pages(self, pages):
        self._store.signs += not pages
        self._store.pages_ahead += pages
        await self._opened.write_pages(pages)

    async def write(self, commit):
        await self._opened.write(commit)


async def replayed(log, tables=None, bounds=ROOMY, end=None):
    """Replay a log; return the store."""
    store = Watched(tables)
    loop = await begin_replay(log, store, bounds, EVERY)
    end = end or (await log.info()).last_sequence
    await loop.run(end)
    assert loop.committed_sequence == loop.folded_sequence == end
    return store


async def contents(store):
    """Return all that does not depend on where pages end."""
    documents = {}
    for key, kept in store._tables.documents.items():
        row = replace(kept.document, unpaged_events=0, unpaged_bytes=0, page_bytes=0)
        documents[key] = (row, kept.state, kept.entries)
    return documents, await store.checkpoints(), store._tables.rejections


async def test_it_makes_the_projection_that_the_projector_makes(log):
    store = await replayed(log)
    assert await contents(store) == await contents(await project(log))
    assert store.commits == 1


async def test_pages_are_written_ahead_and_only_tails_are_left(log, monkeypatch):
    monkeypatch.setattr(replays, "PAGES_BYTES", 1_000)
    monkeypatch.setattr("refold.projector.commit_buffer.PAGE_EVENTS_MAX", 20)
    store = await replayed(log)
    assert sum(len(page.entries) for page in store.pages_ahead) > EVENTS // 2
    assert store.commits == 1
    assert await contents(store) == await contents(await project(log))


@pytest.mark.parametrize("bound", ["events", "seconds", "memory of events", "memory of documents"])
async def test_each_bound_makes_it_commit(log, monkeypatch, bound):
    bounds = ROOMY
    if bound == "events":
        monkeypatch.setattr(replays, "REPLAY_EVENTS_MAX", 100)
    elif bound == "seconds":
        monkeypatch.setattr(replays, "REPLAY_SECONDS_MAX", 0.0)
    elif bound == "memory of events":
        # Each document has too few events for a page.
        monkeypatch.setattr("refold.projector.commit_buffer.RUN_EVENTS_MIN", 1_000)
        bounds = replace(ROOMY, pending_bytes_max=20_000)
    else:
        monkeypatch.setattr(replays, "PAGES_BYTES", 1)
        monkeypatch.setattr("refold.projector.commit_buffer.PAGE_EVENTS_MAX", 20)
        bounds = replace(ROOMY, cache_bytes_max=5_000)
    # The log is read in parts, and a bound is checked after each.
    monkeypatch.setattr("refold.projector.loop.RECORDS_FOLDED_MAX", 50)
    store = await replayed(log, bounds=bounds)
    assert store.commits > 2
    assert await contents(store) == await contents(await project(log))


async def test_an_event_that_needs_changes_in_pages_written_ahead_waits_for_their_commit(log, monkeypatch):
    monkeypatch.setattr(replays, "PAGES_BYTES", 1_000)
    monkeypatch.setattr("refold.projector.commit_buffer.PAGE_EVENTS_MAX", 20)
    monkeypatch.setattr("refold.projector.loop.RECORDS_FOLDED_MAX", 50)
    for base in (EVENTS // DOCUMENTS - 40, 3):
        await append(log, "d0", {"merge": {"n": "stale"}, "base": base, "on_conflict": "first_write_wins"})
    store = await replayed(log)
    assert store.pages_ahead
    assert store.commits == 2
    assert await contents(store) == await contents(await project(log))


async def test_full_memory_is_freed_by_pages_where_they_are_worth_it(log, monkeypatch):
    monkeypatch.setattr("refold.projector.loop.RECORDS_FOLDED_MAX", 50)
    store = await replayed(log, bounds=replace(ROOMY, pending_bytes_max=50_000))
    assert store.pages_ahead
    assert store.commits == 1
    assert await contents(store) == await contents(await project(log))


async def test_a_stopped_replay_continues_at_its_last_commit(log, monkeypatch):
    monkeypatch.setattr(replays, "PAGES_BYTES", 1_000)
    monkeypatch.setattr("refold.projector.commit_buffer.PAGE_EVENTS_MAX", 20)
    tables = Tables()
    await replayed(log, tables, end=200)
    tables.leases.clear()

    class Stopped(Exception):
        pass

    class Stopping(Watched):
        async def commit(self, _):
            raise Stopped

    stopping = Stopping(tables)
    loop = await begin_replay(log, stopping, ROOMY, EVERY)
    with pytest.raises(Stopped):
        await loop.run(500)
    assert stopping.pages_ahead
    assert {each.read_sequence for each in await stopping.checkpoints()} == {200}
    tables.leases.clear()
    assert await contents(await replayed(log, tables)) == await contents(await project(log))


async def test_the_same_loop_runs_on_to_a_later_sequence(log):
    store = Watched()
    loop = await begin_replay(log, store, ROOMY, EVERY)
    for sequence in (1, 100, 100, 101, EVENTS):
        await loop.run(sequence)
        assert {each.read_sequence for each in await store.checkpoints()} == {sequence}


async def test_it_shows_that_it_is_alive_while_the_log_has_nothing(log, monkeypatch):
    monkeypatch.setattr(replays, "SHARD_SIGN_SECONDS", 0.001)
    store = Watched()
    loop = await begin_replay(log, store, ROOMY, EVERY)
    end = (await log.info()).last_sequence
    running = asyncio.create_task(loop.run(end + 1))

    async def has_signed():
        return store.signs >= 3

    await until(has_signed)
    await append(log, "d0", {"put": 1})
    await running
    assert store.commits == 1


async def test_partitions_that_are_being_replayed_are_refused(log):
    tables = Tables()
    assert await MemoryStore(tables).acquire_lease()
    with pytest.raises(FenceLost):
        await begin_replay(log, MemoryStore(tables), ROOMY, EVERY)


class Reading(MemoryStore):
    """A store that counts how often a document's history is read."""

    reads = 0

    def segments(self, *key, **asked):
        self.reads += 1
        return super().segments(*key, **asked)


async def test_the_windows_of_a_replay_come_from_memory_and_are_kept() -> None:
    log = MemoryLog("log-1")
    await append(log, "d", {"put": {"n": 0, "l": []}})
    for number in range(2, 3_000):
        await append(log, "d", inc("/n"))
        stale = {"patch": [{"op": "add", "path": "/l/0", "value": number}], "base": 2 * number - 3}
        await append(log, "d", stale)
    store, last = Reading(), (await log.info()).last_sequence
    await (await begin_replay(log, store, ROOMY, EVERY)).run(last)
    assert store.reads == 0
    head, live = await store.head("n", "d"), await (await project(log)).head("n", "d")
    assert head == live
    assert head.snapshot.version == last - 1

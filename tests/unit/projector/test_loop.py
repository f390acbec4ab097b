"""The projector's loop, over the memory adapters."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson
import pytest

from refold.core.document import Status
from refold.core.errors import FenceLost, FoldUnknown, LogHole, StoreUnavailable
from refold.core.fold_state import FoldState
from refold.core.history import Clock, Point
from refold.core.stream import SYSTEM_NAMESPACE
from refold.log.memory import MemoryLog, MemoryNotices
from refold.projector import loop as loops
from refold.projector.commit_buffer import RECORDS_FOLDED_MAX, RUN_EVENTS_MIN
from refold.projector.loop import ShardLoop
from refold.store import Commit
from refold.store.memory import MemoryStore, Tables
from support.projection import NARROW, ROOMY, append, ports, project, projecting
from support.services import until

DOCUMENTS = ("a", "b", "c")


class HeldStore(MemoryStore):
    """A store whose commits wait until it is opened."""

    def __init__(self, tables: Tables | None = None) -> None:
        super().__init__(tables)
        self.is_open = asyncio.Event()

    async def commit(self, commit: Commit) -> None:
        """Commit once open."""
        await self.is_open.wait()
        await super().commit(commit)


async def _write(log: MemoryLog, count: int) -> None:
    """Write to three documents in turn: put, patches, a rejection, a delete."""
    for number in range(count):
        document = DOCUMENTS[number % 3]
        events: list[Any] = [
            {"put": {"n": 0, "log": []}, "id": f"e{number}"},
            {"patch": [{"op": "add", "path": "/log/-", "value": number}], "id": f"e{number}"},
            {"patch": [{"op": "remove", "path": "/nothing"}]},
            {"merge": {"n": number}},
        ]
        await append(log, document, events[0] if number < 3 else events[number % len(events)])
    await append(log, "c", {"delete": True})


async def _contents(store: MemoryStore) -> dict[str, Any]:
    """Return everything that must not depend on how the log was read."""
    found: dict[str, Any] = {"chains": [checkpoint.chain for checkpoint in await store.checkpoints()]}
    for document in DOCUMENTS:
        runs = [run async for run in store.segments("n", document, after_version=None, is_descending=False)]
        head = await store.head("n", document)
        assert head is not None
        found[document] = (head, [entry for run in runs for entry in run.entries])
    return found


async def test_a_tiny_cache_and_tiny_commits_do_not_change_the_result() -> None:
    log = MemoryLog("log-1")
    await _write(log, 700)
    assert await _contents(await project(log, NARROW)) == await _contents(await project(log, ROOMY))


async def test_a_restart_at_any_event_does_not_change_the_result() -> None:
    log = MemoryLog("log-1")
    await _write(log, 400)
    tables = Tables()
    for stop_at in (1, 2, 50, 51, 300, (await log.info()).last_sequence):
        async with projecting(ports(log, MemoryStore(tables)), NARROW) as running:
            await running.committed(stop_at)
        tables.leases.clear()
    assert await _contents(MemoryStore(tables)) == await _contents(await project(log))


class LostCommits(MemoryStore):
    """A store whose commits fail until it is healed."""

    is_healed = False

    async def commit(self, commit: Commit) -> str:
        if not self.is_healed:
            raise StoreUnavailable
        return await super().commit(commit)


async def test_what_is_folded_again_after_a_failed_commit_is_counted_once() -> None:
    log, store = MemoryLog("log-1"), LostCommits()
    wired = ports(log, store)
    assert await store.acquire_lease()
    # A first slice of 9 events, then one of 16: its first 9 have been counted.
    for events in (7, 6):
        await _write(log, events - 1)
        await append(log, "d", b"{")
        state = FoldState(await store.bind("log-1"))
        last_sequence = (await log.info()).last_sequence
        with suppress(StoreUnavailable):
            await ShardLoop(wired, ROOMY, state).run(last_sequence)
        store.is_healed = True
    counted = _counts(wired.metrics.folded)
    checkpoints = await store.checkpoints()
    for status in Status:
        total = sum(it.counts[status] for it in checkpoints)
        assert sum(counted.get((namespace, status.name), 0) for namespace in ("n", "_refold")) == total
    assert _counts(wired.metrics.events_rejected)["n", "bad_json"] == 2


def _counts(collector: Any) -> dict[tuple[str, ...], float]:
    [metric] = collector.collect()
    return {tuple(sample.labels.values()): sample.value for sample in metric.samples}


async def test_versions_have_no_gap_and_no_duplicate() -> None:
    log = MemoryLog("log-1")
    await _write(log, 300)
    store = await project(log, NARROW)
    for document in DOCUMENTS:
        runs = [run async for run in store.segments("n", document, after_version=None, is_descending=False)]
        effective = [entry for run in runs for entry in run.entries if entry.status.is_effective]
        assert [entry.version for entry in effective] == list(range(1, len(effective) + 1))


@pytest.mark.parametrize(
    "poison", [b"", b"\xff", b"{", b"[]", b"null", b'{"put":1,"put":2}', b'{"patch":{}}', b"[" * 100_000]
)
async def test_an_invalid_event_is_rejected_and_the_next_one_is_folded(poison: bytes) -> None:
    log = MemoryLog("log-1")
    refused = await append(log, "a", poison)
    await append(log, "a", {"put": 1})
    store = await project(log)
    head = await store.head("n", "a")
    assert head is not None
    assert (head.snapshot.version, head.snapshot.state) == (1, b"1")
    rejections = await store.rejections("n", "a", limit=10, before_sequence=None)
    assert [rejection.sequence for rejection in rejections] == [refused]
    entry = await store.entry("n", "a", refused)
    assert entry is not None
    assert (entry.body, entry.status) == (poison, Status.rejected)


async def test_outcome_and_change_are_sent_while_the_commit_is_held() -> None:
    log, store, notices = MemoryLog("log-1"), HeldStore(), MemoryNotices()
    received: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
    for subject in ("_INBOX.me", "change.n.a"):
        await notices.listen(
            subject, lambda subject, body: received.put_nowait((subject, orjson.loads(body)))
        )
    async with projecting(ports(log, store, notices)) as running:
        sequence = await append(log, "a", {"put": {"x": 1}, "id": "one"}, ("Refold-Reply", "_INBOX.me"))
        sent = dict([await asyncio.wait_for(received.get(), 20) for _ in range(2)])
        assert await store.head("n", "a") is None
        store.is_open.set()
        await running.committed(sequence)
    outcome = sent["_INBOX.me"]
    assert outcome["status"] == "applied"
    assert (outcome["sequence"], outcome["version"], outcome["created"]) == (sequence, 1, True)
    assert outcome["id"] == "one"
    assert sent["change.n.a"]["version"] == 1
    head = await store.head("n", "a")
    assert head is not None
    assert head.snapshot.version == 1


async def test_an_event_that_is_folded_again_has_the_same_notices() -> None:
    log, tables, notices = MemoryLog("log-1"), Tables(), MemoryNotices()
    received: list[tuple[str, bytes]] = []
    for subject in ("_INBOX.me", "change.n.a"):
        await notices.listen(subject, lambda *message: received.append(message))
    held = HeldStore(tables)
    async with projecting(ports(log, held, notices)):
        for number in range(3):
            await append(log, "a", {"put": number}, ("Refold-Reply", "_INBOX.me"))
        await until(lambda: _is(len(received) == 6))
    # As after a kill: nothing was committed.
    tables.leases.clear()
    async with projecting(ports(log, MemoryStore(tables), notices)) as running:
        await running.committed(4)
    assert len(received) == 12
    assert sorted(received[6:]) == sorted(received[:6])


async def test_progress_says_how_far_is_committed_and_how_far_is_folded() -> None:
    log, store, notices = MemoryLog("log-1"), HeldStore(), MemoryNotices()
    received: list[dict[str, Any]] = []
    await notices.listen("refold.progress", lambda _, body: received.append(orjson.loads(body)))
    assert await store.acquire_lease()
    loop = ShardLoop(ports(log, store, notices), ROOMY, FoldState(await store.bind("log-1")))
    running = asyncio.create_task(loop.run())
    await until(lambda: _is(loop._committing is not None))
    await loop.send_progress()
    assert (received[-1]["sequence"], received[-1]["folded"]) == (0, 1)
    store.is_open.set()
    await until(lambda: _is(loop.committed_sequence == 1))
    await loop.send_progress()
    assert (received[-1]["sequence"], received[-1]["folded"]) == (1, 1)
    running.cancel()
    await asyncio.wait({running})


async def test_each_progress_counts_the_changes_before_it_and_those_that_were_not_sent() -> None:
    log, store, notices = MemoryLog("log-1"), MemoryStore(), MemoryNotices()
    changes: list[dict[str, Any]] = []
    counted: list[tuple[dict[str, Any], int]] = []
    await notices.listen("change.>", lambda _, body: changes.append(orjson.loads(body)))
    await notices.listen(
        "refold.progress", lambda _, body: counted.append((orjson.loads(body), len(changes)))
    )
    # The first 100 events are an hour old when they are folded.
    offset = 3_600 * 10**9
    await _write(log, 100)
    old = (await log.info()).last_sequence
    given = ports(log, store, notices, broker_now=lambda: time.time_ns() + offset)
    async with projecting(given, NARROW) as running:
        await running.committed(old)
        offset = 0
        for _ in range(20):
            await _write(log, 10)
            last = (await log.info()).last_sequence
            await running.committed(last)
        await until(lambda: _is(counted[-1][0]["folded"] == last))
    assert len(counted) > 10
    assert [progress["sent"] for progress, _ in counted] == [count for _, count in counted]
    for progress, count in counted:
        assert all(change["sequence"] <= progress["folded"] for change in changes[:count])
        assert all(change["sequence"] > progress["folded"] for change in changes[count:])
    versions = [head.snapshot.version for name in DOCUMENTS if (head := await store.head("n", name))]
    # The log's own document has a version, too.
    assert counted[-1][0]["sent"] + counted[-1][0]["unsent"] == sum(versions) + 1
    assert changes[0]["sequence"] > old


SELDOM = replace(ROOMY, commit_interval_seconds=3_600.0)
"""No commit comes from the timer within a test, after the first."""


async def test_a_commit_begins_when_a_reader_waits_or_the_buffer_is_full() -> None:
    log, store = MemoryLog("log-1"), MemoryStore()
    assert await store.acquire_lease()
    loop = ShardLoop(
        ports(log, store), replace(SELDOM, pending_events_max=5), FoldState(await store.bind("log-1"))
    )
    running = asyncio.create_task(loop.run())
    # After a pause a commit begins at once.
    await until(lambda: _is(loop.committed_sequence == 1))
    sequence = await append(log, "a", {"put": 1})
    await until(lambda: _is(loop._fold_state.read_sequence == sequence))
    for body in (b"", b"[]", b"{}", b'{"sequence":"2"}', b'{"sequence":1}', b'{"sequence":true}'):
        loop.hear_reader("", body)
    assert not loop._timer._is_fired.is_set()
    loop.hear_reader("", b'{"sequence":2}')
    await until(lambda: _is(loop.committed_sequence == 2))
    # A sequence that is not folded yet is committed as soon as it is; a later one does not hide it.
    loop.hear_reader("", b'{"sequence":4}')
    loop.hear_reader("", b'{"sequence":3}')
    await append(log, "a", {"put": 2})
    await until(lambda: _is(loop.committed_sequence == 3))
    for number in range(5):
        await append(log, "a", {"put": number})
    await until(lambda: _is(loop.committed_sequence == 8))
    running.cancel()
    await asyncio.wait({running})


async def test_a_change_carries_the_original_patch_despite_later_operations() -> None:
    log, notices = MemoryLog("log-1"), MemoryNotices()
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    await notices.listen("change.n.*", lambda _, body: received.put_nowait(orjson.loads(body)))
    patch = [{"op": "add", "path": "/a", "value": {}}, {"op": "add", "path": "/a/b", "value": [1]}]
    async with projecting(ports(log, MemoryStore(), notices)):
        await append(log, "d", {"patch": patch, "actor": "ann", "type": "made"})
        change = await asyncio.wait_for(received.get(), 20)
    assert (change["patch"], change["version"], change["actor"], change["type"]) == (patch, 1, "ann", "made")


async def test_a_replay_sends_no_notices() -> None:
    log = MemoryLog("log-1")
    await append(log, "a", {"put": 1}, ("Refold-Reply", "_INBOX.me"))
    notices, received = MemoryNotices(), []
    for subject in ("_INBOX.>", "change.>"):
        await notices.listen(subject, lambda subject, _: received.append(subject))
    an_hour_later = ports(log, MemoryStore(), notices, broker_now=lambda: time.time_ns() + 3_600 * 10**9)
    async with projecting(an_hour_later) as running:
        await running.committed(2)
    assert received == []


async def test_an_outcome_is_never_sent_to_a_subject_that_is_not_an_inbox() -> None:
    log, notices, received = MemoryLog("log-1"), MemoryNotices(), []
    await notices.listen(">", lambda subject, _: received.append(subject))
    for subject in (
        "state.n.b",
        "_INBOX.*",
        "_INBOX.>",
        "$JS.API.STREAM.PURGE.STATE",
        "_INBOX",
        "_INBOX.a b",
    ):
        await append(log, "a", {"put": 1}, ("Refold-Reply", subject))
    async with projecting(ports(log, MemoryStore(), notices)) as running:
        await running.committed(7)
    assert set(received) == {"change._refold.log", "change.n.a", "refold.progress"}


async def test_a_hole_in_the_log_stops_the_projector_naming_it() -> None:
    log = MemoryLog("log-1")
    await _write(log, 20)
    log.punch(9)
    with pytest.raises(LogHole) as raised:
        await project(log)
    assert raised.value.facts["first_sequence"] == 9


async def test_a_loop_that_lost_its_lease_stops_and_writes_nothing() -> None:
    log, tables = MemoryLog("log-1"), Tables()
    await append(log, "a", {"put": 1})
    slow = MemoryStore(tables)
    assert await slow.acquire_lease()
    stale = FoldState(await slow.bind("log-1"))
    tables.leases.clear()
    async with projecting(ports(log, MemoryStore(tables))) as running:
        await running.committed(2)
    tables.leases[""].holder = slow
    with pytest.raises(FenceLost):
        await ShardLoop(ports(log, slow), ROOMY, stale).run()
    assert [checkpoint.read_sequence for checkpoint in await slow.checkpoints()] == [2] * 64


async def test_an_unknown_fold_stops_the_projector_after_all_earlier_events() -> None:
    log, store = MemoryLog("log-1"), MemoryStore()
    await append(log, "a", {"put": 1})
    moved = await append(log, "fold", {"put": {"fold": 3}}, namespace=SYSTEM_NAMESPACE)
    await append(log, "a", {"put": 2})
    with pytest.raises(FoldUnknown):
        async with projecting(ports(log, store)) as running:
            await running.committed(moved + 1)
    assert (await store.checkpoints())[0].read_sequence == moved
    head = await store.head("n", "a")
    assert head is not None
    assert head.snapshot.state == b"1"


async def test_time_travel_after_many_pages_gives_each_version() -> None:
    log = MemoryLog("log-1")
    for number in range(500):
        await append(log, "a", {"patch": [{"op": "add", "path": "/n", "value": number}]})
    store = await project(log)
    for version in (1, 127, 128, 129, 255, 256, 257, 500):
        snapshot = await store.snapshot_at("n", "a", Point(Clock.version, version))
        assert snapshot is not None
        assert snapshot.state == b'{"n":%d}' % (version - 1)


async def test_a_long_segment_is_written_as_a_page_and_a_short_one_to_the_journal() -> None:
    log = MemoryLog("log-1")
    for number in range(RUN_EVENTS_MIN):
        await append(log, "long", {"put": {"n": number}})
    for number in range(RUN_EVENTS_MIN - 1):
        await append(log, "short", {"put": {"n": number}})
    await append(log, "large", {"put": {"text": "x" * 1_000}})
    for number in range(RUN_EVENTS_MIN):
        await append(log, "large", {"merge": {"n": number}})
    for number in range(2 * RUN_EVENTS_MIN):
        await append(log, "late", {"put": number})
    store = await project(log)
    entries = {}
    for document in ("long", "short", "large", "late"):
        runs = [run async for run in store.segments("n", document, after_version=None, is_descending=False)]
        entries[document] = [len(run.entries) for run in runs]
    assert entries == {
        "long": [RUN_EVENTS_MIN, 0],
        "short": [RUN_EVENTS_MIN - 1],
        "large": [RUN_EVENTS_MIN + 1, 0],
        "late": [2 * RUN_EVENTS_MIN, 0],
    }


async def test_the_author_of_an_unroutable_event_receives_its_rejection() -> None:
    log, notices = MemoryLog("log-1"), MemoryNotices()
    received: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    await notices.listen("_INBOX.me", lambda _, body: received.put_nowait(orjson.loads(body)))
    async with projecting(ports(log, MemoryStore(), notices)):
        await append(log, "a", {"put": 1}, ("Refold-Reply", "_INBOX.me"), namespace="_mine")
        outcome = await asyncio.wait_for(received.get(), 20)
    assert (outcome["status"], outcome["reason"]) == ("rejected", "reserved_namespace")


async def test_large_effects_of_small_merges_are_bounded_in_memory_and_page() -> None:
    log = MemoryLog("log-1")
    members = {f"member-{number}": "x" * 20 for number in range(11_000)}
    await append(log, "a", {"put": members})
    for _ in range(6):
        await append(log, "a", {"merge": dict.fromkeys(members, 1)})
        await append(log, "a", {"merge": members})
    store = await project(log)
    runs = [run async for run in store.segments("n", "a", after_version=None, is_descending=False)]
    largest = max(sum(len(entry.effect or b"") + len(entry.body) for entry in run.entries) for run in runs)
    assert len(runs) > 1
    assert largest < 3 * len(runs[1].base.state or b"")


async def test_the_cache_of_subjects_is_bounded_while_no_document_leaves_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loops, "SUBJECTS_MAX", 100)
    log, store = MemoryLog("log-1"), MemoryStore()
    for number in range(2_000):
        await append(log, "a", {"put": 1}, namespace=f"_bad{number}")
    sequence = await append(log, "a", {"put": 1})
    assert await store.acquire_lease()
    loop = ShardLoop(ports(log, store), ROOMY, FoldState(await store.bind("log-1")))
    sizes = set()
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(loop.run(sequence))
        while not running.done():
            sizes.add(len(loop._routes))
            await asyncio.sleep(0)
    assert max(sizes) <= 100 + RECORDS_FOLDED_MAX
    head = await store.head("n", "a")
    assert head is not None


async def test_the_pending_bytes_count_what_is_not_committed() -> None:
    log, store = MemoryLog("log-1"), HeldStore()
    assert await store.acquire_lease()
    loop = ShardLoop(ports(log, store), ROOMY, FoldState(await store.bind("log-1")))
    running = asyncio.create_task(loop.run())
    await until(lambda: _is(loop._committing is not None))
    for _ in range(10):
        await append(log, "a", {"put": "x" * 10_000}, ("Refold-Reply", "_INBOX.me"))
    await until(lambda: _is(loop._buffer.events == 10))
    assert loop._buffer.bytes > 100_000
    assert [*loop._replies, *loop._changes] == []
    running.cancel()
    await asyncio.wait({running})


async def _is(fact: bool) -> bool:
    return fact

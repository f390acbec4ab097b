"""Whole logs, folded in many ways: the same states, outcomes, chain and pages every time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import jsonpatch
import jsonpointer
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from refold.core import json_text
from refold.core.document import ABSENT, Document, Status
from refold.core.fold import RULES, fold
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.history import NEVER, Clock, Entry, Point, Snapshot, snapshot_of
from refold.core.page import PackedEntries, pack, unpack
from refold.core.replay import state_at
from refold.core.stream import Record
from refold.core.timestamp import TIME_MIN_NANOSECONDS
from refold.projector.commit_buffer import CommitBuffer
from refold.store import Key, Rejection, SegmentBounds
from refold.store.memory import MemoryStore, Tables
from support.events import EVENTS, LOGS, START, History, lines
from support.json_values import containers, copied, patches


@pytest.fixture(autouse=True, scope="module")
def _small_bounds():
    """Close pages and expire ids early enough for short logs."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("refold.projector.commit_buffer.PAGE_EVENTS_MAX", 2)
        patched.setattr("refold.projector.commit_buffer.PAGE_BYTES_MIN", 200)
        limits = replace(RULES[1].limits, id_window_ids=2, id_window_events=4)
        patched.setitem(RULES, 1, replace(RULES[1], limits=limits))
        patched.setattr("refold.store.memory.ID_WINDOW_IDS", 2)
        patched.setattr("refold.store.memory.ID_WINDOW_EVENTS", 4)
        yield


Look = Callable[[int], Awaitable[None]]


async def look_away(_: int) -> None:
    """Observe nothing."""


class Projection:
    """Folds a log into the memory store; commits evict documents, as a projector's cache does."""

    def __init__(self, tables: Tables) -> None:
        self.store = MemoryStore(tables)
        self.outcomes: list[Any] = []
        self.documents: dict[Key, Document] = {}
        self.segments: dict[Key, list[Entry]] = {}

    async def fold(
        self, log: list[Record], commits: set[int], *, held_max: int, look: Look = look_away
    ) -> None:
        """Fold the log, commit after the sequences in `commits`, observe, then evict documents over the bound.

        The segment of the document that was used first is dropped at every commit.
        """
        assert await self.store.acquire_lease()
        shard = FoldState(await self.store.bind("log-1"))
        taken = CommitBuffer(shard.read_sequence, self.segments)
        for record in log[shard.read_sequence :]:
            await self._take(shard, taken, record)
            if record.sequence in commits or record is log[-1]:
                await self.store.commit(taken.to_commit(shard.checkpoint(taken.after_sequence), self.store))
                await look(record.sequence)
                taken = CommitBuffer(shard.read_sequence, self.segments)
                for key in list(self.documents)[: max(0, len(self.documents) - held_max)]:
                    del self.documents[key]
                    self.segments.pop(key, None)
                for key in list(self.documents)[:1]:
                    self.segments.pop(key, None)

    async def replay(self, log: list[Record], commits: set[int], ahead: set[int]) -> None:
        """Fold the log; write pages ahead of their commit after the sequences in `ahead`."""
        assert await self.store.acquire_lease()
        shard = FoldState(await self.store.bind("log-1"))
        while shard.read_sequence < len(log):
            taken = CommitBuffer(shard.read_sequence)
            async with self.store.open_commit() as opened:
                for record in log[shard.read_sequence :]:
                    await self._take(shard, taken, record)
                    if record.sequence in ahead:
                        await opened.write_pages(taken.take_pages())
                    if record.sequence in commits:
                        break
                await opened.write(taken.to_commit(shard.checkpoint(taken.after_sequence), self.store))

    async def _take(self, shard: FoldState, taken: CommitBuffer, record: Record) -> None:
        where = shard.route(record.subject)
        if where.reason:
            recorded_at = shard.reject(record, where)
            refused = (where.partition, record.sequence, recorded_at, where.reason, "", b"{}", record)
            taken.rejections.append(Rejection("", "", *refused))
            return
        key = where[1:3]
        document = await self._document(key, where.partition)
        step = shard.fold(record, where, document)
        self.outcomes.append((step.entry, step.first))
        taken.add(document, step.entry)

    async def _document(self, key: Key, partition: int) -> Document:
        held = self.documents.pop(key, None)
        if held is None:
            found = await self.store.load([key])
            held = found[0] if found else Document(namespace=key[0], document=key[1], partition=partition)
        self.documents[key] = held
        return held


async def projected(log, commits, *, held_max=100):
    projection = Projection(Tables())
    await projection.fold(log, commits, held_max=held_max)
    return projection


@given(LOGS, st.data())
async def test_commit_boundaries_do_not_change_states_outcomes_chains_or_pages(log, data):
    commits = data.draw(st.sets(st.integers(1, len(log))))
    at_once = await projected(log, set())
    split = await projected(log, commits, held_max=data.draw(st.integers(0, 3)))
    event(f"{min(3, sum(len(kept.segments) - 1 for kept in at_once.store._tables.documents.values()))} pages")
    for status in sorted({entry.status.name for entry, _ in at_once.outcomes}):
        event(status)
    assert split.outcomes == at_once.outcomes
    assert split.store._tables.checkpoints == at_once.store._tables.checkpoints
    assert split.store._tables.documents == at_once.store._tables.documents
    assert split.store._tables.rejections == at_once.store._tables.rejections


@given(LOGS, st.data())
async def test_pages_written_ahead_of_their_commit_do_not_change_the_projection(log, data):
    sequences = st.sets(st.integers(1, len(log)))
    replayed = Projection(Tables())
    await replayed.replay(log, data.draw(sequences), data.draw(sequences))
    at_once = await projected(log, set())
    assert replayed.outcomes == at_once.outcomes
    assert replayed.store._tables.checkpoints == at_once.store._tables.checkpoints
    assert replayed.store._tables.documents == at_once.store._tables.documents
    assert replayed.store._tables.rejections == at_once.store._tables.rejections


@given(LOGS, st.data())
async def test_a_fold_restarted_from_its_checkpoints_has_the_same_result(log, data):
    stop = data.draw(st.integers(1, len(log)))
    tables = Tables()
    first = Projection(tables)
    await first.fold(log[:stop], set(), held_max=100)
    await first.store.close()
    await Projection(tables).fold(log, data.draw(st.sets(st.integers(1, len(log)))), held_max=100)
    undisturbed = (await projected(log, set())).store._tables
    assert tables.documents == undisturbed.documents
    assert tables.checkpoints == undisturbed.checkpoints


@given(LOGS, st.data())
async def test_after_each_commit_every_head_equals_that_of_a_plain_fold(log, data):
    reference = Reference(log)
    projection = Projection(Tables())

    async def look(sequence: int) -> None:
        for key in projection.store._tables.documents:
            head = await projection.store.head(*key)
            assert head.snapshot == reference.at(key, Point(Clock.sequence, sequence))

    commits = data.draw(st.sets(st.integers(1, len(log))))
    await projection.fold(log, commits, held_max=data.draw(st.integers(0, 3)), look=look)


@given(LOGS)
async def test_a_fold_that_holds_one_document_equals_one_that_holds_all(log):
    everywhere = set(range(1, len(log) + 1))
    one = await projected(log, everywhere, held_max=1)
    every = await projected(log, everywhere, held_max=100)
    assert one.outcomes == every.outcomes
    assert one.store._tables.documents == every.store._tables.documents


class Reference:
    """A plain fold that keeps every document and every version's state in memory."""

    def __init__(self, log: list[Record]) -> None:
        self.snapshots: dict[Key, list[Snapshot]] = {}
        shard, documents = FoldState(first_checkpoints("log-1")), {}
        for record in log:
            where = shard.route(record.subject)
            if where.reason:
                shard.reject(record, where)
                continue
            key = where[1:3]
            if key not in documents:
                documents[key] = Document(namespace=key[0], document=key[1], partition=where.partition)
                self.snapshots[key] = [NEVER]
            document = documents[key]
            step = shard.fold(record, where, document)
            if step.entry.status.is_effective:
                state = None if document.state is ABSENT else json_text.dumps(document.state)
                self.snapshots[key].append(snapshot_of(document, state))

    def at(self, key: Key, point: Point) -> Snapshot:
        member = {"recorded": "recorded_at", "occurred": "occurred_max"}.get(
            point.clock.value, point.clock.value
        )
        return [NEVER, *(s for s in self.snapshots[key] if getattr(s, member) <= point.value)][-1]

    def points(self, key: Key) -> list[Point]:
        snapshots = self.snapshots[key]
        found = [Point(Clock.version, version) for version in range(-1, len(snapshots) + 1)]
        found += [Point(Clock.sequence, s.sequence + near) for s in snapshots for near in (-1, 0, 1)]
        for clock in (Clock.recorded, Clock.occurred):
            times = {
                time + near
                for s in snapshots
                for time in (s.recorded_at, s.occurred_at)
                for near in (-1, 0, 1)
            }
            found += [Point(clock, max(time, TIME_MIN_NANOSECONDS)) for time in sorted(times)]
        return found


@given(LOGS, st.data())
async def test_a_state_read_from_packed_pages_equals_that_of_a_plain_fold(log, data):
    store = (await projected(log, data.draw(st.sets(st.integers(1, len(log)))))).store
    reference = Reference(log)
    for key in reference.snapshots:
        for point in reference.points(key):
            kept = store._tables.documents[key]
            run = kept.segments[kept.at(SegmentBounds.of(point))]
            packed = PackedEntries(pack(run.entries))
            assert state_at(run.base, packed, point) == reference.at(key, point), (key, point)


@given(LOGS)
async def test_every_entry_survives_packing_unchanged(log):
    for kept in (await projected(log, set())).store._tables.documents.values():
        assert unpack(pack(kept.entries)) == kept.entries
        assert [entry.sequence for entry in kept.entries] == sorted(
            {entry.sequence for entry in kept.entries}
        )


@given(st.data())
def test_an_ineffective_event_changes_no_state_bytes_version_or_times(data):
    history = History()
    history.publish({"put": data.draw(containers())})
    for _ in range(data.draw(st.integers(1, 8))):
        before, bytes_before = replace(history.row), history.state_bytes
        broken = data.draw(EVENTS)
        if "patch" in broken and data.draw(st.booleans()):
            broken["patch"] = [*broken["patch"], {"op": "test", "path": "/never", "value": 0}]
        outcome = history.publish(broken)
        event(outcome.status.name + (f" {outcome.reason}" if outcome.reason else ""))
        row = history.row
        assert row.size == len(history.state_bytes or b"")
        assert row.version == before.version + outcome.status.is_effective
        if outcome.status in {Status.rejected, Status.duplicate}:
            assert history.state_bytes == bytes_before
            kept = ("version", "version_sequence", "recorded_at", "occurred_at", "occurred_max", "size")
            assert all(getattr(row, name) == getattr(before, name) for name in kept)


def oracle(state: Any, raw: list[Any]) -> Any:
    """Apply with the jsonpatch library; None where it refuses."""
    try:
        return [jsonpatch.JsonPatch(copied(raw)).apply(copied(state))]
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError):
        return None


@settings(max_examples=50)
@given(st.data())
def test_an_independent_fold_by_the_jsonpatch_library_agrees_on_logs_of_puts_and_patches(data):
    history = History()
    state, version = ABSENT, 0
    for _ in range(data.draw(st.integers(1, 8))):
        current = {} if state is ABSENT else state
        if data.draw(st.integers(0, 4)) == 0:
            published = {"put": data.draw(containers())}
            result = [published["put"]]
        else:
            published = {"patch": data.draw(patches(current))}
            result = oracle(current, published["patch"])
        outcome = history.publish(published)
        if result is not None:
            state, version = copied(result[0]), version + 1
        assert (outcome.status is Status.applied) == (result is not None), outcome
        assert history.row.version == version
        assert history.state_bytes == (None if state is ABSENT else json_text.dumps(state))


@settings(max_examples=300)
@given(
    st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=20), st.integers(-(2**63), 2**63 - 1)
)
def test_no_body_stops_the_fold(headers, body, subject, time):
    shard = FoldState(first_checkpoints("log-1"))
    record = Record(1, time, subject + b".n.d", headers, body)
    where = shard.route(record.subject)
    step = shard.fold(record, where, Document(namespace="n", document="d", partition=where.partition))
    assert unpack(pack([step.entry])) == [step.entry]


JSON_LIKE = st.text(
    st.sampled_from(list('{}[]",:0123456789.eE+-\\u nulltrefas/')) | st.characters(codec="utf-8"), max_size=30
)
OUR_NAMES = st.sampled_from(
    [
        *("Refold-" + name for name in ("Base", "Meta", "V", "Id", "Occurred-At", "Txn", "X", "")),
        *(
            "ce-" + name
            for name in ("specversion", "id", "source", "type", "time", "datacontenttype", "data", "")
        ),
    ]
)
OUR_VALUES = st.sampled_from(["1.0", "%FF", "7", "2020-01-01T00:00:00Z", "application/json-patch+json", "{}"])
OUR_HEADERS = st.dictionaries(OUR_NAMES, OUR_VALUES | JSON_LIKE, max_size=4)
CLOUD_EVENTS = st.sampled_from(
    [{}, {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}]
)
MEDIA = st.sampled_from(["json-patch+json", "merge-patch+json", "cloudevents+json", "json"])


@settings(max_examples=300)
@given(OUR_HEADERS, CLOUD_EVENTS, MEDIA, st.data())
def test_no_headers_and_no_json_body_stop_the_fold(headers, cloud_event, media, data):
    document = Document(namespace="n", document="d", partition=0)
    values = containers().map(json_text.dumps) | JSON_LIKE.map(str.encode)
    body = data.draw(values | EVENTS.map(json_text.dumps))
    said = {**cloud_event, **headers}
    stored = lines(("Content-Type", f"application/{media}"), *said.items())
    folded = fold(document, Record(1, START, b"log.0.n.d", stored, body), RULES[1], recorded_at=START)
    event(folded.outcome.reason or folded.outcome.status.name)

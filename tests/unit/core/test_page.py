"""Pages: entries packed by column, and any state applied again from a snapshot and the entries after it."""

from __future__ import annotations

import struct

import pytest

from refold.core import json_text
from refold.core.document import Kind, Status
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.history import (
    NEVER,
    Clock,
    Entry,
    Point,
    Snapshot,
    operations_of,
    snapshot_of,
)
from refold.core.page import PackedEntries, pack, pack_entry, unpack, unpack_entry
from refold.core.replay import state_at
from refold.core.stream import route
from refold.core.timestamp import TIME_MIN_NANOSECONDS, format_time
from support.events import JSON_PATCH, SECOND, START, History, record
from support.fold1 import apply_patch, compile_patch

EVENTS = [
    ({"patch": [{"op": "add", "path": "/a", "value": 1}], "id": "x"}, ()),
    (b"garbage", (("traceparent", "00-é"),)),
    ({"merge": {"b": {"c": None}, "a": None}}, ()),
    ({"patch": [{"op": "add", "path": "/a", "value": 1}], "id": "x"}, ()),
    ([{"op": "add", "path": "/b/d", "value": [1.0]}], (JSON_PATCH, ("Refold-Actor", "ada"))),
    ({"put": [1, {"x": "y"}], "occurred_at": format_time(START - SECOND)}, ()),
    ({"patch": [{"op": "move", "from": "/1", "path": "/0"}, {"op": "copy", "from": "/0", "path": "/-"}]}, ()),
    ({"delete": True}, ()),
    ({"delete": True}, ()),
    ({"merge": 5}, ()),
    ({"merge": {"n": 1}}, ()),
    ({"put": None}, ()),
]


class Recorded(History):
    """A history that also keeps its entries and every snapshot."""

    def __init__(self):
        super().__init__()
        self.shard = FoldState(first_checkpoints("log-1"))
        self.entries = []
        self.snapshots = [NEVER]

    def keep(self, event, *headers):
        self.sequence += 1
        published = record(event, *headers, sequence=self.sequence)
        step = self.shard.fold(published, route(published.subject), self.row)
        self.entries.append(step.entry)
        if step.entry.status.is_effective:
            self.snapshots.append(snapshot_of(self.row, self.state_bytes))


@pytest.fixture
def recorded():
    history = Recorded()
    for event, headers in EVENTS:
        history.keep(event, *headers)
    return history


def test_the_events_are_of_every_outcome_and_kind(recorded):
    assert {entry.status for entry in recorded.entries} == {Status.applied, Status.rejected, Status.duplicate}
    assert {entry.kind for entry in recorded.entries} == set(Kind)
    assert len(recorded.snapshots) == 10


def test_a_page_survives_packing(recorded):
    assert unpack(pack(recorded.entries)) == recorded.entries
    assert unpack(pack([])) == []
    assert [unpack_entry(pack_entry(entry)) for entry in recorded.entries] == recorded.entries


EMPTY = Entry(0, 0, 0, 0, 0, Status.applied, Kind.unknown, False, None, b"", b"", None, "", "", None, 0)


def test_a_page_holds_the_longest_and_the_shortest_values(recorded):
    full = Entry(
        2**64 - 1,
        -(2**63),
        2**63 - 1,
        -1,
        2**63,
        Status.merged,
        Kind.delete,
        True,
        b"s" * 65_535,
        b"h" * 70_000,
        b"\x00" * 2**20,
        b"e" * 2**20,
        "r" * 64,
        "é" * 500,
        b"i" * 65_535,
        2**64 - 1,
    )
    assert unpack(pack([full, EMPTY, full])) == [full, EMPTY, full]
    assert unpack(pack([EMPTY, EMPTY])) == [EMPTY, EMPTY]
    assert [unpack_entry(pack_entry(entry)) for entry in (full, EMPTY)] == [full, EMPTY]


@pytest.mark.parametrize("damaged", [b"", b"\x00" * 80, pack_entry(EMPTY)[:-1], pack_entry(EMPTY) + b"\x00"])
def test_bytes_that_are_no_entry_are_refused(damaged):
    with pytest.raises((struct.error, ValueError, LookupError)):
        unpack_entry(damaged)


def test_packing_preserves_types(recorded):
    alone = [unpack_entry(pack_entry(entry)) for entry in recorded.entries]
    for entry in (*unpack(pack(recorded.entries)), *alone):
        assert (type(entry.status), type(entry.kind), type(entry.is_creation)) == (Status, Kind, bool)


def points(recorded):
    for version in range(-1, len(recorded.snapshots) + 2):
        yield Point(Clock.version, version)
    for sequence in range(-1, recorded.sequence + 2):
        yield Point(Clock.sequence, sequence)
    for clock in (Clock.recorded, Clock.occurred):
        for snapshot in recorded.snapshots[1:]:
            for time in {snapshot.recorded_at, snapshot.occurred_at}:
                for nearby in (-1, 0, 1):
                    yield Point(clock, time + nearby)
        yield Point(clock, TIME_MIN_NANOSECONDS)


def searched(recorded, point):
    """Find the state at a point by a plain search."""
    place = {
        "version": "version",
        "sequence": "sequence",
        "recorded": "recorded_at",
        "occurred": "occurred_max",
    }
    found = [s for s in recorded.snapshots if getattr(s, place[point.clock.value]) <= point.value]
    return found[-1] if found else NEVER


def test_a_point_holds_the_last_effective_event_at_or_before_it_on_its_clock(recorded):
    page = PackedEntries(pack(recorded.entries))
    for point in points(recorded):
        assert state_at(NEVER, page, point) == searched(recorded, point), point
        assert state_at(NEVER, recorded.entries, point) == searched(recorded, point), point


def test_page_boundaries_do_not_change_states(recorded):
    for cut in range(1, len(recorded.entries)):
        effective = sum(entry.status.is_effective for entry in recorded.entries[:cut])
        base, page = recorded.snapshots[effective], PackedEntries(pack(recorded.entries[cut:]))
        for point in points(recorded):
            expected = searched(recorded, point)
            if expected.version >= effective:
                assert state_at(base, page, point) == expected, (cut, point)


def test_a_page_can_be_read_twice(recorded):
    page, point = PackedEntries(pack(recorded.entries)), Point(Clock.version, 6)
    assert state_at(NEVER, page, point) == state_at(NEVER, page, point) == recorded.snapshots[6]


def test_among_equal_occurred_times_the_last_is_used():
    history = Recorded()
    for n, ahead in enumerate([0, -5, 0, 3, 3]):
        history.keep({"put": n, "occurred_at": format_time(START + ahead)})
    points = [Point(Clock.occurred, START + at) for at in (-6, -1, 0, 1, 2, 3, 9)]
    versions = [state_at(NEVER, history.entries, point).version for point in points]
    assert versions == [0, 0, 3, 3, 3, 5, 5]


def test_before_its_first_event_a_document_is_absent_at_version_0(recorded):
    found = state_at(NEVER, recorded.entries, Point(Clock.recorded, START))
    assert (found.version, found.state) == (0, None)


def test_at_a_delete_the_document_is_absent_and_the_version_is_the_deletes(recorded):
    deleted = [s for s in recorded.snapshots if s.state is None and s.version]
    assert [s.version for s in deleted] == [6]
    assert state_at(NEVER, recorded.entries, Point(Clock.version, 6)) == deleted[0]


def test_the_operations_of_a_version_transform_its_predecessor_into_it(recorded):
    effective = [entry for entry in recorded.entries if entry.status.is_effective]
    for before, after, entry in zip(recorded.snapshots, recorded.snapshots[1:], effective, strict=False):
        if entry.kind is Kind.delete:
            assert operations_of(entry) == [{"op": "remove", "path": ""}]
            continue
        state = {} if before.state is None else json_text.loads(before.state)
        result, size = apply_patch(state, compile_patch(operations_of(entry)), size=json_text.size(state))
        assert (json_text.dumps(result), size) == (after.state, len(after.state))


def test_a_put_is_a_root_replace_and_the_first_one_an_add():
    history = Recorded()
    for event in [{"put": 1}, {"put": 2}, {"delete": True}, {"put": 3}]:
        history.keep(event)
    assert [operations_of(entry)[0]["op"] for entry in history.entries] == ["add", "replace", "remove", "add"]


def test_a_snapshot_without_versions_is_marked_as_never_existing():
    assert snapshot_of(History().row, None) == NEVER == Snapshot(0, None, 0, *[TIME_MIN_NANOSECONDS] * 3)

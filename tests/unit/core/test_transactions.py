"""Which events are the members of a transaction, when they count as recorded, and by which settings they are folded."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

import pytest

from refold.core import json_text
from refold.core.document import Document
from refold.core.fold import RULES, genesis
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.stream import PARTITIONS, partition_of
from refold.core.transactions import end_of_part
from refold.log import Publication, read_until
from refold.log.memory import MemoryLog
from support.events import SECOND, START, record

DOCUMENTS = ("a", "b", "c")


def member(position, *, of=3, transaction="t", **fields):
    return {"put": position, "txn": {"id": transaction, "index": position, "count": of}, **fields}


def batch(events, *, first=2, batch_id="x", namespace="n", documents=DOCUMENTS, times=None):
    """Record events as the broker stores an atomic batch."""
    records = []
    for position, event in enumerate(events):
        headers = [("Nats-Batch-Id", batch_id), ("Nats-Batch-Sequence", str(position + 1))]
        if position == len(events) - 1:
            headers.append(("Nats-Batch-Commit", "1"))
        time = None if times is None else times[position]
        at, document = first + position, documents[position % len(documents)]
        made = record(event, *headers, sequence=at, namespace=namespace, document=document, time=time)
        records.append(made)
    return records


class Log:
    """Folds records as a shard of some partitions does."""

    def __init__(self, partitions=range(PARTITIONS), number=2):
        self.state = FoldState([it for it in first_checkpoints("log-1") if it.partition in partitions])
        self.documents = {}
        self.entries = {}
        first = genesis("log-1", RULES[number])
        self.take([record(first, sequence=1, time=START, namespace="_refold", document="log")])

    def take(self, records):
        """Fold what is read together; return the reasons of what is rejected, "" where it is not."""
        self.state.members.read(records)
        reasons = []
        for each in records:
            where = self.state.route(each.subject)
            if not self.state.has(where.partition):
                self.state.skip(each, where)
            elif where.reason:
                self.state.reject(each, where)
            else:
                document = self.documents.setdefault(where[1:3], Document.new(where))
                entry = self.state.fold(each, where, document).entry
                self.entries[entry.sequence] = entry
                reasons.append(entry.reason)
        return reasons


@pytest.fixture
def log():
    return Log()


def test_members_count_as_recorded_at_the_last_ones_time(log):
    times = [START + 5, START + 7, START + 9]
    assert log.take(batch([member(0), member(1), member(2)], times=times)) == [""] * 3
    assert {log.entries[at].recorded_at for at in (2, 3, 4)} == {START + 9}
    log.take([record({"put": 1}, sequence=5, time=START + 8)])
    assert log.entries[5].recorded_at == START + 9


def test_the_time_of_a_transaction_is_the_latest_of_its_members_where_the_clock_went_back(log):
    times = [START + 5, START + 9, START + 7]
    log.take(batch([member(0), member(1), member(2)], times=times))
    assert {log.entries[at].recorded_at for at in (2, 3, 4)} == {START + 9}


def altered(events, **changes):
    """Change a header's name or value in some of the records of a batch."""
    records = batch(events)
    for at, (before, after) in changes.items():
        place = int(at[1:])
        records[place] = records[place]._replace(headers=records[place].headers.replace(before, after))
    return records


ALL = [member(0), member(1), member(2)]
NO_TRANSACTION = {
    "no batch": [each._replace(headers=b"") for each in batch(ALL)],
    "another batch": altered(ALL, r1=(b"Id: x", b"Id: y")),
    "not counted": altered(ALL, r1=(b"Sequence: 2", b"Sequence: 3")),
    "no end": altered(ALL, r2=(b"Nats-Batch-Commit: 1\r\n", b"")),
    "two ends": altered(ALL, r1=(b"Sequence: 2\r\n", b"Sequence: 2\r\nNats-Batch-Commit: 1\r\n")),
    "two ids": altered(ALL, r0=(b"Nats-Batch-Id: x\r\n", b"Nats-Batch-Id: x\r\nNats-Batch-Id: x\r\n")),
    "lower case": altered(ALL, r1=(b"Nats-Batch-Id", b"nats-batch-id")),
    "one too few": batch(ALL[:2]),
    "one too many": batch([*ALL, {"put": 1}]),
    "another transaction": batch([member(0), member(1, transaction="u"), member(2)]),
    "another count": batch([member(0), member(1, of=4), member(2)]),
    "another order": batch([member(0), member(2), member(1)]),
    "no member": batch([member(0), {"put": 1}, member(2)]),
    "a bad member": batch([member(0), {"put": 1, "txn": {"id": "t", "index": "1", "count": 3}}, member(2)]),
    "a bad name": [*batch(ALL)[:2], batch(ALL)[2]._replace(subject=b"log.1.n.%")],
    "a system event": [*batch(ALL[:2]), *batch(ALL, namespace="_refold", documents=["fold"] * 3)[2:]],
    "too large": batch([member(at, of=9, meta={"x": "x" * (2**20 - 500)}) for at in range(9)]),
}


@pytest.mark.parametrize("name", NO_TRANSACTION)
def test_what_is_not_one_whole_batch_is_rejected(log, name):
    records = NO_TRANSACTION[name]
    log.take(records)
    for at, each in enumerate(records, 2):
        entry = log.entries.get(at)
        if entry is not None and b'"txn"' in each.body and "_refold" not in each.subject.decode():
            assert entry.reason == ("bad_field" if b'"1"' in each.body else "bad_transaction"), at
            assert entry.recorded_at == each.time


def test_a_batch_that_was_cut_is_rejected_with_all_its_members(log):
    cut = batch(ALL)[:2]
    assert log.take([*cut, record({"put": 1}, sequence=4)]) == ["bad_transaction", "bad_transaction", ""]


def test_a_member_is_strict(log):
    log.take([record({"put": 0}, sequence=2, document="a")])
    stale = batch([member(0, base=0), member(1, base=0), member(2)], first=3)
    assert log.take(stale) == ["conflict", "", ""]


def test_a_member_is_folded_under_the_settings_that_it_names(log):
    def settings(state, sequence):
        return record({"put": state}, sequence=sequence, namespace="_refold", document="settings:n")

    log.take([settings({"limits": {"state_bytes": 5}}, 2), settings({"limits": {"state_bytes": 50}}, 3)])
    state = {"put": "a text of more"}
    made = [
        state | {"txn": {"id": "t", "index": position, "count": 3, "settings": at}}
        for position, at in enumerate([2, 3, 1])
    ]
    assert log.take(batch(made, first=4)) == ["state_too_large", "", "settings_too_old"]


def test_fold_1_has_no_members_and_keeps_their_times():
    log = Log(number=1)
    records = batch(ALL)
    assert log.take(records) == ["not_in_this_fold"] * 3
    assert [log.entries[each.sequence].recorded_at for each in records] == [each.time for each in records]


def test_a_member_that_is_sent_again_is_a_duplicate(log):
    sent = [member(0, id="i"), member(1, id="i"), member(2, id="i")]
    log.take(batch(sent))
    again = batch(sent, first=5, batch_id="y")
    log.take(again)
    assert [log.entries[at].status.name for at in (2, 5, 6, 7)] == ["applied", *["duplicate"] * 3]


def test_no_part_divides_a_transaction():
    records = [*batch(ALL), record({"put": 1}, sequence=5)]
    assert [end_of_part(records, 0, count) for count in (1, 2, 3, 4, 9)] == [3, 3, 3, 4, 4]


@pytest.mark.parametrize("part_events", [1, 2, 5])
def test_a_shard_that_reads_its_own_events_finds_the_same_transactions(part_events):
    times = iter(range(START, START + 100 * SECOND, SECOND))

    async def read():
        source = MemoryLog("log-1", clock=lambda: next(times))
        for number in range(4):
            await source.append(Publication(namespace="n", document="z", body=b'{"put":1}'))
            made = [member(at, transaction=str(number)) for at in range(3)]
            await source.append_atomically(
                [
                    Publication(namespace="n", document=name, body=json_text.dumps(each))
                    for name, each in zip(DOCUMENTS, made, strict=True)
                ]
            )
        found = []
        for partitions in (range(PARTITIONS), [partition_of(b"n", b"b")]):
            shard = Log(partitions)
            async for part in read_until(source, 1, 17, partitions):
                shard.take(part)
            assert shard.state.read_sequence == 17
            found.append(shard.entries)
        whole, own = found
        assert [entry.status.name for entry in whole.values()] == ["applied"] * 17
        assert own == {at: entry for at, entry in whole.items() if at % 4 == 0}

    with patch("refold.log.memory.READ_EVENTS_MAX", part_events):
        asyncio.run(read())

"""Which events are the members of a transaction, when they count as recorded, and by which settings they are folded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from unittest.mock import patch

import pytest

from refold.core import json_text
from refold.core.document import Document
from refold.core.fold import RULES, genesis
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.stream import PARTITIONS, Record, partition_of
from refold.core.transactions import end_of_part
from refold.log import Publication, read_until
from refold.log.memory import MemoryLog
from support.events import SECOND, START, body_of, record

VECTORS = Path(__file__).parents[3] / "schemas" / "vectors" / "fold2" / "transactions.json"
CASES = [pytest.param(case, id=case["comment"]) for case in json.loads(VECTORS.read_text())]
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


@pytest.mark.parametrize("case", CASES)
def test_outcomes_and_recorded_times_equal_the_vectors(log, case):
    records = [
        Record(
            each["sequence"],
            each["time"],
            each["subject"].encode(),
            each["headers"].encode(),
            body_of(each["event"]),
        )
        for each in case["records"]
    ]
    log.take(records)
    found = []
    for each in records:
        entry = log.entries.get(each.sequence)
        said = {"status": "rejected", "reason": "bad_name"}
        if entry is not None:
            said = {"status": entry.status.name, "version": entry.version, "recorded_at": entry.recorded_at}
            said |= {"reason": entry.reason} if entry.reason else {}
        found.append(said)
    assert found == case["expected"]


def test_system_events_and_what_is_too_large_are_no_members(log):
    all_members = [member(0), member(1), member(2)]
    system = batch(all_members, namespace="_refold", documents=["fold"] * 3)
    assert log.take([*batch(all_members)[:2], system[2]])[:2] == ["bad_transaction"] * 2
    large = [member(at, of=9, meta={"x": "x" * (2**20 - 500)}) for at in range(9)]
    assert log.take(batch(large, first=5)) == ["bad_transaction"] * 9


def test_fold_1_has_no_members_and_keeps_their_times():
    log = Log(number=1)
    records = batch([member(0), member(1), member(2)])
    assert log.take(records) == ["not_in_this_fold"] * 3
    assert [log.entries[each.sequence].recorded_at for each in records] == [each.time for each in records]


def test_no_part_divides_a_transaction():
    records = [*batch([member(0), member(1), member(2)]), record({"put": 1}, sequence=5)]
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


@pytest.mark.parametrize("large_at", range(3))
@pytest.mark.parametrize("own", DOCUMENTS)
def test_a_shard_judges_a_transaction_by_the_settings_of_its_first_members_namespace(large_at, own):
    limit = {"put": {"limits": {"event_bytes": 400}}}
    settings = record(limit, sequence=2, namespace="_refold", document="settings:n")
    made = [member(at, meta={"x": "x" * 400 if at == large_at else ""}) for at in range(3)]
    for namespace, reason in (("n", "bad_transaction"), ("other", "")):
        whole, shard = Log(), Log([partition_of(namespace.encode(), own.encode())])
        for log in (whole, shard):
            log.take([settings])
            log.take(batch(made, first=3, namespace=namespace))
        at = 3 + DOCUMENTS.index(own)
        assert shard.entries[at] == whole.entries[at]
        if large_at != DOCUMENTS.index(own):
            assert shard.entries[at].reason == reason

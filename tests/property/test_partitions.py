"""A shard that reads its own partitions only is, after each event it reads, where one that reads all events is."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import aclosing
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refold.core.document import Document
from refold.core.fold import genesis
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.stream import Record, partition_of, stored_subject
from refold.log import Publication, foreign_prefixes
from refold.log import read_until as read_until_sequence
from refold.log.jetstream.consume import Consumer
from refold.log.jetstream.protocol import Parser, Subscription
from refold.log.memory import MemoryLog
from support.events import SECOND, START, body_of

DOCUMENTS = [("n", "a"), ("n", "b"), ("n", "c"), ("m", "a"), ("m", "b"), ("_refold", "fold")]
SYSTEM = stored_subject(partition_of(b"_refold", b"log"), "_refold", "log")
SUBJECTS = [stored_subject(partition_of(n.encode(), d.encode()), n, d) for n, d in DOCUMENTS]
HOSTILE = [
    b"state.n.*",
    b"log.%d.n.\xff" % partition_of(b"n", b"\xff"),
    b"log.%d.n.." % partition_of(b"n", b""),
    b"log.007.n.a",
    b"x",
]
BODIES = [
    body_of(event) for event in ({"put": 1}, {"merge": {"a": 2}}, {"put": {"fold": 1}}, {"patch": 0}, [])
]
HEADERS = st.sampled_from(
    [b"", b"", b"Nats-Batch-Id: x\r\nNats-Batch-Sequence: 1\r\n", b"Refold-Type: t\r\n"]
)
# Mostly forward, also at rest and back.
STEPS = st.sampled_from([1, 1, 1, 2, 0, -1, -3])
PARTITIONS = st.sets(
    st.sampled_from([partition_of(n.encode(), d.encode()) for n, d in DOCUMENTS]), min_size=1, max_size=4
)


@st.composite
def logs(draw: st.DrawFn, subjects: Sequence[bytes]) -> list[Record]:
    records, time = [], START
    for sequence in range(1, draw(st.integers(1, 30)) + 1):
        time += draw(STEPS) * SECOND
        subject, body = draw(st.sampled_from(subjects)), draw(st.sampled_from(BODIES))
        records.append(Record(sequence, time, subject, draw(HEADERS), body))
    return records


def folded(records: list[Record], partitions: Collection[int]) -> tuple[dict[int, Any], list[Any]]:
    """Fold records as a shard; return where the fold is after each of them, and all that it kept of them."""
    shard = FoldState([each for each in first_checkpoints("log-1") if each.partition in partitions])
    shard.members.read(records)
    documents: dict[Any, Document] = {}
    positions, kept = {}, []
    for record in records:
        where = shard.route(record.subject)
        if where.partition not in partitions:
            shard.skip(record, where)
        elif where.reason:
            kept.append((record.sequence, shard.reject(record, where)))
        else:
            document = documents.setdefault(where[1:3], Document.new(where))
            kept.append(shard.fold(record, where, document).entry)
        positions[record.sequence] = (
            shard.read_sequence,
            shard.recorded_at,
            shard.fold_number,
            shard.checkpoints(),
        )
    return positions, kept


def check(parts: list[list[Record]], records: list[Record], partitions: Collection[int]) -> None:
    given_positions, given_kept = folded([record for part in parts for record in part], partitions)
    positions, kept = folded(records, partitions)
    assert given_kept == kept
    assert given_positions.items() <= positions.items()
    assert parts[-1][-1] == records[-1]


class UnconnectedClient:
    """Keeps what a consumer subscribes."""

    subscriptions: dict[bytes, Subscription]

    def new_inbox(self) -> str:
        return "_INBOX.i"

    def subscribe(self, subject: str, handle: Any, *, handle_bulk: Any) -> bytes:
        self.subscriptions = {b"7": Subscription(subject.encode(), handle, handle_bulk)}
        return b"7"

    def on_disconnect(self, _: Any) -> Any:
        return lambda: None


def message(record: Record) -> bytes:
    reply = b"$JS.ACK.STATE.c.1.%d.%d.%d.0" % (record.sequence, record.sequence, record.time)
    if not record.headers:
        return b"MSG %b 7 %b %d\r\n%b\r\n" % (record.subject, reply, len(record.body), record.body)
    block = b"NATS/1.0\r\n%b\r\n" % record.headers
    sizes = (len(block), len(block) + len(record.body))
    return b"HMSG %b 7 %b %d %d\r\n%b%b\r\n" % (record.subject, reply, *sizes, block, record.body)


@given(logs(SUBJECTS + HOSTILE), PARTITIONS, st.lists(st.integers(1, 400), min_size=1), st.integers(1, 3))
def test_received_from_the_broker_in_any_parts(
    records: list[Record], partitions: set[int], sizes: list[int], reads_a_take: int
) -> None:
    client: Any = UnconnectedClient()
    consumer = Consumer(client, 1, foreign_prefixes(partitions))
    parser = Parser(client.subscriptions, lambda *_: None)
    stream, parts = b"".join(map(message, records)), []
    for number in range(len(stream)):
        size = sizes[number % len(sizes)]
        parser.feed(stream[:size])
        stream = stream[size:]
        if not stream or number % reads_a_take == 0:
            parts.append(list(consumer._records))
            consumer._records.clear()
        if not stream:
            break
    check([part for part in parts if part], records, partitions)


@given(logs(SUBJECTS), PARTITIONS, st.integers(1, 7), st.data())
@settings(deadline=None)
def test_read_from_the_log_in_memory_in_any_parts(
    records: list[Record], partitions: set[int], part_events: int, data: st.DataObject
) -> None:
    times = iter([START, *(record.time for record in records)])
    until = data.draw(st.integers(1, 1 + len(records)))

    async def read() -> None:
        log = MemoryLog("log-1", clock=lambda: next(times))
        for record in records:
            namespace, document = record.subject.decode().split(".")[2:]
            await log.append(Publication(namespace=namespace, document=document, body=record.body))
        stored = [record async for part in read_until_sequence(log, 0, until) for record in part]
        async with aclosing(read_until_sequence(log, 0, until, partitions)) as parts:
            check([part async for part in parts], stored, partitions)

    with patch("refold.log.memory.READ_EVENTS_MAX", part_events):
        asyncio.run(read())


@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), PARTITIONS, st.integers(1, 400))
def test_members_of_transactions_are_not_left_out(others: list[int], partitions: set[int], size: int) -> None:
    first = Record(1, START, SYSTEM, b"", body_of(genesis("log-1")))
    records = [first]
    for number, count in enumerate(others):
        for _ in range(count):
            records.append(Record(len(records) + 1, START, SUBJECTS[len(records) % 5], b"", BODIES[0]))
        for at, subject in enumerate(SUBJECTS[:5]):
            headers = b"Nats-Batch-Id: %d\r\nNats-Batch-Sequence: %d\r\n" % (number, at + 1)
            headers += b"Nats-Batch-Commit: 1\r\n" * (at == 4)
            body = body_of({"put": at, "txn": {"id": str(number), "index": at, "count": 5}})
            records.append(Record(len(records) + 1, START + len(records), subject, headers, body))
    client: Any = UnconnectedClient()
    consumer = Consumer(client, 1, foreign_prefixes(partitions))
    parser = Parser(client.subscriptions, lambda *_: None)
    stream = b"".join(map(message, records))
    for begin in range(0, len(stream), size):
        parser.feed(stream[begin : begin + size])
    check([consumer._records], records, partitions)
    assert {entry.reason for entry in folded(records, partitions)[1]} <= {""}


@pytest.mark.parametrize("subject", [b"state.n.*", b"x", b"log.007.n.a", *SUBJECTS[-1:]])
def test_only_a_stored_events_own_number_and_namespace_leave_it_out(subject: bytes) -> None:
    client: Any = UnconnectedClient()
    consumer = Consumer(client, 1, foreign_prefixes(()))
    # The first is taken one by one, the last because it is the last.
    subjects = [SUBJECTS[0], SUBJECTS[1], subject, SUBJECTS[1], SUBJECTS[0]]
    records = [Record(at, START + at, name, b"", b"{}") for at, name in enumerate(subjects, 1)]
    Parser(client.subscriptions, lambda *_: None).feed(b"".join(map(message, records)))
    assert consumer._records == [records[0], records[2], records[4]]

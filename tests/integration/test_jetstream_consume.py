"""The log reader: no bytes stop it, and no failure of the broker makes it skip, repeat or invent an event."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from refold.core.errors import LogHole, LogUnavailable
from refold.core.stream import Record, partition_of, route
from refold.log import BATCH_BYTES_MAX, Publication
from refold.log import read_until as read_events
from refold.log.jetstream import JetStreamLog, consume
from refold.log.jetstream.api import request_api, stored_record
from refold.log.jetstream.consume import READ_AHEAD_BYTES, Consumer, LogReader
from refold.log.jetstream.protocol import Parser, message_frame
from support.broker import WAIT_SECONDS, Broker, read_until, running_broker


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running_broker(tmp_path) as broker:
        await broker.make_log()
        yield broker


def event(document: str, body: bytes = b"{}") -> Publication:
    return Publication(namespace="n", document=document, body=body)


async def fill(log: JetStreamLog, events: int, *, body: bytes = b"") -> int:
    """Append so many events in batches; return the log's last sequence."""
    last = (await log.info()).last_sequence
    step = min(1000, BATCH_BYTES_MAX // (len(body) or 1))
    for first in range(0, events, step):
        numbers = range(first, min(first + step, events))
        batch = [event(f"d{number % 50}", body or b"%d" % number) for number in numbers]
        answer = await log.append_atomically(batch)
        assert isinstance(answer, list)
        last = answer[-1].sequence
    return last


def names(record: Record) -> tuple[bytes, bytes]:
    return (record.subject, record.body)


LONG = b"x" * 3000
HOSTILE = [
    (b"state.n.\xff\xfe", b"log.%d.n.\xff\xfe" % partition_of(b"n", b"\xff\xfe")),
    (b"state.n.\x00", b"log.%d.n.\x00" % partition_of(b"n", b"\x00")),
    (b"state." + LONG + b".d", b"log.%d.%b.d" % (partition_of(LONG, b"d"), LONG)),
    (b"state.n.*", b"state.n.*"),
    (b"state.n.\x0b\x0c", b"log.%d.n.\x0b\x0c" % partition_of(b"n", b"\x0b\x0c")),
    ("state.n.\ufffd".encode(), b"log.%d.n.\xef\xbf\xbd" % partition_of(b"n", "\ufffd".encode())),
    (b'state.n."\\<&>', b'log.%d.n."\\<&>' % partition_of(b"n", b'"\\<&>')),
]


@pytest.mark.parametrize("user", ["projector", "gateway"])
async def test_hostile_subjects_are_returned_byte_for_byte(broker: Broker, user: Any) -> None:
    frames = [message_frame(subject, b"%d" % at) for at, (subject, _) in enumerate(HOSTILE)]
    await broker.publish_raw(*frames, message_frame(b"state.n.end", b"end"))
    log = await broker.open_log(user)
    last = len(HOSTILE) + 2
    got = [await log.get(sequence) for sequence in range(2, last + 1)]
    assert [record and record.subject for record in got[:-1]] == [stored for _, stored in HOSTILE]
    assert [outline.subject for outline in await log.outlines(1)] == [
        record and record.subject for record in got
    ]
    if user == "projector":
        assert await read_until(log, last, after_sequence=1) == got
        # A literal subject does not say its partition.
        read = [record.subject async for part in read_events(log, 1, last, ()) for record in part]
        assert b"state.n.*" in read
        assert [route(record.subject).reason for record in got[:4] if record] == ["bad_name"] * 4
    assert log.client.reconnects == 0


HOSTILE_HEADERS = [
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\nNo-Value:\r\n\r\n",
    b"NATS/1.0\r\nBad: \xff\xfe\x00\r\n\xff: x\r\n\r\n",
    b"NATS/1.0\r\n" + b"Again: x\r\n" * 100 + b"\r\n",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0\r\nA: 1\r\n\r\nB: 2\r\n\r\n",
    b"NATS/1.0\r\nNats-Subject: log.1.forged\r\nNats-Sequence: 7\r\nNats-Pending-Bytes: 9\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
    b"NATS/1.0 503\r\nX: y\r\n\r\n",
    b"NATS/1.0 204 EOB\r\n\r\n",
]


async def test_hostile_headers_are_returned_byte_for_byte(broker: Broker) -> None:
    frames = [
        b"HPUB state.n.\xff%d %d %d\r\n%bbody\r\n" % (at, len(block), len(block) + 4, block)
        for at, block in enumerate(HOSTILE_HEADERS)
    ]
    await broker.publish_raw(*frames, message_frame(b"state.n.end", b"end"))
    log = await broker.open_log("projector")
    last = len(HOSTILE_HEADERS) + 2
    read = await read_until(log, last, after_sequence=1)
    assert read == [await log.get(sequence) for sequence in range(2, last + 1)]
    assert [outline.subject for outline in await log.outlines(1)] == [record.subject for record in read]
    assert [record.body for record in read] == [b"body"] * len(HOSTILE_HEADERS) + [b"end"]
    assert [route(record.subject).reason for record in read[:-1]] == ["bad_name"] * len(HOSTILE_HEADERS)
    for block, record in list(zip(HOSTILE_HEADERS, read, strict=False))[:7]:
        assert record.headers == block.removeprefix(b"NATS/1.0\r\n")[:-2]
    assert log.client.reconnects == 0


async def test_large_bodies_and_a_batch_of_a_thousand_are_read_unchanged(broker: Broker) -> None:
    log = await broker.open_log()
    large = [event(f"l{number}", bytes([number]) * (1024 * 1024)) for number in range(20)]
    for publication in large:
        await log.append(publication)
    last = await fill(log, 1000)
    records = await read_until(log, last, after_sequence=1)
    assert [record.body for record in records[:20]] == [publication.body for publication in large]
    assert [record.body for record in records[20:]] == [b"%d" % number for number in range(1000)]


async def test_a_broker_killed_during_a_read_loses_and_repeats_no_event(broker: Broker) -> None:
    log = await broker.open_log()
    last = await fill(log, 30_000, body=b"x" * 500)
    seen: list[int] = []
    kills = [3_000, 12_000, 25_000]
    async with asyncio.timeout(3 * WAIT_SECONDS), aclosing(log.read(0)) as runs:
        async for run in runs:
            seen += [record.sequence for record in run]
            if kills and len(seen) >= kills[0]:
                kills.pop(0)
                broker.kill()
                await broker.start()
            if len(seen) >= last:
                break
    assert seen == list(range(1, last + 1))
    assert log.client.reconnects >= 1


async def test_an_idle_reader_continues_after_the_broker_was_killed(broker: Broker) -> None:
    log, writer = await broker.open_log("projector"), await broker.open_log()
    seen: list[int] = []
    async with asyncio.timeout(3 * WAIT_SECONDS), aclosing(log.read(0)) as runs:
        seen += [record.sequence for record in await anext(runs)]
        for _ in range(3):
            coming = asyncio.ensure_future(anext(runs))
            broker.kill()
            await broker.start()
            await writer.client.wait_connected()
            await writer.append(event("a"))
            seen += [record.sequence for record in await coming]
    assert seen == [1, 2, 3, 4]


async def test_a_deleted_consumer_is_created_again(broker: Broker) -> None:
    log = await broker.open_log()
    async with asyncio.timeout(WAIT_SECONDS), aclosing(log.read(0)) as runs:
        await anext(runs)
        coming = asyncio.ensure_future(anext(runs))
        for _ in range(2):
            consumers = (await request_api(log.client, "CONSUMER.NAMES.STATE"))["consumers"]
            for name in consumers:
                await request_api(log.client, f"CONSUMER.DELETE.STATE.{name}")
        await log.append(event("a"))
        assert [record.sequence for record in await coming] == [2]


async def test_a_reader_that_ends_leaves_no_consumer(broker: Broker) -> None:
    log = await broker.open_log()
    for _ in range(3):
        await read_until(log, 1)
    await log.client.flush()
    # The broker deletes asynchronously; without a delete, a consumer would outlive this wait by far.
    async with asyncio.timeout(WAIT_SECONDS / 2):
        await until_no_consumer(log)


async def test_a_consumer_without_heartbeats_is_replaced(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consume, "HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr(consume, "HEARTBEATS_MISSED_MAX", 3)
    log = await broker.open_log()
    made = count_calls(monkeypatch, consume, "request_api")
    leader = count_calls(monkeypatch, consume, "stream_info")
    async with asyncio.timeout(WAIT_SECONDS), aclosing(log.read(1)) as runs:
        coming = asyncio.ensure_future(anext(runs))
        await until_more(made, 0)
        with broker.frozen():
            # Nothing answers a request once the consumer is considered lost.
            await until_more(leader, len(leader))
        await until_more(made, 1)
        await log.append(event("a"))
        assert [record.sequence for record in await coming] == [2]


def count_calls(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[tuple[Any, ...]]:
    calls: list[tuple[Any, ...]] = []
    called = getattr(module, name)

    async def counting(*arguments: Any) -> Any:
        calls.append(arguments)
        return await called(*arguments)

    monkeypatch.setattr(module, name, counting)
    return calls


async def until_no_consumer(log: JetStreamLog) -> None:
    """Wait until the broker has no consumer of the log."""
    while True:
        if not (await request_api(log.client, "CONSUMER.NAMES.STATE"))["consumers"]:
            return
        await asyncio.sleep(0.01)


async def until_more(calls: list[Any], than: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while len(calls) <= than:  # noqa: ASYNC110 - what is looked at belongs to others.
            await asyncio.sleep(0.005)


async def test_a_truncated_log_raises_a_hole_with_both_sequences(broker: Broker, tmp_path: Path) -> None:
    log = await broker.open_log()
    await fill(log, 5)
    stream, copy = tmp_path / "nats", tmp_path / "copy"
    broker.kill()
    shutil.copytree(stream, copy)
    await broker.start()
    await log.client.wait_connected()
    last = await fill(log, 3)
    async with asyncio.timeout(WAIT_SECONDS), aclosing(log.read(0)) as runs:
        read = 0
        while read < last:
            read = (await anext(runs))[-1].sequence
        broker.kill()
        shutil.rmtree(stream)
        copy.rename(stream)
        await broker.start()
        with pytest.raises(LogHole) as caught:
            await anext(runs)
    assert caught.value.facts == {"last_sequence": 6, "read_sequence": 9}


async def test_an_unreadable_block_raises_a_hole_with_its_sequences(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consume, "QUIET_SECONDS", 0.3)
    log = await broker.open_log()
    last = await fill(log, 2_200, body=b"x" * 10_000)
    await broker.server.stop()
    (folder,) = (tmp_path / "nats").rglob("msgs")
    assert sorted(path.name for path in folder.glob("*.blk")) == ["1.blk", "2.blk", "3.blk"]
    (folder / "2.blk").unlink()
    (folder / "2.blk").mkdir()
    await broker.start()
    await log.client.wait_connected()
    records: list[Record] = []
    with pytest.raises(LogHole, match="cannot read") as caught:
        await read_until(log, last, into=records)
    first = records[-1].sequence + 1
    assert caught.value.facts["first_sequence"] == first
    # The block's last event: the one before the first that can be read again.
    end = caught.value.facts["last_sequence"]
    assert isinstance(end, int)
    assert first < end < last
    assert await log.get(end) is None
    assert await log.get(end + 1) is not None


async def test_an_idle_log_is_not_a_hole(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consume, "QUIET_SECONDS", 0.05)
    checks: list[None] = []
    check = LogReader.check_quiet

    async def counted(self: LogReader) -> None:
        await check(self)
        checks.append(None)

    monkeypatch.setattr(LogReader, "check_quiet", counted)
    log = await broker.open_log()
    async with asyncio.timeout(WAIT_SECONDS), aclosing(log.read(0)) as runs:
        assert [record.sequence for record in await anext(runs)] == [1]
        coming = asyncio.ensure_future(anext(runs))
        await until_more(checks, 1)
        await log.append(event("a"))
        assert [record.sequence for record in await coming] == [2]


async def test_a_slow_reader_receives_a_bounded_amount_ahead(broker: Broker) -> None:
    log = await broker.open_log()
    events = 3 * READ_AHEAD_BYTES // 100_000
    await fill(log, events, body=b"x" * 100_000)
    consumer = await Consumer.create(log.client, 1)
    taken = len(await consumer.take())
    # The broker answers another request after it has sent all that the first one allows.
    await log.client.flush()
    async with asyncio.timeout(WAIT_SECONDS):
        while consumer._requested_bytes > 200_000:  # noqa: ASYNC110 - what is looked at belongs to the consumer.
            await asyncio.sleep(0.005)
    assert taken * 100_000 <= READ_AHEAD_BYTES
    assert len(consumer._records) * 100_000 <= READ_AHEAD_BYTES
    consumer.close()


async def test_requested_bytes_are_counted_as_the_broker_counts_them(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a reader would request too much, or stop requesting."""
    monkeypatch.setattr(consume, "PULL_SECONDS", 0.5)
    monkeypatch.setattr(consume, "HEARTBEAT_SECONDS", 0.1)
    frames = [b"HPUB state.n.\xff %d %d\r\n%b\r\n" % (len(b), len(b), b) for b in HOSTILE_HEADERS]
    await broker.publish_raw(*frames, *(message_frame(subject, b"x") for subject, _ in HOSTILE))
    log = await broker.open_log()
    await log.append(event("plain", b"x" * 12_000))
    last = await fill(log, 2000, body=b"x" * 99)
    consumer = await Consumer.create(log.client, 1)
    taken = 0
    while taken < last:
        taken += len(await consumer.take())
    # The broker reports the rest of each request when it expires.
    async with asyncio.timeout(WAIT_SECONDS):
        while consumer._requested_bytes:  # noqa: ASYNC110 - what is looked at belongs to the consumer.
            await asyncio.sleep(0.01)
    consumer.close()


async def test_a_gap_that_is_not_in_the_log_is_read_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One message is lost between broker and reader; the log still has it."""
    log = await broker.open_log()
    last = await fill(log, 2000)
    lost = lose(monkeypatch, b"700", times=1)
    records = await read_until(log, last)
    assert [record.sequence for record in records] == list(range(1, last + 1))
    assert lost == [b"700"]


async def test_a_gap_at_the_first_event_is_checked_with_the_leader(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await broker.open_log()
    last = await fill(log, 10)
    lost = lose(monkeypatch, b"0", times=2)
    requested = count_calls_of_records(monkeypatch)
    records = await read_until(log, last, after_sequence=1)
    assert [record.sequence for record in records] == list(range(2, last + 1))
    assert requested == [2, 2]
    assert lost == [b"0", b"0"]


def lose(monkeypatch: pytest.MonkeyPatch, body: bytes, *, times: int) -> list[bytes]:
    """Remove an event from the received bytes, the first `times` times, before they are parsed."""
    lost: list[bytes] = []
    scan = Parser._scan
    whole = re.compile(rb"HMSG [^\r]*\r\nNATS/1\.0\r\n(?:[^\r]+\r\n)*\r\n%b\r\n" % body)

    def scan_the_rest(self: Parser, buffer: bytes) -> tuple[bytes, int]:
        if len(lost) < times and whole.search(buffer):
            buffer = whole.sub(b"", buffer, count=1)
            lost.append(body)
        return scan(self, buffer)

    monkeypatch.setattr(Parser, "_scan", scan_the_rest)
    return lost


def count_calls_of_records(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    requested: list[int] = []

    async def counting(client: Any, *, seq: int) -> Record | None:
        requested.append(seq)
        return await stored_record(client, seq=seq)

    monkeypatch.setattr(consume, "stored_record", counting)
    return requested


def leader_that_has(*ends: int) -> Callable[[Any], Any]:
    left = list(ends)

    async def info(_: Any) -> dict[str, Any]:
        end = left.pop(0) if len(left) > 1 else left[0]
        return {"config": {"num_replicas": 3}, "state": {"last_seq": end}}

    return info


async def test_events_that_the_leader_does_not_have_are_not_read(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await broker.open_log()
    last = await fill(log, 9)
    monkeypatch.setattr(consume, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(consume, "stream_info", leader_that_has(0, 4, 4, 4, 7, 7, 20))
    runs: list[list[int]] = []
    async with asyncio.timeout(WAIT_SECONDS), aclosing(log.read(0)) as reading:
        async for run in reading:
            runs.append([record.sequence for record in run])
            if run[-1].sequence == last:
                break
    # The events may arrive in several parts, so there may be more ends.
    assert {4, 7, last} <= {run[-1] for run in runs}
    assert [sequence for run in runs for sequence in run] == list(range(1, last + 1))


async def test_closing_the_client_ends_a_read(broker: Broker) -> None:
    log = await broker.open_log()
    async with asyncio.timeout(WAIT_SECONDS), aclosing(log.read(1)) as runs:
        coming = asyncio.ensure_future(anext(runs))
        await log.info()
        await log.close()
        with pytest.raises(LogUnavailable):
            await coming

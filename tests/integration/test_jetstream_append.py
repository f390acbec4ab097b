"""Group commit: order, results and atomicity hold for any behaviour of the broker, its clients and its disk."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest

from refold.core.errors import BatchRefused, LogFull, LogUnavailable, Refused
from refold.core.stream import Record
from refold.log import Appended, Publication, Unknown
from refold.log.jetstream import JetStreamLog
from refold.log.jetstream.api import request_api
from refold.log.jetstream.append import APPENDS_MAX, BATCH_EVENTS_MIN
from refold.log.semaphore import Semaphore
from support.broker import WAIT_SECONDS, Broker, held_batches, read_until, running_broker


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running_broker(tmp_path) as broker:
        await broker.make_log()
        yield broker


@pytest.fixture
async def synced(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running_broker(tmp_path, sync="fsync") as broker:
        await broker.make_log()
        yield broker


def event(document: str, body: bytes = b"{}", **fields: Any) -> Publication:
    return Publication(namespace="n", document=document, body=body, **fields)


async def all_of(log: JetStreamLog, *publications: Publication) -> list[Any]:
    """Append all concurrently; errors are answers, too."""
    return await asyncio.gather(*map(log.append, publications), return_exceptions=True)


async def outcome_of(appended: Awaitable[object]) -> object:
    return (await asyncio.gather(appended, return_exceptions=True))[0]


async def everything(log: JetStreamLog) -> list[Record]:
    return await read_until(log, (await log.info()).last_sequence)


def is_of_batch(record: Record) -> bool:
    return b"Nats-Batch-Id: " in record.headers


async def test_few_events_are_sent_singly_and_many_as_a_batch(broker: Broker) -> None:
    log = await broker.open_log("gateway")
    await all_of(log, *(event(f"a{number}") for number in range(BATCH_EVENTS_MIN - 1)))
    reader = await broker.open_log()
    assert not any(map(is_of_batch, await everything(reader)))
    await all_of(log, *(event(f"b{number}", headers=(("X", "y"),)) for number in range(BATCH_EVENTS_MIN)))
    batch = (await everything(reader))[-BATCH_EVENTS_MIN:]
    assert all(map(is_of_batch, batch))
    assert len({record.headers.split(b"Nats-Batch-Id: ")[1].split(b"\r\n")[0] for record in batch}) == 1
    assert all(record.headers.startswith(b"X: y\r\nNats-Batch-Id: ") for record in batch)
    last = b"Nats-Batch-Sequence: %d\r\nNats-Batch-Commit: 1\r\n" % BATCH_EVENTS_MIN
    assert last in batch[-1].headers


async def test_a_documents_second_event_waits_for_the_first_or_is_stored_with_it(broker: Broker) -> None:
    log = await broker.open_log()
    await all_of(log, event("a", b"1"), event("b"), event("a", b"2"))
    single = (await everything(log))[1:]
    assert [record.body for record in single if record.subject.endswith(b".a")] == [b"1", b"2"]
    assert not any(map(is_of_batch, single))
    await all_of(log, *(event("a", b"%02d" % number) for number in range(BATCH_EVENTS_MIN)))
    together = (await everything(log))[4:]
    assert [record.body for record in together] == [b"%02d" % number for number in range(BATCH_EVENTS_MIN)]
    assert all(map(is_of_batch, together))


async def test_what_arrives_while_a_group_is_in_flight_is_sent_as_one_batch(broker: Broker) -> None:
    log = await broker.open_log()
    with broker.frozen():
        appending = []
        for number in range(1 + BATCH_EVENTS_MIN):
            appending.append(asyncio.ensure_future(log.append(event(f"d{number}"))))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    await asyncio.gather(*appending)
    first, *later = (await everything(log))[1:]
    assert not is_of_batch(first)
    assert len(later) == BATCH_EVENTS_MIN
    assert all(map(is_of_batch, later))


async def test_an_event_that_is_never_acknowledged_does_not_hold_up_other_documents(broker: Broker) -> None:
    log = await broker.open_log("gateway", acknowledge_seconds=10 * WAIT_SECONDS)
    # The broker does not answer what this user may not publish.
    denied = asyncio.ensure_future(log.append(Publication(namespace="_refold", document="a", body=b"{}")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_SECONDS):
        assert await log.append(event("a")) == Appended(2)
    assert not denied.done()
    denied.cancel()


async def test_no_message_id_is_ever_sent(broker: Broker) -> None:
    log = await broker.open_log()
    await all_of(log, event("a", expected_last_sequence=0), *(event(f"d{number}") for number in range(30)))
    await log.append_atomically([event("x"), event("y")])
    assert not any(b"nats-msg-id" in record.headers.lower() for record in await everything(log))


async def test_concurrent_writers_each_see_their_own_events_in_order(broker: Broker) -> None:
    log = await broker.open_log()

    async def write(writer: int) -> list[int]:
        sequences: list[int] = []
        for round_number in range(12):
            pair = [event(f"w{writer}", b"%d" % (2 * round_number + at)) for at in range(1 + writer % 3)]
            sequences += [answer.sequence for answer in await all_of(log, *pair)]
        return sequences

    written = await asyncio.gather(*map(write, range(64)))
    records = {record.sequence: record for record in await everything(log)}
    assert len(records) == 1 + sum(map(len, written))
    for writer, sequences in enumerate(written):
        assert sequences == sorted(sequences)
        assert {records[sequence].subject.rsplit(b".")[-1] for sequence in sequences} == {b"w%d" % writer}


async def test_a_broker_killed_during_appends_keeps_acknowledged_events_and_order(
    synced: Broker,
) -> None:
    log = await synced.open_log("gateway")
    acknowledged: dict[bytes, int] = {}
    answers: set[type] = set()
    stop = asyncio.Event()

    async def write(writer: int) -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            bodies = [b"%d-%06d" % (writer, 3 * number + at) for at in range(3)]
            for body, answer in zip(
                bodies, await all_of(log, *(event(f"w{writer}", body) for body in bodies)), strict=True
            ):
                answers.add(type(answer))
                if isinstance(answer, Appended):
                    acknowledged[body] = answer.sequence
            if not log.client.is_connected:
                await log.client.wait_connected()

    async with asyncio.timeout(3 * WAIT_SECONDS), asyncio.TaskGroup() as tasks:
        for writer in range(24):
            tasks.create_task(write(writer))
        for kills in range(1, 4):
            await more_than(acknowledged, 300 * kills)
            synced.kill()
            await synced.start()
            await more_than(acknowledged, len(acknowledged))
        stop.set()
    assert answers <= {Appended, Unknown, LogUnavailable}
    stored = await everything(await synced.open_log())
    by_body = {record.body: record.sequence for record in stored[1:]}
    assert len(by_body) == len(stored) - 1
    assert acknowledged.items() <= by_body.items()
    for writer in range(24):
        own = [record.body for record in stored[1:] if record.body.startswith(b"%d-" % writer)]
        assert own == sorted(own)


async def more_than(kept: dict[bytes, int], count: int) -> None:
    while len(kept) <= count:  # noqa: ASYNC110 - what is looked at belongs to the writers.
        await asyncio.sleep(0.005)


async def test_an_unacknowledged_event_is_unknown_and_later_ones_are_not_sent(
    broker: Broker,
) -> None:
    log = await broker.open_log(acknowledge_seconds=0.3)
    with broker.frozen():
        doubtful = asyncio.ensure_future(log.append(event("a", b"1")))
        batch = asyncio.ensure_future(log.append_atomically([event("b", b"1"), event("c", b"1")]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        behind = [asyncio.ensure_future(outcome_of(log.append(event(name, b"2")))) for name in "abc"]
        assert isinstance(await doubtful, Unknown)
        assert isinstance(await batch, Unknown)
        assert [type(answer) for answer in await asyncio.gather(*behind)] == [LogUnavailable] * 3
    assert isinstance(await log.append(event("a", b"3")), Appended)
    bodies = [(record.subject.rsplit(b".")[-1], record.body) for record in (await everything(log))[1:]]
    # The broker stored all of them, although it did not acknowledge them in time.
    assert bodies == [(b"a", b"1"), (b"b", b"1"), (b"c", b"1"), (b"a", b"3")]


async def test_an_append_in_flight_is_unknown_at_once_when_the_connection_is_lost(broker: Broker) -> None:
    log = await broker.open_log()
    with broker.frozen():
        on_its_way = asyncio.ensure_future(log.append(event("a")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        behind = asyncio.ensure_future(outcome_of(log.append(event("a"))))
        await asyncio.sleep(0)
        broker.kill()
    async with asyncio.timeout(WAIT_SECONDS):
        assert await on_its_way == Unknown("the connection was lost before the acknowledgement")
        assert isinstance(await behind, LogUnavailable)
        answers = await all_of(log, event("a"), event("b"))
    assert [type(answer) for answer in answers] == [LogUnavailable] * 2
    await broker.start()
    await log.client.wait_connected()
    assert await log.append(event("a")) == Appended(2)


async def test_appends_without_a_stream_are_refused(broker: Broker) -> None:
    log = await broker.open_log()
    await request_api(await broker.connect(), "STREAM.DELETE.STATE")
    for appending in (
        log.append(event("a")),
        log.append_atomically([event("a"), event("b")]),
        log.append(event("a", expected_last_sequence=0)),
    ):
        with pytest.raises(LogUnavailable, match="no stream receives it"):
            await appending


async def test_open_batches_of_another_client_do_not_block_events(broker: Broker) -> None:
    """The broker allows 50 open batches per stream, for ten seconds each, and any client may begin one."""
    log = await broker.open_log()
    publications = [event(f"d{number % 20}", b"%03d" % number) for number in range(60)]
    async with held_batches(broker.server, "n"):
        for _ in range(2):
            answers = await all_of(log, *publications)
            assert [type(answer) for answer in answers] == [Appended] * 60
            sequences = [answer.sequence for answer in answers]
            assert all(sequences[at] < sequences[at + 20] for at in range(40))
            with pytest.raises(BatchRefused, match="too many inflight"):
                await log.append_atomically(publications[:20])
        stored = [record for record in await everything(log) if record.body != b""]
        assert not any(map(is_of_batch, stored))


async def test_an_event_after_a_refused_batch_of_its_document_is_stored(broker: Broker) -> None:
    log = await broker.open_log()
    async with held_batches(broker.server, "n"):
        answers = await asyncio.gather(
            outcome_of(log.append_atomically([event("a"), event("b")])), log.append(event("a"))
        )
    assert [type(answer) for answer in answers] == [BatchRefused, Appended]


async def test_batches_resume_once_the_broker_accepts_them(broker: Broker) -> None:
    log = await broker.open_log()
    async with held_batches(broker.server, "n"):
        with pytest.raises(BatchRefused):
            await log.append_atomically([event("a"), event("b")])
    async with asyncio.timeout(WAIT_SECONDS):
        while isinstance(
            answer := await outcome_of(log.append_atomically([event("a"), event("b")])), Exception
        ):
            assert isinstance(answer, BatchRefused)
            await asyncio.sleep(0.05)
    assert isinstance(answer, list)


async def test_a_broker_without_space_refuses_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refold.embedded.nats.space_bytes", lambda _: 200_000)
    async with running_broker(tmp_path) as broker:
        await broker.make_log()
        log = await broker.open_log("gateway")
        stored = 0
        async with asyncio.timeout(WAIT_SECONDS):
            while isinstance(
                answer := await outcome_of(log.append(event(f"d{stored}", b"x" * 5000))), Appended
            ):
                stored += 1
            assert isinstance(answer, LogFull)
            with pytest.raises(LogFull):
                await log.append_atomically([event("a", b"x" * 5000), event("b", b"x" * 5000)])
            answers = await all_of(log, *(event(f"e{number}", b"x" * 5000) for number in range(30)))
        assert {type(answer) for answer in answers} == {LogFull}
        assert 20 < stored < 42
        assert (await log.info()).last_sequence == stored + 1


async def test_after_an_event_that_does_not_fit_no_later_one_of_its_document_is_stored(
    tmp_path: Path,
) -> None:
    async with running_broker(tmp_path) as broker:
        await broker.make_log(bytes_max=20_000)
        log = await broker.open_log()
        sizes = [15_000, 15_000, *[1] * 30]
        first = asyncio.ensure_future(log.append(event("a", b"x" * 10_000)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        answers = await all_of(log, *(event("a", b"x" * size) for size in sizes), event("b"))
        assert isinstance(await first, Appended)
        assert [type(answer) for answer in answers[:-1]] == [LogFull] * len(sizes)
        assert len((await everything(log))[1:]) <= 2


async def test_an_oversized_event_is_refused_and_the_client_keeps_working(broker: Broker) -> None:
    log = await broker.open_log()
    with pytest.raises(Refused, match="at most 1048576 bytes"):
        await log.append(event("a", b"x" * (3 * 1024 * 1024)))
    assert await log.append(event("a")) == Appended(2)
    assert log.client.reconnects == 0


async def test_appends_over_the_limit_wait_in_order(broker: Broker) -> None:
    log = await broker.open_log()
    count = APPENDS_MAX + 500
    answers = await asyncio.gather(*(log.append(event(f"d{number % 3000}")) for number in range(count)))
    assert [answer.sequence for answer in answers if isinstance(answer, Appended)] == list(
        range(2, count + 2)
    )


async def test_a_new_caller_does_not_overtake_a_waiter_that_was_just_woken() -> None:
    places = Semaphore(2)
    await places.acquire()
    await places.acquire()
    entered: list[str] = []

    async def visit(name: str) -> None:
        await places.acquire()
        entered.append(name)
        places.release()

    first, cancelled = asyncio.ensure_future(visit("first")), asyncio.ensure_future(visit("cancelled"))
    await asyncio.sleep(0)
    cancelled.cancel()
    # The new caller runs next, then the first waiter, which is woken now; another permit is free.
    newcomer = asyncio.ensure_future(visit("newcomer"))
    places.release()
    places.release()
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(first, cancelled, newcomer, return_exceptions=True)
    assert entered == ["first", "newcomer"]


async def test_a_permit_of_a_cancelled_waiter_passes_to_the_next() -> None:
    places = Semaphore(1)
    await places.acquire()
    waiting = [asyncio.ensure_future(places.acquire()) for _ in range(2)]
    await asyncio.sleep(0)
    places.release()
    waiting[0].cancel()
    async with asyncio.timeout(WAIT_SECONDS):
        await waiting[1]
    assert waiting[0].cancelled()

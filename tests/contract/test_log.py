"""The contract of the EventLog and Notices ports: one suite, run on the adapter in memory and on JetStream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol

import pytest

from refold.core.errors import LogFull, LogHole, LogUnavailable, Refused
from refold.core.fold import EVENT_BYTES_MAX, HEADERS_BYTES_MAX, read_genesis
from refold.core.stream import Record, Route, author_headers, partition_of, route, stored_subject
from refold.log import (
    ATOMIC_BYTES_MAX,
    BATCH_EVENTS_MAX,
    OUTLINES_BYTES_MAX,
    OUTLINES_MAX,
    Appended,
    EventLog,
    Notices,
    Publication,
    Stale,
)
from refold.log import read_until as read_events
from refold.log.jetstream import JetStreamLog, JetStreamNotices
from refold.log.jetstream.api import request_api
from refold.log.jetstream.stream import CONFIGURATION, WIDE
from refold.log.memory import MemoryLog, MemoryNotices
from support.broker import LOG_ID, WAIT_SECONDS, Broker, read_until, running_broker

NANOSECONDS = 1_000_000_000
Punch = Callable[[int], Awaitable[None]]


class Maker(Protocol):
    """Creates the logs and notices of one adapter."""

    async def log(self, *, bytes_max: int | None = None) -> EventLog: ...
    async def log_with_holes(self) -> tuple[EventLog, Punch]: ...
    async def notices(self) -> Notices: ...


class MemoryMaker:
    async def log(self, *, bytes_max: int | None = None) -> EventLog:
        return MemoryLog(LOG_ID, bytes_max=bytes_max)

    async def log_with_holes(self) -> tuple[EventLog, Punch]:
        log = MemoryLog(LOG_ID)

        async def punch(sequence: int) -> None:
            log.punch(sequence)

        return log, punch

    async def notices(self) -> Notices:
        return MemoryNotices()


class JetStreamMaker:
    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def log(self, *, bytes_max: int | None = None) -> EventLog:
        await self._broker.make_log(bytes_max=-1 if bytes_max is None else bytes_max)
        return await self._broker.open_log()

    async def log_with_holes(self) -> tuple[EventLog, Punch]:
        """Create a stream in which events can be deleted; `open` would refuse it."""
        client = await self._broker.connect()
        await request_api(
            client, "STREAM.CREATE.STATE", CONFIGURATION | {"subjects": WIDE, "deny_delete": False}
        )

        async def punch(sequence: int) -> None:
            await request_api(client, "STREAM.MSG.DELETE.STATE", {"seq": sequence})

        return JetStreamLog(client, LOG_ID), punch

    async def notices(self) -> Notices:
        return JetStreamNotices(await self._broker.connect())


@pytest.fixture(params=["memory", "jetstream"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Maker]:
    if request.param == "memory":
        yield MemoryMaker()
        return
    async with running_broker(tmp_path) as broker:
        yield JetStreamMaker(broker)


@pytest.fixture
async def log(make: Maker) -> AsyncIterator[EventLog]:
    log = await make.log()
    yield log
    await log.close()


def event(document: str = "a", body: bytes = b"{}", **fields: Any) -> Publication:
    return Publication(namespace="shop", document=document, body=body, **fields)


def subject_of(document: str) -> bytes:
    return stored_subject(partition_of(b"shop", document.encode()), "shop", document)


async def append(log: EventLog, *publications: Publication) -> list[int]:
    """Append one after the other; each must be stored."""
    answers = [await log.append(publication) for publication in publications]
    return [sequence_of(answer) for answer in answers]


async def drain(runs: AsyncGenerator[list[Record], None]) -> None:
    async for _ in runs:
        pass


async def subjects(log: EventLog, after_sequence: int) -> list[bytes]:
    return [outline.subject for outline in await log.outlines(after_sequence)]


async def outcome_of(appended: Awaitable[object]) -> object:
    return (await asyncio.gather(appended, return_exceptions=True))[0]


def sequence_of(answer: object) -> int:
    assert isinstance(answer, Appended), answer
    return answer.sequence


async def test_a_log_starts_with_its_genesis(log: EventLog) -> None:
    info = await log.info()
    assert (info.log_id, info.first_sequence, info.last_sequence) == (LOG_ID, 1, 1)
    (genesis,) = await read_until(log, 1)
    assert read_genesis(genesis) == LOG_ID
    assert genesis.subject == stored_subject(partition_of(b"_refold", b"log"), "_refold", "log")


async def test_info_returns_the_end_and_the_time_of_the_log(log: EventLog) -> None:
    before = await log.info()
    await append(log, event(), event())
    after = await log.info()
    assert after.last_sequence == before.last_sequence + 2
    assert after.bytes > before.bytes
    assert after.limit_bytes is None
    assert before.time <= after.time
    assert abs(after.time - time.time_ns()) < 60 * NANOSECONDS


async def test_an_event_is_read_back_unchanged(log: EventLog) -> None:
    headers = (("Content-Type", "application/json-patch+json"), ("Refold-Actor", "Zoë"), ("refold-id", " x "))
    before = (await log.info()).time
    (sequence,) = await append(log, event("doc-1", b'[{"op":"test"}]', headers=headers))
    (record,) = await read_until(log, sequence, after_sequence=sequence - 1)
    assert record.sequence == sequence
    assert record.subject == subject_of("doc-1")
    assert record.body == b'[{"op":"test"}]'
    expected = "Content-Type: application/json-patch+json\r\nRefold-Actor: Zoë\r\nrefold-id:  x \r\n"
    assert author_headers(record.headers) == expected.encode()
    assert before <= record.time <= (await log.info()).time


async def test_an_event_without_headers_has_none(log: EventLog) -> None:
    (sequence,) = await append(log, event(body=b""))
    (record,) = await read_until(log, sequence, after_sequence=sequence - 1)
    assert (record.headers, record.body) == (b"", b"")


async def test_get_returns_the_same_record_as_read(log: EventLog) -> None:
    batch = [event("b", b"1", headers=(("Refold-Id", "i"),)), event("c", b"")]
    await append(log, event("a", b"\x00\xff", headers=(("X", "ü"),)), event("a", expected_last_sequence=2))
    await log.append_atomically(batch)
    for record in await read_until(log, 5):
        assert await log.get(record.sequence) == record


async def test_get_returns_none_for_an_unknown_sequence(log: EventLog) -> None:
    assert [await log.get(sequence) for sequence in (-1, 0, 2, 10**12)] == [None] * 4


async def test_last_of_returns_the_last_event_of_that_document(log: EventLog) -> None:
    first, *_ = await append(log, event("a", b"1"), event("b", b"2"), event("ab", b"3"))
    (last,) = await append(log, event("b", b"4"))
    assert (await log.last_of("shop", "a")) == await log.get(first)
    assert (await log.last_of("shop", "b")) == await log.get(last)
    assert await log.last_of("shop", "c") is None
    with pytest.raises(Refused):
        await log.last_of("shop", "..")


async def test_read_namespace_returns_the_events_of_that_namespace_between_two_sequences(
    log: EventLog,
) -> None:
    shop = await append(log, event("a", b"1"), event("b", b"2"), event("a", b"3"))
    for namespace, own in (("shop", shop), ("_refold", [1]), ("sho", [])):
        for after in range(5):
            for end in range(6):
                found = [it async for it in log.read_namespace(namespace, after, end)]
                assert found == [await log.get(at) for at in own if after < at <= end]
    with pytest.raises(Refused):
        await anext(log.read_namespace("*", 0, 9))


async def test_read_document_returns_the_events_of_that_document_between_two_sequences(log: EventLog) -> None:
    names = ["a", "b", "a", "ab", "ä/1", "a", "b", "ä/1", "a"]
    first, *_ = await append(log, *(event(name, b"%d" % at) for at, name in enumerate(names)))
    batch = [event("a", b"\x00\xff", headers=(("X", "ü"),)), event("b", b""), event("a", b"last")]
    await log.append_atomically(batch)
    everything = await read_until(log, first + len(names) + 2)
    for document in ("a", "ab", "ä/1", "never"):
        subject = Route.of("shop", document).subject
        for after, until in (
            (0, first + 99),
            (first, first + 5),
            (first + 5, first + 5),
            (first + 2, first + 4),
        ):
            expected = [it for it in everything if it.subject == subject and after < it.sequence <= until]
            assert [it async for it in log.read_document("shop", document, after, until)] == expected
    with pytest.raises(Refused):
        await anext(log.read_document("shop", "..", 0, 9))
    await log.close()
    with pytest.raises(LogUnavailable):
        await anext(log.read_document("shop", "a", 0, 9))


async def test_outlines_are_those_of_the_events_after_a_sequence(log: EventLog) -> None:
    documents = [f"d{number % 7}" for number in range(OUTLINES_MAX)] + ["a/ä", "last"]
    await asyncio.gather(*(log.append(event(document, headers=(("X", "1"),))) for document in documents))
    end = (await log.info()).last_sequence
    expected = [record.subject for record in await read_until(log, end)]
    assert await subjects(log, 0) == expected[:OUTLINES_MAX]
    assert await subjects(log, 3) == expected[3 : OUTLINES_MAX + 3]
    assert await subjects(log, end - 1) == expected[-1:]
    assert await subjects(log, end) == await subjects(log, end + 9) == []


async def test_outlines_of_large_events_are_returned_in_parts(log: EventLog) -> None:
    await append(log, *(event(f"d{number}", b"x" * (OUTLINES_BYTES_MAX // 3 + 1)) for number in range(6)))
    read: list[bytes] = []
    while more := await subjects(log, 1 + len(read)):
        assert len(more) <= 3
        read += more
    assert read == [subject_of(f"d{number}") for number in range(6)]
    sizes = [outline.size for outline in await log.outlines(1)]
    assert all(OUTLINES_BYTES_MAX // 3 <= size < OUTLINES_BYTES_MAX // 3 + 1_000 for size in sizes)


async def test_outlines_of_a_closed_log_are_unavailable(log: EventLog) -> None:
    await log.close()
    with pytest.raises(LogUnavailable):
        await subjects(log, 0)


async def test_reading_starts_after_any_sequence_and_continues_with_new_events(log: EventLog) -> None:
    await append(log, *(event(f"d{number}") for number in range(20)))
    for after_sequence in (0, 1, 7, 20):
        async with asyncio.timeout(WAIT_SECONDS), aclosing(log.read(after_sequence)) as runs:
            end = (await log.info()).last_sequence
            seen = [record.sequence for record in await anext(runs)]
            while seen[-1] < end:
                seen += [record.sequence for record in await anext(runs)]
            assert seen == list(range(after_sequence + 1, end + 1))
            (sequence,) = await append(log, event("live"))
            assert [record.sequence for record in await anext(runs)] == [sequence]


async def test_a_reader_at_the_end_waits_for_the_next_event(log: EventLog) -> None:
    (last,) = await append(log, event())
    async with asyncio.timeout(WAIT_SECONDS), aclosing(log.read(last)) as runs:
        coming = asyncio.ensure_future(anext(runs))
        await log.info()
        assert not coming.done()
        await append(log, event("next", b"next"))
        assert [record.body for record in await coming] == [b"next"]


async def test_two_readers_read_the_same(log: EventLog) -> None:
    await append(log, *(event(f"d{number}") for number in range(5)))
    assert await read_until(log, 6) == await read_until(log, 6)


async def test_reading_past_the_end_raises_a_hole_with_both_sequences(log: EventLog) -> None:
    with pytest.raises(LogHole) as caught:
        await read_until(log, 100, after_sequence=99)
    assert caught.value.facts == {"last_sequence": 1, "read_sequence": 99}


async def test_missing_events_raise_a_hole_with_their_sequences(make: Maker) -> None:
    log, punch = await make.log_with_holes()
    sequences = [sequence_of(await log.append(event(f"d{number}"))) for number in range(9)]
    await punch(sequences[4])
    await punch(sequences[5])
    read: list[Record] = []
    with pytest.raises(LogHole) as caught:
        await read_until(log, sequences[8], after_sequence=sequences[0], into=read)
    assert caught.value.facts == {"first_sequence": sequences[4], "last_sequence": sequences[5]}
    assert [record.sequence for record in read] in ([], sequences[1:4])
    with pytest.raises(LogHole) as caught:
        await subjects(log, sequences[2])
    assert caught.value.facts == {"first_sequence": sequences[4], "last_sequence": sequences[5]}
    assert await subjects(log, sequences[5]) == [subject_of(f"d{number}") for number in (6, 7, 8)]
    after = await read_until(log, sequences[8], after_sequence=sequences[5])
    assert [record.sequence for record in after] == sequences[6:]
    assert await log.get(sequences[4]) is None


async def test_a_read_of_partitions_leaves_out_the_events_of_others(log: EventLog) -> None:
    documents = [f"d{number % 40}" for number in range(1_200)]
    answers = await asyncio.gather(*(log.append(event(document)) for document in documents))
    end = max(map(sequence_of, answers))
    everything = await read_until(log, end)
    for partitions in (range(20), [partition_of(b"shop", b"d0")], range(64)):
        read = [record async for part in read_events(log, 0, end, partitions) for record in part]
        own = [record for record in everything if route(record.subject).partition in partitions]
        assert [record for record in read if route(record.subject).partition in partitions] == own
        assert read[0] == everything[0], "the system's events are never left out"
        assert read[-1] == everything[-1], "the position is known"
        assert [record for record in everything if record in read] == read
        assert len(read) == end if len(partitions) == 64 else len(read) < len(own) + end // 4
        # Any end and any beginning may be an event of another partition.
        for first, last in ((1, 2), (2, 7), (7, 12)):
            read = [record async for part in read_events(log, first, last, partitions) for record in part]
            assert read[-1].sequence == last


async def test_a_missing_event_of_another_partition_is_a_hole(make: Maker) -> None:
    log, punch = await make.log_with_holes()
    sequences = [sequence_of(await log.append(event(f"d{number % 2}"))) for number in range(20)]
    await punch(sequences[4])
    own = [partition_of(b"shop", b"d1")]
    with pytest.raises(LogHole) as caught:
        await asyncio.wait_for(drain(read_events(log, sequences[0], sequences[-1], own)), WAIT_SECONDS)
    assert caught.value.facts == {"first_sequence": sequences[4], "last_sequence": sequences[4]}


async def test_a_strict_event_is_stored_if_the_document_is_as_expected(log: EventLog) -> None:
    (first,) = await append(log, event("a", b"1", expected_last_sequence=0))
    await append(log, event("other"))
    (second,) = await append(log, event("a", b"2", expected_last_sequence=first))
    assert second > first + 1


async def test_a_strict_event_that_is_stale_is_not_stored(log: EventLog) -> None:
    (first,) = await append(log, event("a"))
    for expected in (0, first - 1, first + 1):
        assert await log.append(event("a", expected_last_sequence=expected)) == Stale()
    assert (await log.info()).last_sequence == first


async def test_only_one_of_concurrent_strict_events_on_a_document_is_stored(log: EventLog) -> None:
    answers = await asyncio.gather(*(log.append(event("a", expected_last_sequence=0)) for _ in range(40)))
    assert sum(isinstance(answer, Appended) for answer in answers) == 1
    assert answers.count(Stale()) == 39


async def test_each_strict_append_gets_its_own_answer(log: EventLog) -> None:
    taken = await append(log, *(event(f"d{number}") for number in range(60)))
    stale = {3, 17, 18, 59}
    publications = [
        event(f"d{number}", b"%d" % number, expected_last_sequence=0 if number in stale else sequence)
        for number, sequence in enumerate(taken)
    ]
    answers = await asyncio.gather(*map(log.append, publications))
    assert {number for number, answer in enumerate(answers) if answer == Stale()} == stale
    for number, answer in enumerate(answers):
        if number not in stale:
            record = await log.get(sequence_of(answer))
            assert record is not None
            assert (record.subject, record.body) == (subject_of(f"d{number}"), b"%d" % number)


@pytest.mark.parametrize("documents", [1, 3, 40])
async def test_a_documents_events_are_stored_in_the_order_of_their_appends(
    log: EventLog, documents: int
) -> None:
    publications = [event(f"d{number % documents}", b"%d" % number) for number in range(300)]
    first = asyncio.gather(*map(log.append, publications[:7]))
    await asyncio.sleep(0)
    rest = asyncio.gather(*map(log.append, publications[7:]))
    sequences = [sequence_of(answer) for answer in [*await first, *await rest]]
    assert sequences == sorted(sequences)
    records = await read_until(log, sequences[-1], after_sequence=1)
    assert [record.body for record in records] == [publication.body for publication in publications]


async def test_plain_and_strict_events_of_a_document_keep_their_order(log: EventLog) -> None:
    publications: list[Publication] = []
    for number in range(60):
        publications += [
            event(f"d{number}", b"strict", expected_last_sequence=0),
            event(f"d{number}", b"plain"),
        ]
    answers = await asyncio.gather(*map(log.append, publications))
    sequences = [sequence_of(answer) for answer in answers]
    assert all(sequences[at] < sequences[at + 1] for at in range(0, len(sequences), 2))


async def test_a_batch_is_stored_contiguously(log: EventLog) -> None:
    batches = [[event(f"{name}{number % 3}", b"%d" % number) for number in range(25)] for name in "abcd"]
    plain = [log.append(event(f"p{number}")) for number in range(30)]
    answers = await asyncio.gather(*map(log.append_atomically, batches), *plain)
    for batch, answer in zip(batches, answers, strict=False):
        assert isinstance(answer, list)
        sequences = [appended.sequence for appended in answer]
        assert sequences == list(range(sequences[0], sequences[0] + len(batch)))
        records = [await log.get(sequence) for sequence in sequences]
        assert [record and record.body for record in records] == [each.body for each in batch]


async def test_a_batch_with_a_stale_event_is_not_stored_at_all(log: EventLog) -> None:
    (first,) = await append(log, event("a"))
    batch = [event("b"), event("a", expected_last_sequence=0), event("c")]
    assert await log.append_atomically(batch) == Stale()
    assert (await log.info()).last_sequence == first
    batch[1] = event("a", expected_last_sequence=first)
    assert await log.append_atomically(batch) == [
        Appended(first + 1),
        Appended(first + 2),
        Appended(first + 3),
    ]


async def test_a_batch_may_be_empty_or_a_single_event(log: EventLog) -> None:
    assert await log.append_atomically([]) == []
    assert await log.append_atomically([event()]) == [Appended(2)]
    assert await log.append_atomically([event(expected_last_sequence=0)]) == Stale()


REFUSED = {
    "event_too_large": event(body=b"x" * (EVENT_BYTES_MAX + 1)),
    "headers_too_large": event(headers=(("X", "x" * HEADERS_BYTES_MAX),)),
    "bad_name": event(".."),
    "bad_header": event(headers=(("X", "a\r\nNats-Rollup: all"),)),
}


@pytest.mark.parametrize("reason", REFUSED)
async def test_an_invalid_append_is_refused_before_it_is_sent(log: EventLog, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        await log.append(REFUSED[reason])
    assert caught.value.reason == reason
    with pytest.raises(Refused):
        await log.append_atomically([event(), REFUSED[reason]])
    assert (await log.info()).last_sequence == 1


@pytest.mark.parametrize("name", ["", "a b", "a\r\nb", "a*", ">", "x" * 129, "ä", "a\x00", "a.b"])
async def test_a_namespace_that_is_not_a_token_is_refused(log: EventLog, name: str) -> None:
    with pytest.raises(Refused, match="a name is"):
        await log.append(Publication(namespace=name, document="a", body=b""))


@pytest.mark.parametrize("name", ["", "a\r\nb", "x" * 129, "ä" * 22, "a\x00", ".", "..", "\ud800"])
async def test_a_document_id_that_no_fold_accepts_is_refused(log: EventLog, name: str) -> None:
    with pytest.raises(Refused, match="a document id is"):
        await log.append(event(name))


async def test_a_document_id_is_escaped_in_its_subject(log: EventLog) -> None:
    subject = b"log.%d.shop.a%%2Fb%%2E%%C3%%A4%%25" % partition_of(b"shop", b"a%2Fb%2E%C3%A4%25")
    (sequence,) = await append(log, event("a/b.ä%"))
    record = await log.get(sequence)
    assert record is not None
    assert record.subject == subject
    assert await log.last_of("shop", "a/b.ä%") == record
    assert await log.append(event("a/b.ä%", expected_last_sequence=0)) == Stale()
    assert await log.append(event("a/b.ä%", expected_last_sequence=sequence)) == Appended(sequence + 1)


@pytest.mark.parametrize(
    "header", [("", "x"), ("a b", "x"), ("a:", "x"), ("ä", "x"), ("nats-msg-id", "x"), ("a", "\ud800")]
)
async def test_a_header_that_could_be_misread_is_refused(log: EventLog, header: tuple[str, str]) -> None:
    with pytest.raises(Refused) as caught:
        await log.append(event(headers=(header,)))
    assert caught.value.reason == "bad_header"


async def test_the_largest_event_is_stored(log: EventLog) -> None:
    largest = event(body=b"x" * EVENT_BYTES_MAX, headers=(("X", "x" * (HEADERS_BYTES_MAX - 5)),))
    (sequence,) = await append(log, largest)
    (record,) = await read_until(log, sequence, after_sequence=sequence - 1)
    assert (len(record.body), len(author_headers(record.headers))) == (EVENT_BYTES_MAX, HEADERS_BYTES_MAX)
    assert await log.get(sequence) == record


async def test_a_batch_over_its_bounds_is_refused(log: EventLog) -> None:
    too_many = [event(f"d{number}") for number in range(BATCH_EVENTS_MAX + 1)]
    too_large = [
        event(f"d{number}", b"x" * EVENT_BYTES_MAX)
        for number in range(ATOMIC_BYTES_MAX // EVENT_BYTES_MAX + 1)
    ]
    twice = [event("a"), event("a", expected_last_sequence=0)]
    for batch, reason in (
        (too_many, "batch_too_large"),
        (too_large, "batch_too_large"),
        (twice, "bad_batch"),
    ):
        with pytest.raises(Refused) as caught:
            await log.append_atomically(batch)
        assert caught.value.reason == reason
    answer = await log.append_atomically(too_many[:-1])
    assert isinstance(answer, list)
    assert len(answer) == BATCH_EVENTS_MAX


async def test_a_full_log_refuses_appends_and_can_be_read(make: Maker) -> None:
    log = await make.log(bytes_max=64 * 1024)
    assert (await log.info()).limit_bytes == 64 * 1024
    stored = 0
    # Appended one by one, until the first that does not fit.
    while not isinstance(await outcome_of(log.append(event(f"d{stored}", b"x" * 4096))), LogFull):
        stored += 1
        assert stored < 100
    with pytest.raises(LogFull):
        await log.append_atomically([event("e", b"x" * 4096), event("f", b"x" * 4096)])
    answers = await asyncio.gather(
        *(log.append(event(f"g{number}", b"x" * 4096)) for number in range(30)), return_exceptions=True
    )
    assert {type(answer) for answer in answers} == {LogFull}
    assert 10 < stored < 17
    assert (await log.info()).last_sequence == stored + 1
    assert len(await read_until(log, stored + 1)) == stored + 1


async def test_a_closed_log_raises_log_unavailable(log: EventLog) -> None:
    async with asyncio.timeout(WAIT_SECONDS), aclosing(log.read(1)) as runs:
        reading = asyncio.ensure_future(drain(runs))
        await log.info()
        waiting = [asyncio.ensure_future(log.append(event(f"d{number}"))) for number in range(5)]
        await asyncio.sleep(0)
        await log.close()
        assert [type(answer) for answer in await asyncio.gather(*waiting)] == [Appended] * 5
        for late in (log.append(event()), log.append_atomically([event()]), log.info(), log.get(1)):
            with pytest.raises(LogUnavailable):
                await late
        with pytest.raises(LogUnavailable):
            await reading


async def test_a_cancelled_append_does_not_affect_others(log: EventLog) -> None:
    appends = [asyncio.ensure_future(log.append(event(f"d{number}"))) for number in range(50)]
    await asyncio.sleep(0)
    for at in range(0, 50, 3):
        appends[at].cancel()
    answers = await asyncio.gather(*appends, return_exceptions=True)
    assert all(isinstance(answer, Appended) for at, answer in enumerate(answers) if at % 3)


async def test_a_notice_reaches_its_listeners_until_they_stop(make: Maker) -> None:
    notices = await make.notices()
    received: list[tuple[str, bytes]] = []
    exact: list[bytes] = []
    stop = await notices.listen("change.shop.*", lambda subject, body: received.append((subject, body)))
    await notices.listen("change.shop.a", lambda _, body: exact.append(body))
    await notices.send_all([("change.shop.a", b"1")])
    await notices.send_all([("change.shop.b", b"")])
    await notices.send_all([("change.shop", b"no")])
    await notices.send_all([("change.shop.a.b", b"no")])
    await notices.flush()
    stop()
    await notices.send_all([("change.shop.a", b"2")])
    await notices.flush()
    assert received == [("change.shop.a", b"1"), ("change.shop.b", b"")]
    assert exact == [b"1", b"2"]


async def test_a_wildcard_receives_all_subjects_below(make: Maker) -> None:
    notices = await make.notices()
    received: list[str] = []
    await notices.listen("change.>", lambda subject, _: received.append(subject))
    for subject in ("change", "change.a", "change.a.b.c", "changes.a"):
        await notices.send_all([(subject, b"")])
    await notices.flush()
    assert received == ["change.a", "change.a.b.c"]


async def test_a_thousand_notices_arrive_in_order(make: Maker) -> None:
    notices = await make.notices()
    received: list[bytes] = []
    await notices.listen("change.a", lambda _, body: received.append(body))
    bodies = [b"%d" % number + b"x" * 2000 for number in range(1000)]
    for body in bodies:
        await notices.send_all([("change.a", body)])
    await notices.flush()
    assert received == bodies


async def test_notices_sent_together_arrive_in_order_with_others(make: Maker) -> None:
    notices = await make.notices()
    received: list[tuple[str, bytes]] = []
    await notices.listen("change.>", lambda subject, body: received.append((subject, body)))
    messages = [(f"change.{number % 7}", b"%d" % number + b"x" * 200) for number in range(3000)]
    await notices.send_all([("change.before", b"")])
    await notices.send_all(messages)
    await notices.send_all([])
    await notices.send_all([("change.after", b"")])
    await notices.flush()
    assert received == [("change.before", b""), *messages, ("change.after", b"")]

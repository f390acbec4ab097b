"""Reads the whole log in order, without a filter, then its live tail; an ordered consumer that survives failures.

Used by `refold.log.jetstream`. A subject filter would make reading ten times slower.
"""

from __future__ import annotations

import asyncio
import re
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable
from functools import lru_cache, partial
from itertools import count
from operator import itemgetter
from typing import Any, Final

import orjson
import structlog

from refold.core.errors import LogHole, LogUnavailable, TimedOut
from refold.core.stream import Record
from refold.core.transactions import MEMBER_MARK
from refold.log.jetstream.api import (
    STREAM,
    request_api,
    stored_record,
    stream_info,
    unreadable_range,
)
from refold.log.jetstream.client import Client
from refold.log.jetstream.protocol import HEADERS_END, HEADERS_START, header_lines, message_frame

READ_AHEAD_BYTES: Final = 4 * 1024 * 1024
"""Events that the broker may send before they are processed; half of the `max_pending` at which it disconnects."""
PULL_SECONDS: Final = 30.0
"""A request for events expires after this, and is renewed."""
HEARTBEAT_SECONDS: Final = 1.0
HEARTBEATS_MISSED_MAX: Final = 5
"""A consumer that misses so many heartbeats is considered lost."""
QUIET_SECONDS: Final = 5.0
"""A consumer that has delivered nothing for so long is compared with the log's end."""
STALLS_MAX: Final = 3
"""Consumers in succession that deliver nothing although the log has more events."""
RETRY_SECONDS: Final = 0.25
"""Pause before a consumer is created again; it doubles while none delivers anything."""
RETRY_SECONDS_MAX: Final = 2.0
"""The longest such pause."""

_ACK_PREFIX: Final = b"$JS.ACK."
_HEARTBEAT: Final = b"NATS/1.0 100"
_UNUSED_BYTES: Final = b"Nats-Pending-Bytes: "
_NANOSECONDS: Final = 1_000_000_000
_INACTIVE_SECONDS: Final = 60
_PULL_EVENTS: Final = 1_000_000
"""Not a bound: bytes bound a request."""

_CONSUMER: Final[dict[str, Any]] = {
    "deliver_policy": "by_start_sequence",
    "ack_policy": "none",
    "replay_policy": "instant",
    "mem_storage": True,
    "num_replicas": 1,
    "inactive_threshold": _INACTIVE_SECONDS * _NANOSECONDS,
}

_FRAMING_BYTES: Final = len("MSG    \r\n\r\n")
"""What a message takes beside subject, subscription id, reply subject, sizes, headers and payload."""
_SIZES_CACHED_MAX: Final = 10_000
_record = partial(tuple.__new__, Record)
"""A NamedTuple's own constructor takes three times as long."""

_log = structlog.get_logger()


async def read_log(
    client: Client, after_sequence: int, foreign: frozenset[bytes] = frozenset()
) -> AsyncGenerator[list[Record], None]:
    """Yield the records after a sequence in lists, as they arrive; ends only by `aclose`.

    Those of `foreign` partitions are left out where `EventLog.read` allows it.

    Raises:
        LogHole: the log lacks a sequence, or the broker cannot read it.
        TimedOut: the broker delivers nothing although it has more.
        LogUnavailable: the client was closed.
    """
    reader = LogReader(client, after_sequence, foreign)
    while True:
        try:
            consumer = await reader.create_consumer()
            try:
                while True:
                    records = await consumer.take()
                    if not records:
                        await reader.check_quiet()
                        continue
                    while records:
                        count = await reader.confirm(records)
                        yield reader.advance(records[:count])
                        records = records[count:]
            finally:
                consumer.close()
        except ConsumerLost as lost:
            _log.info("consumer_lost", reason=str(lost), sequence=reader.last_sequence + 1)
            await reader.note_lost(consumer)
        except LogUnavailable as error:
            if client.is_closed:
                raise
            _log.info("log_unreadable", error=str(error), sequence=reader.last_sequence + 1)
            await reader.pause()


class LogReader:
    """The position of one reader, across the consumers that it uses one after the other."""

    def __init__(self, client: Client, after_sequence: int, foreign: frozenset[bytes]) -> None:
        self.last_sequence = after_sequence
        self._client = client
        self._foreign = foreign
        self._retry_seconds = RETRY_SECONDS
        self._has_replicas = False
        self._leader_sequence = 0
        self._is_next_in_doubt = False
        self._quiet_sequence = -1
        self._stalls = 0

    async def create_consumer(self) -> Consumer:
        """Create a consumer after the last sequence read. Raises `LogHole` if the log ends before it."""
        await self._client.wait_connected()
        await self._ask_leader()
        if self._leader_sequence < self.last_sequence:
            message = "the log ends before the last event that was read from it"
            raise LogHole(message, last_sequence=self._leader_sequence, read_sequence=self.last_sequence)
        if self._is_next_in_doubt:
            self._is_next_in_doubt = False
            await self._check_next()
        return await Consumer.create(self._client, self.last_sequence + 1, self._foreign)

    async def confirm(self, records: list[Record]) -> int:
        """Return how many of the next records the stream's leader has; a replica may have more, wrongly."""
        while self._has_replicas and records[-1].sequence > self._leader_sequence:
            await self._ask_leader()
            known = bisect_right(records, self._leader_sequence, key=itemgetter(0))
            if known:
                return known
            await self.pause()
        return len(records)

    def advance(self, records: list[Record]) -> list[Record]:
        """Note that these records are read; return them."""
        self.last_sequence = records[-1].sequence
        self._retry_seconds = RETRY_SECONDS
        self._stalls = 0
        return records

    async def check_quiet(self) -> None:
        """Find out, at the second quiet interval, why nothing arrives although the log has more.

        Raises `LogHole` if the broker cannot read the next event, `ConsumerLost` if a new one may help, `TimedOut`.
        """
        await self._ask_leader()
        next_sequence = self.last_sequence + 1
        if self._leader_sequence < next_sequence or self._quiet_sequence != next_sequence:
            self._quiet_sequence = next_sequence
            return
        await self._check_next()
        self._stalls += 1
        if self._stalls > STALLS_MAX:
            message = "the broker delivers no events although it has more"
            raise TimedOut(message, next_sequence=next_sequence, last_sequence=self._leader_sequence)
        raise ConsumerLost("the consumer delivers nothing although the log has more events")

    async def note_lost(self, consumer: Consumer) -> None:
        """Note that a consumer is lost; pause if it delivered nothing."""
        if consumer.first_sequence == self.last_sequence + 1:
            self._is_next_in_doubt = True
            await self.pause()

    async def pause(self) -> None:
        """Wait before the next attempt, longer each time until something is read."""
        await asyncio.sleep(self._retry_seconds)
        self._retry_seconds = min(2 * self._retry_seconds, RETRY_SECONDS_MAX)

    async def _check_next(self) -> None:
        """Raise `LogHole` if the leader has the next sequence, but not its event."""
        sequence, end_sequence = self.last_sequence + 1, self._leader_sequence
        if sequence <= end_sequence and await stored_record(self._client, seq=sequence) is None:
            first, last = await unreadable_range(self._client, sequence, end_sequence)
            message = "the broker cannot read events: they were deleted, or a block of its storage is damaged"
            raise LogHole(message, first_sequence=first, last_sequence=last)

    async def _ask_leader(self) -> None:
        info = await stream_info(self._client)
        self._has_replicas = info["config"]["num_replicas"] > 1
        self._leader_sequence = info["state"]["last_seq"]


class ConsumerLost(Exception):
    """The consumer delivers no more."""


class Consumer:
    """An ordered pull consumer: it requests bytes ahead and returns records without a gap, or is lost."""

    def __init__(self, client: Client, first_sequence: int, foreign: frozenset[bytes]) -> None:
        """Not created yet: see `create`."""
        self.first_sequence = first_sequence
        self._foreign = foreign
        self._client = client
        self._expected = first_sequence
        self._records: list[Record] = []
        self._requested_bytes = 0
        self._lost: ConsumerLost | None = None
        self._news = asyncio.Event()
        self._numbers = count(1)
        self._name = ""
        self._inbox = client.new_inbox()
        self._sid = client.subscribe(f"{self._inbox}.*", self._take_message, handle_bulk=self._take_messages)
        # The first message shows what its line contains.
        self._match_line: Callable[[bytes, int], re.Match[bytes] | None] | None = None
        self._forget = client.on_disconnect(partial(self._lose, "the connection was lost"))

    @classmethod
    async def create(
        cls, client: Client, first_sequence: int, foreign: frozenset[bytes] = frozenset()
    ) -> Consumer:
        """Create the consumer at the broker. Raises `LogUnavailable`."""
        consumer = cls(client, first_sequence, foreign)
        config = _CONSUMER | {"opt_start_seq": first_sequence}
        request = {"stream_name": STREAM, "config": config}
        failure = "the broker does not create a consumer"
        try:
            consumer._name = (await request_api(client, f"CONSUMER.CREATE.{STREAM}", request, failure))[
                "name"
            ]
        except BaseException:
            consumer.close()
            raise
        return consumer

    async def take(self) -> list[Record]:
        """Return what has arrived, or nothing after `QUIET_SECONDS` without an event. Raises `ConsumerLost`."""
        loop = asyncio.get_running_loop()
        quiet_at = loop.time() + QUIET_SECONDS
        while not self._records:
            if self._lost is not None:
                raise self._lost
            if loop.time() >= quiet_at:
                return []
            self._request_ahead()
            self._news.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS * HEARTBEATS_MISSED_MAX):
                    await self._news.wait()
            except TimeoutError:
                self._lose("the consumer sends no heartbeat")
        records, self._records = self._records, []
        self._request_ahead()
        return records

    def close(self) -> None:
        """Delete the consumer at the broker."""
        self._forget()
        self._client.unsubscribe(self._sid)
        if self._name:
            subject = f"$JS.API.CONSUMER.DELETE.{STREAM}.{self._name}".encode()
            self._client.write_if_connected(message_frame(subject, b""))

    def _request_ahead(self) -> None:
        """Request more while what has arrived is processed."""
        if self._requested_bytes > READ_AHEAD_BYTES // 2:
            return
        request = {
            "batch": _PULL_EVENTS,
            "max_bytes": READ_AHEAD_BYTES - self._requested_bytes,
            "expires": int(PULL_SECONDS * _NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * _NANOSECONDS),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{self._name}".encode()
        reply = f"{self._inbox}.{next(self._numbers)}".encode()
        self._client.write_if_connected(message_frame(subject, orjson.dumps(request), reply=reply))
        self._requested_bytes = READ_AHEAD_BYTES

    def _take_messages(self, buffer: bytes, position: int) -> int:
        """Take the complete events that follow each other in the usual form; `_take_message` takes any other.

        Runs for every event of a replay, so it parses in place and calls nothing that it can avoid.
        """
        if self._match_line is None:
            return position
        begin, expected, last, framing_bytes = position, self._expected, len(buffer) - 2, 0
        match, sizes_of, foreign, keep = self._match_line, _sizes, self._foreign, self._records.append
        # Of the foreign events since the last one that was kept: where the last is, and the one with the latest time.
        left_out = latest = latest_time = -1
        while (line := match(buffer, position)) is not None:
            subject, partition, sequence, time_text, sizes_text = line.groups()
            headers_bytes, message_bytes, digits = sizes_of(sizes_text)
            block = line.end()
            stop = block + message_bytes
            if stop > last or int(sequence) != expected:
                break
            time = int(time_text)
            # A member of a transaction says what its other members need.
            if partition in foreign and buffer.find(MEMBER_MARK, block, stop) < 0:
                left_out = position
                if time >= latest_time:
                    latest, latest_time = position, time
            else:
                if left_out >= 0:
                    if latest_time > time:
                        keep(_record_at(buffer, latest))
                    left_out = latest = latest_time = -1
                payload = block + headers_bytes
                headers = buffer[block:payload]
                if headers[:10] == HEADERS_START and headers[-4:] == HEADERS_END:
                    headers = headers[10:-2]
                keep(_record((expected, time, subject, headers, buffer[payload:stop])))
            expected += 1
            framing_bytes += digits
            position = stop + 2
        if left_out >= 0:
            # The reader's position is that of the last event.
            self._records += [_record_at(buffer, found) for found in sorted({latest, left_out})]
        if position > begin:
            framing_bytes += (expected - self._expected) * (_FRAMING_BYTES + len(self._sid))
            self._requested_bytes -= position - begin - framing_bytes
            self._expected = expected
            self._news.set()
        return position

    def _take_message(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        # A status of the broker has no such reply subject, whatever headers a stored event may have.
        if not reply.startswith(_ACK_PREFIX):
            self._take_status(headers)
            return
        consumer, sequence_text, _, time_text, _ = reply.rsplit(b".", 4)
        sequence = int(sequence_text)
        if sequence != self._expected:
            if sequence > self._expected:
                self._lose(f"{sequence} arrived instead of {self._expected}")
            return
        self._expected += 1
        if self._match_line is None:
            self._match_line = _line_pattern(self._sid, consumer).match
        self._records.append(_record((sequence, int(time_text), subject, header_lines(headers), payload)))
        self._requested_bytes -= len(subject) + len(reply) + len(headers) + len(payload)
        self._news.set()

    def _take_status(self, headers: bytes) -> None:
        if not headers.startswith(_HEARTBEAT):
            _, found, rest = headers.partition(_UNUSED_BYTES)
            if found:
                self._requested_bytes -= int(rest.partition(b"\r\n")[0])
            else:
                self._lose(headers[9:].partition(b"\r\n")[0].decode(errors="replace"))
        self._news.set()

    def _lose(self, reason: str) -> None:
        if self._lost is None:
            self._lost = ConsumerLost(reason)
        self._news.set()


def _line_pattern(sid: bytes, consumer: bytes) -> re.Pattern[bytes]:
    """Match a message's line: its subject, partition unless it is a system event's, sequence, time and sizes."""
    return re.compile(
        rb"H?MSG ((?:(log\.[0-9]++)\.(?!_))?+[^ ]++) %b %b\.([0-9]++)\.[0-9]++\.([0-9]++)\.[0-9]++ "
        % (sid, re.escape(consumer))
        + rb"((?:[0-9]++ )?+[0-9]++)\r\n"
    )


@lru_cache(_SIZES_CACHED_MAX)
def _sizes(text: bytes) -> tuple[int, int, int]:
    """Read a line's sizes: of the headers, of headers and payload, and of what the line has for them in addition."""
    headers_size, is_there, size = text.rpartition(b" ")
    if not is_there:
        return 0, int(size), len(size)
    return int(headers_size), int(size), len("H ") + len(headers_size) + len(size)


def _record_at(buffer: bytes, position: int) -> Record:
    """Cut out the event whose message is at this position of a buffer."""
    end = buffer.find(b"\r\n", position)
    _, subject, _, reply, *sizes = buffer[position:end].split(b" ")
    *_, sequence, _, time, _ = reply.split(b".")
    block, payload = end + 2, end + 2 + int(sizes[0]) * (len(sizes) - 1)
    stop = block + int(sizes[-1])
    return Record(
        int(sequence), int(time), subject, header_lines(buffer[block:payload]), buffer[payload:stop]
    )

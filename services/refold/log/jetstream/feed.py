"""One consumer of the log, from a sequence on: asks the broker for bytes ahead, hands over what has come.

Used by `refold.log.jetstream.reader` alone, which makes a new one when this one is lost.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, Final

import orjson

from refold.core.errors import LogUnavailable
from refold.core.limits import (
    HEARTBEAT_SECONDS,
    HEARTBEATS_MISSED_MAX,
    READ_AHEAD_BYTES,
    READ_SECONDS,
)
from refold.core.record import Record
from refold.log.jetstream.api import STREAM, ApiRefused, ask_api
from refold.log.jetstream.client import BrokerClient
from refold.log.jetstream.frames import HEADERS_BEGIN, HEADERS_END, message_frame, stored_lines

READ_QUIET_SECONDS: Final = 5.0
"""A consumer that lives but has delivered nothing for this long is checked against the log's end."""

_DELIVERED: Final = b"$JS.ACK."
_HEARTBEAT: Final = b"NATS/1.0 100"
_UNUSED: Final = b"Nats-Pending-Bytes: "
_NANOSECONDS: Final = 1_000_000_000
_IDLE_SECONDS: Final = 60
_EVENTS_ASKED: Final = 1_000_000
"""Bytes are what bounds a request."""

_CONSUMER: Final[dict[str, Any]] = {
    "deliver_policy": "by_start_sequence",
    "ack_policy": "none",
    "replay_policy": "instant",
    "mem_storage": True,
    "num_replicas": 1,
    "inactive_threshold": _IDLE_SECONDS * _NANOSECONDS,
}

_HMSG: Final = ord("H")
_LINE_BYTES: Final = len("MSG    ")
"""What a line of the wire has beside subject, subscription, reply and size."""

_NUMBERS: Final = {b"%d" % number: number for number in range(10_000)}
"""Sizes, looked up: `int` takes three times as long."""

# A NamedTuple's own constructor takes three times as long.
_record = partial(tuple.__new__, Record)


class FeedLost(Exception):
    """The consumer gives no more; `found` is the sequence that came in another's place, if it was that."""

    def __init__(self, why: str, *, found: int = 0) -> None:
        """Say why."""
        super().__init__(why)
        self.found = found


class Feed:
    """Records in order and without a gap; what breaks the order loses the feed."""

    def __init__(self, client: BrokerClient, first_sequence: int) -> None:
        """Not begun: see `open`."""
        self.first_sequence = first_sequence
        self._client = client
        self._expected = first_sequence
        self._run: list[Record] = []
        self._asked_bytes = 0
        self._lost: FeedLost | None = None
        self._news = asyncio.Event()
        self._numbers = count(1)
        self._inbox = client.new_inbox().encode()
        self._consumer = ""
        self._sid = client.subscribe_raw(
            f"{self._inbox.decode()}.*", self._take_message, take_run=self._take_run
        )
        # What stands between an event's subject and its sequence: the first event shows it.
        self._mark = b""
        self._forget = client.when_lost(partial(self._lose, "the connection broke"))

    @classmethod
    async def open(cls, client: BrokerClient, first_sequence: int) -> Feed:
        """Make a consumer and ask for the first events. Raises `LogUnavailable`."""
        feed = cls(client, first_sequence)
        config = _CONSUMER | {"opt_start_seq": first_sequence}
        try:
            request = {"stream_name": STREAM, "config": config}
            feed._consumer = (await ask_api(client, f"CONSUMER.CREATE.{STREAM}", request))["name"]
        except ApiRefused as refused:
            feed.close()
            raise LogUnavailable("the broker does not let the log be read", reason=str(refused)) from refused
        except BaseException:
            feed.close()
            raise
        return feed

    async def take(self) -> list[Record]:
        """Return what has come since, or nothing after `READ_QUIET_SECONDS` without an event. Raises `FeedLost`."""
        loop = asyncio.get_running_loop()
        quiet_at = loop.time() + READ_QUIET_SECONDS
        while not self._run:
            if self._lost is not None:
                raise self._lost
            if loop.time() >= quiet_at:
                return []
            self._ask_ahead()
            self._news.clear()
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS * HEARTBEATS_MISSED_MAX):
                    await self._news.wait()
            except TimeoutError:
                self._lose("no sign of life from the consumer")
        run, self._run = self._run, []
        self._ask_ahead()
        return run

    def close(self) -> None:
        """Let the broker forget the consumer."""
        self._forget()
        self._client.unsubscribe_raw(self._sid)
        if self._consumer:
            subject = f"$JS.API.CONSUMER.DELETE.{STREAM}.{self._consumer}".encode()
            self._client.write_if_connected(message_frame(subject, b""))

    def _ask_ahead(self) -> None:
        """Keep the broker busy while what it sent is worked on."""
        if self._asked_bytes > READ_AHEAD_BYTES // 2:
            return
        request = {
            "batch": _EVENTS_ASKED,
            "max_bytes": READ_AHEAD_BYTES - self._asked_bytes,
            "expires": int(READ_SECONDS * _NANOSECONDS),
            "idle_heartbeat": int(HEARTBEAT_SECONDS * _NANOSECONDS),
        }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{self._consumer}".encode()
        reply = b"%b.%d" % (self._inbox, next(self._numbers))
        self._client.write_if_connected(message_frame(subject, orjson.dumps(request), reply=reply))
        self._asked_bytes = READ_AHEAD_BYTES

    def _take_run(self, buffer: bytes, position: int) -> int:
        """Take the whole events that follow each other in the usual form; all else is for `_take_message`."""
        begun, expected, asked_bytes = position, self._expected, self._asked_bytes
        find, mark, last, keep = buffer.find, self._mark, len(buffer) - 2, self._run.append
        beside = _LINE_BYTES + len(b"%d" % self._sid)
        # In place, nothing called that need not be: it runs for every event of a replay. Another form does not unpack.
        with suppress(ValueError):
            while mark and (end := find(b"\r\n", position)) >= 0:
                head, _, told = buffer[position:end].partition(mark)
                sequence, _, time, sizes = told.split(b".")
                start = payload = end + 2
                counted = end - position - beside
                if buffer[position] == _HMSG:
                    _, lines_size, size = sizes.split(b" ")
                    subject = head[5:]
                    payload += _NUMBERS.get(lines_size) or int(lines_size)
                    counted -= 2 + len(lines_size)
                else:
                    _, size = sizes.split(b" ")
                    subject = head[4:]
                message_bytes = _NUMBERS.get(size) or int(size)
                stop = start + message_bytes
                if stop > last or int(sequence) != expected:
                    break
                lines = buffer[start:payload]
                if lines[:10] == HEADERS_BEGIN and lines[-4:] == HEADERS_END:
                    lines = lines[10:-2]
                keep(_record((expected, int(time), subject, lines, buffer[payload:stop])))
                expected += 1
                asked_bytes -= counted - len(size) + message_bytes
                position = stop + 2
        if position > begun:
            self._expected, self._asked_bytes = expected, asked_bytes
            self._news.set()
        return position

    def _take_message(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        # The broker's own words have no such reply, whatever a stored event's headers may say.
        if not reply.startswith(_DELIVERED):
            self._take_status(headers)
            return
        consumer, sequence_text, _, time_text, _ = reply.rsplit(b".", 4)
        sequence = int(sequence_text)
        if sequence != self._expected:
            if sequence > self._expected and self._lost is None:
                self._lose("an event is missing", found=sequence)
            return
        self._expected += 1
        self._mark = b" %d %b." % (self._sid, consumer)
        self._run.append(_record((sequence, int(time_text), subject, stored_lines(headers), payload)))
        self._asked_bytes -= len(subject) + len(reply) + len(headers) + len(payload)
        self._news.set()

    def _take_status(self, headers: bytes) -> None:
        if not headers.startswith(_HEARTBEAT):
            _, found, rest = headers.partition(_UNUSED)
            if found:
                self._asked_bytes -= int(rest.partition(b"\r\n")[0])
            else:
                self._lose(headers[9:].partition(b"\r\n")[0].decode(errors="replace"))
        self._news.set()

    def _lose(self, why: str, *, found: int = 0) -> None:
        if self._lost is None:
            self._lost = FeedLost(why, found=found)
        self._news.set()

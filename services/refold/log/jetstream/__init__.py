"""The EventLog and Notices ports on NATS: the stream `STATE` of JetStream, and core NATS messages.

Permissions to publish that a user needs, besides subscribing to its inbox prefix:
- to create the log: `$JS.API.STREAM.{INFO,CREATE,UPDATE,MSG.GET}.STATE`, `state._refold.log`, and for the marker
  `$JS.API.STREAM.{CREATE,MSG.GET}.KV_refold`, `$KV.refold.log`;
- to open it: `$JS.API.STREAM.INFO.STATE`, `$JS.API.STREAM.MSG.GET.STATE`, and `$JS.API.DIRECT.GET.STATE` for events
  whose subject JSON cannot carry, and for outlines;
- to read it: `$JS.API.CONSUMER.CREATE.STATE`, `$JS.API.CONSUMER.{MSG.NEXT,DELETE}.STATE.*`;
- to append: `state.*.*`.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Sequence
from typing import Any, Final

import structlog

from refold.core.errors import Refused
from refold.core.stream import Record, Route, check_document, check_name
from refold.core.timestamp import parse_rfc3339
from refold.log import (
    PAYLOAD_BYTES_MAX,
    Acknowledgement,
    Appended,
    LogInfo,
    Message,
    Outline,
    Publication,
    Stale,
    Unknown,
    foreign_prefixes,
)
from refold.log.jetstream.api import replicas_of, stored_outlines, stored_record, stream_info
from refold.log.jetstream.append import ACKNOWLEDGE_SECONDS, Appender
from refold.log.jetstream.client import DEFAULT_INBOX_PREFIX, Client, connect
from refold.log.jetstream.consume import read_log
from refold.log.jetstream.protocol import message_frame
from refold.log.jetstream.stream import check_log

WRITE_BYTES: Final = 256 * 1024
"""Notices are written to the connection in parts of so many bytes."""

_SUBJECT: Final = re.compile(r"[!-~]+", re.ASCII)

_log = structlog.get_logger()


class JetStreamLog:
    """The `EventLog` over one connection."""

    def __init__(
        self,
        client: Client,
        log_id: str,
        *,
        acknowledge_seconds: float = ACKNOWLEDGE_SECONDS,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Use a connected client and a log that was checked; see `open`. `clock` is this machine's."""
        self.client = client
        self._clock = clock
        self.clock_offset_seconds = math.nan
        """The broker's clock minus this machine's, as of the last `info`; not a number before."""
        self._log_id = log_id
        self._appender = Appender(client, acknowledge_seconds=acknowledge_seconds)
        self.server_limit_bytes: int | None = None
        """Bytes that the server may store, where that is known."""

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        inbox_prefix: str = DEFAULT_INBOX_PREFIX,
        name: str = "refold",
        acknowledge_seconds: float = ACKNOWLEDGE_SECONDS,
    ) -> JetStreamLog:
        """Connect, as `connect` does, and check the log. Raises as `check_log`."""
        client = await connect(url, inbox_prefix=inbox_prefix, name=name)
        try:
            log_id = await check_log(client)
        except BaseException:
            await client.close()
            raise
        return cls(client, log_id, acknowledge_seconds=acknowledge_seconds)

    async def info(self) -> LogInfo:
        sent_at = self._clock()
        info = await stream_info(self.client)
        state, bytes_max, broker_at = (
            info["state"],
            info["config"]["max_bytes"],
            parse_rfc3339(info["ts"], "ts"),
        )
        # The broker answered between the two; the error is half of the time between them at most.
        self.clock_offset_seconds = (broker_at - (sent_at + self._clock()) / 2) / 1e9
        return LogInfo(
            log_id=self._log_id,
            first_sequence=state["first_seq"],
            last_sequence=state["last_seq"],
            time=broker_at,
            bytes=state["bytes"],
            limit_bytes=bytes_max if bytes_max > 0 else self.server_limit_bytes,
            subjects=state.get("num_subjects", 0),
            replicas=replicas_of(info.get("cluster") or {}),
        )

    def connection(self) -> tuple[bool, int, float]:
        """Return whether it is open, how often it was opened again, and `clock_offset_seconds`."""
        return self.client.is_connected, self.client.reconnects, self.clock_offset_seconds

    def observe_groups(self, observe: Callable[[int], object]) -> None:
        """Call `observe` with the number of events of each group that is sent."""
        self._appender.observe_group = observe

    def append(self, publication: Publication) -> Coroutine[Any, Any, Acknowledgement]:
        return self._appender.append(publication)

    async def append_atomically(
        self, publications: Sequence[Publication]
    ) -> list[Appended] | Stale | Unknown:
        return await self._appender.append_atomically(publications)

    def read(
        self, after_sequence: int, partitions: Collection[int] | None = None
    ) -> AsyncGenerator[list[Record], None]:
        return read_log(self.client, after_sequence, foreign_prefixes(partitions))

    async def get(self, sequence: int) -> Record | None:
        return await stored_record(self.client, seq=sequence) if sequence > 0 else None

    async def last_of(self, namespace: str, document: str) -> Record | None:
        where = Route.of(check_name(namespace, "namespace"), check_document(document, "document"))
        return await stored_record(self.client, last_by_subj=where.subject.decode())

    def read_document(
        self, namespace: str, document: str, after_sequence: int, until_sequence: int
    ) -> AsyncGenerator[Record, None]:
        where = Route.of(check_name(namespace, "namespace"), check_document(document, "document"))
        return self._read_subject(where.subject.decode(), after_sequence, until_sequence)

    def read_namespace(
        self, namespace: str, after_sequence: int, until_sequence: int
    ) -> AsyncGenerator[Record, None]:
        pattern = f"log.*.{check_name(namespace, 'namespace')}.*"
        return self._read_subject(pattern, after_sequence, until_sequence)

    async def _read_subject(
        self, subject: str, after_sequence: int, until_sequence: int
    ) -> AsyncGenerator[Record, None]:
        """Yield events of a stored subject, or of those of a pattern, one request to the leader each.

        A batch of direct gets takes as long, and the broker takes no append meanwhile (measured: 0.1 s for 100 events
        of 300,000). A consumer with a filter is faster for a dense history, but needs permissions of its own.
        """
        while after_sequence < until_sequence:
            record = await stored_record(self.client, seq=after_sequence + 1, next_by_subj=subject)
            if record is None or record.sequence > until_sequence:
                return
            yield record
            after_sequence = record.sequence

    async def outlines(self, after_sequence: int) -> list[Outline]:
        return await stored_outlines(self.client, after_sequence + 1)

    async def close(self) -> None:
        await self._appender.close()
        await self.client.close()


class JetStreamNotices:
    """The `Notices` over one connection; what is sent while it is lost is lost, too."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def send_all(self, messages: Sequence[Message]) -> None:
        """Send messages in their order, up to one that would break the connection, for which it raises `Refused`."""
        frames: list[bytes] = []
        size_bytes = 0
        try:
            for message in messages:
                frames.append(_notice_frame(message))
                size_bytes += len(message[1])
                if size_bytes > WRITE_BYTES:
                    self._client.write_if_connected(b"".join(frames))
                    frames, size_bytes = [], 0
                    await self._client.wait_writable()
        finally:
            self._client.write_if_connected(b"".join(frames))

    async def flush(self) -> None:
        """Wait until the broker has received what was sent. Raises `LogUnavailable`: it may be lost."""
        await self._client.flush()

    async def listen(self, subject: str, handle: Callable[[str, bytes], None]) -> Callable[[], None]:
        def take(subject: bytes, _: bytes, __: bytes, body: bytes) -> None:
            try:
                handle(subject.decode(errors="replace"), body)
            except Exception:  # noqa: BLE001 - one listener's error must not end the connection of the others.
                _log.exception("notice_handler_failed", subject=repr(subject[:128]))

        sid = self._client.subscribe(subject, take)
        return lambda: self._client.unsubscribe(sid)

    async def close(self) -> None:
        """Send what is unsent, then close the connection."""
        await self._client.close()


def _notice_frame(message: Message) -> bytes:
    subject, body = message[0], message[1]
    if not _SUBJECT.fullmatch(subject):
        raise Refused("bad_subject", "a subject is printable ASCII without spaces", field="subject")
    if len(body) > PAYLOAD_BYTES_MAX:
        raise Refused("notice_too_large", f"at most {PAYLOAD_BYTES_MAX} bytes", shape=f"{len(body)} bytes")
    return message_frame(subject.encode(), body, headers=message[2] if len(message) > 2 else b"")

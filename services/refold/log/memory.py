"""The EventLog and Notices ports in memory: the twin that shows in few lines what the real adapter promises.

For tests, and for notices that stay within one process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from typing import Final

from refold.core import json_text
from refold.core.errors import LogFull, LogHole, LogUnavailable
from refold.core.fold import NEWEST, genesis
from refold.core.fold.rules import Rules
from refold.core.stream import GENESIS_DOCUMENT, SYSTEM_NAMESPACE, Record, Route, check_document, check_name
from refold.core.transactions import MEMBER_MARK
from refold.log import (
    OUTLINES_BYTES_MAX,
    OUTLINES_MAX,
    SYSTEM_BYTE,
    Acknowledgement,
    Appended,
    LogInfo,
    Message,
    Outline,
    Publication,
    Replicas,
    Stale,
    Unknown,
    foreign_prefixes,
    validated_batch,
    validated_headers,
)

READ_EVENTS_MAX: Final = 1_000
"""Events that `read` yields at once."""


class MemoryLog:
    """A list of records that begins with its genesis."""

    def __init__(
        self,
        log_id: str,
        *,
        rules: Rules = NEWEST,
        bytes_max: int | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Create a log under these rules; `bytes_max` bounds its bodies, `clock` returns the broker's time."""
        self._log_id = log_id
        self._clock = clock
        self._bytes_max = bytes_max
        self._records: list[Record | None] = []
        self._last: dict[bytes, Record] = {}
        self._size_bytes = 0
        self._is_closed = False
        self._grown = asyncio.Event()
        body = json_text.dumps(genesis(log_id, rules))
        self._store(Publication(namespace=SYSTEM_NAMESPACE, document=GENESIS_DOCUMENT, body=body), b"")

    async def info(self) -> LogInfo:
        self._check_open()
        return LogInfo(
            log_id=self._log_id,
            first_sequence=1,
            last_sequence=len(self._records),
            time=self._clock(),
            bytes=self._size_bytes,
            limit_bytes=self._bytes_max,
            subjects=len(self._last),
            replicas=Replicas(),
        )

    async def append(self, publication: Publication) -> Acknowledgement:
        stored = self._store_all([publication], [validated_headers(publication)])
        return stored if isinstance(stored, Stale) else stored[0]

    async def append_atomically(self, publications: list[Publication]) -> list[Appended] | Stale | Unknown:
        lines = validated_batch(publications)
        if len(lines) > 1:
            batch_id = b"Nats-Batch-Id: %d\r\n" % len(self._records)
            lines = [
                b"%b%bNats-Batch-Sequence: %d\r\n" % (line, batch_id, number)
                for number, line in enumerate(lines, 1)
            ]
            lines[-1] += b"Nats-Batch-Commit: 1\r\n"
        return self._store_all(publications, lines)

    async def read(
        self, after_sequence: int, partitions: Collection[int] | None = None
    ) -> AsyncGenerator[list[Record], None]:
        foreign = foreign_prefixes(partitions)
        if after_sequence > len(self._records):
            message = "the log ends before the last event that was read from it"
            raise LogHole(message, last_sequence=len(self._records), read_sequence=after_sequence)
        while True:
            whole = self._whole(after_sequence, READ_EVENTS_MAX)
            if whole:
                after_sequence += len(whole)
                yield _without(foreign, whole)
            else:
                self._grown.clear()
                await self._grown.wait()

    async def get(self, sequence: int) -> Record | None:
        self._check_open()
        return self._records[sequence - 1] if 0 < sequence <= len(self._records) else None

    async def last_of(self, namespace: str, document: str) -> Record | None:
        self._check_open()
        where = Route.of(check_name(namespace, "namespace"), check_document(document, "document"))
        return self._last.get(where.subject)

    async def read_document(
        self, namespace: str, document: str, after_sequence: int, until_sequence: int
    ) -> AsyncGenerator[Record, None]:
        where = Route.of(check_name(namespace, "namespace"), check_document(document, "document"))
        self._check_open()
        for record in self._records[after_sequence:until_sequence]:
            if record is not None and record.subject == where.subject:
                yield record

    async def read_namespace(
        self, namespace: str, after_sequence: int, until_sequence: int
    ) -> AsyncGenerator[Record, None]:
        token = check_name(namespace, "namespace").encode()
        self._check_open()
        for record in self._records[after_sequence:until_sequence]:
            if record is not None and record.subject.split(b".")[2] == token:
                yield record

    async def outlines(self, after_sequence: int) -> list[Outline]:
        found: list[Outline] = []
        read_bytes = 0
        for record in self._whole(after_sequence, OUTLINES_MAX):
            found.append(Outline(record.subject, len(record.headers) + len(record.body)))
            read_bytes += found[-1].size
            if read_bytes >= OUTLINES_BYTES_MAX:
                break
        return found

    async def close(self) -> None:
        """Fail readers and writers from now on."""
        self._is_closed = True
        self._grown.set()

    def punch(self, sequence: int) -> None:
        """Lose one event, for tests that must detect it."""
        self._records[sequence - 1] = None

    def _whole(self, after_sequence: int, limit: int) -> list[Record]:
        """Return the events after a sequence, or raise `LogHole`."""
        self._check_open()
        records = self._records[after_sequence : after_sequence + limit]
        whole = [record for record in records if record is not None]
        if len(whole) < len(records):
            missing = [after_sequence + 1 + at for at, record in enumerate(records) if record is None]
            raise LogHole("the log lacks events", first_sequence=missing[0], last_sequence=missing[-1])
        return whole

    def _store_all(self, publications: list[Publication], lines: list[bytes]) -> list[Appended] | Stale:
        self._check_open()
        for publication in publications:
            last = self._last.get(Route.of(publication.namespace, publication.document).subject)
            expected = publication.expected_last_sequence
            if expected is not None and expected != (last.sequence if last is not None else 0):
                return Stale()
        size_bytes = sum(len(publication.body) for publication in publications)
        if self._bytes_max is not None and self._size_bytes + size_bytes > self._bytes_max:
            raise LogFull
        stored = [self._store(*pair) for pair in zip(publications, lines, strict=True)]
        self._grown.set()
        return stored

    def _store(self, publication: Publication, lines: bytes) -> Appended:
        subject = Route.of(publication.namespace, publication.document).subject
        record = Record(len(self._records) + 1, self._clock(), subject, lines, publication.body)
        self._records.append(record)
        self._last[subject] = record
        self._size_bytes += len(record.body)
        return Appended(record.sequence)

    def _check_open(self) -> None:
        if self._is_closed:
            raise LogUnavailable("the log was closed")


def _without(foreign: frozenset[bytes], records: list[Record]) -> list[Record]:
    """Leave out foreign events, except those that `EventLog.read` names."""
    kept: list[Record] = []
    latest: Record | None = None
    for record in records:
        end = record.subject.find(b".", 4)
        is_foreign = record.subject[:end] in foreign and record.subject[end + 1] != SYSTEM_BYTE
        is_foreign = is_foreign and MEMBER_MARK not in record.body
        if not is_foreign or record is records[-1]:
            if latest is not None and latest.time > record.time:
                kept.append(latest)
            kept.append(record)
            latest = None
        elif latest is None or record.time >= latest.time:
            latest = record
    return kept


class MemoryNotices:
    """Notices that are delivered at once, within the process."""

    def __init__(self) -> None:
        self._listeners: list[tuple[list[str], Callable[[str, bytes], None]]] = []

    async def send_all(self, messages: Sequence[Message]) -> None:
        for message in messages:
            subject, body = message[0], message[1]
            for pattern, handle in tuple(self._listeners):
                if _matches(pattern, subject.split(".")):
                    handle(subject, body)

    async def flush(self) -> None:
        """Do nothing: what was sent has been handled."""

    async def listen(self, subject: str, handle: Callable[[str, bytes], None]) -> Callable[[], None]:
        listener = (subject.split("."), handle)
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)


def _matches(pattern: list[str], subject: list[str]) -> bool:
    for at, part in enumerate(pattern):
        if part == ">":
            return len(subject) > at
        if at >= len(subject) or part not in {"*", subject[at]}:
            return False
    return len(pattern) == len(subject)

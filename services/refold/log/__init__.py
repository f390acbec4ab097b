"""The EventLog and Notices ports, and the rules for what may be appended, which every adapter applies.

Adapters: `refold.log.jetstream` for production, `refold.log.memory` as its twin for tests.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final, NamedTuple, Protocol

from refold.core.errors import LogHole, Refused
from refold.core.fold import EVENT_BYTES_MAX, HEADERS_BYTES_MAX, NEWEST
from refold.core.stream import PARTITIONS, Record, check_document, check_name, route, token_of
from refold.core.transactions import MembersAhead, begin_of_open, claimed_members, is_open, place_of

PROGRESS_SUBJECT: Final = "refold.progress"
"""The projector publishes its progress here after each commit, and every second while there is none."""

COMMITTED_SUBJECT: Final = "refold.committed"
"""Where the log is folded into several stores, each one's projector publishes here how far its store is."""

CONTROL_SUBJECT: Final = "refold.control.projector"
"""The projector replies to requests on this subject with its state."""

GATEWAY_SUBJECT: Final = "refold.control.gateway.status"
"""Every gateway replies to requests on this subject with its instance and version."""

COMMIT_SUBJECT: Final = "refold.control.commit"
"""A gateway publishes `{"sequence": N}` here while a reader waits for N: the projector commits once N is folded."""


_INSTANCE: Final = re.compile("[A-Za-z0-9_-]+:[0-9]+")


def profile_subject(service: str, instance: str | None = None) -> str:
    """Return the subject on which a service is asked for a profile: any instance, or one. Raises `Refused`."""
    if instance is not None and _INSTANCE.fullmatch(instance) is None:
        raise Refused(
            "bad_instance", "must be HOST:PID, as the service's log lines name it", field="instance"
        )
    return f"refold.control.{service}.profile{f'.{instance}' if instance else ''}"


def change_subject(namespace: str, document: str) -> str:
    """Return the subject on which a document's changes are published."""
    return f"change.{namespace}.{token_of(document)}"


def conflict_subject(namespace: str, document: str) -> str:
    """Return the subject on which a document's conflicts are sent that a resolver decides on."""
    return f"conflict.{namespace}.{token_of(document)}"


PAYLOAD_BYTES_MAX: Final = 2 * 1024 * 1024
"""The broker's `max_payload`: a larger message makes it close the connection."""

BATCH_EVENTS_MAX: Final = 1_000
"""Events in one atomic batch: the server's own bound."""

BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bodies and headers that are sent as one batch."""

ATOMIC_BYTES_MAX: Final = 40 * 1024 * 1024
"""Bodies of one atomic append: enough for the largest state that is split, with its metadata in each event."""

OUTLINES_MAX: Final = 500
OUTLINES_BYTES_MAX: Final = 1024 * 1024
"""Events whose outlines are read at once, and their bytes: the broker takes no append meanwhile, about 5 ms."""

HEADER_LINES_CACHED_MAX: Final = 1_024
"""Header lines that are kept: the reply subject of a gateway is on each of its events."""
SYSTEM_BYTE: Final = ord("_")
"""Begins the system's namespace, whose events no read leaves out."""

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One event to append.

    `headers` are names and values in order, without CR or LF. With `expected_last_sequence` the event is strict: it
    is stored only while the document's last event has that sequence (0: the document has no event).
    """

    namespace: str
    document: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    expected_last_sequence: int | None = None


class Appended(NamedTuple):
    """The event is stored durably at this sequence."""

    sequence: int


class Stale(NamedTuple):
    """The document's last event is not the one that a strict event expects. Nothing was stored."""


class Unknown(NamedTuple):
    """No acknowledgement arrived: the event may be stored or not. Its outcome will show which."""

    why: str


Acknowledgement = Appended | Stale | Unknown


class Replicas(NamedTuple):
    """How many servers store the log, with all of it, behind, or out of reach; and the name of its leader, if known."""

    current: int = 1
    lagging: int = 0
    offline: int = 0
    leader: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogInfo:
    """The state of the log at its leader. `time` is the broker's clock in nanoseconds.

    `limit_bytes` bounds `bytes`: of its stream, else of its server; None where neither is known. `subjects` counts
    the stored subjects: the documents that ever had an event.
    """

    log_id: str
    first_sequence: int
    last_sequence: int
    time: int
    bytes: int
    limit_bytes: int | None
    subjects: int
    replicas: Replicas


class Outline(NamedTuple):
    """An event without its content: its stored subject, and about the bytes of its headers and body."""

    subject: bytes
    size: int


class EventLog(Protocol):
    """One log of events in one total order.

    Every method may raise `LogUnavailable`.
    """

    async def info(self) -> LogInfo:
        """Return the log's first and last sequence and the broker's time, from the leader."""

    async def append(self, publication: Publication) -> Acknowledgement:
        """Append one event. The adapter groups concurrent appends into batches.

        Raises:
            Refused: `event_too_large`, `headers_too_large`, `bad_name` or `bad_header`; nothing was sent.
            LogFull: the event was not stored.
            LogUnavailable: the event was certainly not stored.
        """

    async def append_atomically(self, publications: list[Publication]) -> list[Appended] | Stale | Unknown:
        """Append all events contiguously, or none: at most `BATCH_EVENTS_MAX`, with `ATOMIC_BYTES_MAX` of bodies.

        Raises:
            Refused: as `append`, and `batch_too_large`; `bad_batch` where a document's second event is strict.
            BatchRefused: the log accepts no batches at present; single events may still be appended.
            LogFull, LogUnavailable: as `append`.
        """

    def read(
        self, after_sequence: int, partitions: Collection[int] | None = None
    ) -> AsyncGenerator[list[Record], None]:
        """Yield every event after a sequence, in order and without a gap, then the live tail.

        Yields lists of what has arrived, never past the leader's last sequence. It continues after a lost connection
        and ends only by `aclose`. Raises `LogHole` if the log lacks a sequence.

        With `partitions`, events of others are left out, except those that a fold needs: the system's events, the last
        one that has arrived, what may be a member of a transaction (`MEMBER_MARK` is in it), and one with a later time
        than the next event that is yielded. So after each event that
        is yielded, clock, fold number and position are the same as after all events up to it.
        """

    async def get(self, sequence: int) -> Record | None:
        """Return one event by its sequence, from the leader."""

    async def last_of(self, namespace: str, document: str) -> Record | None:
        """Return a document's last event, from the leader."""

    def read_document(
        self, namespace: str, document: str, after_sequence: int, until_sequence: int
    ) -> AsyncGenerator[Record, None]:
        """Yield the events of one document after a sequence, up to another, in order.

        For documents whose history a store does not keep; a replay reads the whole log instead (`read`). Measured on
        JetStream: 0.12 ms an event where they are close together, 1.2 ms where each is in another part of the log.
        Raises `Refused` for a bad name.
        """

    def read_namespace(
        self, namespace: str, after_sequence: int, until_sequence: int
    ) -> AsyncGenerator[Record, None]:
        """Yield the events of a namespace, as `read_document` does, also those whose names make no document.

        For a namespace of few events, or the first few.
        """

    async def outlines(self, after_sequence: int) -> list[Outline]:
        """Return the outlines of the events after a sequence, in order and without a gap.

        At most `OUTLINES_MAX`, fewer where the events are large, and none at the log's end. A replica may answer,
        which may lack the newest events. Raises `LogHole` if the log lacks a sequence.
        """

    async def close(self) -> None:
        """Send the waiting appends, then close the connection."""


Message = tuple[str, bytes] | tuple[str, bytes, bytes]
"""A notice's subject and body, and its header lines, each ending in CRLF, where it has any."""


class Notices(Protocol):
    """Messages that are delivered at most once: outcomes to their authors, changes and progress to subscribers."""

    async def send_all(self, messages: Sequence[Message]) -> None:
        """Send messages in their order; each may be lost."""

    async def flush(self) -> None:
        """Wait until the broker has received what was sent."""

    async def listen(self, subject: str, handle: Callable[[str, bytes], None]) -> Callable[[], None]:
        """Call `handle(subject, body)` for each message until the returned function is called."""


async def read_until(
    log: EventLog, after_sequence: int, until_sequence: int | None, partitions: Collection[int] | None = None
) -> AsyncGenerator[list[Record], None]:
    """Read a log as `EventLog.read` does, up to a sequence that it has or will have; without one, without end.

    What is yielded together divides no transaction, where the sequence does not (`end_of`).
    """
    if after_sequence == until_sequence:
        return
    held: list[Record] = []
    async with aclosing(log.read(after_sequence, partitions)) as parts:
        async for arrived in parts:
            records = held + arrived
            if until_sequence is None or records[-1].sequence < until_sequence:
                begin = begin_of_open(records)
                records, held = records[:begin], records[begin:]
                if records:
                    yield records
                    after_sequence = records[-1].sequence
                continue
            kept = [record for record in records if record.sequence <= until_sequence]
            if kept:
                yield kept
                after_sequence = kept[-1].sequence
            break
    if partitions is not None:
        # The last event may be among those left out.
        async with aclosing(read_until(log, after_sequence, until_sequence)) as parts:
            async for records in parts:
                yield records


async def end_of(log: EventLog) -> int:
    """Return the log's last sequence, or the one before a transaction of which the last member is not stored yet."""
    last_sequence = (await log.info()).last_sequence
    record = await log.get(last_sequence)
    place = place_of(record) if record is not None and is_open(record) else None
    return last_sequence if place is None else last_sequence - place.number


async def lag_seconds(log: EventLog, info: LogInfo, folded_sequence: int) -> float:
    """Return the age of the first event that is not folded; 0 where all are, so that a quiet log has no lag."""
    if folded_sequence >= info.last_sequence:
        return 0.0
    record = await log.get(folded_sequence + 1)
    return 0.0 if record is None else max(0, info.time - record.time) / 1e9


async def whole_sequence(log: EventLog, sequence: int) -> int:
    """Return a sequence of the log, or the one before a transaction that it would divide."""
    record = await log.get(sequence) if sequence else None
    place = place_of(record) if record is not None and is_open(record) else None
    if record is None or place is None:
        return sequence
    first_sequence = sequence - place.number + 1
    count = claimed_members(record, NEWEST)
    found = await asyncio.gather(*map(log.get, range(first_sequence, first_sequence + count)))
    members = [each for each in found if each is not None]
    ahead = MembersAhead()
    ahead.read(members)
    # In a log under an earlier fold they are all rejected, and it makes no difference.
    transaction = ahead.of(members[0], NEWEST, partial(route, fold=NEWEST.number)) if members else None
    return sequence if transaction is None else first_sequence - 1


async def sequence_at(log: EventLog, time: int) -> int:
    """Return a sequence past which no event was recorded at or before a time; 0 where none was at all.

    An event is recorded at the latest time up to it. Where the broker's clock stepped back, some events before the
    sequence may have been recorded after the time. The sequence divides no transaction.
    """
    before, after = 0, await end_of(log) + 1
    while after - before > 1:
        middle = (before + after) // 2
        record = await log.get(middle)
        if record is None:
            raise LogHole("the log lacks an event", sequence=middle)
        before, after = (middle, after) if record.time <= time else (before, middle)
    return await whole_sequence(log, before)


def foreign_prefixes(partitions: Collection[int] | None) -> frozenset[bytes]:
    """Return how the stored subjects of other partitions begin, up to the second dot: `log.<partition>`."""
    if partitions is None:
        return frozenset()
    return frozenset([b"log.%d" % number for number in range(PARTITIONS) if number not in partitions])


def validated_headers(publication: Publication) -> bytes:
    """Validate an event and return its headers as they are stored. Raises `Refused`."""
    check_name(publication.namespace, "namespace")
    check_document(publication.document, "document")
    if len(publication.body) > EVENT_BYTES_MAX:
        raise _too_large("event_too_large", "body", len(publication.body), EVENT_BYTES_MAX)
    lines = b"".join([_header_line(name, value) for name, value in publication.headers])
    if len(lines) > HEADERS_BYTES_MAX:
        raise _too_large("headers_too_large", "headers", len(lines), HEADERS_BYTES_MAX)
    return lines


def validated_batch(publications: Sequence[Publication]) -> list[bytes]:
    """Validate the events of one atomic append and return the headers of each. Raises `Refused`."""
    if len(publications) > BATCH_EVENTS_MAX:
        raise _batch_too_large(len(publications), "events", BATCH_EVENTS_MAX)
    headers = [validated_headers(publication) for publication in publications]
    body_bytes = sum(len(publication.body) for publication in publications)
    if body_bytes > ATOMIC_BYTES_MAX:
        raise _batch_too_large(body_bytes, "bytes of bodies", ATOMIC_BYTES_MAX)
    documents: set[tuple[str, str]] = set()
    for publication in publications:
        # The sequence of a document's last event is known only for the first event of the batch.
        document = publication.namespace, publication.document
        if publication.expected_last_sequence is not None and document in documents:
            message = "only a document's first event in a batch can be strict"
            raise Refused("bad_batch", message, field="expected_last_sequence", shape="/".join(document))
        documents.add(document)
    return headers


@lru_cache(HEADER_LINES_CACHED_MAX)
def _header_line(name: str, value: str) -> bytes:
    if not _HEADER_NAME.fullmatch(name) or name.lower().startswith("nats-"):
        message = (
            "a header's name is an HTTP token, and names that begin with Nats- are reserved for the broker"
        )
        raise Refused("bad_header", message, field="headers", shape=repr(name[:64]))
    if "\r" in value or "\n" in value:
        raise Refused("bad_header", "a header's value is one line", field=name, shape=repr(value[:64]))
    try:
        return f"{name}: {value}\r\n".encode()
    except UnicodeEncodeError as error:
        message = "a header's value must be encodable as UTF-8"
        raise Refused("bad_header", message, field=name, shape=repr(value[:64])) from error


def _too_large(reason: str, field: str, size: int, bound: int) -> Refused:
    return Refused(reason, f"at most {bound} bytes", field=field, shape=f"{size} bytes")


def _batch_too_large(size: int, unit: str, bound: int) -> Refused:
    message = f"a batch has at most {bound} {unit}"
    return Refused("batch_too_large", message, field="batch", shape=f"{size} {unit}")

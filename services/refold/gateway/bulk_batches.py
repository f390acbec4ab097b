"""The stages of a bulk request: split its body into lines, collect them into batches, append each batch in order.

Used by `refold.gateway.bulk`. An atomic batch is in the log as a whole or not at all; while the broker refuses batches,
the events are appended one by one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from refold.core.errors import BatchRefused, LogUnavailable, Refused
from refold.gateway.context import Context
from refold.gateway.limits import BULK_ANSWER_BYTES_MAX, LOST_ATTEMPTS_MAX
from refold.gateway.responses import Problem
from refold.gateway.writes import Written, never_acknowledged, recover
from refold.log import Acknowledgement, Appended, Publication, Stale, Unknown
from refold.log.limits import BATCH_BYTES_MAX, BATCH_EVENTS_MAX

ENVELOPE_BYTES: Final = 512
"""Subject, headers and framing of one message, at most: names are bounded."""


class Line(NamedTuple):
    """A line's number, from 1, and its bytes; `size` where it was too long to keep."""

    number: int
    data: bytes
    size: int = 0

    def checked(self, bytes_max: int) -> bytes:
        """Return the bytes. Raises `Refused` where the line is too long."""
        if self.size:
            rule = f"a line has at most {bytes_max} bytes"
            raise Refused("event_too_large", rule, field="line", shape=f"{self.size} bytes")
        return self.data


class LineSplitter:
    """Takes pieces, gives whole lines; blank ones are counted and left out."""

    def __init__(self, bytes_max: int) -> None:
        """Keep lines of at most so many bytes."""
        self._bytes_max = bytes_max
        self._pieces: list[bytes] = []
        self._size = 0
        self.lines_count = 0

    def feed(self, piece: bytes) -> list[Line]:
        """Return the lines that end in this piece."""
        head, *others = piece.split(b"\n")
        self._keep(head)
        lines: list[Line] = []
        for other in others:
            lines.extend(self._end())
            self._keep(other)
        return lines

    def finish(self) -> list[Line]:
        """Return the last line, where it did not end in a newline."""
        return self._end() if self._size else []

    @property
    def pending_bytes(self) -> int:
        """Return the bytes of the line that has not ended yet, as far as they are kept."""
        return self._size if self._size <= self._bytes_max else 0

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._bytes_max:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def _end(self) -> list[Line]:
        self.lines_count += 1
        data, size = b"".join(self._pieces), self._size
        self._pieces.clear()
        self._size = 0
        if size > self._bytes_max:
            return [Line(self.lines_count, b"", size)]
        return [Line(self.lines_count, data)] if data.strip() else []


class Item(NamedTuple):
    """A line: what is to be published for it, or the answer that refuses it."""

    number: int
    publication: Publication | None
    event_id: str = ""
    refusal: bytes = b""

    @property
    def weight(self) -> int:
        """Return the bytes that it adds to a batch, roughly."""
        return len(self.refusal) if self.publication is None else len(self.publication.body) + ENVELOPE_BYTES


class Inbox:
    """Events read and not appended yet: about a batch of them."""

    def __init__(self) -> None:
        """Begin empty and open."""
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._is_closed = False
        self._changed = asyncio.Condition()

    async def put(self, items: Sequence[Item]) -> None:
        """Add items, once there is room."""
        async with self._changed:
            await self._changed.wait_for(self._has_room)
            self._items.extend(items)
            self._bytes += sum(item.weight for item in items)
            self._changed.notify_all()

    async def close(self) -> None:
        """Say that no more come."""
        async with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    async def take(self) -> list[Item]:
        """Take what has come, up to a batch; nothing means the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._items or self._is_closed)
            batch: list[Item] = []
            bytes_count = 0
            while self._items and len(batch) < BATCH_EVENTS_MAX:
                bytes_count += self._items[0].weight
                if batch and bytes_count > BATCH_BYTES_MAX:
                    break
                batch.append(self._items.popleft())
            self._bytes -= sum(item.weight for item in batch)
            self._changed.notify_all()
            return batch

    def _has_room(self) -> bool:
        return len(self._items) < BATCH_EVENTS_MAX and self._bytes < BATCH_BYTES_MAX


class Outbox:
    """Answers made and not sent yet, so that a client may send all its lines before it reads."""

    def __init__(self) -> None:
        """Begin empty and open."""
        self._pieces: list[bytes] = []
        self._bytes = 0
        self._is_closed = False
        self._changed = asyncio.Condition()

    async def put(self, piece: bytes) -> None:
        """Add bytes, once there is room."""
        if not piece:
            return
        async with self._changed:
            await self._changed.wait_for(lambda: self._bytes < BULK_ANSWER_BYTES_MAX)
            self._pieces.append(piece)
            self._bytes += len(piece)
            self._changed.notify_all()

    async def close(self) -> None:
        """Say that no more come."""
        async with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    async def take(self) -> bytes:
        """Take all that is there; nothing means the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._pieces or self._is_closed)
            data = b"".join(self._pieces)
            self._pieces.clear()
            self._bytes = 0
            self._changed.notify_all()
            return data


@dataclass(slots=True, kw_only=True)
class Batch:
    """Lines on their way: `written` by index, once they are in the log; `failure` of those that are not."""

    items: list[Item]
    written: dict[int, Written] = field(default_factory=dict)
    failure: Problem | None = None
    deadline: float = 0.0


async def append_batch(context: Context, batch: Batch) -> None:
    """Append a batch's events in order, each exactly once in effect, for each carries an id.

    Raises where not all are in the log for sure; `batch.written` says which are.
    """
    wanted = {at: item.publication for at, item in enumerate(batch.items) if item.publication is not None}
    if not wanted:
        return
    try:
        sequences = await _append_surely(context, list(wanted.values()))
    except BatchRefused:
        await _append_singly(context, batch, wanted)
    else:
        batch.written |= {at: Written(sequence) for at, sequence in zip(wanted, sequences, strict=True)}


async def _append_surely(context: Context, publications: list[Publication]) -> list[int]:
    folded_sequence = context.consistency.sequence
    for _ in range(LOST_ATTEMPTS_MAX):
        started = context.timer()
        appended = await _append_all(context, publications)
        context.metrics.append_seconds.observe(context.timer() - started)
        if isinstance(appended, list):
            return [acknowledgement.sequence for acknowledgement in appended]
        first = await recover(context, publications, folded_sequence)
        if first is not None:
            return list(range(first, first + len(publications)))
    raise never_acknowledged()


async def _append_all(context: Context, publications: list[Publication]) -> list[Appended] | Unknown:
    if len(publications) == 1:
        one = await context.log.append(publications[0])
        assert not isinstance(one, Stale)
        return [one] if isinstance(one, Appended) else one
    many = await context.log.append_atomically(publications)
    assert not isinstance(many, Stale)
    return many


async def _append_singly(context: Context, batch: Batch, wanted: dict[int, Publication]) -> None:
    """Append each event on its own: the log keeps a document's events in order, and none behind one that failed."""
    folded_sequence = context.consistency.sequence
    left = dict(wanted)
    for _ in range(LOST_ATTEMPTS_MAX):
        started = context.timer()
        answers = await asyncio.gather(*map(context.log.append, left.values()), return_exceptions=True)
        context.metrics.append_seconds.observe(context.timer() - started)
        answered = dict(zip(left, answers, strict=True))
        for at, answer in answered.items():
            if isinstance(answer, Appended):
                batch.written[at] = Written(answer.sequence)
        lost = [at for at, answer in answered.items() if isinstance(answer, Unknown)]
        # Behind a lost event, the rest of its document was not sent: it is sent again after it.
        _raise_failure(answers, except_unsent=bool(lost))
        for at in lost:
            sequence = await recover(context, [wanted[at]], folded_sequence)
            if sequence is not None:
                batch.written[at] = Written(sequence)
        left = {at: publication for at, publication in left.items() if at not in batch.written}
        if not left:
            return
    raise never_acknowledged()


def _raise_failure(answers: list[Acknowledgement | BaseException], *, except_unsent: bool) -> None:
    for answer in answers:
        if isinstance(answer, BaseException) and not (except_unsent and isinstance(answer, LogUnavailable)):
            raise answer

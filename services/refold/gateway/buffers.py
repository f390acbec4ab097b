"""The two bounded buffers of a bulk request: events on their way in, answers on their way out.

Used by the bulk route.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from refold.core.limits import BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BULK_ANSWER_BYTES_MAX
from refold.log import Publication


class Item(NamedTuple):
    """A line: what is to be published for it, or the answer that refuses it."""

    number: int
    publication: Publication | None
    event_id: str = ""
    refusal: bytes = b""

    @property
    def weight(self) -> int:
        """Return the bytes that it adds to a batch, roughly."""
        return len(self.refusal) if self.publication is None else len(self.publication.body) + _ENVELOPE_BYTES


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


_ENVELOPE_BYTES = 512
"""Subject, headers and framing of one message, at most: names are bounded."""

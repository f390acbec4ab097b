"""Split the body of a bulk request into lines, and connect its stages by bounded pipes.

Used by `refold.gateway.bulk`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Line(NamedTuple):
    """A line's number, from 1, and its bytes; `size` where it was too long to keep."""

    number: int
    data: bytes
    size: int = 0


class LineSplitter:
    """Takes pieces, gives whole lines of at most `bytes_max`; blank ones are counted and left out."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._rest = b""
        self._dropped_bytes = 0
        self.lines_count = 0

    @property
    def pending_bytes(self) -> int:
        """Return the bytes of the line that has not ended yet, as far as they are kept."""
        return len(self._rest)

    def feed(self, piece: bytes, *, is_last: bool) -> list[Line]:
        """Return the lines that end in this piece; the last line needs no newline."""
        *ends, rest = (self._rest + piece).split(b"\n")
        if is_last and (rest or self._dropped_bytes):
            ends.append(rest)
            rest = b""
        lines: list[Line] = []
        for data in ends:
            self.lines_count += 1
            size, self._dropped_bytes = len(data) + self._dropped_bytes, 0
            if size > self._bytes_max:
                lines.append(Line(self.lines_count, b"", size))
            elif data.strip():
                lines.append(Line(self.lines_count, data))
        if self._dropped_bytes or len(rest) > self._bytes_max:
            self._dropped_bytes += len(rest)
            rest = b""
        self._rest = rest
        return lines


class Pipe(Generic[T]):
    """Items on their way from one stage to the next: about as many, and of about as many bytes, as one `take` gives."""

    def __init__(self, weigh: Callable[[T], int], bytes_max: int, items_max: int = 1_000_000) -> None:
        self._weigh = weigh
        self._bytes_max = bytes_max
        self._items_max = items_max
        self._items: deque[T] = deque()
        self._bytes = 0
        self._is_closed = False
        self._changed = asyncio.Condition()

    async def put(self, items: Sequence[T]) -> None:
        """Add items, once the bounds allow."""
        async with self._changed:
            await self._changed.wait_for(self._is_open_for_more)
            self._items.extend(items)
            self._bytes += sum(map(self._weigh, items))
            self._changed.notify_all()

    async def close(self) -> None:
        """End the input: `take` returns what is left, then nothing."""
        async with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    async def take(self) -> list[T]:
        """Take what has come, at least one item and at most the bounds; nothing means the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._items or self._is_closed)
            self._changed.notify_all()
            if len(self._items) <= self._items_max and self._bytes <= self._bytes_max:
                everything = list(self._items)
                self._items.clear()
                self._bytes = 0
                return everything
            taken: list[T] = []
            bytes_count = 0
            while self._items and len(taken) < self._items_max:
                weight = self._weigh(self._items[0])
                if taken and bytes_count + weight > self._bytes_max:
                    break
                taken.append(self._items.popleft())
                bytes_count += weight
            self._bytes -= bytes_count
            return taken

    def _is_open_for_more(self) -> bool:
        return len(self._items) < self._items_max and self._bytes < self._bytes_max

"""NDJSON: lines out of a body that comes in pieces, none longer than its bound.

Used by the bulk route; pure.
"""

from __future__ import annotations

from typing import NamedTuple

from refold.core.errors import Refused


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

"""A file of JSON Lines, plain or packed (`.zst`, `.gz`), read line by line in bounded memory.

Only `refold.client.importing` may use it.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import zstandard

from refold.core.errors import Refused

CHUNK_BYTES: Final = 4 * 1024
"""Read at once from a packed file: a block of four bytes may unpack to 128 KiB."""

PLAIN_CHUNK_BYTES: Final = 1024 * 1024
WINDOW_BYTES_MAX: Final = 2**27
LINE_BYTES_MAX: Final = 32 * 1024 * 1024


class LinesFile:
    """One file: its digest, and its lines with their numbers."""

    def __init__(self, path: Path) -> None:
        """Look at the file; nothing is kept open."""
        self.path = path
        self.size_bytes = path.stat().st_size
        self.read_bytes = 0

    def digest(self) -> str:
        """Return the SHA-256 of the file's bytes as they are, in hexadecimal digits."""
        with self.path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()

    def lines(self) -> Iterator[tuple[int, bytes | None]]:
        """Yield each line's number (from 1) and bytes; None for a line over `LINE_BYTES_MAX`.

        Raises `Refused` where the packing is broken.
        """
        number = 0
        rest = bytearray()
        is_oversized = False
        for chunk in self._chunks():
            start = 0
            while (end := chunk.find(b"\n", start)) >= 0:
                number += 1
                yield number, None if is_oversized else bytes(rest + chunk[start:end])
                rest.clear()
                is_oversized = False
                start = end + 1
            rest += chunk[start:]
            if len(rest) > LINE_BYTES_MAX:
                rest.clear()
                is_oversized = True
        if rest or is_oversized:
            yield number + 1, None if is_oversized else bytes(rest)

    def _chunks(self) -> Iterator[bytes]:
        unpack = _UNPACKERS.get(self.path.suffix)
        with self.path.open("rb") as file:
            if unpack is None:
                while chunk := self._read(file, PLAIN_CHUNK_BYTES):
                    yield chunk
                return
            try:
                yield from self._unpacked(file, unpack())
            except (zstandard.ZstdError, zlib.error, EOFError, gzip.BadGzipFile) as error:
                told = f"cannot be unpacked: {error}"
                raise Refused("bad_file", told, field=str(self.path)) from error

    def _unpacked(self, file: BinaryIO, unpacker: _Unpacker) -> Iterator[bytes]:
        is_between = True
        while chunk := self._read(file, CHUNK_BYTES):
            while chunk:
                is_between = False
                yield unpacker.decompress(chunk)
                if not unpacker.eof:
                    break
                # Another frame may follow in the same file.
                chunk = unpacker.unused_data
                unpacker = _UNPACKERS[self.path.suffix]()
                is_between = True
        if not is_between:
            raise EOFError("it ends in the middle")

    def _read(self, file: BinaryIO, count: int) -> bytes:
        chunk = file.read(count)
        self.read_bytes += len(chunk)
        return chunk


class _Unpacker(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _zstd() -> _Unpacker:
    return zstandard.ZstdDecompressor(max_window_size=WINDOW_BYTES_MAX).decompressobj()


def _gzip() -> _Unpacker:
    return zlib.decompressobj(wbits=31)


_UNPACKERS = {".zst": _zstd, ".gz": _gzip}

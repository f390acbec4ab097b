"""Compress a store's values: one self-describing byte, then the compressed bytes. The adapters' usual `RowCodec`."""

from __future__ import annotations

import re
import threading
import zlib
from enum import Enum
from typing import Final, Self

from cramjam import DecompressionError, snappy
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError, frame_content_size

from refold.core.fold import STATE_BYTES_MAX
from refold.store.layers import COMPRESSED_BYTES_MIN, COMPRESSION_PATTERN, COMPRESSION_RULE, Place

PLAIN_BYTES_MAX: Final = 3 * STATE_BYTES_MAX
"""A larger value is refused before memory is allocated for it.

A page ends when it has as many bytes as a state may have, and the effect of its last event may have as many again.
"""


class Method(Enum):
    """How values are compressed; what is read may have been written by any of them."""

    none = "none"
    gzip = "gzip"
    snappy = "snappy"
    zstd = "zstd"


_RAW: Final = 0
_GZIP: Final = 1
_SNAPPY: Final = 2
_ZSTD: Final = 3
_BARE_ZSTD: Final = 0x28
"""The first byte of a zstd frame without a byte before it, as PostgreSQL's pages were written at first."""

_LEVELS: Final = {Method.gzip: 6, Method.zstd: 1}
"""The usual levels; the other methods have none."""


class Compression:
    """A RowCodec that compresses."""

    def __init__(
        self, method: Method = Method.zstd, level: int | None = None, *, bytes_min: int = COMPRESSED_BYTES_MIN
    ) -> None:
        """Compress values of at least `bytes_min`; without a level, the method's usual one."""
        self._method = method
        self._level = _LEVELS.get(method, 0) if level is None else level
        self._bytes_min = bytes_min
        self._zstd = _Zstd(self._level if method is Method.zstd else 0)

    @classmethod
    def of(cls, text: str, *, bytes_min: int = COMPRESSED_BYTES_MIN) -> Self:
        """Make it of a method with or without a level, such as `zstd:3` or `snappy`. Raises `ValueError`."""
        if not re.fullmatch(COMPRESSION_PATTERN, text):
            raise ValueError(f"must {COMPRESSION_RULE}")
        name, _, level = text.partition(":")
        return cls(Method(name), int(level) if level else None, bytes_min=bytes_min)

    def encode(self, place: Place, plain: bytes) -> bytes:  # noqa: ARG002
        """Compress a value, unless it is small or does not become smaller."""
        if len(plain) < self._bytes_min or self._method is Method.none:
            return b"\0" + plain
        if self._method is Method.zstd:
            packed = b"\3" + self._zstd.compressor.compress(plain)
        elif self._method is Method.snappy:
            packed = b"\2" + bytes(snappy.compress_raw(plain))
        else:
            packed = b"\1" + zlib.compress(plain, self._level)
        return packed if len(packed) <= len(plain) else b"\0" + plain

    def decode(self, place: Place, stored: bytes) -> bytes:  # noqa: ARG002
        """Decompress a value, bounded by `PLAIN_BYTES_MAX`."""
        if not stored:
            raise ValueError("nothing is stored")
        if stored[0] == _RAW:
            if len(stored) > 1 + PLAIN_BYTES_MAX:
                raise ValueError(f"a value of {len(stored) - 1} bytes, at most {PLAIN_BYTES_MAX} are allowed")
            return stored[1:]
        if stored[0] == _GZIP:
            return _gunzip(stored[1:])
        if stored[0] == _SNAPPY:
            return _unsnap(stored[1:])
        if stored[0] in {_ZSTD, _BARE_ZSTD}:
            return self._unzstd_bounded(stored if stored[0] == _BARE_ZSTD else stored[1:])
        raise ValueError(f"unknown codec {stored[0]}")

    def _unzstd_bounded(self, frame: bytes) -> bytes:
        try:
            size = frame_content_size(frame)
            if not 0 <= size <= PLAIN_BYTES_MAX:
                raise ValueError(f"a zstd frame of {size} bytes, at most {PLAIN_BYTES_MAX} are allowed")
            return self._zstd.decompressor.decompress(frame, allow_extra_data=False)
        except ZstdError as error:
            raise ValueError(str(error)) from error


class _Zstd(threading.local):
    """Contexts of each thread: two threads must not use one at the same time."""

    def __init__(self, level: int) -> None:
        # Without its checksum, a flipped bit may decode to other content.
        self.compressor = ZstdCompressor(level=level, write_checksum=True)
        self.decompressor = ZstdDecompressor()


def _gunzip(packed: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        plain = unpacking.decompress(packed, PLAIN_BYTES_MAX)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not unpacking.eof or unpacking.unused_data:
        raise ValueError("a gzip value that is cut off, too large, or followed by other bytes")
    return plain


def _unsnap(packed: bytes) -> bytes:
    try:
        size = snappy.decompress_raw_len(packed)
        if size > PLAIN_BYTES_MAX:
            raise ValueError(f"a snappy value of {size} bytes, at most {PLAIN_BYTES_MAX} are allowed")
        return bytes(snappy.decompress_raw(packed))
    except DecompressionError as error:
        raise ValueError(str(error)) from error

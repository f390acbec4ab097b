"""Compress a store's values: one self-describing byte, then the compressed bytes. The adapters' usual `RowCodec`."""

from __future__ import annotations

import re
import sys
import threading
import zlib
from enum import Enum
from typing import Final, Self
from zlib import crc32

from cramjam import DecompressionError, snappy
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError, frame_content_size

from refold.core.fold import STATE_BYTES_MAX
from refold.store.layers import COMPRESSED_BYTES_MIN, COMPRESSION_PATTERN, COMPRESSION_RULE, Place
from refold.store.layers.dictionaries import (
    DICTIONARY_VALUE_BYTES_MAX,
    PART,
    Dictionaries,
    Dictionary,
)

PLAIN_BYTES_MAX: Final = 3 * STATE_BYTES_MAX
"""A larger value is refused before memory is allocated for it.

A page ends when it has as many bytes as a state may have, and the effect of its last event may have as many again.
"""

CONTEXTS_MAX: Final = 64
"""Dictionaries whose contexts, of up to 128 KiB, one thread keeps."""


class Method(Enum):
    """How values are compressed; what is read may have been written by any of them."""

    none = "none"
    gzip = "gzip"
    snappy = "snappy"
    zstd = "zstd"


_RAW: Final = 0x0C
_SNAPPY: Final = 0x14
_GZIP: Final = 0x18
_ZSTD: Final = 0x24
_DICTIONARY: Final = 0x30
"""The bytes before values. No flipped bit makes one of another, or one of those that values began with at first.

A dictionary's number follows its byte. All values end with a checksum of everything before it.
"""

_OLD_RAW: Final = 0
_OLD_GZIP: Final = 1
_OLD_SNAPPY: Final = 2
_OLD_ZSTD: Final = 3
_BARE_ZSTD: Final = 0x28
"""What values began with at first, without that checksum. The last one is the first byte of a zstd frame."""

_CHECKSUM_BYTES: Final = 4
_CHECKED: Final = 0x2144DF1C
"""The CRC-32 of any bytes that their own CRC-32 follows."""

OVERHEAD_BYTES: Final = 1 + _CHECKSUM_BYTES
"""Bytes that a value has more than what it is compressed to."""

_NUMBER_ENDS: Final = 5

_LEVELS: Final = {Method.gzip: 6, Method.zstd: 1}
"""The usual levels; the other methods have none."""


class Compression:
    """A RowCodec that compresses."""

    def __init__(
        self, method: Method = Method.zstd, level: int | None = None, *, bytes_min: int = COMPRESSED_BYTES_MIN
    ) -> None:
        """Compress values of at least `bytes_min`; without a level, the method's usual one.

        By a dictionary, which only zstd uses, values of any size are compressed.
        """
        self._method = method
        self._level = _LEVELS.get(method, 0) if level is None else level
        self._bytes_min = sys.maxsize if method is Method.none else bytes_min
        self._zstd = _Zstd(self._level if method is Method.zstd else 0)
        self.dictionaries = Dictionaries()
        self._newest = self.dictionaries.newest if method is Method.zstd else {}

    @classmethod
    def of(cls, text: str, *, bytes_min: int = COMPRESSED_BYTES_MIN) -> Self:
        """Make it of a method with or without a level, such as `zstd:3` or `snappy`. Raises `ValueError`."""
        if not re.fullmatch(COMPRESSION_PATTERN, text):
            raise ValueError(f"must {COMPRESSION_RULE}")
        name, _, level = text.partition(":")
        return cls(Method(name), int(level) if level else None, bytes_min=bytes_min)

    def encode(self, place: Place, plain: bytes) -> bytes:
        """Compress a value, unless it is small or does not become smaller."""
        checksum = 0
        dictionary = self._newest.get(place.namespace)
        if dictionary is not None and len(plain) <= DICTIONARY_VALUE_BYTES_MAX and place.part != PART:
            frame = self._zstd.compressor_of(dictionary).compress(plain)
            packed, checksum = b"\x30" + dictionary.header + frame, dictionary.checksum
        elif len(plain) < self._bytes_min:
            packed = b"\x0c" + plain
        else:
            packed = self._packed(plain)
        if len(packed) > len(plain) + 1:
            packed, checksum = b"\x0c" + plain, 0
        return packed + crc32(packed, checksum).to_bytes(_CHECKSUM_BYTES, "little")

    def decode(self, place: Place, stored: bytes) -> bytes:  # noqa: ARG002
        """Decompress a value, bounded by `PLAIN_BYTES_MAX`."""
        if not stored:
            raise ValueError("nothing is stored")
        codec = stored[0]
        if codec == _RAW:
            return _verified(stored)
        if codec == _DICTIONARY:
            dictionary = self.dictionaries.find(int.from_bytes(stored[1:_NUMBER_ENDS], "big"))
            packed = _verified(stored, dictionary.checksum)
            return _unzstd(self._zstd.decompressor_of(dictionary), packed[_NUMBER_ENDS - 1 :])
        if codec == _ZSTD:
            return _unzstd(self._zstd.decompressor, _verified(stored))
        if codec == _SNAPPY:
            return _unsnap(_verified(stored))
        if codec == _GZIP:
            return _gunzip(_verified(stored))
        return self._decode_old(stored)

    def _packed(self, plain: bytes) -> bytes:
        if self._method is Method.zstd:
            return b"\x24" + self._zstd.compressor.compress(plain)
        if self._method is Method.snappy:
            return b"\x14" + bytes(snappy.compress_raw(plain))
        return b"\x18" + zlib.compress(plain, self._level)

    def _decode_old(self, stored: bytes) -> bytes:
        codec = stored[0]
        if codec in {_OLD_ZSTD, _BARE_ZSTD}:
            return _unzstd(self._zstd.decompressor, stored[codec == _OLD_ZSTD :])
        if codec == _OLD_GZIP:
            return _gunzip(stored[1:])
        if codec == _OLD_SNAPPY:
            return _unsnap(stored[1:])
        if codec == _OLD_RAW:
            return _bounded(stored, 1)[1:]
        raise ValueError(f"unknown codec {codec}")


class _Zstd(threading.local):
    """Contexts of each thread: two threads must not use one at the same time."""

    def __init__(self, level: int) -> None:
        self._level = level
        self.compressor = ZstdCompressor(level=level)
        self.decompressor = ZstdDecompressor()
        self._compressors: dict[int, ZstdCompressor] = {}
        self._decompressors: dict[int, ZstdDecompressor] = {}

    def compressor_of(self, dictionary: Dictionary) -> ZstdCompressor:
        """Return one whose frames do not repeat the dictionary's number."""
        found = self._compressors.get(dictionary.number)
        if found is None:
            found = ZstdCompressor(level=self._level, dict_data=dictionary.data, write_dict_id=False)
            if len(self._compressors) >= CONTEXTS_MAX:
                self._compressors.clear()
            self._compressors[dictionary.number] = found
        return found

    def decompressor_of(self, dictionary: Dictionary) -> ZstdDecompressor:
        """Return one that refuses frames of other dictionaries."""
        found = self._decompressors.get(dictionary.number)
        if found is None:
            found = ZstdDecompressor(dict_data=dictionary.data)
            if len(self._decompressors) >= CONTEXTS_MAX:
                self._decompressors.clear()
            self._decompressors[dictionary.number] = found
        return found


def _verified(stored: bytes, begun: int = 0) -> bytes:
    """Return what is between the first byte and the checksum, which has begun with that of a dictionary."""
    if crc32(_bounded(stored, OVERHEAD_BYTES), begun) != _CHECKED:
        raise ValueError("a value whose checksum differs")
    return stored[1:-_CHECKSUM_BYTES]


def _bounded(stored: bytes, more: int) -> bytes:
    """Return a value that has `more` bytes than its content. Raises `ValueError` where it is too large."""
    if len(stored) > PLAIN_BYTES_MAX + more:
        raise ValueError(f"a value of {len(stored) - more} bytes, at most {PLAIN_BYTES_MAX} are allowed")
    return stored


def _unzstd(decompressor: ZstdDecompressor, frame: bytes) -> bytes:
    try:
        size = frame_content_size(frame)
        # The library takes one of 0 bytes for empty, and does not look at its checksum; none is written.
        if not 0 < size <= PLAIN_BYTES_MAX:
            raise ValueError(f"a zstd frame of {size} bytes, at most {PLAIN_BYTES_MAX} are allowed")
        return decompressor.decompress(frame, allow_extra_data=False)
    except ZstdError as error:
        raise ValueError(str(error)) from error


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

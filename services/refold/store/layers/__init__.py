"""What stands between a store's values and the bytes of its rows: compression, encryption.

Adapters encode what they write and decode what they read by one `RowCodec`, made by the wiring from the settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from refold.store.layers.dictionaries import Dictionaries

COMPRESSED_BYTES_MIN: Final = 512
"""Smaller values are stored as they are."""

COMPRESSION_PATTERN: Final = r"none|snappy|gzip(:[1-9])?|zstd(:(1[0-9]|[1-9]))?"
COMPRESSION_RULE: Final = "be none, snappy, gzip or gzip:1 to gzip:9, zstd or zstd:1 to zstd:19"
"""What `Compression.of` and the setting take."""


class Place(NamedTuple):
    """Where a value is stored: `part` is the table and column, `sequence` that of the row (0 for a document's head)."""

    part: str
    namespace: str
    document: str
    sequence: int


class RowCodec(Protocol):
    """Encode values into self-describing bytes: what was written under other settings stays readable.

    Several threads may use one codec at the same time.
    """

    @property
    def dictionaries(self) -> Dictionaries:
        """The dictionaries that values may need: the adapter adds those that its store has."""

    def encode(self, place: Place, plain: bytes) -> bytes:
        """Encode a value."""

    def decode(self, place: Place, stored: bytes) -> bytes:
        """Decode a value. Raises `ValueError` for bytes that are damaged, too large or not of this place."""

"""Dictionaries of zstd: what the small documents of a namespace have in common, stored once.

An adapter keeps them as rows and makes them known to its codec, whose values are compressed by them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, Protocol
from zlib import crc32

from zstandard import ZstdCompressionDict

from refold.core.errors import Refused
from refold.store.layers import Place, RowCodec

DICTIONARY_BYTES_MAX: Final = 16 * 1024

DICTIONARY_VALUE_BYTES_MAX: Final = 16 * 1024
"""A larger value has in itself what a dictionary would give it."""

DICTIONARIES_MAX: Final = 1_000
"""Dictionaries of one store: its projector keeps all of them in memory."""

PART: Final = "dictionaries"
"""The part of a dictionary's own place."""


class DictionaryUnknown(ValueError):
    """A value needs a dictionary that the codec does not know: the store may have it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"unknown dictionary {number}")
        self.number = number


class Dictionary:
    """One dictionary. Its number is unique in its store, also after the store was emptied."""

    __slots__ = ("checksum", "data", "header", "namespace", "number")

    def __init__(self, number: int, namespace: str, content: bytes) -> None:
        if len(content) > DICTIONARY_BYTES_MAX:
            raise ValueError(
                f"a dictionary of {len(content)} bytes, at most {DICTIONARY_BYTES_MAX} are allowed"
            )
        self.number = number
        self.namespace = namespace
        self.data = ZstdCompressionDict(content)
        self.header = number.to_bytes(4, "big")
        self.checksum = crc32(content)
        """What the checksums of its values begin with: by another dictionary, a frame may decode to other content."""


class Dictionaries:
    """Those that a codec knows. Several threads may read them while one adds some."""

    def __init__(self) -> None:
        self._by_number: dict[int, Dictionary] = {}
        self.newest: dict[str, Dictionary] = {}
        """By namespace; changed in place."""

    def add(self, dictionary: Dictionary) -> None:
        """Decode by it from now on, and encode by it where it is its namespace's newest."""
        self._by_number[dictionary.number] = dictionary
        newest = self.newest.get(dictionary.namespace)
        if newest is None or newest.number < dictionary.number:
            self.newest[dictionary.namespace] = dictionary

    def find(self, number: int) -> Dictionary:
        """Return one by its number. Raises `DictionaryUnknown`."""
        found = self._by_number.get(number)
        if found is None:
            raise DictionaryUnknown(number)
        return found

    def forget(self) -> None:
        """Know none: the store may be another one now."""
        self._by_number.clear()
        self.newest.clear()


class DictionaryKeeper(Protocol):
    """A store whose values may be compressed by dictionaries, which it keeps."""

    async def add_dictionary(self, namespace: str, content: bytes) -> int:
        """Keep a dictionary, by which the namespace's values are written from the next commit on; return its number.

        Raises `Refused` where the store has as many as it may have.
        """


def next_number(used: Sequence[int]) -> int:
    """Return the number of a store's next dictionary: the second, so that an emptied store uses none again.

    Raises `Refused` where the store has as many as it may have.
    """
    if len(used) >= DICTIONARIES_MAX:
        rule = f"the store has {DICTIONARIES_MAX} dictionaries; a rebuild keeps the newest of each namespace"
        raise Refused("dictionaries_full", rule, shape=str(len(used)))
    return max(max(used, default=0) + 1, int(time.time()))


def place_of(number: int, namespace: str) -> Place:
    """Return where a dictionary is stored: it has pieces of documents, and is encrypted where these are."""
    return Place(PART, namespace, "", number)


def learn(codec: RowCodec, number: int, namespace: str, stored: bytes) -> None:
    """Make a stored dictionary known to the codec that its values are encoded by. Raises `ValueError`."""
    content = codec.decode(place_of(number, namespace), stored)
    codec.dictionaries.add(Dictionary(number, namespace, content))

"""Compressed values: read whatever wrote them, never larger than the bound, and damage is an error."""

from __future__ import annotations

import os
import tracemalloc
import zlib

import pytest
import zstandard
from cramjam import snappy
from hypothesis import given
from hypothesis import strategies as st

from refold.store.layers import COMPRESSED_BYTES_MIN, Place
from refold.store.layers.compression import OVERHEAD_BYTES, PLAIN_BYTES_MAX, Compression
from refold.store.layers.dictionaries import (
    DICTIONARY_BYTES_MAX,
    DICTIONARY_VALUE_BYTES_MAX,
    Dictionary,
    DictionaryUnknown,
    place_of,
)

PLACE = Place("pages.payload", "n", "d", 7)
METHODS = ("none", "snappy", "gzip", "gzip:9", "zstd", "zstd:19")
TEXT = b'{"name":"value"}' * 200
BOMB_BYTES = 8 * PLAIN_BYTES_MAX


@given(st.binary(max_size=2_000), st.sampled_from(METHODS), st.sampled_from(METHODS), st.integers(0, 600))
def test_a_value_is_read_under_any_later_setting(plain, written, read, bytes_min):
    stored = Compression.of(written, bytes_min=bytes_min).encode(PLACE, plain)
    assert Compression.of(read).decode(PLACE, stored) == plain
    assert len(stored) <= len(plain) + OVERHEAD_BYTES


@pytest.mark.parametrize("method", METHODS[1:])
def test_what_compresses_becomes_smaller_and_small_or_random_values_stay(method):
    codec = Compression.of(method)
    assert len(codec.encode(PLACE, TEXT)) < len(TEXT) / 4
    for plain in (TEXT[: COMPRESSED_BYTES_MIN - 1], os.urandom(10_000)):
        stored = codec.encode(PLACE, plain)
        assert (stored[0], stored[1 : 1 + len(plain)]) == (0x0C, plain)


@pytest.mark.parametrize(
    "stored",
    [
        b"\0" + TEXT,
        b"\1" + zlib.compress(TEXT),
        b"\2" + bytes(snappy.compress_raw(TEXT)),
        b"\3" + zstandard.compress(TEXT),
        zstandard.compress(TEXT),
    ],
)
def test_a_value_as_it_was_written_at_first_is_read(stored):
    assert Compression().decode(PLACE, stored) == TEXT


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_value_that_is_cut_off_or_continued_is_damaged(method):
    stored = Compression.of(method).encode(PLACE, TEXT)
    for damaged in (stored[:-1], stored[: len(stored) // 2], stored[:1], b"", stored + b"x"):
        with pytest.raises(ValueError):
            Compression().decode(PLACE, damaged)


@pytest.mark.parametrize("method", [*METHODS, "dictionary"])
def test_a_flipped_bit_in_any_value_is_found(method):
    codec = with_dictionary() if method == "dictionary" else Compression.of(method)
    stored = codec.encode(PLACE, TEXT)
    for place in range(len(stored)):
        for bit in range(8):
            flipped = bytearray(stored)
            flipped[place] ^= 1 << bit
            with pytest.raises(ValueError):
                codec.decode(PLACE, bytes(flipped))


def test_an_unknown_codec_is_named():
    with pytest.raises(ValueError, match="unknown codec 8"):
        Compression().decode(PLACE, b"\b" + TEXT)


COMMON = b'{"customer":{"city":"Bonn","country":"DE"},"status":"open","total":'


def with_dictionary(*numbers, namespace="n", level="zstd", content=COMMON * 20):
    codec = Compression.of(level)
    for number in numbers or (1,):
        codec.dictionaries.add(Dictionary(number, namespace, content))
    return codec


def test_small_values_of_a_namespace_with_a_dictionary_are_compressed_by_its_newest():
    codec, plain = with_dictionary(3, 8, 5), COMMON + b"17}"
    stored = codec.encode(PLACE, plain)
    assert stored[:5] == b"0\0\0\0\x08"
    assert len(stored) < len(plain) / 2
    assert codec.decode(PLACE, stored) == plain
    unlike = (PLACE._replace(namespace="other"), plain), (place_of(9, "n"), plain)
    too_large = PLACE, COMMON * (DICTIONARY_VALUE_BYTES_MAX // len(COMMON) + 1)
    for place, value in (*unlike, too_large):
        assert codec.encode(place, value)[0] != stored[0]
    for method in ("none", "snappy", "gzip"):
        assert with_dictionary(level=method).encode(PLACE, plain)[0] != stored[0]
        assert with_dictionary(8, level=method).decode(PLACE, stored) == plain


def test_an_unknown_dictionary_is_named_by_its_number():
    stored = with_dictionary(8).encode(PLACE, COMMON)
    with pytest.raises(DictionaryUnknown, match="unknown dictionary 8") as unknown:
        Compression().decode(PLACE, stored)
    assert unknown.value.number == 8


def test_a_frame_of_another_dictionary_is_damaged():
    stored = with_dictionary(8).encode(PLACE, COMMON)
    for damaged in (stored[:3], stored[:5], stored[:-1]):
        with pytest.raises(ValueError):
            with_dictionary(8).decode(PLACE, damaged)
    with pytest.raises(ValueError, match="checksum"):
        with_dictionary(8, content=COMMON[::-1] * 20).decode(PLACE, stored)
    trained = zstandard.train_dictionary(2_048, [b'{"n":%d,"m":%d}' % (n, n * 7919) for n in range(2_000)])
    named = stored[:5] + zstandard.ZstdCompressor(dict_data=trained).compress(COMMON)
    with pytest.raises(ValueError, match="ictionary"):
        with_dictionary(8).decode(PLACE, checked(named, zlib.crc32(COMMON * 20)))
    with pytest.raises(ValueError, match="at most"):
        Dictionary(1, "n", bytes(DICTIONARY_BYTES_MAX + 1))


def checked(packed, begun=0):
    return packed + zlib.crc32(packed, begun).to_bytes(4, "little")


@pytest.mark.parametrize(
    "pack",
    [
        lambda zeros: b"\0" + zeros,
        lambda zeros: b"\1" + zlib.compress(zeros),
        lambda zeros: b"\2" + bytes(snappy.compress_raw(zeros)),
        lambda zeros: b"\3" + zstandard.compress(zeros),
        lambda zeros: b"\3" + zstandard.ZstdCompressor(write_content_size=False).compress(zeros),
        lambda zeros: b"\x0c" + zeros,
        lambda zeros: checked(b"\x14" + bytes(snappy.compress_raw(zeros))),
        lambda zeros: checked(b"\x24" + zstandard.compress(zeros)),
        lambda zeros: checked(b"0\0\0\0\1" + zstandard.compress(zeros), zlib.crc32(COMMON * 20)),
    ],
    ids=[
        *("old raw", "old gzip", "old snappy", "old zstd", "old zstd without its size"),
        *("raw", "snappy", "zstd", "dictionary"),
    ],
)
def test_a_value_that_would_be_too_large_is_refused_before_it_is_made(pack):
    packed = pack(bytes(BOMB_BYTES))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"at most|too large"):
            with_dictionary().decode(PLACE, packed)
        assert tracemalloc.get_traced_memory()[1] < 3 * PLAIN_BYTES_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["lz4", "zstd:0", "zstd:20", "gzip:10", "snappy:1", "none:1", "zstd:", "zstd:x", ""]
)
def test_a_setting_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="must be none, snappy, gzip"):
        Compression.of(text)

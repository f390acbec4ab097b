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
from refold.store.layers.compression import PLAIN_BYTES_MAX, Compression

PLACE = Place("pages.payload", "n", "d", 7)
METHODS = ("none", "snappy", "gzip", "gzip:9", "zstd", "zstd:19")
SNAPPY = 2
TEXT = b'{"name":"value"}' * 200


@given(st.binary(max_size=2_000), st.sampled_from(METHODS), st.sampled_from(METHODS), st.integers(0, 600))
def test_a_value_is_read_under_any_later_setting(plain, written, read, bytes_min):
    stored = Compression.of(written, bytes_min=bytes_min).encode(PLACE, plain)
    assert Compression.of(read).decode(PLACE, stored) == plain
    assert len(stored) <= len(plain) + 1


@pytest.mark.parametrize("method", METHODS[1:])
def test_what_compresses_becomes_smaller_and_small_or_random_values_stay(method):
    codec = Compression.of(method)
    assert len(codec.encode(PLACE, TEXT)) < len(TEXT) / 4
    for plain in (TEXT[: COMPRESSED_BYTES_MIN - 1], os.urandom(10_000)):
        assert codec.encode(PLACE, plain) == b"\0" + plain


def test_a_zstd_frame_without_a_byte_before_it_is_read():
    assert Compression().decode(PLACE, zstandard.compress(TEXT)) == TEXT


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_value_that_is_cut_off_or_continued_is_damaged(method):
    stored = Compression.of(method).encode(PLACE, TEXT)
    continued = [stored + b"x"] if stored[0] != SNAPPY else []
    for damaged in (stored[:-1], stored[: len(stored) // 2], stored[:1], b"", *continued):
        with pytest.raises(ValueError):
            Compression().decode(PLACE, damaged)


@pytest.mark.parametrize("method", ["gzip", "zstd"])
def test_a_flipped_bit_is_found(method):
    stored = Compression.of(method).encode(PLACE, TEXT)
    for place in range(1, len(stored)):
        for bit in range(8):
            flipped = bytearray(stored)
            flipped[place] ^= 1 << bit
            try:
                assert Compression().decode(PLACE, bytes(flipped)) == TEXT
            except ValueError:
                continue


def test_an_unknown_codec_is_named():
    with pytest.raises(ValueError, match="unknown codec 9"):
        Compression().decode(PLACE, b"\t" + TEXT)


BOMB_BYTES = 8 * PLAIN_BYTES_MAX


@pytest.mark.parametrize(
    "packed",
    [
        b"\0" + bytes(BOMB_BYTES),
        b"\1" + zlib.compress(bytes(BOMB_BYTES)),
        b"\2" + bytes(snappy.compress_raw(bytes(BOMB_BYTES))),
        b"\3" + zstandard.compress(bytes(BOMB_BYTES)),
        b"\3" + zstandard.ZstdCompressor(write_content_size=False).compress(bytes(BOMB_BYTES)),
    ],
    ids=["raw", "gzip", "snappy", "zstd", "zstd without its size"],
)
def test_a_value_that_would_be_too_large_is_refused_before_it_is_made(packed):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            Compression().decode(PLACE, packed)
        assert tracemalloc.get_traced_memory()[1] < 3 * PLAIN_BYTES_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["lz4", "zstd:0", "zstd:20", "gzip:10", "snappy:1", "none:1", "zstd:", "zstd:x", ""]
)
def test_a_setting_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="must be none, snappy, gzip"):
        Compression.of(text)

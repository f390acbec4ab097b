"""NDJSON lines do not depend on the chunks of the body."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from refold.gateway.bulk_stages import Line, LineSplitter

BODY = b'{"a":1}\n\n  \r\n{"b":2}\r\n{"c":3}'
LINES = [Line(1, b'{"a":1}'), Line(4, b'{"b":2}\r'), Line(5, b'{"c":3}')]


def split(pieces: list[bytes], bytes_max: int = 100) -> list[Line]:
    splitter = LineSplitter(bytes_max)
    lasts = [*(False for _ in pieces[1:]), True]
    return [
        line
        for piece, is_last in zip(pieces, lasts, strict=True)
        for line in splitter.feed(piece, is_last=is_last)
    ]


def test_blank_lines_are_counted_and_left_out() -> None:
    assert split([BODY]) == LINES


@given(st.lists(st.integers(0, len(BODY)), max_size=8))
def test_chunk_boundaries_do_not_matter(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(BODY)]
    pieces = [BODY[start:end] for start, end in pairwise(edges)]
    assert split(pieces) == LINES


def test_a_last_line_needs_no_newline() -> None:
    assert split([b"a\nb"]) == split([b"a\nb\n"])


def test_a_line_that_is_too_long_keeps_its_number_and_size_and_the_next_is_read() -> None:
    found = split([b"1234", b"5678", b"90\nabc\n"], bytes_max=5)
    assert found == [Line(1, b"", 10), Line(2, b"abc")]

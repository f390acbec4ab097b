"""The alignment of two arrays, compared with slow algorithms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.core import diff as align

WORDS = st.text("abc", max_size=12)


def longest_common(a: str, b: str) -> int:
    row = [0] * (len(b) + 1)
    for left in a:
        before = row
        row = [0]
        for j, right in enumerate(b):
            row.append(before[j] + 1 if left == right else max(before[j + 1], row[j]))
    return row[-1]


@given(WORDS, WORDS)
def test_as_many_elements_as_possible_remain_in_order(a, b):
    pairs = align.pair_equal(a, b)
    assert all(a[i] == b[j] for i, j in pairs)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    kept = align._common_subsequence(a, b)
    assert kept == sorted(kept)
    assert all(a[i] == b[j] for i, j in kept)
    assert len(kept) == longest_common(a, b) <= len(align.longest_rising(pairs))


@given(WORDS, WORDS)
def test_every_element_that_can_be_paired_is_paired(a, b):
    assert len(align.pair_equal(a, b)) == sum(min(a.count(letter), b.count(letter)) for letter in "abc")


@given(st.permutations(range(9)))
def test_the_longest_increasing_subsequence_equals_the_longest_common_subsequence(order):
    rising = align.longest_rising(list(enumerate(order)))
    assert rising == sorted(rising)
    assert [j for _, j in rising] == sorted(j for _, j in rising)
    letters = "abcdefghi"
    assert len(rising) == longest_common(letters, "".join(letters[place] for place in order))


def test_alignment_of_long_unrelated_arrays_stops_early(monkeypatch):
    assert align._common_subsequence("ab" * 100, "ba" * 100)
    monkeypatch.setattr(align, "DIFF_EDITS_MAX", 1)
    assert align._common_subsequence("ab" * 100, "ba" * 100) == []
    assert len(align.pair_equal("ab" * 100, "ba" * 100)) == 200


@pytest.mark.parametrize(("a", "b"), [("", ""), ("a", ""), ("", "a"), ("a", "b")])
def test_unrelated_arrays_have_no_pairs(a, b):
    assert align.pair_equal(a, b) == []
    assert align.longest_rising([]) == []

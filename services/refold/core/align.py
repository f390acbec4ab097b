"""Which element of one array is which of another, and which of them kept their order.

For the diff only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeAlias

from refold.core.limits import DIFF_EDITS_MAX

Pair: TypeAlias = tuple[int, int]
"""A place in the one array and a place in the other."""


def pair_equal(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Pair]:
    """Pair the places of equal keys, each at most once: first those that keep their order, then the others."""
    counts_a, counts_b = Counter(a), Counter(b)
    places_a = [place for place, key in enumerate(a) if key in counts_b]
    places_b = [place for place, key in enumerate(b) if key in counts_a]
    pairs: list[Pair] = []
    # Where every key stands once, turns find the same pairs.
    if any(counts_a[a[place]] > 1 or counts_b[a[place]] > 1 for place in places_a):
        kept = _common_subsequence([a[place] for place in places_a], [b[place] for place in places_b])
        pairs = [(places_a[i], places_b[j]) for i, j in kept]
        taken_a, taken_b = {i for i, _ in pairs}, {j for _, j in pairs}
        places_a = [place for place in places_a if place not in taken_a]
        places_b = [place for place in places_b if place not in taken_b]
    pairs += pair_by_turns(((a[i], i) for i in places_a), ((b[j], j) for j in places_b))
    return pairs


def pair_by_turns(a: Iterable[tuple[Hashable, int]], b: Iterable[tuple[Hashable, int]]) -> list[Pair]:
    """Pair the first place of a key with its first in the other, the second with the second, and so on."""
    waiting: defaultdict[Hashable, deque[int]] = defaultdict(deque)
    for key, j in b:
        waiting[key].append(j)
    return [(i, waiting[key].popleft()) for key, i in a if waiting.get(key)]


def longest_rising(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep as many pairs as possible that stand in the same order in both."""
    ordered = sorted(pairs)
    ends: list[int] = []
    chosen: list[int] = []
    before: list[int] = []
    for position, (_, j) in enumerate(ordered):
        length = bisect_left(ends, j)
        before.append(chosen[length - 1] if length else -1)
        ends[length : length + 1] = [j]
        chosen[length : length + 1] = [position]
    rising: list[Pair] = []
    position = chosen[-1] if chosen else -1
    while position >= 0:
        rising.append(ordered[position])
        position = before[position]
    return rising[::-1]


def _common_subsequence(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Pair]:
    """Return the longest one (Myers), or nothing when it takes too many edits."""
    furthest = {1: 0}
    trace: list[dict[int, int]] = []
    for edits in range(min(len(a) + len(b), DIFF_EDITS_MAX) + 1):
        trace.append(dict(furthest))
        for diagonal in range(-edits, edits + 1, 2):
            down = _goes_down(furthest, diagonal, edits)
            i = furthest[diagonal + 1] if down else furthest[diagonal - 1] + 1
            while i < len(a) and i - diagonal < len(b) and a[i] == b[i - diagonal]:
                i += 1
            furthest[diagonal] = i
            if i >= len(a) and i - diagonal >= len(b):
                return _walk_back(trace, len(a), len(b))
    return []


def _goes_down(furthest: dict[int, int], diagonal: int, edits: int) -> bool:
    return diagonal == -edits or (diagonal != edits and furthest[diagonal - 1] < furthest[diagonal + 1])


def _walk_back(trace: list[dict[int, int]], i: int, j: int) -> list[Pair]:
    pairs: list[Pair] = []
    for edits in range(len(trace) - 1, 0, -1):
        diagonal = i - j
        came_from = diagonal + 1 if _goes_down(trace[edits], diagonal, edits) else diagonal - 1
        start = trace[edits][came_from]
        while i > start and j > start - came_from:
            i, j = i - 1, j - 1
            pairs.append((i, j))
        i, j = start, start - came_from
    pairs.extend((place, place) for place in range(i - 1, -1, -1))
    return pairs[::-1]

"""A small JSON Patch between two states: not the smallest possible, but quick to make. For history and import."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import compress, count
from operator import ne
from typing import Final, NamedTuple, TypeAlias

import orjson

from refold.core.fold import NEWEST
from refold.core.json_text import Json, dumps, identical, size
from refold.core.pointer import escape

_LIMITS: Final = NEWEST.limits

DIFF_EDITS_MAX: Final = 128
"""Insertions and removals up to which the best alignment of two arrays is searched."""


def diff(a: Json, b: Json) -> list[dict[str, Json]]:
    """Return a patch that turns `a` into `b`, to the byte: 1 and 1.0 differ, and so do 1 and true.

    Neither is changed. The patch's values are `b`'s own: serialise or copy it before it is applied in this process.
    """
    draft = _Draft()
    try:
        if type(a) is dict or type(a) is list or not identical(a, b):
            _change(draft, "", a, b)
        if not draft.operations or draft.would_be_applied(a):
            return draft.operations
    except _Overrun:
        pass
    return [{"op": "replace", "path": "", "value": b}]


class _Overrun(Exception):
    """The patch is larger than the whole state may be."""


class _Draft:
    __slots__ = ("bytes_count", "carried_bytes", "operations", "shifts")

    def __init__(self) -> None:
        self.operations: list[dict[str, Json]] = []
        self.bytes_count = 0
        self.carried_bytes = 0
        self.shifts = 0

    def add(self, operation: dict[str, Json]) -> None:
        self.operations.append(operation)
        self.bytes_count += len(orjson.dumps(operation)) + 1
        if self.bytes_count > _LIMITS.state_bytes:
            raise _Overrun

    def would_be_applied(self, a: Json) -> bool:
        """Tell whether the fold's limits hold on the way, even if all is added before anything is removed."""
        return (
            len(self.operations) <= _LIMITS.operations
            and self.carried_bytes <= _LIMITS.copy_bytes
            and self.shifts <= _LIMITS.shifts
            and size(a) + self.bytes_count <= _LIMITS.state_bytes
        )


def _change(draft: _Draft, path: str, a: Json, b: Json) -> None:
    """Turn one value into another, in no more bytes than its replacement takes."""
    replacement = {"op": "replace", "path": path, "value": b}
    if type(a) is not type(b) or (type(a) is not dict and type(a) is not list):
        draft.add(replacement)
        return
    operations_before, bytes_before = len(draft.operations), draft.bytes_count
    if type(a) is dict:
        _change_members(draft, path, a, b)
    elif type(a) is list:
        _change_elements(draft, path, a, b)
    bytes_spent = draft.bytes_count - bytes_before
    # The first half is cheap, and most patches are smaller than even the commas of the value.
    if bytes_spent > len(path) + 2 * len(b) and bytes_spent > len(orjson.dumps(replacement)) + 1:
        del draft.operations[operations_before:]
        draft.bytes_count = bytes_before
        draft.add(replacement)


def _change_members(draft: _Draft, path: str, a: dict[str, Json], b: dict[str, Json]) -> None:
    gone, new = a.keys() - b.keys(), b.keys() - a.keys()
    for key in sorted(gone):
        draft.add({"op": "remove", "path": f"{path}/{escape(key)}"})
    changed = set(compress(b, map(ne, map(a.get, b), b.values()))) - new
    left, right = _without(a, gone | changed), _without(b, new | changed)
    if not _proved_identical(left, right):
        changed.update(key for key in left if not identical(left[key], right[key]))
    for key in sorted(new | changed):
        place = f"{path}/{escape(key)}"
        if key in new:
            draft.add({"op": "add", "path": place, "value": b[key]})
        else:
            _change(draft, place, a[key], b[key])


def _without(members: dict[str, Json], keys: set[str]) -> dict[str, Json]:
    rest = dict(members)
    for key in keys:
        del rest[key]
    return rest


def _proved_identical(a: Json, b: Json) -> bool:
    """Compare many values at once, which is much quicker than one by one."""
    return orjson.dumps(a) == orjson.dumps(b) or identical(a, b)


def _change_elements(draft: _Draft, path: str, a: list[Json], b: list[Json]) -> None:
    start, end = _common_ends(a, b)
    middle_a, middle_b = a[start : len(a) - end], b[start : len(b) - end]
    alignment = _align(middle_a, middle_b)
    displaced = len(middle_a) + len(middle_b) - 2 * len(alignment.kept)
    draft.shifts += max(len(a), len(b)) * displaced
    draft.carried_bytes += sum(size(middle_a[i]) for i, _ in alignment.moved)
    _rearrange(draft, path, start, middle_b, alignment)
    for i, j in alignment.changed:
        _change(draft, f"{path}/{start + j}", middle_a[i], middle_b[j])


def _common_ends(a: list[Json], b: list[Json]) -> tuple[int, int]:
    most = min(len(a), len(b))
    start = _common_start(a[:most], b[:most])
    rest = most - start
    return start, _common_start(a[::-1][:rest], b[::-1][:rest])


def _common_start(a: list[Json], b: list[Json]) -> int:
    length = next(compress(count(), map(ne, a, b)), len(a))
    if _proved_identical(a[:length], b[:length]):
        return length
    return next(place for place in range(length) if not identical(a[place], b[place]))


class _Alignment(NamedTuple):
    removed: list[int]
    kept: list[Pair]
    moved: list[Pair]
    changed: list[Pair]


def _align(a: list[Json], b: list[Json]) -> _Alignment:
    pairs: list[Pair] = []
    # One element against one is the same place.
    if a and b and len(a) + len(b) > 2:
        pairs = pair_equal([dumps(item) for item in a], [dumps(item) for item in b])
    same = set(pairs)
    free_a, free_b = places_left(a, pairs, 0), places_left(b, pairs, 1)
    pairs += pair_by_turns(identities(a, free_a), identities(b, free_b))
    kept = longest_rising(pairs)
    moved = sorted(set(pairs).difference(kept))
    # What is left between the same two neighbours is paired by position.
    free_a, free_b = places_left(a, pairs, 0), places_left(b, pairs, 1)
    starts_a, starts_b = [i for i, _ in kept], [j for _, j in kept]
    replaced = pair_by_turns(
        ((bisect_left(starts_a, i), i) for i in free_a), ((bisect_left(starts_b, j), j) for j in free_b)
    )
    kept = sorted(kept + replaced)
    changed = sorted(set(kept + moved) - same, key=lambda pair: pair[1])
    return _Alignment(places_left(a, kept + moved, 0), kept, moved, changed)


def places_left(items: list[Json], pairs: list[Pair], side: int) -> list[int]:
    """Return the places of one side that no pair has."""
    taken = {pair[side] for pair in pairs}
    return [place for place in range(len(items)) if place not in taken]


def identities(items: list[Json], places: list[int]) -> Iterator[tuple[tuple[str, str | int], int]]:
    """Yield the objects that have an `id`, `name` or `key`, by the first of them."""
    for place in places:
        item = items[place]
        for name in ("id", "name", "key"):
            if type(item) is dict and type(item.get(name)) in {str, int}:
                yield (name, item[name]), place
                break


def _rearrange(draft: _Draft, path: str, offset: int, b: list[Json], alignment: _Alignment) -> None:
    """Remove from the end, then go through `b` and add or move each element to its place."""
    for i in reversed(alignment.removed):
        draft.add({"op": "remove", "path": f"{path}/{offset + i}"})
    kept_a, kept_b = [i for i, _ in alignment.kept], [j for _, j in alignment.kept]
    source_of = {j: i for i, j in alignment.moved}
    waiting = [i for i, _ in alignment.moved]
    passed = 0
    for j, value in enumerate(b):
        if passed < len(kept_b) and kept_b[passed] == j:
            passed += 1
            continue
        # Elements that are moved later are still between those that are in place.
        anchor = kept_a[passed - 1] if passed else -1
        if j not in source_of:
            place = offset + j + bisect_left(waiting, anchor)
            draft.add({"op": "add", "path": f"{path}/{place}", "value": value})
            continue
        i = source_of[j]
        turn, kept_before = bisect_left(waiting, i), bisect_left(kept_a, i)
        source = turn + (j + kept_before - passed if kept_before >= passed else kept_b[kept_before])
        del waiting[turn]
        place = j + bisect_left(waiting, anchor)
        if place != source:
            draft.add({"op": "move", "from": f"{path}/{offset + source}", "path": f"{path}/{offset + place}"})


Pair: TypeAlias = tuple[int, int]
"""A place in the one array and a place in the other."""


def pair_equal(a: Sequence[Hashable], b: Sequence[Hashable]) -> list[Pair]:
    """Pair the places of equal keys, each at most once: first those that keep their order, then the others."""
    counts_a, counts_b = Counter(a), Counter(b)
    places_a = [place for place, key in enumerate(a) if key in counts_b]
    places_b = [place for place, key in enumerate(b) if key in counts_a]
    pairs: list[Pair] = []
    # Where no key repeats, pairing by turns finds the same pairs.
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
    """Keep as many pairs as possible that are in the same order in both."""
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
    """Return the longest one (Myers), or nothing where it takes too many edits."""
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

"""A small JSON Patch between two states: not the smallest at any price, but small and quick.

For history, the client and the import.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import compress, count
from operator import ne
from typing import Final, NamedTuple

import orjson

from refold.core.align import Pair, longest_rising, pair_by_turns, pair_equal
from refold.core.canonical import Json, dumps, identical, size
from refold.core.fold import NEWEST
from refold.core.pointer import escape

_LIMITS: Final = NEWEST.limits


def diff(a: Json, b: Json) -> list[dict[str, Json]]:
    """Return a patch that turns `a` into `b`, to the byte: 1 and 1.0 differ, and so do 1 and true.

    Neither is changed. The patch's values are `b`'s own: write it out, or copy it, before it is applied in
    this process.
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
    """No patch is as large as this: the whole state is smaller."""


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
        """Whether the fold's limits hold on the way, even if everything is added before anything goes."""
        return (
            len(self.operations) <= _LIMITS.operations
            and self.carried_bytes <= _LIMITS.copy_bytes
            and self.shifts <= _LIMITS.shifts
            and size(a) + self.bytes_count <= _LIMITS.state_bytes
        )


def _change(draft: _Draft, path: str, a: Json, b: Json) -> None:
    """Say how one value becomes another, in no more bytes than its replacement takes."""
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
    """Prove of many values at once what Python's equality leaves open: much quicker than one by one."""
    return orjson.dumps(a) == orjson.dumps(b) or identical(a, b)


def _change_elements(draft: _Draft, path: str, a: list[Json], b: list[Json]) -> None:
    start, end = _common_ends(a, b)
    middle_a, middle_b = a[start : len(a) - end], b[start : len(b) - end]
    alignment = _align(middle_a, middle_b)
    draft.shifts += max(len(a), len(b)) * alignment.displacements(len(middle_a), len(middle_b))
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

    def displacements(self, count_a: int, count_b: int) -> int:
        return count_a + count_b - 2 * len(self.kept)


def _align(a: list[Json], b: list[Json]) -> _Alignment:
    pairs: list[Pair] = []
    # One against one can only be the same place; and to none there is nothing to pair.
    if a and b and len(a) + len(b) > 2:
        pairs = pair_equal([dumps(item) for item in a], [dumps(item) for item in b])
    same = set(pairs)
    free_a, free_b = _free(a, pairs, 0), _free(b, pairs, 1)
    pairs += pair_by_turns(_identities(a, free_a), _identities(b, free_b))
    kept = longest_rising(pairs)
    moved = sorted(set(pairs).difference(kept))
    # What is left between the same two neighbours is paired by position.
    free_a, free_b = _free(a, pairs, 0), _free(b, pairs, 1)
    starts_a, starts_b = [i for i, _ in kept], [j for _, j in kept]
    replaced = pair_by_turns(
        ((bisect_left(starts_a, i), i) for i in free_a), ((bisect_left(starts_b, j), j) for j in free_b)
    )
    kept = sorted(kept + replaced)
    changed = sorted(set(kept + moved) - same, key=lambda pair: pair[1])
    return _Alignment(_free(a, kept + moved, 0), kept, moved, changed)


def _free(items: list[Json], pairs: list[Pair], side: int) -> list[int]:
    taken = {pair[side] for pair in pairs}
    return [place for place in range(len(items)) if place not in taken]


def _identities(items: list[Json], places: list[int]) -> Iterator[tuple[tuple[str, str | int], int]]:
    """Tell by which name an object goes, where it has one."""
    for place in places:
        item = items[place]
        if type(item) is dict:
            for name in ("id", "name", "key"):
                if type(item.get(name)) is str or type(item.get(name)) is int:
                    yield (name, item[name]), place
                    break


def _rearrange(draft: _Draft, path: str, offset: int, b: list[Json], alignment: _Alignment) -> None:
    """Remove from the end, then go through `b` and bring to each place what belongs there."""
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
        # Elements that wait to be moved still stand between those that are in place.
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

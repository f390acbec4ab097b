"""A state that is too large for one event, as several: a `put` of its beginning, then patches that add the rest.

For whoever writes whole states; pure. Every part is an ordinary event, so it is folded by the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from refold.core import canonical
from refold.core.canonical import Json
from refold.core.errors import Refused
from refold.core.limits import OPERATIONS_MAX

PART_BYTES_MAX: Final = 768 * 1024
"""Canonical bytes of one part's change: what its author says of it, and a later import, fit into the event as well."""

_PUT_BYTES: Final = len(b'{"put":}')
_PATCH_BYTES: Final = len(b'{"patch":[]}')
_OPERATION_BYTES: Final = len(b'{"op":"add","path":,"value":},')


class _Container(NamedTuple):
    """The beginning of an object or array, and what is still to be added to it, by key or index."""

    beginning: Json
    rest: list[tuple[str, Json]]


def split_state(state: Json, bytes_max: int = PART_BYTES_MAX) -> list[dict[str, Json]]:
    """Return the changes that make a state, in order, each of at most so many canonical bytes.

    Raises:
        Refused: `event_too_large`, where one string, or its key, is larger than a part; `field` is its pointer.
    """
    if canonical.size(state) + _PUT_BYTES <= bytes_max:
        return [{"put": state}]
    begun = _begin(state, "", bytes_max - _PUT_BYTES)
    changes: list[dict[str, Json]] = [{"put": begun.beginning}]
    changes.extend({"patch": patch} for patch in _packed(_additions(begun.rest, "", bytes_max), bytes_max))
    return changes


def _packed(operations: Iterator[tuple[Json, int]], bytes_max: int) -> Iterator[list[Json]]:
    patch: list[Json] = []
    size = _PATCH_BYTES
    for operation, operation_bytes in operations:
        if patch and (size + operation_bytes > bytes_max or len(patch) == OPERATIONS_MAX):
            yield patch
            patch, size = [], _PATCH_BYTES
        patch.append(operation)
        size += operation_bytes
    if patch:
        yield patch


def _additions(rest: list[tuple[str, Json]], path: str, bytes_max: int) -> Iterator[tuple[Json, int]]:
    """Yield the operations that add these, each with its size."""
    for token, value in rest:
        pointer = f"{path}/{token}"
        beside = _PATCH_BYTES + _OPERATION_BYTES + canonical.size(pointer)
        size = canonical.size(value)
        if size + beside <= bytes_max:
            yield {"op": "add", "path": pointer, "value": value}, size + beside - _PATCH_BYTES
            continue
        begun = _begin(value, pointer, bytes_max - beside)
        begun_bytes = canonical.size(begun.beginning) + beside - _PATCH_BYTES
        yield {"op": "add", "path": pointer, "value": begun.beginning}, begun_bytes
        yield from _additions(begun.rest, pointer, bytes_max)


def _begin(value: Json, pointer: str, bytes_max: int) -> _Container:
    """Take as much of a container as fits: an array's first elements, an object's members in any order."""
    if type(value) is list and bytes_max > 2:
        return _begin_array(value, bytes_max)
    if type(value) is dict and bytes_max > 2:
        return _begin_object(value, bytes_max)
    rule = f"one value, with its path, may have at most {bytes_max} bytes where its state is written in parts"
    raise Refused("event_too_large", rule, field=pointer, shape=f"{canonical.size(value)} bytes")


def _begin_array(value: list[Json], bytes_max: int) -> _Container:
    size, taken = 2, 0
    for element in value:
        size += canonical.size(element) + 1
        if size > bytes_max:
            break
        taken += 1
    rest = [(str(index), value[index]) for index in range(taken, len(value))]
    return _Container(value[:taken], rest)


def _begin_object(value: dict[str, Json], bytes_max: int) -> _Container:
    beginning: dict[str, Json] = {}
    rest: list[tuple[str, Json]] = []
    size = 2
    for key, member in value.items():
        member_bytes = canonical.size(key) + canonical.size(member) + 2
        if size + member_bytes <= bytes_max:
            beginning[key] = member
            size += member_bytes
        else:
            rest.append((key.replace("~", "~0").replace("/", "~1"), member))
    return _Container(beginning, rest)

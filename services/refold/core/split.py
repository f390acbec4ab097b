"""Split a state that is too large for one event into the events that write it part by part.

Used by the gateway for `PUT` and by the import. The first event puts a beginning of the state, the others add the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from orjson import dumps

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.event import VERSION_MAX
from refold.core.fold import EVENT_BYTES_MAX, NEWEST, OPERATIONS_MAX, STATE_BYTES_MAX
from refold.core.json_text import Json, shape_of
from refold.core.pointer import escape

PART_BYTES: Final = 768 * 1024
"""Bytes of a part that can be divided; the rest of an event is for what an import adds to it."""

PARTS_BYTES_MAX: Final = 32 * 1024 * 1024
"""Parts of one state, in all. An array's element takes some 40 bytes more in an operation of its own."""

LAST_FIELDS: Final = ("id", "type", "meta", "reverts")
"""Fields of the whole write, which only its last event carries."""


@dataclass(frozen=True, slots=True)
class SplitWrite:
    """A write of a whole state as several events, to be appended next to each other, all or none.

    `texts`: JSON of the state that the first event puts, then of the patch of each other event. `fields`: those of the
    author's event without its change, `base` and `on_conflict`.
    """

    texts: tuple[bytes, ...]
    fields: dict[str, Json]

    def __len__(self) -> int:
        """Count the events; each takes a version."""
        return len(self.texts)

    def bodies(self, base: int) -> list[bytes]:
        """Return the events' bodies, for a document at version `base`.

        Each event has the version before it as its base: where the fold rejects one, it rejects all that follow.
        """
        last = len(self.texts) - 1
        return [
            _body(_fields_of(self.fields, base + at, is_last=at == last), "patch" if at else "put", text)
            for at, text in enumerate(self.texts)
        ]


def split_write(state: Json, fields: dict[str, Json]) -> SplitWrite:
    """Split the write of a state.

    Raises:
        Refused: `state_too_large`, `too_deep`; `event_too_large` where a single string with the path to it does not
            fit into one event, or where so many small elements would take more than `PARTS_BYTES_MAX`.
    """
    count = json_text.size_within(state, NEWEST.limits.depth)
    if count > STATE_BYTES_MAX:
        rule = f"at most {STATE_BYTES_MAX} bytes"
        raise Refused("state_too_large", rule, field="put", shape=f"{count} bytes")
    overhead = len(_body(_fields_of(fields, VERSION_MAX, is_last=False), "patch", b""))
    texts = _texts(state, EVENT_BYTES_MAX - overhead)
    last = _fields_of(fields, VERSION_MAX, is_last=True)
    if len(_body(last, "patch", texts[-1])) > EVENT_BYTES_MAX:
        # The fields of the whole write get an event of their own, which changes nothing.
        texts.append(b"[]")
        least = len(_body(last, "patch", texts[-1]))
        if least > EVENT_BYTES_MAX:
            rule = f"at most {EVENT_BYTES_MAX} bytes of an event beside its change"
            raise Refused("event_too_large", rule, field="meta", shape=f"{least} bytes")
    return SplitWrite(tuple(texts), fields)


def _fields_of(fields: dict[str, Json], base: int, *, is_last: bool) -> dict[str, Json]:
    carried = {name: value for name, value in fields.items() if is_last or name not in LAST_FIELDS}
    return {**carried, "base": base, "on_conflict": "reject"}


def _body(fields: dict[str, Json], change: str, text: bytes) -> bytes:
    return b'%b,"%b":%b}' % (json_text.dumps(fields)[:-1], change.encode(), text)


def _texts(state: Json, bytes_max: int) -> list[bytes]:
    """Return the state to put and the patches, each at most so large."""
    # A patch puts its operations in brackets.
    bytes_max -= 2
    part_bytes = min(PART_BYTES, bytes_max)
    beginning, rest = _begin(state, part_bytes)
    texts = [_checked(json_text.dumps(beginning), "", beginning, bytes_max)]
    bytes_count = len(texts[0])
    operations: list[bytes] = []
    patch_bytes = 1
    for operation in _add_rest(state, "", rest, bytes_max):
        operation_bytes = len(operation) + 1
        if operations and (patch_bytes + operation_bytes > part_bytes or len(operations) == OPERATIONS_MAX):
            texts.append(b"[%b]" % b",".join(operations))
            operations, patch_bytes = [], 1
        operations.append(operation)
        patch_bytes += operation_bytes
        bytes_count += operation_bytes
        if bytes_count > PARTS_BYTES_MAX:
            rule = f"the events that write it would take more than {PARTS_BYTES_MAX} bytes: put it in parts yourself"
            raise Refused("event_too_large", rule, field="put", shape=shape_of(state))
    if operations:
        texts.append(b"[%b]" % b",".join(operations))
    return texts


def _add_rest(value: Json, path: str, keys: Iterator[str | int], bytes_max: int) -> Iterator[bytes]:
    """Write `add` operations for the members or elements that a container still lacks."""
    part_bytes = min(PART_BYTES, bytes_max)
    # The same for all elements of an array, of which there may be a million.
    end = _head(f"{path}/-")
    for key in keys:
        place = f"{path}/{escape(key) if type(key) is str else key}"
        head = _head(place) if type(key) is str else end
        item = value[key]
        written = dumps(item)
        if len(head) + len(written) + 1 > part_bytes:
            beginning, rest = _begin(item, part_bytes - len(head) - 1)
            yield _checked(b"%b%b}" % (head, dumps(beginning)), place, beginning, bytes_max)
            yield from _add_rest(item, place, rest, bytes_max)
        else:
            yield b"%b%b}" % (head, written)


def _head(path: str) -> bytes:
    return b'{"op":"add","path":%b,"value":' % dumps(path)


def _begin(value: Json, bytes_max: int) -> tuple[Json, Iterator[str | int]]:
    """Return as much of a value as fits, and the keys of what it lacks."""
    count = 2
    if type(value) is list:
        for place, element in enumerate(value):
            count += len(dumps(element)) + 1
            if count > bytes_max:
                return value[:place], iter(range(place, len(value)))
    if type(value) is not dict:
        return value, iter(())
    beginning: dict[str, Json] = {}
    for key in sorted(value):
        member_bytes = len(dumps(key)) + len(dumps(value[key])) + 2
        if count + member_bytes <= bytes_max:
            beginning[key] = value[key]
            count += member_bytes
    return beginning, (key for key in sorted(value) if key not in beginning)


def _checked(operation: bytes, path: str, value: Json, bytes_max: int) -> bytes:
    """Refuse what does not fit into one event."""
    if len(operation) > bytes_max:
        rule = (
            f"a string and its path fit into one event of at most {EVENT_BYTES_MAX} bytes, "
            f"which leaves {bytes_max} here"
        )
        field = path if len(path) <= 80 else f"{path[:77]}..."
        raise Refused(
            "event_too_large", rule, field=field, shape=f"{shape_of(value)}, {len(operation)} bytes"
        )
    return operation

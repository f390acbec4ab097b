"""Split a state that is too large for one event into the events that write it part by part.

Used by the gateway for `PUT` and by the import. The first event puts a beginning of the state, the others add the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import orjson

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.event import VERSION_MAX
from refold.core.fold import EVENT_BYTES_MAX, NEWEST, OPERATIONS_MAX, STATE_BYTES_MAX
from refold.core.json_text import Json, shape_of
from refold.core.pointer import escape

PART_BYTES: Final = 768 * 1024
"""Most parts are no larger, so that an import of the document's history has room for what it adds to each event."""

PARTS_BYTES_MAX: Final = 32 * 1024 * 1024
"""Parts of one state, in all. Each element of an array that has no room in one event costs some 40 bytes more."""

LAST_FIELDS: Final = ("id", "type", "meta")
"""Fields that only the last event of a split write carries: they tell of the write as a whole."""


@dataclass(frozen=True, slots=True)
class SplitWrite:
    """A write of a whole state as several events, to be appended next to each other, all or none.

    `texts`: JSON of the state that the first event puts, then of the patch of each other event. `fields`: what the
    author says of the write, without its change, `base` and `on_conflict`; the last event has `id`, `type`, `meta`.
    """

    texts: tuple[bytes, ...]
    fields: dict[str, Json]

    def __len__(self) -> int:
        """Count the events; each takes a version."""
        return len(self.texts)

    def bodies(self, base: int) -> list[bytes]:
        """Return the events' bodies, for a document at version `base`.

        Each event names the version before it as its base: where the fold rejects one, it rejects all that follow.
        """
        last = len(self.texts) - 1
        return [
            _body(_fields_of(self.fields, base + at, is_last=at == last), "patch" if at else "put", text)
            for at, text in enumerate(self.texts)
        ]


def split_write(state: Json, fields: dict[str, Json], *, reserved_bytes: int = 0) -> SplitWrite:
    """Split the write of a state; `reserved_bytes` of each event's body are left to the caller.

    Raises:
        Refused: `state_too_large`, `too_deep`; `event_too_large` where a single string with the path to it does not
            fit into one event, or where so many small elements would take more than `PARTS_BYTES_MAX`.
    """
    count = json_text.size_within(state, NEWEST.limits.depth)
    if count > STATE_BYTES_MAX:
        rule = f"at most {STATE_BYTES_MAX} bytes"
        raise Refused("state_too_large", rule, field="put", shape=f"{count} bytes")
    room = EVENT_BYTES_MAX - reserved_bytes
    texts = _texts(state, room - len(_body(_fields_of(fields, VERSION_MAX, is_last=False), "patch", b"")))
    last = _fields_of(fields, VERSION_MAX, is_last=True)
    if len(_body(last, "patch", texts[-1])) > room:
        # What is said of the whole write gets an event of its own, which changes nothing.
        texts.append(b"[]")
        least = len(_body(last, "patch", texts[-1]))
        if least > room:
            rule = f"at most {room} bytes of an event beside its change"
            raise Refused("event_too_large", rule, field="meta", shape=f"{least} bytes")
    return SplitWrite(tuple(texts), fields)


def _fields_of(fields: dict[str, Json], base: int, *, is_last: bool) -> dict[str, Json]:
    said = fields if is_last else {name: fields[name] for name in fields if name not in LAST_FIELDS}
    return {**said, "base": base, "on_conflict": "reject"}


def _body(fields: dict[str, Json], change: str, text: bytes) -> bytes:
    return b'%b,"%b":%b}' % (json_text.dumps(fields)[:-1], change.encode(), text)


def _texts(state: Json, bytes_max: int) -> list[bytes]:
    """Return the state to put and the patches, each at most so large."""
    part_bytes = min(PART_BYTES, bytes_max)
    adding = _Adding(part_bytes, bytes_max - 2)
    beginning, rest = _begin(state, part_bytes)
    texts = [adding.checked(json_text.dumps(beginning), "", beginning)]
    bytes_count = len(texts[0])
    operations: list[bytes] = []
    patch_bytes = 1
    for operation in adding.rest(state, "", rest):
        if operations and (
            patch_bytes + len(operation) + 1 > part_bytes or len(operations) == OPERATIONS_MAX
        ):
            texts.append(b"[%b]" % b",".join(operations))
            operations, patch_bytes = [], 1
        operations.append(operation)
        patch_bytes += len(operation) + 1
        bytes_count += len(operation) + 1
        if bytes_count > PARTS_BYTES_MAX:
            rule = f"the events that write it would take more than {PARTS_BYTES_MAX} bytes: put it in parts yourself"
            raise Refused("event_too_large", rule, field="put", shape=shape_of(state))
    if operations:
        texts.append(b"[%b]" % b",".join(operations))
    return texts


@dataclass(frozen=True, slots=True)
class _Adding:
    """Writes `add` operations. What can be divided takes at most `part_bytes`, a single value `bytes_max`."""

    part_bytes: int
    bytes_max: int

    def rest(self, value: Json, path: str, keys: Iterator[str] | Iterator[int]) -> Iterator[bytes]:
        """Add the members or elements that a container still lacks."""
        # The same for all elements of an array, of which there may be a million.
        end = _head(f"{path}/-")
        for key in keys:
            if type(key) is str:
                place = f"{path}/{escape(key)}"
                yield from self._add(_head(place), place, value[key])
            else:
                yield from self._add(end, f"{path}/{key}", value[key])

    def _add(self, head: bytes, path: str, value: Json) -> Iterator[bytes]:
        written = orjson.dumps(value)
        count = len(head) + len(written) + 1
        if count > self.part_bytes and value and type(value) in _CONTAINERS:
            beginning, rest = _begin(value, self.part_bytes - len(head) - 1)
            yield self.checked(b"%b%b}" % (head, orjson.dumps(beginning)), path, beginning)
            yield from self.rest(value, path, rest)
        else:
            yield self.checked(b"%b%b}" % (head, written), path, value)

    def checked(self, operation: bytes, path: str, value: Json) -> bytes:
        """Refuse what does not fit into one event."""
        if len(operation) > self.bytes_max:
            rule = (
                f"a string and its path fit into one event of at most {EVENT_BYTES_MAX} bytes, "
                f"which leaves {self.bytes_max} here"
            )
            raise Refused(
                "event_too_large",
                rule,
                field=_shown(path),
                shape=f"{shape_of(value)}, {len(operation)} bytes",
            )
        return operation


def _head(path: str) -> bytes:
    return b'{"op":"add","path":%b,"value":' % orjson.dumps(path)


def _begin(value: Json, bytes_max: int) -> tuple[Json, Iterator[str] | Iterator[int]]:
    """Return as much of a value as fits, and the keys of what it lacks."""
    if type(value) is dict:
        return _begin_object(value, bytes_max)
    if type(value) is list:
        return _begin_array(value, bytes_max)
    return value, iter(())


def _begin_object(value: dict[str, Json], bytes_max: int) -> tuple[Json, Iterator[str]]:
    beginning: dict[str, Json] = {}
    left: list[str] = []
    count = 2
    for key in sorted(value):
        member_bytes = len(orjson.dumps(key)) + len(orjson.dumps(value[key])) + 2
        if count + member_bytes <= bytes_max:
            beginning[key] = value[key]
            count += member_bytes
        else:
            left.append(key)
    return beginning, iter(left)


def _begin_array(value: list[Json], bytes_max: int) -> tuple[Json, Iterator[int]]:
    count = 2
    for place, element in enumerate(value):
        count += len(orjson.dumps(element)) + 1
        if count > bytes_max:
            return value[:place], iter(range(place, len(value)))
    return value, iter(())


def _shown(path: str) -> str:
    return path if len(path) <= 80 else f"{path[:77]}..."


_CONTAINERS: Final = (dict, list)

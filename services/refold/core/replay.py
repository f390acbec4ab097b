"""The state of a document at a point of its history, from a snapshot and the entries after it.

The entries were accepted once: their changes are applied again without the checks, limits and sizes of the fold.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, repeat
from typing import Any, Final, Protocol, Self

from orjson import dumps, loads

from refold.core import json_text
from refold.core.document import ABSENT, UNBOUNDED, Kind, Status
from refold.core.envelope import accepted_fields, has_form
from refold.core.extensions import EXTENSIONS, plain_operations
from refold.core.history import Clock, Entry, Point, Snapshot
from refold.core.json_text import Json
from refold.core.pointer import as_container, index, missing_member, parse, resolve


class Columns(Protocol):
    """Entries by column, as `PackedEntries` has them."""

    def numbers(self, name: str) -> Sequence[int]:
        """Return a column of numbers."""

    def texts(self, name: str, rows: Sequence[int]) -> list[Any]:
        """Return a column of bytes in some rows."""


def state_at(base: Snapshot, entries: Columns | Sequence[Entry], point: Point) -> Snapshot:
    """Return the snapshot at a point: of the last effective entry at or before it, of the base where there is none.

    `entries` follow the base. A patch that does not fit the state raises what `refold.store.DAMAGES` lists.
    """
    columns = ListedColumns.of(entries) if isinstance(entries, Sequence) else entries
    rows: Sequence[int] = range(len(statuses := columns.numbers("status")))
    values = columns.numbers(_COLUMN[point.clock])
    if max(statuses, default=_MERGED) > _MERGED:
        rows = [row for row in rows if statuses[row] <= _MERGED]
        values = [values[row] for row in rows]
    if point.clock is Clock.occurred:
        values = list(accumulate(values, max))
    rows = rows[: bisect_right(values, point.value)]
    if not rows:
        return base
    last = rows[-1]
    occurred = columns.numbers("occurred_at")
    version, sequence, recorded_at = (columns.numbers(name)[last] for name in _NUMBERS)
    occurred_max = max(base.occurred_max, *[occurred[row] for row in rows])
    state = _replay(base.state, columns, rows)
    return Snapshot(version, state, sequence, recorded_at, occurred[last], occurred_max)


class ListedColumns:
    """Columns by name."""

    __slots__ = ("_columns",)

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self._columns = columns

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Self:
        """Return the columns of entries."""
        columns = zip(*entries, strict=True) if entries else repeat(())
        return cls(dict(zip(Entry._fields, columns, strict=False)))

    def numbers(self, name: str) -> Sequence[int]:
        """Return a column of numbers."""
        return self._columns[name]

    def texts(self, name: str, rows: Sequence[int]) -> list[Any]:
        """Return a column of bytes in some rows."""
        column = self._columns[name]
        return [column[row] for row in rows]


def _replay(base: bytes | None, columns: Columns, rows: Sequence[int]) -> bytes | None:
    """Start at the last write of the whole document, if there is one, else at the base."""
    kinds = columns.numbers("kind")
    whole = None
    if not _WHOLE.isdisjoint(kinds):
        whole = next((at for at in reversed(range(len(rows))) if _is_whole(columns, kinds, rows[at])), None)
    state: Json = ABSENT
    if whole is None:
        if base is not None:
            state = loads(base)
    else:
        if kinds[rows[whole]] == _PUT:
            (state,) = _changes(columns, rows[whole : whole + 1], "put")
        rows = rows[whole + 1 :]
    if rows:
        patches = _changes(columns, rows, "patch")
        state = apply_accepted({} if state is ABSENT else state, chain.from_iterable(patches))
    return None if state is ABSENT else _canonical(state)


def _is_whole(columns: Columns, kinds: Sequence[int], row: int) -> bool:
    """Tell whether an entry wrote the whole document; a put that was merged has an effective patch instead."""
    kind = kinds[row]
    return kind == _DELETE or (kind == _PUT and columns.texts("effect", [row])[0] is None)


def _changes(columns: Columns, rows: Sequence[int], name: str) -> Iterator[Json]:
    """Yield the values put, or the effective patches, of entries."""
    headers = columns.texts("headers", rows)
    is_native = not has_form(b"".join(headers))
    for effect, body, lines in zip(
        columns.texts("effect", rows), columns.texts("body", rows), headers, strict=True
    ):
        if effect is not None:
            yield loads(effect)
        elif is_native:
            yield loads(body)[name]
        else:
            yield accepted_fields(lines, body)[name]


def _canonical(state: Json) -> bytes:
    """Write canonical bytes; a negative zero, which only the strict parser normalises, is rare and is found here."""
    text = json_text.dumps(state)
    return json_text.dumps(json_text.loads(text, UNBOUNDED.text_depth)) if b"-0.0" in text else text


def apply_accepted(state: Json, operations: Iterable[Json]) -> Json:
    """Apply operations that were accepted once, in place; return the root.

    A `test` is not repeated. A patch that does not fit the state raises what `refold.store.DAMAGES` lists.
    """
    for operation in operations:
        kind, path = operation["op"], operation["path"]
        if kind in _OTHERS:
            state = apply_accepted(state, _simpler(state, operation))
        elif not path:
            state = operation["value"]
        else:
            above, _, key = path.rpartition("/")
            parent = resolve(state, parse(above)) if above else state
            if "~" in key:
                key = parse("/" + key)[0]
            if type(parent) is not dict:
                _write_element(as_container(parent), key, operation)
            elif kind == "add" or (kind == "replace" and key in parent):
                parent[key] = operation["value"]
            elif kind == "remove":
                del parent[key]
            else:
                raise missing_member(parent, key)
    return state


def _write_element(array: list[Json], key: str, operation: Json) -> None:
    kind, count = operation["op"], len(array)
    if kind == "add":
        array.insert(count if key == "-" else index(key, count + 1), operation["value"])
    elif kind == "replace":
        array[index(key, count)] = operation["value"]
    elif kind == "remove":
        del array[index(key, count)]
    else:
        raise ValueError(f"an accepted patch has no operation {kind}")


def _simpler(state: Json, operation: Json) -> list[Json]:
    """Return what an operation other than add, remove and replace does, by these three; nothing for a `test`."""
    kind, path = operation["op"], operation["path"]
    if kind in EXTENSIONS:
        return plain_operations(state, operation)
    if kind == "test" or (kind == "move" and path == operation["from"]):
        return []
    value = resolve(state, parse(operation["from"]))
    if kind == "move":
        return [{"op": "remove", "path": operation["from"]}, {"op": "add", "path": path, "value": value}]
    # Two places never share one value, as each is changed in place.
    return [{"op": "add", "path": path, "value": loads(dumps(value))}]


_OTHERS: Final = frozenset({"copy", "move", "test", *EXTENSIONS})
_MERGED: Final = int(Status.merged)
_PUT: Final = int(Kind.put)
_DELETE: Final = int(Kind.delete)
_WHOLE: Final = frozenset({_PUT, _DELETE})
_NUMBERS: Final = ("version", "sequence", "recorded_at")
_COLUMN: Final = {
    Clock.version: "version",
    Clock.sequence: "sequence",
    Clock.recorded: "recorded_at",
    Clock.occurred: "occurred_at",
}

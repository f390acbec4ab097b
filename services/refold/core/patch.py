"""JSON Patch (RFC 6902), checked once and then applied in place, all or nothing. For the fold and for replays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, NoReturn, TypeAlias

import orjson
from orjson import dumps

from refold.core.document import Limits
from refold.core.errors import Refused
from refold.core.json_text import Json, equal, shape_of, size_within
from refold.core.pointer import as_container, index, missing_member, parse, resolve, resolve_parent
from refold.core.undo_log import RootCheck, UndoLog, key_bytes


class Operation(NamedTuple):
    """One operation whose shape has been checked, with the function that applies it."""

    apply: Callable[[UndoLog, Operation], None]
    tokens: tuple[str, ...]
    value: Json
    source: tuple[str, ...]


Operands: TypeAlias = tuple[Json, tuple[str, ...]]
"""The value and the source of an operation."""


class OperationShape(NamedTuple):
    """What an `op` names: the function that applies it, and what it needs beside `path`.

    `has_value`: the member `value`. `read` takes an operation and its path, and returns what other members say.
    """

    apply: Callable[[UndoLog, Operation], None]
    has_value: bool = False
    read: Callable[[dict[str, Json], tuple[str, ...]], Operands] | None = None


Operations: TypeAlias = Mapping[str, OperationShape]


def compile_patch(raw: Json, limits: Limits, shapes: Operations) -> list[Operation]:
    """Check a patch's shape, or raise `Refused`; members that an operation does not define are ignored."""
    if type(raw) is not list:
        raise Refused("bad_patch", "a patch is an array of operations", field="patch", shape=shape_of(raw))
    if len(raw) > limits.operations:
        message = f"a patch has at most {limits.operations} operations"
        raise Refused("too_many_operations", message, field="patch", shape=shape_of(raw))
    operations: list[Operation] = []
    try:
        for item in raw:
            operations.append(_compile(item, shapes))  # noqa: PERF401 - their count is the position of a refused one
    except Refused as refusal:
        refusal.field = f"patch/{len(operations)}/{refusal.field or 'path'}"
        raise
    return operations


def apply_patch(
    state: Json, operations: list[Operation], *, size: int, limits: Limits, check: RootCheck | None = None
) -> tuple[Json, int]:
    """Apply in place, and return root and canonical size. Or raise `Refused` and leave the state as it was.

    `size` is the canonical size of `state`; `check` may refuse the new root. The operations' values become part of it,
    where later operations and later patches change them: compile them again from the bytes to apply them again.
    """
    edit = UndoLog(state, size, limits)
    bytes_max = limits.state_bytes
    done = 0
    try:
        for operation in operations:
            operation[0](edit, operation)
            if edit.size > bytes_max:
                edit.check_size()
            done += 1
    except Refused as refusal:
        edit.undo()
        refusal.field = f"patch/{done}/{refusal.field or 'path'}"
        raise
    if check is not None:
        edit.hold_to(check)
    return edit.root, edit.size


def apply_plain(state: Json, item: Json, *, size: int, limits: Limits) -> int | None:
    """Apply one plain operation in place, without an undo log, and return the state's new canonical size.

    Plain is an add, replace or remove below the root, with a pointer that has no `~`. Returns None, or raises
    `Refused`, with nothing changed, where the operation is not plain or breaks a rule: `apply_patch` tells which.
    """
    if type(item) is not dict:
        return None
    kind, path = item.get("op"), item.get("path")
    if type(path) is not str or path[:1] != "/" or "~" in path:
        return None
    tokens = path[1:].split("/")
    key = tokens[-1]
    parent = state if len(tokens) == 1 else resolve(state, tokens[:-1])
    if type(parent) is not dict:
        return _apply_to_array(parent, key, item, size, limits, limits.depth - len(tokens))
    is_there = key in parent
    if kind == "remove":
        return size - len(dumps(parent.pop(key))) - key_bytes(parent, key) if is_there else None
    if not (kind == "add" or (kind == "replace" and is_there)) or "value" not in item:
        return None
    value = item["value"]
    size += size_within(value, limits.depth - len(tokens))
    size += -len(dumps(parent[key])) if is_there else key_bytes(parent, key)
    if size > limits.state_bytes:
        return None
    parent[key] = value
    return size


def _apply_to_array(
    parent: Json, key: str, item: dict[str, Json], size: int, limits: Limits, levels: int
) -> int | None:
    kind = item.get("op")
    if type(parent) is not list or len(parent) > limits.shifts:
        return None
    if kind == "remove":
        size -= len(dumps(parent.pop(index(key, len(parent)))))
        return size - 1 if parent else size
    if "value" not in item:
        return None
    value = item["value"]
    size += size_within(value, levels)
    if kind == "add":
        place = len(parent) if key == "-" else index(key, len(parent) + 1)
        size += 1 if parent else 0
        if size <= limits.state_bytes:
            parent.insert(place, value)
            return size
    elif kind == "replace":
        place = index(key, len(parent))
        size -= len(dumps(parent[place]))
        if size <= limits.state_bytes:
            parent[place] = value
            return size
    return None


def _compile(item: Json, shapes: Operations) -> Operation:
    if type(item) is dict:
        kind, path = item.get("op"), item.get("path")
        # Nearly all operations; the others are checked one rule after another.
        if type(path) is str and path[:1] == "/" and "~" not in path and type(kind) is str:
            shape = shapes.get(kind)
            if shape is not None and shape[2] is None and (not shape[1] or "value" in item):
                value = item["value"] if shape[1] else None
                # The generated constructor is slower, and this runs for every operation of every event.
                return tuple.__new__(Operation, (shape[0], tuple(path[1:].split("/")), value, ()))
    return _compile_any(item, shapes)


def _compile_any(item: Json, shapes: Operations) -> Operation:
    if type(item) is not dict:
        raise Refused("bad_patch", "an operation is an object", field="op", shape=shape_of(item))
    kind = item.get("op")
    if type(kind) is not str or kind not in shapes:
        _refuse_kind(item, shapes)
    apply, has_value, read = shapes[kind]
    tokens = _pointer(item, "path")
    value: Json = None
    source: tuple[str, ...] = ()
    if has_value:
        if "value" not in item:
            raise Refused("bad_patch", f"{kind} needs a value", field="value", shape="nothing")
        value = item["value"]
    elif read is not None:
        value, source = read(item, tokens)
    elif not tokens:
        raise Refused("remove_root", "use delete to remove the root", field="path", shape=shape_of(""))
    return Operation(apply, tokens, value, source)


def _read_source(item: dict[str, Json], tokens: tuple[str, ...]) -> Operands:
    source = _pointer(item, "from")
    if item["op"] == "move" and len(source) < len(tokens) and tokens[: len(source)] == source:
        raise Refused("bad_patch", "a value cannot move into itself", field="path", shape="a path below from")
    return None, source


def _refuse_kind(item: dict[str, Json], shapes: Operations) -> NoReturn:
    if "op" not in item:
        raise Refused("bad_patch", "an operation needs an op", field="op", shape="nothing")
    kind = item["op"]
    if type(kind) is str and kind in _LATER:
        raise Refused("not_in_this_fold", f"{kind} belongs to a later fold", field="op", shape=shape_of(kind))
    raise Refused("bad_patch", f"op is one of {', '.join(sorted(shapes))}", field="op", shape=shape_of(kind))


def _pointer(item: dict[str, Json], field: str) -> tuple[str, ...]:
    pointer = item.get(field)
    if type(pointer) is not str:
        shape = shape_of(pointer) if field in item else "nothing"
        raise Refused("bad_patch", f"{item['op']} needs a {field} that is a string", field=field, shape=shape)
    try:
        return parse(pointer)
    except Refused as refusal:
        refusal.field = field
        raise


def _add(edit: UndoLog, operation: Operation) -> None:
    _, tokens, value, _ = operation
    _put(edit, tokens, value)


def _replace(edit: UndoLog, operation: Operation) -> None:
    _, tokens, value, _ = operation
    if not tokens:
        edit.set_root(value, size_within(value, edit.depth_max))
        return
    key = tokens[-1]
    parent = edit.root if len(tokens) == 1 else resolve(edit.root, tokens[:-1])
    place: str | int = key
    if type(parent) is not dict:
        place = index(key, len(as_container(parent)))
    elif key not in parent:
        raise missing_member(parent, key)
    edit.replace(parent, place, value, size_within(value, edit.depth_max - len(tokens)))


def _remove(edit: UndoLog, operation: Operation) -> None:
    _take(edit, operation.tokens)


def _move(edit: UndoLog, operation: Operation) -> None:
    _, tokens, _, source = operation
    value = _resolve_source(edit.root, source)
    if tokens == source:
        return
    value_bytes = _take(edit, source)
    edit.count_carried(value_bytes)
    # A value that does not go deeper cannot become too deep.
    _put(edit, tokens, value, value_bytes if len(tokens) <= len(source) else None)


def _copy(edit: UndoLog, operation: Operation) -> None:
    _, tokens, _, source = operation
    written = orjson.dumps(_resolve_source(edit.root, source))
    edit.count_carried(len(written))
    # Two places never share one value, as each is changed in place.
    _put(edit, tokens, orjson.loads(written))


def _test(edit: UndoLog, operation: Operation) -> None:
    _, tokens, value, _ = operation
    found = resolve(edit.root, tokens)
    if not equal(found, value):
        message = "the test failed: the document has another value at the path"
        raise Refused("test_failed", message, field="value", shape=shape_of(found))


def _resolve_source(root: Json, source: tuple[str, ...]) -> Json:
    try:
        return resolve(root, source)
    except Refused as refusal:
        refusal.field = "from"
        raise


def _put(edit: UndoLog, tokens: tuple[str, ...], value: Json, known_bytes: int | None = None) -> None:
    """Add a value; `known_bytes` is the size of one that is also known to be shallow enough."""
    if not tokens:
        edit.set_root(value, known_bytes or size_within(value, edit.depth_max))
        return
    parent, key = resolve_parent(edit.root, tokens), tokens[-1]
    if type(parent) is dict:
        edit.add_member(parent, key, value, known_bytes or size_within(value, edit.depth_max - len(tokens)))
    else:
        place = len(parent) if key == "-" else index(key, len(parent) + 1)
        edit.insert_element(
            parent, place, value, known_bytes or size_within(value, edit.depth_max - len(tokens))
        )


def _take(edit: UndoLog, tokens: tuple[str, ...]) -> int:
    """Remove a value and return its size."""
    parent, key = resolve_parent(edit.root, tokens), tokens[-1]
    if type(parent) is list:
        return edit.remove_element(parent, index(key, len(parent)))
    if key not in parent:
        raise missing_member(parent, key)
    return edit.remove_member(parent, key)


RFC_6902: Final[Operations] = {
    "add": OperationShape(_add, has_value=True),
    "copy": OperationShape(_copy, read=_read_source),
    "move": OperationShape(_move, read=_read_source),
    "remove": OperationShape(_remove),
    "replace": OperationShape(_replace, has_value=True),
    "test": OperationShape(_test, has_value=True),
}
_LATER: Final = frozenset({"inc", "str_ins", "str_del"})

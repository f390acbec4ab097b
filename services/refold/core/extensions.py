"""The extension operations of a patch: `inc`, `str_ins` and `str_del` (as json-joy has them), and `push`. From fold 2.

Positions and lengths in a text are Unicode code points. A change keeps `inc`, `str_ins` and `str_del` as they are:
each is exact for the version before it, and short however long the text is. A `push` is kept as the plain operations
that it was, because what it removes depends on the array's length.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Final, NamedTuple

import orjson
from orjson import dumps

from refold.core.document import Limits
from refold.core.errors import Refused
from refold.core.json_text import INTEGER_MAX, INTEGER_MIN, Json, shape_of, size, size_within
from refold.core.patch import RFC_6902, Operands, Operation, Operations, OperationShape, apply_patch
from refold.core.pointer import index, parse, resolve_parent
from refold.core.undo_log import RootCheck, UndoLog

PUSH_ELEMENTS_MAX: Final = 10_000
"""Elements that a `push` may keep."""


class Push:
    """The operand of one `push`, and what it did: whether it made the array, and how many elements it removed."""

    __slots__ = ("elements_max", "is_creation", "removed", "value")

    def __init__(self, value: Json, elements_max: int) -> None:
        self.value = value
        self.elements_max = elements_max
        self.is_creation = False
        self.removed = 0


class Insertion(NamedTuple):
    """The operand of `str_ins`: before which code point, and what."""

    position: int
    text: str


class Deletion(NamedTuple):
    """The operand of `str_del`: from which code point, and how many of them."""

    position: int
    length: int


def has_push(operations: list[Operation]) -> bool:
    """Tell whether a compiled patch has a `push`."""
    # A third of the time of a loop in Python, and this runs for every patch.
    return not _PUSH.isdisjoint(map(_APPLY, operations))


def apply_extended(
    state: Json,
    raw: list[Json],
    operations: list[Operation],
    *,
    size: int,
    limits: Limits,
    check: RootCheck | None = None,
) -> tuple[Json, int, list[Json] | None]:
    """Apply a compiled patch as `apply_patch` does; also return the effective patch where it is not `raw`.

    It differs where the patch `has_push`. One that would be too long for a patch is a `replace` of the root.
    """
    if not has_push(operations):
        return *apply_patch(state, operations, size=size, limits=limits, check=check), None
    pushes = {place: item.value for place, item in enumerate(operations) if type(item.value) is Push}
    # Written before the values become part of the state, where later operations change them.
    unchanged = orjson.loads(dumps(raw))
    state, size = apply_patch(state, operations, size=size, limits=limits, check=check)
    pushed = [(unchanged[place]["path"], push.removed) for place, push in pushes.items()]
    count = len(raw) + sum(removed for _, removed in pushed)
    path_chars = sum(len(path) * (1 + removed) for path, removed in pushed)
    if count > limits.operations or path_chars > limits.event_bytes:
        return state, size, [{"op": "replace", "path": "", "value": orjson.loads(dumps(state))}]
    effect: list[Json] = []
    for place, item in enumerate(unchanged):
        effect += _pushed(item, pushes[place]) if place in pushes else [item]
    return state, size, effect


def plain_operations(state: Json, operation: Json) -> list[Json]:
    """Return the RFC 6902 operations that do what an extension operation does to a state.

    Raises `Refused` where it does not apply.
    """
    tokens = parse(operation["path"])
    compiled = EXTENSIONS[operation["op"]]
    assert compiled.read is not None
    value, _ = compiled.read(operation, tokens)
    _, _, old = _find(state, tokens)
    if type(value) is Push:
        _check_push(value, old)
        return _pushed(operation, value)
    new = _RESULTS[operation["op"]](old, value)
    return [{"op": "add" if old is _MISSING else "replace", "path": operation["path"], "value": new}]


def _pushed(item: Json, push: Push) -> list[Json]:
    path, value = item["path"], item["value"]
    if push.is_creation:
        return [{"op": "add", "path": path, "value": [value]}]
    return [
        {"op": "add", "path": f"{path}/-", "value": value},
        *({"op": "remove", "path": f"{path}/0"} for _ in range(push.removed)),
    ]


def added(old: Json, amount: Json) -> Json:
    """Add two numbers: integers exactly, else as doubles. Raises `Refused` where the sum has no canonical form."""
    if type(old) is not int and type(old) is not float:
        raise _unfit("not_a_number", "inc adds to a number", old)
    if type(old) is int and type(amount) is int:
        total = old + amount
        if INTEGER_MIN <= total <= INTEGER_MAX:
            return total
        message = "the sum is outside -2^63 … 2^64-1"
        raise Refused("number_out_of_range", message, field="inc", shape="integer")
    result = float(old) + float(amount)
    if result - result != 0.0:
        message = "the sum is outside the range of a double"
        raise Refused("number_out_of_range", message, field="inc", shape="number")
    # A sum that is zero may be a negative zero.
    return result or 0.0


def inserted(old: Json, insertion: Insertion) -> str:
    """Insert into a text; a position beyond its end is its end."""
    position, text = insertion
    if old is _MISSING and position == 0:
        return text
    if type(old) is not str:
        raise _unfit("not_a_string", "str_ins inserts into a string", old)
    return f"{old[:position]}{text}{old[position:]}"


def deleted(old: Json, deletion: Deletion) -> str:
    """Delete from a text what there is of a range."""
    if type(old) is not str:
        raise _unfit("not_a_string", "str_del deletes from a string", old)
    position, length = deletion
    return f"{old[:position]}{old[position + length :]}"


def _unfit(reason: str, message: str, old: Json) -> Refused:
    if old is _MISSING:
        return Refused("target_missing", "there is no such member")
    return Refused(reason, message, shape=shape_of(old))


def _apply_inc(edit: UndoLog, operation: Operation) -> None:
    parent, place, old = _find(edit.root, operation.tokens)
    new = added(old, operation.value)
    edit.rewrite(parent, place, new, size(new) - size(old))


def _apply_str_ins(edit: UndoLog, operation: Operation) -> None:
    parent, place, old = _find(edit.root, operation.tokens)
    new, text_bytes = inserted(old, operation.value), size(operation.value.text)
    if old is _MISSING:
        edit.add_member(parent, place, new, text_bytes)
        return
    edit.count_shifts(len(old))
    # A text's size is its characters' sizes and two quotation marks: the rest of it need not be written.
    edit.rewrite(parent, place, new, text_bytes - 2)


def _apply_str_del(edit: UndoLog, operation: Operation) -> None:
    parent, place, old = _find(edit.root, operation.tokens)
    new = deleted(old, operation.value)
    edit.count_shifts(len(old))
    position, length = operation.value
    edit.rewrite(parent, place, new, 2 - size(old[position : position + length]))


def _apply_push(edit: UndoLog, operation: Operation) -> None:
    tokens, push = operation.tokens, operation.value
    parent, place, old = _find(edit.root, tokens)
    _check_push(push, old)
    value_bytes = size_within(push.value, edit.depth_max - len(tokens) - 1)
    if push.is_creation:
        edit.add_member(parent, place, [push.value], value_bytes + 2)
        return
    edit.insert_element(old, len(old), push.value, value_bytes)
    if push.removed:
        edit.remove_first(old, push.removed)


def _check_push(push: Push, old: Json) -> None:
    """Determine what a push does to the value at its path."""
    push.is_creation = old is _MISSING
    if not push.is_creation:
        if type(old) is not list:
            raise _unfit("not_an_array", "push adds to an array", old)
        push.removed = max(0, len(old) + 1 - push.elements_max)


def _find(root: Json, tokens: tuple[str, ...]) -> tuple[Json, Json, Json]:
    """Return a value's container, its place there and the value; `_MISSING` where an object lacks the member."""
    if not tokens:
        return None, None, root
    parent, key = resolve_parent(root, tokens), tokens[-1]
    if type(parent) is dict:
        return parent, key, parent.get(key, _MISSING)
    place = index(key, len(parent))
    return parent, place, parent[place]


def _read_inc(item: dict[str, Json], _tokens: tuple[str, ...]) -> Operands:
    amount = item.get("inc")
    if type(amount) is not int and type(amount) is not float:
        raise _bad(item, "inc", "an inc that is a number")
    return amount, ()


def _read_str_ins(item: dict[str, Json], _tokens: tuple[str, ...]) -> Operands:
    text = item.get("str")
    if type(text) is not str:
        raise _bad(item, "str", "a str that is a string")
    return Insertion(_count(item, "pos"), text), ()


def _read_str_del(item: dict[str, Json], _tokens: tuple[str, ...]) -> Operands:
    position = _count(item, "pos")
    if "str" not in item:
        return Deletion(position, _count(item, "len")), ()
    if type(item["str"]) is not str:
        raise _bad(item, "str", "a str that is a string")
    return Deletion(position, len(item["str"])), ()


def deleted_count(operation: Json) -> int:
    """Return how many characters a valid `str_del` deletes, as far as there are so many."""
    return len(operation["str"]) if "str" in operation else int(operation["len"])


def _read_push(item: dict[str, Json], _tokens: tuple[str, ...]) -> Operands:
    if "value" not in item:
        raise _bad(item, "value", "a value")
    elements_max = item.get("max")
    if type(elements_max) is not int or not 1 <= elements_max <= PUSH_ELEMENTS_MAX:
        raise _bad(item, "max", f"a max from 1 to {PUSH_ELEMENTS_MAX}")
    return Push(item["value"], elements_max), ()


def _count(item: dict[str, Json], field: str) -> int:
    count = item.get(field)
    if type(count) is not int or count < 0:
        raise _bad(item, field, f"a {field} that is an integer from 0")
    return count


def _bad(item: dict[str, Json], field: str, rule: str) -> Refused:
    shape = shape_of(item[field]) if field in item else "nothing"
    return Refused("bad_patch", f"{item['op']} needs {rule}", field=field, shape=shape)


_MISSING: Final = object()
_APPLY: Final = itemgetter(0)
_PUSH: Final = frozenset({_apply_push})
EXTENSIONS: Final[Operations] = {
    "inc": OperationShape(_apply_inc, read=_read_inc),
    "push": OperationShape(_apply_push, read=_read_push),
    "str_del": OperationShape(_apply_str_del, read=_read_str_del),
    "str_ins": OperationShape(_apply_str_ins, read=_read_str_ins),
}
EXTENDED: Final[Operations] = {**RFC_6902, **EXTENSIONS}
_RESULTS: Final[dict[str, Callable[[Json, Json], Json]]] = {
    "inc": added,
    "str_del": deleted,
    "str_ins": inserted,
}

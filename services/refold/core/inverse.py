"""The change that undoes one version: the inverse of its effect. For history.

It applies to the state right after that version, and makes the state before it, to the byte. It names the same values
as the effect did (a `move` is moved back, a removed element is put back where it was), so that a fold with identities
undoes no more than the version did, whatever others changed since.
"""

from __future__ import annotations

from orjson import dumps, loads

from refold.core.diff import diff
from refold.core.document import Limits
from refold.core.extensions import EXTENSIONS, added, deleted_count, plain_operations
from refold.core.json_text import INTEGER_MAX, INTEGER_MIN, Json
from refold.core.pointer import index, parse, render, resolve
from refold.core.replay import apply_accepted

Patch = list[dict[str, Json]]


def inverse(
    before: bytes | None, after: bytes | None, operations: list[Json], limits: Limits
) -> dict[str, Json]:
    """Return the change of an event (`patch`, `put` or `delete`) that turns the second state into the first.

    States are canonical bytes, None where the document was absent. `operations` turn the first into the second; they
    are changed. An inverse beyond the limits of a patch is a diff of the states.
    """
    if before is None:
        return {"delete": True}
    if after is None:
        return {"put": loads(before)}
    patch = inverse_patch(loads(before), operations)
    if len(patch) > limits.operations or len(dumps(patch)) > limits.event_bytes:
        patch = diff(loads(after), loads(before))
    return {"patch": patch}


def inverse_patch(state: Json, operations: list[Json]) -> Patch:
    """Return the patch that undoes operations, which are applied to the state in place."""
    steps: list[Patch] = []
    for operation in operations:
        kind, path = operation["op"], operation["path"]
        if kind == "push":
            for plain in plain_operations(state, operation):
                steps.append(_undo_write(state, plain))
                state = apply_accepted(state, [plain])
            continue
        if kind == "move" and path != operation["from"]:
            state, step = _move(state, operation)
        else:
            step = _undo_extension(state, operation) if kind in EXTENSIONS else _undo_write(state, operation)
            state = apply_accepted(state, [operation])
        steps.append(step)
    return [operation for step in reversed(steps) for operation in step]


def _undo_write(state: Json, operation: Json) -> Patch:
    """Undo an operation of RFC 6902 other than a move to another place."""
    kind, path = operation["op"], operation["path"]
    if kind in ("test", "move"):
        return []
    if kind == "remove":
        return [{"op": "add", "path": path, "value": resolve(state, parse(path))}]
    if kind == "replace" and path:
        return [{"op": "replace", "path": path, "value": resolve(state, parse(path))}]
    value = resolve(state, parse(operation["from"])) if kind == "copy" else operation["value"]
    return _undo_put(state, parse(path), value)


def _undo_put(state: Json, tokens: tuple[str, ...], value: Json) -> Patch:
    """Undo an `add` of a value."""
    if not tokens:
        # A whole state that is written has most of its values unchanged.
        return diff(value, state)
    parent, key = resolve(state, tokens[:-1]), tokens[-1]
    if type(parent) is dict:
        path = render(tokens)
        return [{"op": "replace", "path": path, "value": parent[key]}] if key in parent else [_remove(path)]
    place = len(parent) if key == "-" else index(key, len(parent) + 1)
    return [_remove(render((*tokens[:-1], str(place))))]


def _move(state: Json, operation: Json) -> tuple[Json, Patch]:
    """Move a value to another place; return the new root and what moves it back."""
    source, target = operation["from"], operation["path"]
    from_tokens, tokens = parse(source), parse(target)
    value = resolve(state, from_tokens)
    is_from_array = type(resolve(state, from_tokens[:-1])) is list
    state = apply_accepted(state, [_remove(source)])
    undone = _undo_put(state, tokens, value)
    if from_tokens[: len(tokens)] == tokens:
        # A pointer to a place inside the value, by which it could not be moved back.
        undone.append({"op": "add", "path": source, "value": loads(dumps(value))})
    elif undone[0]["op"] == "remove":
        undone = [{"op": "move", "from": undone[0]["path"], "path": source}]
    else:
        overwritten = _with_element(tokens, from_tokens) if is_from_array else tokens
        back = {"op": "move", "from": target, "path": source}
        undone = [back, {"op": "add", "path": render(overwritten), "value": undone[0]["value"]}]
    return apply_accepted(state, [{"op": "add", "path": target, "value": value}]), undone


def _with_element(tokens: tuple[str, ...], element: tuple[str, ...]) -> tuple[str, ...]:
    """Return where a place is once an element is back in its array."""
    depth = len(element) - 1
    if len(tokens) <= depth or tokens[:depth] != element[:depth] or int(tokens[depth]) < int(element[depth]):
        return tokens
    return (*tokens[:depth], str(int(tokens[depth]) + 1), *tokens[depth + 1 :])


def _undo_extension(state: Json, operation: Json) -> Patch:
    kind, path = operation["op"], operation["path"]
    tokens = parse(path)
    if kind == "inc":
        return _undo_inc(path, resolve(state, tokens), operation["inc"])
    position = operation["pos"]
    if kind == "str_ins":
        text = operation["str"]
        parent = resolve(state, tokens[:-1]) if tokens else None
        if type(parent) is dict and tokens[-1] not in parent:
            return [_remove(path)]
        position = min(position, len(resolve(state, tokens)))
        return [{"op": "str_del", "path": path, "pos": position, "len": len(text)}] if text else []
    length = deleted_count(operation)
    text = resolve(state, tokens)[position : position + length]
    return [{"op": "str_ins", "path": path, "pos": position, "str": text}] if text else []


def _undo_inc(path: str, old: Json, amount: Json) -> Patch:
    """Subtract what was added, exactly; an integer that became a double is replaced.

    A sum of doubles is rounded: where the negated amount does not lead back, a second `inc` adds the rest.
    """
    steps: list[Json] = []
    if type(old) is int and type(amount) is int:
        steps = [-amount] if INTEGER_MIN <= -amount <= INTEGER_MAX else []
    elif type(old) is float:
        back = added(old, amount) - float(amount)
        rest = old - back
        steps = [0.0 - float(amount), rest][: 2 if rest else 1] if back + rest == old else []
    if steps:
        return [{"op": "inc", "path": path, "inc": step} for step in steps]
    return [{"op": "replace", "path": path, "value": old}]


def _remove(path: str) -> dict[str, Json]:
    return {"op": "remove", "path": path}

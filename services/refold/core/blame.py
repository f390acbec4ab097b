"""Which version last wrote each leaf of a state. For history.

A history is read newest segment first: `trace` follows places from the state after a segment back to the version in it
that wrote them, or to their places in the state before it, and so on through older segments. A moved value keeps its
writer, an element that others shift too; a copy is written by the version that made it. A leaf is a scalar or an empty
container, which the version wrote that made it or emptied it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from orjson import loads

from refold.core.document import Kind
from refold.core.history import Entry, operations_of
from refold.core.json_text import Json
from refold.core.pointer import parse

Tokens: TypeAlias = tuple[str, ...]
Origin: TypeAlias = int | Tokens
"""The version that wrote a value, or the value's place in the state before a segment."""


def leaves(value: Json, tokens: Tokens = ()) -> Iterator[tuple[Tokens, Json]]:
    """Yield the places and values of all leaves, in the order of the document; `tokens` are the value's own place."""
    if type(value) is dict and value:
        for key, member in value.items():
            yield from leaves(member, (*tokens, key))
    elif type(value) is list and value:
        for place, element in enumerate(value):
            yield from leaves(element, (*tokens, str(place)))
    else:
        yield tokens, value


def trace(base: bytes | None, entries: Iterable[Entry], places: Sequence[Tokens]) -> list[Origin]:
    """Return the origins of leaves in the state after effective entries; `base` is the state before them.

    Content that does not fit raises what `refold.store.DAMAGES` lists.
    """
    tree = _Tree(None if base is None else _Part((), loads(base)))
    for entry in entries:
        tree.change(entry)
    return [tree.origin(tokens) for tokens in places]


class _Part(NamedTuple):
    """A value all of which has one origin; its members are inside of it. A container is opened where a part changes."""

    origin: Origin
    value: Json

    def opened(self) -> Any:
        """Return the container of its members, each a part."""
        origin, value = self
        if type(value) is dict:
            return {key: _Part(_inside(origin, key), member) for key, member in value.items()}
        return [_Part(_inside(origin, str(place)), element) for place, element in enumerate(value)]


class _Tree:
    """A document's state, made of parts and of the containers that were opened, which are never empty."""

    def __init__(self, root: _Part | None) -> None:
        self._top: list[Any] = [root]

    def change(self, entry: Entry) -> None:
        """Follow one version's change."""
        version = entry.version
        if entry.kind is Kind.delete:
            self._top[0] = None
            return
        if entry.is_creation:
            self._top[0] = _Part(version, {})
        for operation in operations_of(entry):
            self._apply(operation, version)

    def origin(self, tokens: Tokens) -> Origin:
        """Return a leaf's origin."""
        node = self._top[0]
        for depth, token in enumerate(tokens):
            if type(node) is _Part:
                origin: Origin = node.origin
                return origin if isinstance(origin, int) else (*origin, *tokens[depth:])
            node = node[token if type(node) is dict else int(token)]
        assert type(node) is _Part, "a leaf is part of one value"
        return node.origin

    def _apply(self, operation: Json, version: int) -> None:
        kind, path = operation["op"], operation["path"]
        if kind == "test":
            return
        tokens = parse(path)
        if kind == "add":
            self._put(tokens, _Part(version, operation["value"]))
        elif kind == "remove":
            self._take(tokens, version)
        elif kind == "copy":
            holder, key = self._holder(parse(operation["from"]))
            self._put(tokens, _Part(version, _value(holder[key])))
        elif kind == "move":
            if path != operation["from"]:
                self._put(tokens, self._take(parse(operation["from"]), version))
        else:
            holder, key = self._holder(tokens)
            holder[key] = _Part(version, operation.get("value"))

    def _put(self, tokens: Tokens, node: Any) -> None:
        holder, key = self._holder(tokens)
        if tokens and type(holder) is list:
            holder.insert(key, node)
        else:
            holder[key] = node

    def _take(self, tokens: Tokens, version: int) -> Any:
        holder, key = self._holder(tokens)
        node = holder.pop(key)
        if not holder:
            around, key = self._holder(tokens[:-1])
            around[key] = _Part(version, type(holder)())
        return node

    def _holder(self, tokens: Tokens) -> tuple[Any, Any]:
        """Return the container that a place is in, opened, and its key or index there."""
        holder: Any = self._top
        key: Any = 0
        for token in tokens:
            node = holder[key]
            if type(node) is _Part:
                node = holder[key] = node.opened()
            holder = node
            key = token if type(node) is dict else int(token) if token != _END else len(node)
        return holder, key


_END: Final = "-"


def _inside(origin: Origin, token: str) -> Origin:
    return origin if isinstance(origin, int) else (*origin, token)


def _value(node: Any) -> Json:
    """Return the value that a node stands for; the numbers and texts in it may be older ones."""
    if type(node) is _Part:
        return node.value
    if type(node) is dict:
        return {key: _value(member) for key, member in node.items()}
    return [_value(element) for element in node]

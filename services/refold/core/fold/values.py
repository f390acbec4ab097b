"""Operations of a stale event that change or test a value where it is: numbers, texts, arrays at their ends.

Called by the resolver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from refold.core.errors import Refused
from refold.core.fold.gone import Gone, conflict
from refold.core.fold.identity import Content
from refold.core.fold.model import find
from refold.core.fold.positions import (
    anchors_after,
    find_array,
    first_seen,
    piece_before,
    position_after,
    seen_range,
)
from refold.core.fold.sequence import Piece, Sequence
from refold.core.json_text import Json, equal, shape_of
from refold.core.pointer import render, resolve

if TYPE_CHECKING:
    from refold.core.fold.resolve import Resolver


def test(resolver: Resolver, item: Json, tokens: tuple[str, ...]) -> None:
    """Compare the value at the head."""
    message = "the test failed: the document has another value at the path"
    try:
        found = find(resolver.model, tokens)
        if found.is_alive() and equal(resolve(resolver.edit.root, found.path()), item["value"]):
            return
    except Gone:
        pass
    raise Refused("test_failed", message, field="value")


def inc(resolver: Resolver, item: Json, tokens: tuple[str, ...]) -> None:
    """Add to the number at the head."""
    found = find(resolver.model, tokens)
    if not found.is_alive():
        raise Gone("target_gone", found.node.gone_by())
    resolver.emit({"op": "inc", "path": render(found.path()), "inc": item["inc"]})


def _text(resolver: Resolver, tokens: tuple[str, ...]) -> tuple[Content | None, tuple[str, ...]]:
    """Return a string's content, where others have touched it, and its path at the head."""
    found = find(resolver.model, tokens)
    if not found.is_alive():
        raise Gone("target_gone", found.node.gone_by())
    content = found.opened()
    if content is not None and not content.is_text:
        raise Refused("not_a_string", "the value at the path is not a string")
    return content, found.path()


def insert_text(resolver: Resolver, item: Json, tokens: tuple[str, ...]) -> None:
    """Insert after the character that the author means."""
    content, path = _text(resolver, tokens)
    position, anchors = item["pos"], []
    if content is not None:
        sequence = content.items()
        left = piece_before(sequence, min(position, sequence.seen))
        position, anchors = position_after(sequence, left), anchors_after(sequence, left)
    resolver.emit({"op": "str_ins", "path": render(path), "pos": position, "str": item["str"]}, anchors)


def delete_text(resolver: Resolver, item: Json, tokens: tuple[str, ...]) -> None:
    """Delete what is left of the characters that the author means."""
    content, path = _text(resolver, tokens)
    count = len(item["str"]) if "str" in item else item["len"]
    if content is None:
        text = resolve(resolver.edit.root, path)
        if type(text) is str:
            count = min(count, max(0, len(text) - item["pos"]))
        resolver.emit({"op": "str_del", "path": render(path), "pos": item["pos"], "len": count})
        return
    sequence = content.items()
    pieces = seen_range(sequence, item["pos"], count)
    gone = [piece for piece in pieces if not piece.is_live]
    if gone and resolver.is_first:
        raise conflict({piece.died.event.version for piece in gone if piece.died is not None})
    for piece in gone:
        resolver.steps.hide(piece)
    for position, length in live_runs(sequence, [piece for piece in pieces if piece.is_live]):
        resolver.emit({"op": "str_del", "path": render(path), "pos": position, "len": length})


def push(resolver: Resolver, item: Json, tokens: tuple[str, ...]) -> None:
    """Add at the end of the head, and remove from its front."""
    found = find_array(resolver.model, tokens)
    path = (*find(resolver.model, tokens[:-1]).path(), tokens[-1]) if found is None else found.path()
    parent = resolve(resolver.edit.root, path[:-1]) if path else None
    if type(parent) is dict and path[-1] not in parent:
        resolver.emit({"op": "add", "path": render(path), "value": [item["value"]]})
        return
    old = resolve(resolver.edit.root, path)
    if type(old) is not list:
        raise Refused("not_an_array", "push adds to an array", shape=shape_of(old))
    resolver.emit({"op": "add", "path": render((*path, "-")), "value": item["value"]})
    content = None if found is None else find(resolver.model, tokens).opened()
    _shorten(resolver, path, len(old) - item["max"], content, item["max"])


def _shorten(
    resolver: Resolver, path: tuple[str, ...], count: int, content: Content | None, elements_max: int
) -> None:
    """Remove elements from the front of an array at the head, and those of the author's view from the view."""
    remove = {"op": "remove", "path": render((*path, "0"))}
    if content is None:
        for _ in range(count):
            resolver.emit(remove)
        return
    sequence = content.items()
    leaving = first_seen(sequence, sequence.seen - elements_max)
    known = set(leaving)
    for _ in range(count):
        first = sequence.single(*sequence.live_at(0))
        resolver.emit(remove, keeps=first.is_seen and first not in known)
        content.node.settle()
        content.open()
    for piece in leaving:
        resolver.steps.hide(piece)


def live_runs(sequence: Sequence, pieces: list[Piece]) -> list[tuple[int, int]]:
    """Return positions and lengths to delete one after another, the last first."""
    runs: list[tuple[int, int]] = []
    for piece in pieces:
        begin = sequence.live_before(piece)
        if runs and sum(runs[-1]) == begin:
            runs[-1] = (runs[-1][0], runs[-1][1] + piece.count)
        else:
            runs.append((begin, piece.count))
    return runs[::-1]

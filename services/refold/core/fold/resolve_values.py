"""Operations of a stale event that test or change a value where it is: numbers, texts, arrays at their ends.

Used by `refold.core.fold.resolve`.
"""

from __future__ import annotations

from refold.core.errors import Refused
from refold.core.extensions import deleted_count
from refold.core.fold.identity import Content, Piece
from refold.core.fold.resolution import Resolution, conflict
from refold.core.fold.sequence import Sequence
from refold.core.fold.view import Gone
from refold.core.json_text import Json, equal, shape_of
from refold.core.pointer import render, resolve


def test(resolution: Resolution, item: Json, tokens: tuple[str, ...]) -> None:
    """Compare the value at the head."""
    message = "the test failed: the document has another value at the path"
    try:
        found = resolution.view.find(tokens)
    except Gone:
        raise Refused("test_failed", message, field="value") from None
    is_there = bool(found.rest) or found.node.is_alive()
    if not is_there or not equal(resolve(resolution.edit.root, found.path()), item["value"]):
        raise Refused("test_failed", message, field="value")


def inc(resolution: Resolution, item: Json, tokens: tuple[str, ...]) -> None:
    """Add to the number at the head."""
    resolution.emit({"op": "inc", "path": render(resolution.alive(tokens).path()), "inc": item["inc"]})


def _text(resolution: Resolution, tokens: tuple[str, ...]) -> tuple[Sequence | None, tuple[str, ...]]:
    """Return a text's pieces, where it was touched, and its path at the head."""
    found = resolution.alive(tokens)
    content = resolution.view.opened(found)
    return content.sequence if content is not None and content.is_text else None, found.path()


def insert_text(resolution: Resolution, item: Json, tokens: tuple[str, ...]) -> None:
    """Insert after the character that the author means; a text may begin with its first ones."""
    if not item["pos"] and tokens and resolution.is_absent(tokens):
        resolution.create(tokens, item["str"])
        return
    sequence, path = _text(resolution, tokens)
    position, anchors = item["pos"], []
    if sequence is None:
        text = resolve(resolution.edit.root, path)
        position = min(position, len(text)) if type(text) is str else position
    else:
        left = sequence.seen_before(resolution.author, min(position, sequence.seen(resolution.author)))
        position, anchors = sequence.position_after(left), sequence.anchors(left)
    resolution.emit({"op": "str_ins", "path": render(path), "pos": position, "str": item["str"]}, anchors)


def delete_text(resolution: Resolution, item: Json, tokens: tuple[str, ...]) -> None:
    """Delete what is left of the characters that the author means."""
    sequence, path = _text(resolution, tokens)
    position, count = item["pos"], deleted_count(item)
    if sequence is None:
        text = resolve(resolution.edit.root, path)
        if type(text) is str:
            count = min(count, len(text) - position)
        if count > 0:
            resolution.emit({"op": "str_del", "path": render(path), "pos": position, "len": count})
        return
    pieces = sequence.seen_range(resolution.author, position, count)
    gone = [piece for piece in pieces if not piece.is_live]
    removed = {stamp.version for piece in gone for stamp in piece.removed if not stamp.is_optimistic}
    if removed and resolution.is_first:
        raise conflict(removed)
    resolution.optimistic.hide_text(gone)
    for position, length in _live_runs(sequence, [piece for piece in pieces if piece.is_live]):
        resolution.emit({"op": "str_del", "path": render(path), "pos": position, "len": length})


def push(resolution: Resolution, item: Json, tokens: tuple[str, ...]) -> None:
    """Add at the end of the head, and remove from its front; to an array that others made, where that is so."""
    if tokens and resolution.is_absent(tokens):
        resolution.create(tokens, [item["value"]])
        return
    path, content = _pushed_to(resolution, tokens)
    old = resolve(resolution.edit.root, path)
    if type(old) is not list:
        raise Refused("not_an_array", "push adds to an array", shape=shape_of(old))
    is_unseen = content is not None and content.node.view(resolution.author) is None
    resolution.emit({"op": "add", "path": render((*path, "-")), "value": item["value"]}, adopts=is_unseen)
    remove = {"op": "remove", "path": render((*path, "0"))}
    if content is None or is_unseen:
        for _ in range(len(old) - item["max"]):
            resolution.emit(remove)
        return
    _shorten(resolution, resolution.elements(content), remove, len(old) - item["max"], item["max"])


def _pushed_to(resolution: Resolution, tokens: tuple[str, ...]) -> tuple[tuple[str, ...], Content | None]:
    """Return the path at the head of an array to push to, and its content where something in it was touched."""
    if tokens:
        above = resolution.view.opened(resolution.view.find(tokens[:-1]))
        if above is not None and above.has_touched(tokens[-1]):
            live = above.live_member(tokens[-1])
            if live is not None and above.seen_member(resolution.author, tokens[-1]) is None:
                return (*above.node.path(), tokens[-1]), live.ensure_node().head
    found = resolution.alive(tokens)
    if found.rest:
        return found.path(), None
    is_unseen = found.node.view(resolution.author) is None
    return found.path(), found.node.head if is_unseen else resolution.view.opened(found)


def _shorten(resolution: Resolution, sequence: Sequence, remove: Json, count: int, elements_max: int) -> None:
    """Remove elements from the front of an array at the head, and those of the author's view from the view."""
    author = resolution.author
    beyond = range(sequence.seen(author) - elements_max)
    leaving = [sequence.single(*sequence.seen_at(author, position)) for position in beyond]
    known = set(leaving)
    for _ in range(count):
        first = sequence.single(*sequence.live_at(0))
        resolution.emit(remove, keeps=author.sees(first) and first not in known)
    for piece in leaving:
        if author.sees(piece):
            resolution.optimistic.hide_place(piece)


def _live_runs(sequence: Sequence, pieces: list[Piece]) -> list[tuple[int, int]]:
    """Return positions and lengths to delete one after another, the last first."""
    runs: list[tuple[int, int]] = []
    for piece in pieces:
        begin = sequence.live_before(piece)
        if runs and sum(runs[-1]) == begin:
            runs[-1] = (runs[-1][0], runs[-1][1] + piece.count)
        else:
            runs.append((begin, piece.count))
    return runs[::-1]

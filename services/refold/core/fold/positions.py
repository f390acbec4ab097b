"""Positions in an author's view, and what they are at the head. Used by all operations of a stale event."""

from __future__ import annotations

from refold.core.fold.acts import Anchor
from refold.core.fold.gone import Gone
from refold.core.fold.model import Found, Model, find
from refold.core.fold.places import node_of
from refold.core.fold.sequence import Piece, Sequence
from refold.core.json_text import Json
from refold.core.pointer import resolve


def anchors_after(sequence: Sequence, left: Piece | None) -> list[Anchor]:
    """Return what the author still sees between a place after a piece and the element at the head before it.

    The nearest first. One that was removed before a nearer one is left out: no author sees only that one.
    """
    anchors: list[Anchor] = []
    newest = 0
    for piece in sequence.before(left):
        act = piece.died
        if piece.is_seen and act is not None and act.event.version > newest:
            newest = act.event.version
            anchors.append(Anchor(act.event.sequence, act.number, piece.offset + piece.count))
    return anchors


def piece_before(sequence: Sequence, position: int) -> Piece | None:
    """Return the piece that ends before a position of the author's view; None at the front."""
    if not position:
        return None
    left, offset = sequence.seen_at(position - 1)
    sequence.cut(left, offset + 1)
    return left


def position_after(sequence: Sequence, left: Piece | None) -> int:
    """Return the position at the head of what comes after a piece."""
    if left is None:
        return 0
    return sequence.live_before(left) + (left.count if left.is_live else 0)


def seen_range(sequence: Sequence, position: int, count: int) -> list[Piece]:
    """Return the pieces of a range of the author's view, as much of it as there is."""
    pieces: list[Piece] = []
    count = min(count, sequence.seen - position)
    while count > 0:
        piece, offset = sequence.seen_at(position)
        if offset:
            sequence.cut(piece, offset)
            piece = sequence.next(piece)
        sequence.cut(piece, count)
        pieces.append(piece)
        position += piece.count
        count -= piece.count
    return pieces


def first_seen(sequence: Sequence, count: int) -> list[Piece]:
    """Return the first elements of the author's view, one by one."""
    return [sequence.single(*sequence.seen_at(position)) for position in range(count)]


def before_removal(model: Model, tokens: tuple[str, ...], source: tuple[str, ...]) -> tuple[str, ...]:
    """Return a move's target as a path in the author's view while the value is still in its place."""
    depth = len(source) - 1
    if len(tokens) <= depth or tokens[:depth] != source[:depth]:
        return tokens
    if not _is_index(tokens[depth]) or not _is_index(source[depth]):
        return tokens
    found = find(model, source, is_ghost_found=True)
    if found.rest:
        is_in_array = type(resolve(model.head(), found.path()[:-1])) is list
    else:
        is_in_array = isinstance(found.place, Piece)
    position = int(tokens[depth])
    # A gap is after its left neighbour, an element is where it is.
    if not is_in_array or position + (len(tokens) > depth + 1) <= int(source[depth]):
        return tokens
    return (*tokens[:depth], str(position + 1), *tokens[depth + 1 :])


def after_removal(state: Json, tokens: tuple[str, ...], leaves: tuple[str, ...]) -> tuple[str, ...]:
    """Return a path at the head as it is when a value has left its place."""
    depth = len(leaves) - 1
    if len(tokens) <= depth or tokens[:depth] != leaves[:depth] or not _is_index(tokens[depth]):
        return tokens
    if (
        type(resolve(state, leaves[:-1])) is not list
        or not _is_index(leaves[depth])
        or int(tokens[depth]) <= int(leaves[depth])
    ):
        return tokens
    return (*tokens[:depth], str(int(tokens[depth]) - 1), *tokens[depth + 1 :])


def _is_index(token: str) -> bool:
    return token.isascii() and token.isdigit() and len(token) < 16


def find_array(model: Model, tokens: tuple[str, ...]) -> Found | None:
    """Find the array that a `push` means; None where the author sees no such member."""
    if not tokens:
        return find(model, tokens)
    content, key = find(model, tokens[:-1]).opened(), tokens[-1]
    if content is not None and content.members is not None and key in content.members:
        seen = content.seen_member(key)
        if seen is None:
            return None
        node = node_of(seen)
        if seen.born is None and node.view is node.contents[0] and not model.was_there(content, key):
            return None
    found = find(model, tokens)
    if found.rest:
        parent = resolve(model.head(), found.path()[:-1])
        return None if type(parent) is dict and key not in parent else found
    if not found.is_alive():
        raise Gone("target_gone", found.node.gone_by())
    found.opened()
    return found

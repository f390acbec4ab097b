"""What acts do to the elements of an array and the characters of a string. Used by the content that has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from refold.core.fold.acts import ON_VALUE, Act, Anchor, What
from refold.core.fold.places import die, hide_ranges, node_of
from refold.core.fold.sequence import Piece, Sequence

if TYPE_CHECKING:
    from refold.core.fold.identity import Content


def take_item(content: Content, sequence: Sequence, act: Act, depth: int) -> None:
    """Take an act on an item of a content, or below one."""
    kind = act.kind
    if depth == len(act.tokens):
        _take_text(content, sequence, act)
        return
    key = act.tokens[depth]
    if len(act.tokens) > depth + 1 or kind in ON_VALUE or kind is What.replace:
        node_of(content.element(*sequence.live_at(int(key)))).take(act, depth + 1)
    elif kind is What.remove or kind is What.out:
        piece = content.element(*sequence.live_at(int(key)))
        act.node = piece.node
        die(piece, act)
    elif kind is What.hide:
        piece = sequence.single(*sequence.live_at(int(key)))
        sequence.mark(piece, is_seen=False, is_live=True)
    else:
        new = Piece(1, act, 0, is_seen=act.is_own, is_live=kind is not What.show)
        _insert(content, sequence, act, new, None if key == "-" else int(key))
        content.settle_node(new, act)


def _take_text(content: Content, sequence: Sequence, act: Act) -> None:
    kind = act.kind
    if kind is What.insert_text or kind is What.show_text:
        new = Piece(act.count, act, 0, is_seen=act.is_own, is_live=kind is What.insert_text)
        _insert(content, sequence, act, new, min(act.position, sequence.live))
        if kind is What.show_text:
            new.died = act
            act.places.append(new)
            hide_ranges(act)
    elif kind is What.delete_text or kind is What.hide_text:
        _remove_text(sequence, act)


def _remove_text(sequence: Sequence, act: Act) -> None:
    left = min(act.count, sequence.live - act.position)
    position = act.position
    while left > 0:
        piece, offset = sequence.live_at(position)
        if offset:
            sequence.cut(piece, offset)
            piece = sequence.next(piece)
        sequence.cut(piece, left)
        if act.kind is What.hide_text:
            sequence.mark(piece, is_seen=False, is_live=True)
            position += piece.count
        else:
            die(piece, act, is_last=False)
        left -= piece.count
    hide_ranges(act)


def _insert(content: Content, sequence: Sequence, act: Act, new: Piece, position: int | None) -> None:
    if position is None:
        sequence.append(new)
        return
    for anchor in act.anchors:
        piece = _anchored(content, sequence, anchor)
        if piece is not None:
            sequence.insert_after(piece, new)
            return
    if act.is_own:
        left = None
        if position:
            left, offset = sequence.live_at(position - 1)
            sequence.cut(left, offset + 1)
        sequence.insert_after(left, new)
    elif position >= sequence.live:
        sequence.append(new)
    else:
        right, offset = sequence.live_at(position)
        if offset:
            sequence.cut(right, offset)
            right = sequence.next(right)
        sequence.insert_before(right, new)


def _anchored(content: Content, sequence: Sequence, anchor: Anchor) -> Piece | None:
    act = content.node.model.acts.get((anchor.sequence, anchor.number))
    for place in act.places if act is not None else ():
        if place.offset < anchor.end <= place.offset + place.count and isinstance(place, Piece):
            sequence.cut(place, anchor.end - place.offset)
            return place
    return None

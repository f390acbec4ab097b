"""Places: where a value is or was, in an object or an array, and what takes it from there.

Used by the identity model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from refold.core.fold.sequence import Piece

if TYPE_CHECKING:
    from refold.core.fold.acts import Act
    from refold.core.fold.identity import Content, Node


class Member:
    """A place in an object. See `Piece` for the names."""

    __slots__ = ("born", "count", "died", "home", "is_live", "is_seen", "key", "node", "offset")

    def __init__(self, home: Content, key: str, born: Act | None, *, is_seen: bool, is_live: bool) -> None:
        self.home = home
        self.key = key
        self.born = born
        self.is_seen = is_seen
        self.is_live = is_live
        self.died: Act | None = None
        self.offset = 0
        self.count = 1
        self.node: Node | None = None


Place: TypeAlias = Member | Piece


def key_of(place: Place) -> str:
    """Return a place's key or index at the head."""
    if isinstance(place, Member):
        return place.key
    return str(place.block.sequence.live_before(place))


def node_of(place: Place) -> Node:
    """Return the node at a place."""
    assert place.node is not None
    return place.node


def die(place: Place, act: Act, *, is_last: bool = True) -> None:
    """Take a place from the head; `is_last` where the act removes no more."""
    is_seen = place.is_seen and (not act.is_own or act.keeps)
    if isinstance(place, Piece):
        place.block.sequence.mark(place, is_seen=is_seen, is_live=False)
    else:
        place.is_live, place.is_seen = False, is_seen
    if act.blur is not None and place.node is not None:
        place.node.blur = act.blur
    place.died = act
    place.offset = sum(other.count for other in act.places)
    act.places.append(place)
    if is_last:
        hide_ranges(act)


def hide_ranges(act: Act) -> None:
    """Take what an act removed from the author's view, where the author removed it too."""
    for begin, count in act.hidden:
        for found in list(act.places):
            place = found
            low, high = max(begin, place.offset), min(begin + count, place.offset + place.count)
            if low >= high:
                continue
            if isinstance(place, Piece):
                sequence = place.block.sequence
                if low > place.offset:
                    sequence.cut(place, low - place.offset)
                    place = sequence.next(place)
                sequence.cut(place, high - low)
                sequence.mark(place, is_seen=False, is_live=place.is_live)
            else:
                place.is_seen = False

"""What the events of a window did to the identities of a document's values, by their effective patches.

It takes each operation before that changes the state. What an event did in its author's view only is kept with the
event's outcome as *steps*, so that the same entries give the same model, from whatever version the window begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from refold.core.extensions import deleted_count
from refold.core.fold.identity import Content, Member, Node, Piece, Place, Stamp
from refold.core.fold.sequence import Anchor, Sequence
from refold.core.json_text import Json
from refold.core.pointer import as_container, index, missing_member, parse

AT: Final = "at"
KEEP: Final = "keep"
ADOPT: Final = "adopt"
"""Steps that say more of an effective operation."""

_CHANGES: Final = frozenset({"inc", "str_del", "str_ins"})


class Model:
    """The identities of one document since the version at which the window begins."""

    def __init__(self, state: Callable[[], Json]) -> None:
        """`state` returns the document's state, `{}` where it is absent."""
        self.state = state
        self.units: dict[int, list[Place | Content]] = {}
        self.root = Node(None)
        self.root.contents.append(Content(self.root, None))
        self._sequence = 0
        self._unit = 0
        self._touched: set[Content] = set()
        self._moved: list[tuple[Node, Place | None]] = []
        self._kept: list[Stamp] = []

    def begin(self, sequence: int) -> None:
        """Begin an event."""
        self._sequence = sequence
        self._unit = 0
        self.units.pop(sequence, None)
        self._touched.clear()
        self._moved.clear()
        self._kept.clear()

    def undo(self, stamps: Iterable[Stamp]) -> None:
        """Undo all of the event, whose stamps these are."""
        for stamp in (*stamps, *self._kept):
            stamp.cancel()
        for node, place in reversed(self._moved):
            node.place = place
            node.places = [each for each in node.places if not each.inserted or each.inserted[0].sequence]
        for content in self._touched:
            content.amounts = [amount for amount in content.amounts if amount[0].sequence]
            if content.sequence is not None:
                content.sequence.recount()
            for places in (content.members or {}).values():
                for place in places:
                    place.is_live = place.is_at_head()
        self.begin(self._sequence)

    def content_at(self, tokens: tuple[str, ...]) -> tuple[Content, Json]:
        """Return the open content of the container at a path of the head, and its value. Raises `Refused`."""
        content, value = self.root.head, self.state()
        for token in tokens:
            self.open(content, value)
            place = self.place_in(content, token, value)
            value = _child(value, token)
            content = place.ensure_node().head
        self.open(content, value)
        return content, as_container(value)

    def open(self, content: Content, value: Json) -> None:
        """Give places to what is in a content that has this value."""
        if content.is_open:
            return
        content.is_open = True
        if type(value) is dict:
            content.members = {}
        elif type(value) is list or type(value) is str:
            content.sequence = Sequence(content, len(value), self.units)
            content.is_text = type(value) is str

    def place_in(self, content: Content, token: str, value: Json) -> Place:
        """Return the place of a member or an element that is in an open content, which has this value."""
        if content.members is not None:
            if token not in value:
                raise missing_member(value, token)
            return content.live_member(token) or self._member(content, token, [])
        position = index(token, len(as_container(value)))
        assert content.sequence is not None
        return content.sequence.single(*content.sequence.live_at(position))

    def _member(self, content: Content, key: str, inserted: list[Stamp], *, is_live: bool = True) -> Member:
        assert content.members is not None
        member = Member(content, key, inserted, is_live=is_live)
        content.members.setdefault(key, []).append(member)
        return member

    def value_of(self, content: Content) -> Json:
        """Return the value that a content has at the head, or had there last."""
        node = content.node
        if content is not node.head:
            return content.value
        place = node.place
        if place is None:
            return self.state()
        if not place.is_live:
            return place.value[0] if isinstance(place, Piece) else place.value
        return _child(self.value_of(place.home), place.key)

    def apply(
        self, operation: Json, stamp: Stamp, anchors: list[Anchor], *, keeps: bool, adopts: bool
    ) -> None:
        """Take an effective operation other than a `move`, before it changes the state. Raises `Refused`."""
        name, tokens = operation["op"], parse(operation["path"])
        if name == "test":
            return
        if not tokens:
            if name in _CHANGES:
                self._change(self.root, operation, stamp, anchors)
            else:
                self._write(self.root, self.state(), stamp)
            return
        (content, value), key = self.content_at(tokens[:-1]), tokens[-1]
        if name == "remove":
            self.remove(self.place_in(content, key, value), stamp, value, keeps=keeps)
        elif name in _CHANGES:
            if content.members is not None and key not in value:
                self._insert(content, key, stamp, anchors)
            else:
                self._change(self.place_in(content, key, value).ensure_node(), operation, stamp, anchors)
        elif name == "replace" or (content.members is not None and key in value):
            place = self.place_in(content, key, value)
            self._write(place.ensure_node(), _child(value, key), stamp)
            if adopts and place.inserted:
                place.inserted.append(stamp)
        else:
            self._insert(content, key, stamp, anchors)
            if adopts:
                content.adopt(stamp)

    def _write(self, node: Node, old: Json, stamp: Stamp) -> None:
        """Give a node another value."""
        content = node.head
        content.value = old
        self._name(content)
        node.contents.append(Content(node, stamp))
        self._touched.add(content)
        if node.place is not None:
            self._note(node.place.home, node.place, stamp)

    def _change(self, node: Node, operation: Json, stamp: Stamp, anchors: list[Anchor]) -> None:
        """Change a number or a text."""
        content = node.head
        value = self.value_of(content)
        if operation["op"] == "inc":
            content.amounts.append((stamp, operation["inc"], value))
        elif type(value) is str:
            self.open(content, value)
            sequence = content.sequence
            assert sequence is not None
            position = min(operation["pos"], len(value))
            if operation["op"] == "str_ins":
                new = Piece([stamp], count=len(operation["str"]))
                if new.count:
                    sequence.insert(position, anchors, new)
            else:
                count = deleted_count(operation)
                self._remove_text(sequence, position, min(count, len(value) - position), value, stamp)
        content.writes.append(stamp)
        self._touched.add(content)
        if node.place is not None:
            self._touch(node.place.home, stamp)

    def _remove_text(self, sequence: Sequence, position: int, count: int, value: str, stamp: Stamp) -> None:
        for piece in sequence.live_range(position, count):
            piece.value = value[position : position + piece.count]
            position += piece.count
            sequence.remove(piece, stamp)
            self._name(piece)

    def _insert(
        self, content: Content, key: str, stamp: Stamp, anchors: list[Anchor], node: Node | None = None
    ) -> None:
        place: Place
        if content.members is not None:
            place = self._member(content, key, [stamp])
        else:
            assert content.sequence is not None
            place = Piece([stamp])
            position = None if key == "-" else index(key, content.sequence.live + 1)
            content.sequence.insert(position, anchors, place)
        if node is not None:
            self._move(node, place, place)
            node.moves.append(stamp)
        self._note(content, place, stamp)

    def _move(self, node: Node, seen: Place, place: Place | None) -> None:
        self._moved.append((node, node.place))
        seen.node, node.place = node, place
        node.places.append(seen)

    def remove(self, place: Place, stamp: Stamp, value: Json, *, keeps: bool = False) -> None:
        """Remove a place from the head; `value` is its container's."""
        old = _child(value, place.key)
        self._note(place.home, place, stamp)
        given = stamp
        if keeps:
            given = stamp.without_author()
            self._kept.append(given)
        if isinstance(place, Piece):
            place.value = [old]
            place.block.sequence.remove(place, given)
        else:
            place.value = old
            place.removed.append(given)
            place.is_live = False
        self._name(place)

    def put(self, tokens: tuple[str, ...], node: Node, stamp: Stamp, anchors: list[Anchor]) -> None:
        """Put a node that has left its place where a `move` puts it, as the state is meanwhile."""
        (content, value), key = self.content_at(tokens[:-1]), tokens[-1]
        if content.members is not None and key in value:
            self.remove(self.place_in(content, key, value), stamp, value)
        self._insert(content, key, stamp, anchors, node)

    def _note(self, content: Content, place: Place, stamp: Stamp) -> None:
        if isinstance(place, Member):
            content.keys.setdefault(place.key, []).append(stamp)
        self._touch(content, stamp)

    def _touch(self, content: Content, stamp: Stamp) -> None:
        """Note a write in all containers around it."""
        self._touched.add(content)
        while True:
            content.writes.append(stamp)
            place = content.node.place
            if place is None:
                return
            content = place.home

    def _name(self, thing: Place | Content) -> None:
        thing.unit = self._sequence, self._unit
        self._unit += thing.count if isinstance(thing, Place) else 1
        self.units.setdefault(self._sequence, []).append(thing)

    def hide(self, place: Place, stamp: Stamp) -> None:
        """Remove a place from its author's view."""
        self._touched.add(place.home)
        if isinstance(place, Piece):
            place.block.sequence.remove(place, stamp)
        else:
            place.removed.append(stamp)

    def cover(self, node: Node, stamp: Stamp) -> None:
        """Give a node a value that only its author sees."""
        content = Content(node, stamp)
        node.contents.append(content)
        self._name(content)

    def show(
        self,
        content: Content,
        key: str | int | None,
        anchors: list[Anchor],
        stamp: Stamp,
        *,
        count: int = 1,
        node: Node | None = None,
    ) -> None:
        """Insert what only its author sees: a member by its key, or a piece at a position of the head."""
        self._touched.add(content)
        self._kept.append(stamp)
        place: Place
        if isinstance(key, str):
            if key in (value := self.value_of(content)):
                # What others see there has a place too, also where it was there before the window.
                self.place_in(content, key, value)
            place = self._member(content, key, [stamp], is_live=False)
        else:
            assert content.sequence is not None
            place = Piece([stamp], count=count, is_live=False)
            content.sequence.insert(key, anchors, place)
        if node is not None:
            self._move(node, place, node.place)
        self._name(place)

    def skip(self, count: int) -> None:
        """Pass over the names of what is not in this window."""
        self._unit += count


def _child(value: Json, token: str) -> Json:
    """Return a member or an element that is there."""
    return value[token] if type(value) is dict else value[int(token)]

"""What an event does in its author's view only: the optimistic update of a client whose operation had no effect.

An operation that was dropped, or a rejected event, is on its author's screen while later events of the session are in
flight. It is kept, with the event's outcome, as steps: `[effective operations before it, kind, address, …]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from refold.core.errors import Refused
from refold.core.extensions import deleted_count
from refold.core.fold.addresses import (
    address_of_content,
    address_of_place,
    find_content,
    find_named,
    find_place,
)
from refold.core.fold.identity import Author, Content, Node, Piece, Place, Stamp
from refold.core.fold.model import Model
from refold.core.fold.view import Gone, View
from refold.core.json_text import Json
from refold.core.pointer import index, parse


class Optimistic:
    """The optimistic updates of one event, made in the model and added to its steps."""

    def __init__(
        self, model: Model, author: Author, stamp: Stamp, steps: list[Json], effective: Callable[[], int]
    ) -> None:
        """`effective` counts the event's effective operations so far."""
        self._model = model
        self._author = author
        self._stamp = stamp
        self._steps = steps
        self._effective = effective
        self._view = View(model, author)

    def follow(self, item: Json) -> None:
        """Do what an operation without effect does in its author's view; nothing where it means nothing there."""
        try:
            _FOLLOW[item["op"]](self, item, parse(item["path"]))
        except (Gone, Refused, LookupError):
            return

    def hide(self, place: Place) -> None:
        """Remove what is at a place from the view, wherever others moved it: a later base would show it there."""
        for each in [place] if place.node is None else place.node.places:
            if self._may_see(each):
                self.hide_place(each)

    def _may_see(self, place: Place) -> bool:
        """Tell whether the session may see a place at its base or a later one. Other places a window may not have."""
        author = self._author
        if place.inserted and all(it.is_optimistic and not author.knows(it) for it in place.inserted):
            return False
        gone_by = next((it for it in place.removed if not it.is_optimistic), None) or place.home.gone_by()
        return gone_by is None or gone_by.version > author.base

    def hide_text(self, pieces: list[Piece]) -> None:
        """Remove characters from the view. A run is one step: how it is divided in pieces depends on the window."""
        runs: list[tuple[Json, int, int]] = []
        for piece in pieces:
            name, begin = _position(piece)
            count = piece.count
            if runs and runs[-1][0] == name and sum(runs[-1][1:]) == begin:
                _, begin, before = runs.pop()
                count += before
            runs.append((name, begin, count))
            self._model.hide(piece, self._stamp)
        for name, begin, count in runs:
            if type(name) is int:
                self._add("hide_removed", (name, begin), count)
            else:
                self._add("hide_text", name, begin, count)

    def hide_place(self, place: Place) -> None:
        """Remove a member or an element from the view, not what was there."""
        self._add("hide", address_of_place(place))
        self._model.hide(place, self._stamp)

    def cover(self, node: Node) -> None:
        """Give a node another value in the view, which is not kept."""
        self._add("cover", "" if node.place is None else address_of_place(node.place))
        self._model.cover(node, self._stamp)

    def _add(self, kind: str, *what: Json) -> None:
        self._steps.append([self._effective(), kind, *what])

    def _show(self, content: Content, key: str, node: Node | None = None, count: int = 1) -> None:
        """Insert a member or an element, or a node that is elsewhere at the head."""
        model, author = self._model, self._author
        source = None if node is None else "" if node.place is None else address_of_place(node.place)
        stamp = self._stamp if node is None else _until_gone(node, self._stamp)
        if content.members is not None:
            self._add("show", address_of_content(content), key, [], count, source)
            model.show(content, key, [], stamp, node=node)
        elif content.sequence is not None:
            sequence = content.sequence
            position, anchors = None, []
            if key != "-":
                left = sequence.seen_before(author, index(key, sequence.seen(author) + 1))
                position, anchors = sequence.position_after(left), sequence.anchors(left)
            self._add("show", address_of_content(content), position, anchors, count, source)
            model.show(content, position, anchors, stamp, count=count, node=node)

    def _member(self, content: Content, key: str) -> Place | None:
        """Return the place of an object's member in the view."""
        if content.members is None:
            return None
        if key in content.members:
            return content.seen_member(self._author, key)
        value = self._model.value_of(content)
        return self._model.place_in(content, key, value) if key in value else None

    def put(self, _item: Json, tokens: tuple[str, ...], node: Node | None = None) -> None:
        """Add a value that is not kept."""
        if not tokens:
            self.cover(self._model.root)
            return
        content, key = self._view.container(tokens[:-1], is_head=False), tokens[-1]
        seen = self._member(content, key)
        if seen is not None and node is None:
            self.cover(seen.ensure_node())
            return
        if seen is not None:
            self.hide_place(seen)
        self._show(content, key, node)

    def replace(self, _item: Json, tokens: tuple[str, ...]) -> None:
        """Give a node another value that is not kept; an element that others removed is shown anew."""
        if not tokens:
            self.cover(self._model.root)
            return
        place = self._view.place(tokens, is_head=False)
        node = place.ensure_node()
        is_gone = node.place is not None and not (place.is_live or node.place.is_live)
        if isinstance(place, Piece) and is_gone and not node.is_optimistic:
            self._show(place.home, str(int(tokens[-1]) + 1))
            self.hide(place)
        else:
            self.cover(node)

    def remove(self, _item: Json, tokens: tuple[str, ...]) -> None:
        """Remove a value."""
        self.hide(self._view.place(tokens, is_head=False))

    def move(self, item: Json, tokens: tuple[str, ...]) -> None:
        """Remove a node from where it is, and show it elsewhere."""
        source = parse(item["from"])
        if source == tokens:
            return
        try:
            place = self._view.place(source, is_head=False)
        except Gone:
            # It is in a value that is not known.
            self.put(item, tokens)
            return
        self.hide(place)
        self.put(item, tokens, place.ensure_node())

    def insert_text(self, item: Json, tokens: tuple[str, ...]) -> None:
        """Insert characters."""
        if tokens and not item["pos"]:
            parent = self._view.container(tokens[:-1], is_head=False)
            if parent.members is not None and self._member(parent, tokens[-1]) is None:
                self._show(parent, tokens[-1])
                return
        content = self._view.container(tokens, is_head=False)
        if content.sequence is not None and content.is_text and item["str"]:
            position = min(item["pos"], content.sequence.seen(self._author))
            self._show(content, str(position), count=len(item["str"]))

    def delete_text(self, item: Json, tokens: tuple[str, ...]) -> None:
        """Delete characters."""
        content = self._view.container(tokens, is_head=False)
        count = deleted_count(item)
        if content.sequence is not None and content.is_text:
            self.hide_text(content.sequence.seen_range(self._author, item["pos"], count))

    def push(self, item: Json, tokens: tuple[str, ...]) -> None:
        """Add at the end of an array, and remove from its front."""
        if tokens:
            parent, key = self._view.container(tokens[:-1], is_head=False), tokens[-1]
            if parent.members is not None and self._member(parent, key) is None:
                self._show(parent, key)
                return
        content = self._view.container(tokens, is_head=False)
        self._show(content, "-")
        if content.sequence is not None and not content.is_text:
            sequence = content.sequence
            leaving = range(sequence.seen(self._author) - item["max"])
            for piece in [sequence.single(*sequence.seen_at(self._author, at)) for at in leaving]:
                self.hide_place(piece)

    def inc(self, _item: Json, tokens: tuple[str, ...]) -> None:
        """Note that a number differs."""
        place = self._view.place(tokens, is_head=False) if tokens else None
        node = self._model.root if place is None else place.ensure_node()
        content = self._view.content(node, is_head=False)
        if type(self._model.value_of(content)) in {int, float}:
            self._add("inc", address_of_content(content))
            increase(self._model, content, self._stamp)

    def test(self, _item: Json, _tokens: tuple[str, ...]) -> None:
        """Nothing: the view is as it was."""


def increase(model: Model, content: Content, stamp: Stamp) -> None:
    """Note that a number differs in its author's view."""
    content.amounts.append((stamp, 0, model.value_of(content)))


def repeat(model: Model, step: Json, stamp: Stamp) -> None:
    """Do a step that was kept; where its address was removed before the window, no view of the window has it."""
    _, kind, address, *rest = step
    if kind == "show":
        key, anchors, count, source = rest
        content, node = find_content(model, address), None if source is None else _node(model, source)
        if content is None or (source is not None and node is None):
            model.skip(count)
            return
        stamp = stamp if node is None else _until_gone(node, stamp)
        model.show(content, key, anchors, stamp, count=count, node=node)
    elif kind == "hide_text":
        content = find_content(model, address)
        if content is not None and content.sequence is not None:
            for piece in content.sequence.live_range(*rest):
                model.hide(piece, stamp)
    elif kind == "hide_removed":
        for piece in _removed_range(model, *address, *rest):
            model.hide(piece, stamp)
    elif kind == "hide":
        place = find_place(model, address)
        if place is not None:
            model.hide(place, stamp)
    elif kind == "inc":
        content = find_content(model, address)
        if content is not None:
            increase(model, content, stamp)
    else:
        node = _node(model, address)
        if node is None:
            model.skip(1)
        else:
            model.cover(node, stamp)


def _until_gone(node: Node, stamp: Stamp) -> Stamp:
    """Return the stamp of showing a node elsewhere: a view whose base has its removal does not show it."""
    by = [node.head.gone_by(), node.contents[0].stamp if node.is_optimistic else None]
    version = min([stamp.version, *(each.version for each in by if each is not None)])
    return Stamp(stamp.sequence, version, stamp.session, stamp.reason)


def _node(model: Model, address: Json) -> Node | None:
    if address == "":
        return model.root
    place = find_place(model, address)
    return None if place is None else place.ensure_node()


def _position(piece: Piece) -> tuple[Json, int]:
    """Return the text of some characters and their position in it, or the event that removed them and their unit."""
    if piece.is_live:
        return address_of_content(piece.home), piece.block.sequence.live_before(piece)
    assert piece.unit is not None
    return piece.unit


def _removed_range(model: Model, sequence: int, unit: int, count: int) -> Iterator[Piece]:
    """Yield the pieces of characters that an event removed, by their names."""
    while (
        count > 0 and isinstance(piece := find_named(model, sequence, unit), Piece) and piece.unit is not None
    ):
        piece = piece.block.sequence.cut(piece, unit - piece.unit[1])
        piece.block.sequence.cut(piece, count)
        yield piece
        unit += piece.count
        count -= piece.count


_FOLLOW: Final = {
    "add": Optimistic.put,
    "copy": Optimistic.put,
    "replace": Optimistic.replace,
    "remove": Optimistic.remove,
    "move": Optimistic.move,
    "push": Optimistic.push,
    "test": Optimistic.test,
    "inc": Optimistic.inc,
    "str_ins": Optimistic.insert_text,
    "str_del": Optimistic.delete_text,
}

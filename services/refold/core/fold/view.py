"""What pointers and values are in an author's view: the document at the base, with the author's own events since.

Used by the operations of a stale event.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from refold.core.errors import Refused
from refold.core.extensions import added
from refold.core.fold.identity import Author, Content, Member, Node, Piece, Place, Stamp
from refold.core.fold.model import Model
from refold.core.fold.sequence import Sequence
from refold.core.json_text import Json
from refold.core.merge import without_nulls
from refold.core.pointer import as_container, index, missing_member, render, resolve

TARGET_GONE: Final = "target_gone"
DEPENDS_ON_REJECTED: Final = "depends_on_rejected"


class Gone(Exception):
    """What an operation means is not at the head any more; `by` took it away, None where it never was there."""

    def __init__(self, reason: str, by: Stamp | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.by = by


class Found(NamedTuple):
    """What a pointer means: a node, where the author sees it, and tokens below it that lead into what is untouched."""

    node: Node
    place: Place | None
    rest: tuple[str, ...]

    def path(self) -> tuple[str, ...]:
        """Return its path at the head, where it must be alive."""
        return self.node.path() + self.rest


class View:
    """An author's view of a model. Without `is_head`, pointers may lead through what is not at the head any more."""

    def __init__(self, model: Model, author: Author) -> None:
        self._model = model
        self._author = author

    def find(self, tokens: tuple[str, ...], *, is_head: bool = True) -> Found:
        """Find what a pointer means. Raises `Gone`, and `Refused` where it means nothing."""
        node = self._model.root
        place: Place | None = None
        for depth, token in enumerate(tokens):
            content = self.content(node, is_head=is_head)
            if not content.is_open or (content.members is not None and token not in content.members):
                return Found(node, place, tokens[depth:])
            if content.members is not None:
                place = self._member(content, token, is_head=is_head)
            elif content.sequence is not None and not content.is_text:
                piece, offset = self._element(content.sequence, token)
                if piece.node is None and piece.is_live:
                    live = str(content.sequence.live_before(piece) + offset)
                    return Found(node, place, (live, *tokens[depth + 1 :]))
                place = content.sequence.single(piece, offset)
            else:
                as_container(self._model.value_of(content))
                raise AssertionError("a container has places")
            node = place.ensure_node()
        return Found(node, place, ())

    def _element(self, sequence: Sequence, token: str) -> tuple[Piece, int]:
        return sequence.seen_at(self._author, index(token, sequence.seen(self._author)))

    def _member(self, content: Content, key: str, *, is_head: bool) -> Member:
        seen = content.seen_member(self._author, key)
        if seen is None:
            writes = reversed(content.keys.get(key, []))
            by = next((stamp for stamp in writes if self._author.others((stamp,))), None)
            if by is not None and is_head:
                # Others have created it meanwhile.
                raise Gone(TARGET_GONE, by)
            raise missing_member(self._model.value_of(content), key)
        return seen

    def content(self, node: Node, *, is_head: bool = True) -> Content:
        """Return what a node holds for the author. Raises `Gone`."""
        content = node.view(self._author)
        if content is None:
            raise Gone(TARGET_GONE, node.contents[0].stamp)
        if content.is_optimistic:
            assert content.stamp is not None
            raise Gone(content.stamp.reason)
        if is_head and not content.is_alive():
            raise Gone(TARGET_GONE, content.gone_by())
        return content

    def opened(self, found: Found) -> Content | None:
        """Return what is found as a content with places; None where nothing in it was touched."""
        if found.rest:
            return None
        content = self.content(found.node)
        return content if content.is_open else None

    def place(self, tokens: tuple[str, ...], *, is_head: bool = True) -> Place:
        """Return the place that a pointer means, which is not the root's, made where it is untouched."""
        node, place, rest = self.find(tokens, is_head=is_head)
        if not rest:
            assert place is not None
            return place
        content = self.content(node, is_head=is_head)
        for token in rest:
            value = self._model.value_of(content)
            self._model.open(content, value)
            place = self._model.place_in(content, token, value)
            content = place.ensure_node().head
        assert place is not None
        return place

    def container(self, tokens: tuple[str, ...], *, is_head: bool = True) -> Content:
        """Return the open content of a container that a pointer means."""
        node = self.place(tokens, is_head=is_head).ensure_node() if tokens else self._model.root
        content = self.content(node, is_head=is_head)
        self._model.open(content, self._model.value_of(content))
        return content

    # Values; what is returned may share parts with the document

    def value(self, node: Node) -> Json:
        """Return what the author sees a node hold. Raises `Gone`."""
        content = self.content(node, is_head=False)
        value = self._model.value_of(content)
        if type(value) is int or type(value) is float:
            return self._sum(content, value)
        if not content.is_open:
            return value
        if content.members is not None:
            return self._object(content, value)
        if content.sequence is not None:
            items = self._items(content.sequence, value)
            return "".join(items) if content.is_text else [each for some in items for each in some]
        return value

    def _sum(self, content: Content, value: Json) -> Json:
        """Return the number that was written, with what the author knows of the amounts added to the node since.

        The author's own `inc` may have been applied to a number that others wrote later.
        """
        total = content.amounts[0][2] if content.amounts else value
        contents = content.node.contents
        for each in contents[contents.index(content) :]:
            for stamp, amount, _ in each.amounts:
                if self._author.knows(stamp):
                    if stamp.is_optimistic:
                        raise Gone(stamp.reason)
                    total = added(total, amount)
        return total

    def _object(self, content: Content, value: dict[str, Json]) -> Json:
        found = dict(value)
        # In order, as the first part that is not known is named.
        for key in sorted(content.members or ()):
            seen = content.seen_member(self._author, key)
            if seen is None:
                found.pop(key, None)
            elif seen.node is not None or not seen.is_live:
                found[key] = self._at(seen)
        return found

    def _items(self, sequence: Sequence, value: Json) -> list[Json]:
        """Return the parts of an array or a text."""
        found = []
        begin = 0
        for piece in sequence.pieces():
            end = begin + piece.count * piece.is_live
            if self._author.sees(piece):
                is_slice = piece.node is None and piece.is_live
                if is_slice:
                    found.append(value[begin:end])
                elif sequence.content.is_text:
                    self._check(piece)
                    found.append(piece.value)
                else:
                    found.append([self._at(piece)])
            begin = end
        return found

    def _at(self, place: Place) -> Json:
        self._check(place)
        return self.value(place.ensure_node())

    def _check(self, place: Place) -> None:
        """Raise `Gone` where only the author sees a place: its value is not kept."""
        if place.inserted and place.inserted[0].is_optimistic:
            raise Gone(place.inserted[0].reason)

    def merge_operations(self, merge: Json) -> list[Json]:
        """Return the operations that a merge patch is in the author's view."""
        operations: list[Json] = []
        self._merge((), merge, operations)
        return operations

    def _merge(self, tokens: tuple[str, ...], change: Json, operations: list[Json]) -> None:
        path = render(tokens)
        try:
            is_object = self._is_object(tokens) and type(change) is dict
        except Refused:
            if change is None:
                return
            is_object = False
        if is_object:
            for key in sorted(change):
                self._merge((*tokens, key), change[key], operations)
        elif change is None and tokens:
            operations.append({"op": "remove", "path": path})
        else:
            operations.append({"op": "add", "path": path, "value": without_nulls(change)})

    def _is_object(self, tokens: tuple[str, ...]) -> bool:
        """Tell whether a pointer means an object, or what only the author sees. Raises `Refused`."""
        try:
            node, _, rest = self.find(tokens, is_head=False)
        except Gone:
            # It is in what only the author sees: as a whole.
            return False
        content = node.view(self._author)
        if content is None or content.is_optimistic:
            return True
        return type(resolve(self._model.value_of(content), rest)) is dict

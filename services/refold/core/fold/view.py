"""The values that a stale event's author sees, for a `copy` and for three-way merges.

A value that has a part which only the author sees, because that was rejected or dropped, cannot be used.
"""

from __future__ import annotations

from refold.core.errors import Refused
from refold.core.extensions import added
from refold.core.fold.acts import UNKNOWN, Act, What
from refold.core.fold.gone import Gone, ghost
from refold.core.fold.identity import Content, Node
from refold.core.fold.model import Model, find
from refold.core.fold.places import Member
from refold.core.fold.sequence import Piece, Sequence
from refold.core.fold.window import Recent
from refold.core.json_text import Json
from refold.core.merge import without_nulls
from refold.core.pointer import missing_member, render, resolve


class View:
    """An author's view of values; what it returns may share parts with other values."""

    __slots__ = ("_base", "_model", "_recent")

    def __init__(self, model: Model, recent: Recent, base: int) -> None:
        self._model = model
        self._recent = recent
        self._base = base

    def value(self, node: Node) -> Json:
        """Return what the author sees a node hold."""
        node.settle()
        content = node.view
        if node.blur is not None:
            raise ghost(node.blur)
        if not content.foreign and content is node.head and node.is_alive():
            return resolve(self._model.head(), node.path())
        first = self._first(content)
        if not content.acts:
            return first
        content.open()
        if content.members is not None:
            return self._object(content.members, first)
        if content.sequence is not None:
            return (
                self._text(content.sequence, first)
                if content.is_text
                else self._array(content.sequence, first)
            )
        for act, _ in content.acts:
            if act.kind is What.inc and act.is_own:
                first = added(first, act.value)
        return first

    def _first(self, content: Content) -> Json:
        """Return what a content held before any act in it."""
        born = content.born
        if born is not None:
            return {} if born.kind is What.remove else self._written(born)
        place = content.node.origin
        if place is None:
            return self._recent.state_at(self._base)
        above = self._first(place.home)
        if not isinstance(place, Member):
            return above[place.start]
        if place.key not in above:
            raise missing_member(above, place.key)
        return above[place.key]

    def _written(self, act: Act) -> Json:
        if act.value is not UNKNOWN:
            return act.value
        return resolve(self._recent.state_before(act.event, act.operation + 1), act.tokens)

    def _object(self, members: dict[str, list[Member]], first: Json) -> Json:
        found = dict(first)
        for key, places in members.items():
            seen = next((place for place in reversed(places) if place.is_seen), None)
            if seen is None or seen.node is None:
                found.pop(key, None)
                continue
            _check(seen)
            if not is_in_view(seen, key, first):
                found.pop(key, None)
            else:
                found[key] = self.value(seen.node)
        return found

    def _array(self, sequence: Sequence, first: Json) -> Json:
        found: list[Json] = []
        for piece in sequence.pieces():
            if not piece.is_seen:
                continue
            _check(piece)
            if piece.node is not None:
                found.append(self.value(piece.node))
            elif piece.born is not None:
                found.append(self._written(piece.born))
            else:
                found += first[piece.start : piece.start + piece.count]
        return found

    def _text(self, sequence: Sequence, first: str) -> str:
        found = []
        for piece in sequence.pieces():
            if piece.is_seen:
                _check(piece)
                text = first if piece.born is None else self._written(piece.born)
                found.append(text[piece.start : piece.start + piece.count])
        return "".join(found)


def merge_operations(model: Model, view: View, merge: Json) -> list[Json]:
    """Return the operations that a merge patch is in its author's view."""
    if type(merge) is not dict:
        return [{"op": "replace", "path": "", "value": without_nulls(merge)}]
    operations: list[Json] = []
    _merge_members(model, view, (), merge, operations)
    return operations


def _merge_members(
    model: Model, view: View, tokens: tuple[str, ...], changes: dict[str, Json], operations: list[Json]
) -> None:
    for key in sorted(changes):
        path, change = (*tokens, key), changes[key]
        try:
            found = find(model, path)
            old = resolve(model.head(), found.path()) if found.rest else view.value(found.node)
        except Refused:
            if change is None:
                continue
            old = None
        except Gone:
            # Its container is not at the head any more, nor is what is in it.
            old = {}
        if change is None:
            operations.append({"op": "remove", "path": render(path)})
        elif type(change) is dict and type(old) is dict:
            _merge_members(model, view, path, change, operations)
        else:
            operations.append({"op": "add", "path": render(path), "value": without_nulls(change)})


def is_in_view(place: Member, key: str, first: Json) -> bool:
    """Tell whether a member is in the view; that of the base may not have been there."""
    node = place.node
    return place.born is not None or key in first or (node is not None and node.view is not node.contents[0])


def _check(place: Member | Piece) -> None:
    """Raise `Gone` where only the author sees it: the positions in a value without it would be others."""
    if place.born is not None and place.died is place.born:
        raise ghost(place.born)

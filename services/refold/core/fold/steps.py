"""What a stale event does in its author's view only, as steps that are kept with the event's outcome.

The author's later events may be in flight already, and mean positions that count it.
"""

from __future__ import annotations

from typing import Final

from refold.core.errors import Refused
from refold.core.fold.acts import Change, act_of_step
from refold.core.fold.gone import Gone
from refold.core.fold.identity import Content
from refold.core.fold.model import Found, Model, find
from refold.core.fold.places import Place, key_of
from refold.core.fold.positions import (
    anchors_after,
    before_removal,
    find_array,
    first_seen,
    piece_before,
    position_after,
    seen_range,
)
from refold.core.fold.sequence import Piece
from refold.core.json_text import Json
from refold.core.pointer import index, parse, render, resolve


class Steps:
    """The steps of one event, added to its change and to the model."""

    __slots__ = ("_change", "_model")

    def __init__(self, model: Model, change: Change) -> None:
        self._model = model
        self._change = change

    def hide(self, place: Place) -> None:
        """Take a place from the author's view."""
        if not place.is_seen:
            return
        act = place.died
        if not place.is_live:
            assert act is not None
            self._add("gone", [act.event.sequence, act.number], place.offset, place.count)
        elif place.home.is_text:
            assert isinstance(place, Piece)
            position = place.block.sequence.live_before(place)
            self._at("hide_text", place.home.node.path(), position, place.count)
        else:
            self._at("hide", (*place.home.node.path(), key_of(place)))

    def cover(self, place: Place) -> None:
        """Put a value that only the author sees over a place: what is there now is not what the author sees."""
        if isinstance(place, Piece):
            self._show_after(place.home, place)
            self.hide(place)
        else:
            self._at("show", (*place.home.node.path(), place.key), [])

    def follow(self, item: Json) -> None:
        """Do in the author's view what an operation that was left out does there."""
        try:
            _FOLLOW[item["op"]](self, item, parse(item["path"]))
        except Gone as gone:
            # Nothing of it is at the head, so that later events that mean it find that out by themselves.
            if gone.found is not None:
                self._blur(gone.found)
        except (Refused, LookupError, ValueError):
            # It means nothing in the view.
            return

    def _blur(self, found: Found) -> None:
        """Note that a value differs in the author's view, so that it is not copied."""
        place = found.place
        if found.rest or place is None or place.is_live:
            above = () if place is None else (*place.home.node.path(), key_of(place))
            self._at("blur", above + found.rest)
        elif place.died is not None:
            self._add("blurred", [place.died.event.sequence, place.died.number])

    def _at(self, name: str, path: tuple[str, ...], *rest: Json) -> None:
        """Add a step at a path of the head, where there is such a place."""
        if _is_place(self._model.head(), path, is_new=name == "show"):
            self._add(name, render(path), *rest)

    def _add(self, name: str, what: Json, *rest: Json) -> None:
        steps = self._change.steps
        step = [len(self._change.operations), name, what, *rest]
        steps.append(step)
        self._model.push(act_of_step(self._change, step, len(steps) - 1))

    def _hide_path(self, tokens: tuple[str, ...]) -> None:
        found = find(self._model, tokens, is_ghost_found=True)
        if found.rest:
            self._at("hide", found.path())
        elif found.place is not None:
            self.hide(found.place)

    def show(self, _item: Json, tokens: tuple[str, ...]) -> None:
        """Put a value where an `add` puts it."""
        if not tokens:
            self._at("show", (), [])
            return
        found = find(self._model, tokens[:-1])
        content, key = found.opened(), tokens[-1]
        if content is None or content.sequence is None or key == "-":
            self._at("show", (*found.path(), key), [])
            return
        left = piece_before(content.sequence, index(key, content.sequence.seen + 1))
        self._show_after(content, left)

    def _show_after(self, content: Content, left: Piece | None) -> None:
        sequence = content.sequence
        assert sequence is not None
        path = (*content.node.path(), str(position_after(sequence, left)))
        self._at("show", path, [list(anchor) for anchor in anchors_after(sequence, left)])

    def replace(self, item: Json, tokens: tuple[str, ...]) -> None:
        """Put a value where a `replace` puts it."""
        if not tokens:
            self.show(item, tokens)
            return
        found = find(self._model, tokens)
        if found.rest:
            path = found.path()
            if type(resolve(self._model.head(), path[:-1])) is list:
                self._at("show", (*path[:-1], str(int(path[-1]) + 1)), [])
                self._at("hide", path)
            else:
                self._at("show", path, [])
        elif isinstance(found.place, Piece):
            self._show_after(found.place.home, found.place)
            self.hide(found.place)
        else:
            self.show(item, tokens)

    def remove(self, _item: Json, tokens: tuple[str, ...]) -> None:
        """Take a value away."""
        self._hide_path(tokens)

    def move(self, item: Json, tokens: tuple[str, ...]) -> None:
        """Take a value away, and put it elsewhere."""
        source = parse(item["from"])
        if source == tokens:
            return
        try:
            target = before_removal(self._model, tokens, source)
            found = find(self._model, source, is_ghost_found=True)
        except Gone as gone:
            if gone.found is not None:
                self._blur(gone.found)
            self.show(item, tokens)
            return
        leaves = found.path() if found.rest else ()
        try:
            self.show(item, target)
        finally:
            if leaves:
                self._at("hide", leaves)
            elif found.place is not None:
                self.hide(found.place)

    def insert_text(self, item: Json, tokens: tuple[str, ...]) -> None:
        """Insert characters."""
        found = find(self._model, tokens)
        content = found.opened()
        if content is None:
            text = resolve(self._model.head(), found.path())
            if type(text) is not str:
                return
            self._at("show_text", found.path(), min(item["pos"], len(text)), len(item["str"]), [])
        elif content.sequence is not None and content.is_text:
            sequence = content.sequence
            left = piece_before(sequence, min(item["pos"], sequence.seen))
            anchors = [list(anchor) for anchor in anchors_after(sequence, left)]
            position = position_after(sequence, left)
            self._at("show_text", found.path(), position, len(item["str"]), anchors)

    def delete_text(self, item: Json, tokens: tuple[str, ...]) -> None:
        """Take characters away."""
        found = find(self._model, tokens)
        content = found.opened()
        count = len(item["str"]) if "str" in item else item["len"]
        if content is None:
            if type(resolve(self._model.head(), found.path())) is not str:
                return
            self._at("hide_text", found.path(), item["pos"], count)
        elif content.sequence is not None and content.is_text:
            for piece in seen_range(content.sequence, item["pos"], count):
                self.hide(piece)

    def push(self, item: Json, tokens: tuple[str, ...]) -> None:
        """Add at the end of an array, and take from its front."""
        found = find_array(self._model, tokens)
        if found is None:
            self.show(item, tokens)
            return
        self._at("show", (*found.path(), "-"), [])
        content = find(self._model, tokens).opened()
        if content is not None and content.sequence is not None:
            for piece in first_seen(content.sequence, content.sequence.seen - item["max"]):
                self.hide(piece)

    def inc(self, _item: Json, tokens: tuple[str, ...]) -> None:
        """Note that a number differs."""
        self._blur(find(self._model, tokens))

    def test(self, _item: Json, _tokens: tuple[str, ...]) -> None:
        """Nothing: the view is as it was."""


def _is_place(state: Json, path: tuple[str, ...], *, is_new: bool) -> bool:
    """Tell whether a path leads to a value, or `is_new` to where one may be added."""
    if not path:
        return True
    try:
        parent, key = resolve(state, path[:-1]), path[-1]
        if type(parent) is dict:
            return is_new or key in parent
        return type(parent) is list and ((is_new and key == "-") or index(key, len(parent) + is_new) >= 0)
    except Refused:
        return False


_FOLLOW: Final = {
    "add": Steps.show,
    "copy": Steps.show,
    "replace": Steps.replace,
    "remove": Steps.remove,
    "move": Steps.move,
    "push": Steps.push,
    "test": Steps.test,
    "inc": Steps.inc,
    "str_ins": Steps.insert_text,
    "str_del": Steps.delete_text,
}

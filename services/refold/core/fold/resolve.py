"""Apply a stale event's operations at the head, each to what its author meant. The strategies are decided here.

See `schemas/conflicts.md` for the rules by their ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import orjson

from refold.core.document import Limits
from refold.core.errors import Refused
from refold.core.extensions import EXTENDED
from refold.core.fold import moves, values
from refold.core.fold.acts import Anchor, Change, What, acts_of_operation
from refold.core.fold.gone import Gone, conflict
from refold.core.fold.identity import Content, Node, foreign_versions
from refold.core.fold.merge3 import Merge
from refold.core.fold.model import Model, find
from refold.core.fold.places import Member, Place
from refold.core.fold.positions import anchors_after, piece_before, position_after
from refold.core.fold.sequence import Piece
from refold.core.fold.steps import Steps
from refold.core.fold.view import View
from refold.core.json_text import Json
from refold.core.patch import compile_patch
from refold.core.pointer import index, parse, render, resolve
from refold.core.undo_log import UndoLog

FIRST: Final = "first_write_wins"
LAST: Final = "last_write_wins"
MERGE: Final = "merge"


class Resolver:
    """One event's resolution: its operations as they change the head, and what came of conflicts.

    `overwrote` has the versions that the event overwrote, `merged` those that it was merged with, `dropped` what was
    left out, `effect` the effective patch.
    """

    def __init__(
        self,
        model: Model,
        edit: UndoLog,
        change: Change,
        *,
        strategy: str,
        limits: Limits,
        view: View,
    ) -> None:
        """`change` has the lists for the effective patch and the steps."""
        self.overwrote: set[int] = set()
        self.merged: set[int] = set()
        self.dropped: list[Json] = []
        self.effect = change.operations
        self.model = model
        self.edit = edit
        self.change = change
        self.strategy = strategy
        self._limits = limits
        self.view = view
        self.steps = Steps(model, change)

    @property
    def is_first(self) -> bool:
        """Tell whether the first write wins."""
        return self.strategy == FIRST

    def apply(self, operations: Iterable[Json], *, is_whole: bool) -> None:
        """Apply all operations; `is_whole` where none may be dropped. Raises `Refused`, with the edit to be undone."""
        for number, item in enumerate(operations):
            try:
                _APPLY[item["op"]](self, item, parse(item["path"]))
            except Gone as gone:
                if gone.reason == "target_gone" and gone.version and self.is_first:
                    raise conflict({gone.version}) from None
                if is_whole:
                    message = f"operation {number} has nothing to apply to"
                    raise Refused(gone.reason, message, field=f"patch/{number}/path") from None
                self.dropped.append({"operation": number, "reason": gone.reason})
                self.steps.follow(item)
            except Refused as refusal:
                refusal.field = f"patch/{number}/{refusal.field or 'path'}"
                raise

    def emit(self, operation: Json, anchors: list[Anchor] | None = None, *, keeps: bool = False) -> None:
        """Apply one operation at the head, and add it to effect and model."""
        number = len(self.effect)
        private = orjson.loads(orjson.dumps(operation))
        (compiled,) = compile_patch([operation], self._limits, EXTENDED)
        compiled.apply(self.edit, compiled)
        self.edit.check_size()
        if len(self.effect) >= self._limits.operations:
            raise Refused("too_many_operations", "the effective patch has too many operations", field="patch")
        if anchors:
            self.change.steps.append([number, "at", [list(anchor) for anchor in anchors]])
        if keeps:
            self.change.steps.append([number, "keep"])
        self.effect.append(private)
        for act in acts_of_operation(self.change, private, number, anchors or [], is_own=True):
            act.keeps = keeps
            self.model.push(act)

    def overwrite_all(self, versions: set[int]) -> None:
        """Note what others wrote to the same node since; the first write may win."""
        if versions and self.is_first:
            raise conflict(versions)
        self.overwrote |= versions

    def _write_root(self, item: Json) -> None:
        root = self.model.root
        if self.strategy == MERGE and root.written() and self._merge(root, None, item, root.written()):
            return
        self.overwrite_all(root.written())
        self.emit({"op": item["op"], "path": "", "value": item["value"]})

    def add(self, item: Json, tokens: tuple[str, ...]) -> None:
        """Write a member, or insert an element after its left neighbour."""
        if not tokens:
            self._write_root(item)
            return
        parent = find(self.model, tokens[:-1])
        content, key = parent.opened(), tokens[-1]
        if content is None or (content.members is not None and key not in content.members):
            self.emit({"op": item["op"], "path": render((*parent.path(), key)), "value": item["value"]})
        elif content.members is not None:
            self._write_member(content, key, item)
        else:
            path, anchors = self.gap(content, key)
            self.emit({"op": "add", "path": render(path), "value": item["value"]}, anchors)

    def gap(self, content: Content, key: str) -> tuple[tuple[str, ...], list[Anchor]]:
        """Return where an array's gap is at the head, and what was removed just before it."""
        sequence, path = content.items(), content.node.path()
        if key == "-":
            return (*path, "-"), []
        left = piece_before(sequence, index(key, sequence.seen + 1))
        return (*path, str(position_after(sequence, left))), anchors_after(sequence, left)

    def _write_member(self, content: Content, key: str, item: Json) -> None:
        seen, live = self._places(content, key)
        if item["op"] == "replace" and (
            seen is None or (seen.died is seen.born is not None and live is None)
        ):
            # There is no such member, or only a rejected event has it.
            find(self.model, parse(item["path"]))
        if seen is not None and seen.node is not None and seen.node.is_alive():
            self._write_node(seen.node, seen, item)
            return
        versions = foreign_versions(content.writes.get(key, []))
        if seen is not None and seen.node is not None:
            versions |= {seen.node.gone_by()} - {0}
        if live is not None and live.node is not None:
            versions |= live.node.written()
        self.overwrite_all(versions)
        path = render((*content.node.path(), key))
        if live is not None and live.born is not None and live.born.kind is What.into:
            # What the author does not see there is another value, which this one does not continue.
            self.emit({"op": "remove", "path": path})
        self.emit({"op": "add", "path": path, "value": item["value"]})

    def _places(self, content: Content, key: str) -> tuple[Member | None, Member | None]:
        """Return where the author sees a member that was touched, and where it is at the head."""
        content.check_alive()
        seen, live = content.seen_member(key), content.live_member(key)
        if key not in resolve(self.edit.root, content.node.path()):
            live = None
        return seen, live

    def _write_node(self, node: Node, place: Place | None, item: Json) -> None:
        """Write to a node that is at the head, wherever it is."""
        versions = node.written()
        if versions and self.strategy == MERGE and self._merge(node, place, item, versions):
            return
        self.overwrite_all(versions)
        name = item["op"] if place is node.place else "replace"
        self.emit({"op": name, "path": render(node.path()), "value": item["value"]})

    def _merge(self, node: Node, place: Place | None, item: Json, versions: set[int]) -> bool:
        """Merge a value with what others wrote to the same node since; tell whether both kinds of value can be."""
        try:
            path, seen = node.path(), self.view.value(node)
        except Gone:
            # What the author saw is not known.
            return False
        is_shared = node.view is node.head
        merge = Merge(seen, resolve(self.edit.root, path), item["value"])
        if not merge.is_possible:
            return False
        self.merged |= versions
        for operation in merge.operations:
            self.emit({**operation, "path": render(path + operation["path"])})
        if place is not None and not (is_shared and merge.is_by_members):
            self.steps.cover(place)
        return True

    def replace(self, item: Json, tokens: tuple[str, ...]) -> None:
        """Write to a value where it is; put back what was removed."""
        if not tokens:
            self._write_root(item)
            return
        parent = find(self.model, tokens[:-1])
        content, key = parent.opened(), tokens[-1]
        if content is not None and content.members is not None and key in content.members:
            self._write_member(content, key, item)
            return
        found = find(self.model, tokens)
        if found.rest:
            self.emit({"op": "replace", "path": render(found.path()), "value": item["value"]})
        elif found.node.is_alive():
            self._write_node(found.node, found.place, item)
        else:
            self._revive(found.node, found.place, item)

    def _revive(self, node: Node, place: Place | None, item: Json) -> None:
        """Put an element that was removed back to where the author sees it."""
        assert isinstance(place, Piece)
        self.overwrite_all({node.gone_by()} - {0})
        sequence = place.block.sequence
        path = (*place.home.node.path(), str(position_after(sequence, place)))
        anchors = anchors_after(sequence, place)
        self.steps.hide(place)
        self.emit({"op": "add", "path": render(path), "value": item["value"]}, anchors)

    def remove(self, item: Json, tokens: tuple[str, ...]) -> None:
        """Remove a value where it is."""
        try:
            found = find(self.model, tokens)
        except Gone as gone:
            if gone.reason != "target_gone" or (gone.version and self.is_first):
                raise
            self.steps.follow(item)
            return
        place, node = found.place, found.node
        if found.rest:
            self.emit({"op": "remove", "path": render(found.path())})
        elif node.is_alive():
            self.overwrite_all(node.written())
            was = node.place
            self.emit({"op": "remove", "path": render(node.path())})
            if place is not None and place is not was:
                self.steps.hide(place)
        elif place is not None:
            if self.is_first:
                raise conflict({node.gone_by()})
            self.steps.hide(place)


_APPLY: Final = {
    "add": Resolver.add,
    "replace": Resolver.replace,
    "remove": Resolver.remove,
    "move": moves.move,
    "copy": moves.copy,
    "test": values.test,
    "inc": values.inc,
    "str_ins": values.insert_text,
    "str_del": values.delete_text,
    "push": values.push,
}

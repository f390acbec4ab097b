"""One stale event while it is resolved: what it has done at the head so far, and what came of conflicts.

Used by the operations of `refold.core.fold.resolve`.
"""

from __future__ import annotations

from typing import Final

from refold.core.document import Limits
from refold.core.errors import Refused
from refold.core.extensions import EXTENDED
from refold.core.fold.identity import Author, Content, Node, Place, Stamp
from refold.core.fold.model import ADOPT, AT, KEEP, Model
from refold.core.fold.optimistic import Optimistic
from refold.core.fold.sequence import Anchor, Sequence
from refold.core.fold.view import TARGET_GONE, Found, Gone, View
from refold.core.json_text import Json, copied
from refold.core.patch import compile_patch
from refold.core.pointer import as_container, index, render, resolve
from refold.core.undo_log import UndoLog

FIRST: Final = "first_write_wins"
LAST: Final = "last_write_wins"
MERGE: Final = "merge"


class Resolution:
    """One event's resolution: its operations as they change the head, and what came of conflicts.

    `overwrote` has the versions that the event overwrote, `merged` those that it was merged with, `dropped` what was
    left out, `effect` the effective patch, `steps` what a model cannot know from that (`refold.core.fold.model`).
    """

    def __init__(
        self, model: Model, edit: UndoLog, author: Author, version: int, *, strategy: str, limits: Limits
    ) -> None:
        """`version` is the one that the event makes."""
        self.overwrote: set[int] = set()
        self.merged: set[int] = set()
        self.dropped: list[Json] = []
        self.effect: list[Json] = []
        self.steps: list[Json] = []
        self.stamp = Stamp(author.sequence, version, author.session)
        self.optimistic_stamp = Stamp(author.sequence, version, author.session, TARGET_GONE)
        self.model = model
        self.edit = edit
        self.author = author
        self.strategy = strategy
        self.is_first = strategy == FIRST
        self.limits = limits
        self.view = View(model, author)
        self.optimistic = Optimistic(model, author, self.optimistic_stamp, self.steps, self.effect.__len__)

    def emit(
        self,
        operation: Json,
        anchors: list[Anchor] | None = None,
        *,
        keeps: bool = False,
        adopts: bool = False,
    ) -> None:
        """Apply one operation at the head, and add it to effect and model."""
        anchors = self.note(anchors, keeps=keeps, adopts=adopts)
        self.model.apply(operation, self.stamp, anchors, keeps=keeps, adopts=adopts)
        self.effect.append(operation)
        # The event's later operations change values in the state, not those of its own patch.
        self.change(copied(operation))

    def note(
        self, anchors: list[Anchor] | None, *, keeps: bool = False, adopts: bool = False
    ) -> list[Anchor]:
        """Note what a model cannot know from the next operation of the effect; return the anchors."""
        number = len(self.effect)
        if number >= self.limits.operations:
            raise Refused("too_many_operations", "the effective patch has too many operations", field="patch")
        if anchors:
            self.steps.append([number, AT, anchors])
        if keeps:
            self.steps.append([number, KEEP])
        if adopts:
            self.steps.append([number, ADOPT])
        return anchors or []

    def change(self, operation: Json) -> None:
        """Change the state only."""
        (compiled,) = compile_patch([operation], self.limits, EXTENDED)
        compiled.apply(self.edit, compiled)
        self.edit.check_size()

    def overwrite(self, versions: set[int]) -> None:
        """Note what others wrote to the same node since; the first write may win."""
        if versions and self.is_first:
            raise conflict(versions)
        self.overwrote |= versions

    def gap(self, content: Content, key: str) -> tuple[tuple[str, ...], list[Anchor]]:
        """Return where an array's gap is at the head, and what was removed just before it."""
        sequence, path = self.elements(content), content.node.path()
        if key == "-":
            return (*path, "-"), []
        left = sequence.seen_before(self.author, index(key, sequence.seen(self.author) + 1))
        return (*path, str(sequence.position_after(left))), sequence.anchors(left)

    def elements(self, content: Content) -> Sequence:
        """Return the elements of an array. Raises `Refused` where it is none."""
        if content.sequence is None or content.is_text:
            as_container(self.model.value_of(content))
        assert content.sequence is not None
        return content.sequence

    def alive(self, tokens: tuple[str, ...]) -> Found:
        """Find a value that is at the head. Raises `Gone`."""
        found = self.view.find(tokens)
        if found.rest:
            resolve(self.edit.root, found.path())
        elif found.node.is_optimistic:
            raise only_seen(found.node)
        elif not found.node.is_alive():
            raise Gone(TARGET_GONE, found.node.head.gone_by())
        return found

    def is_absent(self, tokens: tuple[str, ...]) -> bool:
        """Tell whether the author sees no such member in an object, and the head has none that it continues."""
        parent, key = self.view.find(tokens[:-1]), tokens[-1]
        content = self.view.opened(parent)
        if content is not None and content.has_touched(key):
            live = content.live_member(key)
            is_seen = content.seen_member(self.author, key) is not None
            return not is_seen and (live is None or not self.is_continued(live))
        value = resolve(self.edit.root, parent.path())
        return type(value) is dict and key not in value

    def create(self, tokens: tuple[str, ...], value: Json) -> None:
        """Add a member that `is_absent`."""
        parent, key = self.view.find(tokens[:-1]), tokens[-1]
        content = self.view.opened(parent)
        if content is not None and content.has_touched(key):
            self.put_member(content, key, value)
        else:
            self.emit({"op": "add", "path": render((*parent.path(), key)), "value": value})

    def put_member(self, content: Content, key: str, value: Json) -> None:
        """Add a member that was touched, where what the author sees there is not at the head."""
        author = self.author
        seen, live = content.seen_member(author, key), content.live_member(key)
        versions = author.others(content.keys.get(key, ()))
        if seen is not None and not seen.ensure_node().is_optimistic:
            versions |= self.gone_by(seen.ensure_node())
        if live is not None:
            versions |= live.ensure_node().written(author, live)
        self.overwrite(versions)
        path = render((*content.node.path(), key))
        is_adopted = live is not None and self.is_continued(live)
        if live is not None and not is_adopted:
            self.emit({"op": "remove", "path": path})
        self.emit({"op": "add", "path": path, "value": value}, adopts=is_adopted)
        self.hide_others(content, key)

    def hide_others(self, content: Content, key: str) -> None:
        """Remove from the author's view what was at a member before the author wrote or moved something there."""
        live = content.live_member(key)
        for place in content.members.get(key, ()) if content.members else ():
            if place is not live and self.author.sees(place):
                self.optimistic.hide_place(place)

    def is_continued(self, live: Place) -> bool:
        """Tell whether a value that the author writes to a member is another value of what others made there.

        What was moved there is another thing, and what the author removed ends.
        """
        return not self._is_foreign(live) and not any(map(self.author.knows, live.removed))

    def _is_foreign(self, live: Place) -> bool:
        """Tell whether others have moved what is at a place there since the base."""
        is_moved = bool(live.inserted) and live.inserted[0] in live.ensure_node().moves
        return is_moved and not self.author.knows(live.inserted[0])

    def is_moved_in(self, tokens: tuple[str, ...]) -> bool:
        """Tell whether others have moved what is at a member of the head there since the base."""
        content, _ = self.model.content_at(tokens[:-1])
        live = content.live_member(tokens[-1])
        return live is not None and self._is_foreign(live)

    def write_merged(self, path: tuple[str, ...], operation: Json) -> None:
        """Change a value at a path, or a member below it, as a merge does; what others moved there is removed."""
        tokens, is_member = path + operation["path"], bool(operation["path"])
        operation = {**operation, "path": render(tokens)}
        if operation["op"] == "replace" and is_member and self.is_moved_in(tokens):
            self.emit({"op": "remove", "path": operation["path"]})
            operation["op"] = "add"
        self.emit(operation)
        if operation["op"] == "add":
            self.hide_others(self.model.content_at(tokens[:-1])[0], tokens[-1])

    def gone_by(self, node: Node) -> set[int]:
        """Return the version of others that took a node from the head."""
        by = node.head.gone_by()
        return set() if by is None else self.author.others([by])


def conflict(versions: set[int]) -> Refused:
    """Say which version was written first."""
    return Refused("conflict", f"version {min(versions)} wrote it first", field="path")


def only_seen(node: Node) -> Gone:
    """Say why a value that only the author sees is not at the head."""
    stamp = node.contents[0].stamp
    assert stamp is not None
    return Gone(stamp.reason)

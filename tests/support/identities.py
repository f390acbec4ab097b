"""A naive oracle of fold 2: every value, element and character that ever existed is an object with an identity.

It implements `schemas/conflicts.md` directly and shares nothing with the product: no windows, effective patches or
runs of items. Nothing is ever deleted. The head and what an author sees are filters over everything that existed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

NOBODY = ""
"""The session of an author without a session."""

ABSENT = object()
"""The state of a deleted document."""


class Dropped(Exception):
    """An operation has no target at the head; the reason."""


class Rejected(Exception):
    """An event is rejected; the reason."""


class Stamp(NamedTuple):
    """The event that inserted, removed or wrote something.

    With a `reason` it is in the view of its session only, while the base is below the version; the reason is that of an
    operation that is dropped because it needs this.
    """

    version: int
    session: str
    reason: str = ""


class Item:
    """A place in an object, an array or a text, with the node or the character that is or was there.

    `adopted`: writes to a member by authors who had not seen that others created it.
    """

    def __init__(
        self, node: Any, inserted: Stamp, home: Value, key: str | None, *, is_moved: bool = False
    ) -> None:
        self.node = node
        self.inserted = inserted
        self.adopted: list[Stamp] = []
        self.removed: list[Stamp] = []
        self.home = home
        self.key = key
        if isinstance(node, Node):
            node.places.append(self)
        self.is_moved = is_moved


class Node:
    """A value with an identity, which it keeps where it is moved or written. `item` is where it is at the head."""

    def __init__(self, *, is_part: bool = False) -> None:
        """`is_part`: it came as a part of another value."""
        self.item: Item | None = None
        self.is_part = is_part
        self.values: list[Value] = []
        self.moves: list[Stamp] = []
        self.places: list[Item] = []

    def alive(self) -> bool:
        """Tell whether it is at the head."""
        item = self.item
        while item is not None:
            if not HEAD.sees(item) or item.home is not HEAD.value(item.home.node):
                return False
            item = item.home.node.item
        return True

    def around(self) -> Iterator[Node]:
        """Yield it and all that contain it at the head."""
        node: Node | None = self
        while node is not None:
            yield node
            node = node.item.home.node if node.item else None


class Value:
    """What a node holds from one write to the next.

    `stamps`: the write, and pushes of authors who have not seen it. `writes`: all writes inside of it. `amounts`: what
    was added to a number.
    """

    def __init__(self, node: Node, stamp: Stamp, raw: Any) -> None:
        self.node = node
        self.stamps = [stamp]
        self.writes: list[Stamp] = []
        self.members: dict[str, list[Item]] = {}
        self.member_writes: dict[str, list[Stamp]] = {}
        self.items: list[Item] = []
        self.amounts: list[tuple[Stamp, int]] = []
        self.kind = type(raw)
        if self.kind is dict:
            self.members = {
                key: [new_item(each, stamp, self, key, is_part=True)] for key, each in raw.items()
            }
        elif self.kind is list:
            self.items = [new_item(each, stamp, self, None, is_part=True) for each in raw]
        elif self.kind is str:
            self.items = [Item(char, stamp, self, None) for char in raw]
        else:
            self.amounts = [(stamp, raw)]


def new_item(raw: Any, stamp: Stamp, home: Value, key: str | None, *, is_part: bool = False) -> Item:
    """Create an item with a new node."""
    node = Node(is_part=is_part)
    node.item = Item(node, stamp, home, key)
    node.values.append(Value(node, stamp, raw))
    return node.item


class View:
    """What an author sees of everything that existed."""

    def __init__(self, base: int, session: str) -> None:
        self.base = base
        self.session = session

    def knows(self, stamp: Stamp) -> bool:
        """Tell whether an event has happened for the author."""
        version, session, reason = stamp
        if session == self.session:
            return not reason or self.base < version
        return not reason and version <= self.base

    def sees(self, item: Item) -> bool:
        """Tell whether the author sees an item, in a value that it sees."""
        if not self.knows(item.inserted) and not any(map(self.knows, item.adopted)):
            return False
        for stamp in item.removed:  # noqa: SIM110 - half as fast with any()
            if self.knows(stamp):
                return False
        return True

    def value(self, node: Node) -> Value:
        """Return what a node holds."""
        for value in reversed(node.values):
            for stamp in value.stamps:
                if self.knows(stamp):
                    return value
        # What a rejected event made may have been moved by one that is rejected later.
        return node.values[0]

    def items(self, value: Value) -> list[Item]:
        """Return the items of an array or a text."""
        return [item for item in value.items if self.sees(item)]

    def member(self, value: Value, key: str) -> Item | None:
        """Return the member of an object with a key."""
        return next(filter(self.sees, reversed(value.members.get(key, ()))), None)

    def read(self, node: Node, *, is_copy: bool = False) -> Any:
        """Return a node as JSON. For a copy, raise `Dropped` where the author alone sees a part."""
        value = self.value(node)
        if is_copy:
            solid(value.stamps[0])
        if value.kind is dict:
            items = {key: item for key in sorted(value.members) if (item := self.member(value, key))}
            return {key: self._part(item, is_copy=is_copy) for key, item in items.items()}
        if value.kind is list:
            return [self._part(item, is_copy=is_copy) for item in self.items(value)]
        if value.kind is str:
            return "".join([self._part(item, is_copy=is_copy) for item in self.items(value)])
        (_, first), *amounts = value.amounts
        for stamp, by in amounts:
            if self.knows(stamp):
                first += by
                if is_copy:
                    solid(stamp)
        return first

    def _part(self, item: Item, *, is_copy: bool) -> Any:
        if is_copy:
            solid(item.inserted)
        return item.node if type(item.node) is str else self.read(item.node, is_copy=is_copy)


def solid(stamp: Stamp) -> None:
    """Raise `Dropped` for what only its author sees."""
    if stamp.reason:
        raise Dropped(stamp.reason)


class Head(View):
    """What is at the head."""

    def knows(self, stamp: Stamp) -> bool:
        """Tell whether an event has happened."""
        return not stamp.reason


HEAD = Head(0, NOBODY)


class Effective(View):
    """What an author sees, without what the author alone sees."""

    def knows(self, stamp: Stamp) -> bool:
        """Tell whether an event has happened for the author, and at the head."""
        return not stamp.reason and super().knows(stamp)


class Oracle:
    """One document with everything that ever was in it. Changes can be undone, the last one first."""

    def __init__(self, state: Any) -> None:
        self.version = 1
        self.log = [Stamp(1, NOBODY)]
        self.is_absent = False
        self.root = Node()
        self.root.values.append(Value(self.root, self.log[0], state))
        self._changes: list[Callable[[], Any]] = []
        self._events = 0

    def append(self, things: list[Any], thing: Any) -> None:
        """Append to a list of the model."""
        things.append(thing)
        self._changes.append(things.pop)

    def insert(self, things: list[Any], place: int, thing: Any) -> None:
        """Insert into a list of the model."""
        things.insert(place, thing)
        self._changes.append(lambda: things.pop(place))

    def set(self, thing: Any, name: str, value: Any) -> None:
        """Set an attribute of an object of the model."""
        old = getattr(thing, name)
        setattr(thing, name, value)
        self._changes.append(lambda: setattr(thing, name, old))

    def mark(self) -> int:
        """Return where to undo to."""
        return len(self._changes)

    def undo(self, mark: int) -> None:
        """Undo everything since a mark."""
        while len(self._changes) > mark:
            self._changes.pop()()

    def head(self) -> Any:
        """Return the state at the head."""
        return ABSENT if self.is_absent else HEAD.read(self.root)

    def view(self, base: int, session: str) -> Any:
        """Return what an author sees."""
        return View(base, session).read(self.root)

    def apply(self, event: dict[str, Any]) -> dict[str, Any]:
        """Fold an event; return what its outcome must say."""
        self._events += 1
        base = event.get("base", self.version)
        session = event.get("session", f"#{self._events}")
        mark = self.mark()
        edit = Edit(self, base, session, event.get("on_conflict", "last_write_wins"), self.version + 1)
        operations = list(operations_of(event, edit))
        try:
            dropped = self._apply(edit, event, operations)
        except Rejected as rejected:
            self.undo(mark)
            # An author who sees that the document is absent sees no more by another delete.
            is_known = self.is_absent and "delete" in event and edit.value(self.root) is HEAD.value(self.root)
            if base < self.version and not is_known:
                ghost = Edit(self, base, session, "", self.version)
                for item in operations:
                    ghost.follow(item, "depends_on_rejected")
            return {"reason": str(rejected)}
        self.set(self, "version", self.version + 1)
        self.append(self.log, edit.stamp)
        lists = {"overwrote": sorted(edit.overwrote), "merged": sorted(edit.merged), "dropped": dropped}
        return {"reason": ""} | {name: each for name, each in lists.items() if each}

    def _apply(self, edit: Edit, event: dict[str, Any], operations: list[dict[str, Any]]) -> list[Any]:
        dropped = []
        is_whole = event.get("all_or_nothing") or any(item["op"] == "test" for item in operations)
        is_custom = edit.strategy.startswith("custom:")
        if (edit.strategy == "reject" or is_custom) and edit.others(self.log):
            raise Rejected("needs_resolution" if is_custom else "conflict")
        if self.is_absent and "delete" in event:
            raise Rejected("document_absent")
        for number, item in enumerate(operations):
            before = self.mark()
            try:
                edit.apply(item)
            except Dropped as gone:
                if is_whole:
                    raise Rejected(str(gone)) from None
                self.undo(before)
                dropped.append({"operation": number, "reason": str(gone)})
                edit.follow(item, "target_gone")
        if self.is_absent and edit.others(self.log) and not edit.is_effective:
            raise Rejected("target_gone")
        self.set(self, "is_absent", "delete" in event)
        return dropped


class Edit(View):
    """One event, applied in its author's view. A `stamp` with a reason changes the view only."""

    def __init__(self, oracle: Oracle, base: int, session: str, strategy: str, version: int) -> None:
        super().__init__(base, session)
        self.oracle = oracle
        self.strategy = strategy
        self.stamp = Stamp(version, session)
        self.is_effective = False
        self.overwrote: set[int] = set()
        self.merged: set[int] = set()

    def apply(self, item: dict[str, Any]) -> None:
        """Apply one operation."""
        getattr(self, "_" + item["op"])(item, tokens_of(item["path"]))

    def follow(self, item: dict[str, Any], reason: str) -> None:
        """Apply an operation that was dropped or rejected, in the author's view only."""
        was = self.stamp
        self.stamp = was._replace(reason=reason)
        with suppress(Rejected):
            self.apply(item)
        self.stamp = was

    @property
    def is_ghost(self) -> bool:
        """Tell whether only the view is changed."""
        return bool(self.stamp.reason)

    # What pointers mean

    def find(self, tokens: list[str]) -> Item:
        """Return the item that a pointer means, which is not the root's."""
        value = self.open(tokens[:-1])
        if value.kind is not dict and value.kind is not list:
            # A merge may write to a node that others moved, and that the author sees elsewhere.
            raise Rejected("target_missing")
        if value.kind is dict:
            item = self.member(value, tokens[-1])
        else:
            item = next(iter(self.items(value)[int(tokens[-1]) :]), None)
        if item is None:
            # It named a base at which it had events in flight, of which an operation was dropped then.
            raise Rejected("target_missing")
        return item

    def open(self, tokens: list[str]) -> Value:
        """Return what a container holds, as the author sees it; it and all around it must be at the head."""
        node = self.find(tokens).node if tokens else self.oracle.root
        value = self.value(node)
        if not self.is_ghost:
            solid(value.stamps[0])
            if value is not HEAD.value(node) or not node.alive():
                self.lose()
        return value

    def lose(self) -> None:
        """Drop the operation because its target is gone; where the first write wins, reject the event."""
        if self.strategy == "first_write_wins":
            raise Rejected("conflict")
        raise Dropped("target_gone")

    def gap(self, value: Value, token: str) -> int:
        """Return where an insertion into an array goes among all that was ever there: after its left neighbour."""
        if token == "-":
            return len(value.items)
        seen = self.items(value)
        if int(token) > len(seen):
            # As in `find`. In a text, beyond the end is the end.
            if value.kind is list:
                raise Rejected("target_missing")
            token = str(len(seen))
        return value.items.index(seen[int(token) - 1]) + 1 if int(token) else 0

    # What others wrote since the base

    def others(self, stamps: list[Stamp]) -> set[int]:
        """Return the versions of others' events after the base."""
        return {
            it.version
            for it in stamps
            if it.version > self.base and it.session != self.session and not it.reason
        }

    def written(self, node: Node, seen: Item | None) -> set[int]:
        """Return the versions in which others wrote to a node, inside of it, or to the member that the author sees."""
        stamps = [value.stamps[0] for value in node.values[node.is_part :]] + HEAD.value(node).writes
        if seen is not None and seen is node.item and seen.key is not None:
            stamps += seen.home.member_writes.get(seen.key, [])
        return self.others(stamps)

    def gone_by(self, node: Node) -> set[int]:
        """Return the version in which others removed a node, or something around it, from the head."""
        for each in node.around():
            item = each.item
            if item is None or item.inserted.reason:
                break
            removed = [stamp for stamp in item.removed if HEAD.knows(stamp)]
            if not removed and item.home is not HEAD.value(item.home.node):
                values = item.home.node.values
                later = [value.stamps[0] for value in values[values.index(item.home) + 1 :]]
                removed = [stamp for stamp in later if HEAD.knows(stamp)]
            if removed:
                return self.others(removed[:1])
        return set()

    def check(self, versions: set[int]) -> None:
        """Note what is overwritten; where the first write wins, reject the event."""
        if versions and self.strategy == "first_write_wins":
            raise Rejected("conflict")
        self.overwrote |= versions

    # Changes

    def hide(self, item: Item) -> None:
        """Remove a node from the author's view, wherever others moved it meanwhile."""
        for each in item.node.places if isinstance(item.node, Node) else [item]:
            self.hide_place(each)

    def hide_place(self, item: Item) -> None:
        """Remove an item from the author's view."""
        self.oracle.append(item.removed, self.stamp._replace(reason=self.stamp.reason or "target_gone"))

    def remove(self, item: Item) -> None:
        """Remove an item."""
        self.oracle.append(item.removed, self.stamp)
        self._touch(item.home, item.key)

    def _touch(self, value: Value | None, key: str | None = None) -> None:
        """Note a write to a member, in its container and in all around it."""
        if self.is_ghost:
            return
        self.is_effective = True
        if value is not None and key is not None:
            self.oracle.append(value.member_writes.setdefault(key, []), self.stamp)
        while value is not None:
            self.oracle.append(value.writes, self.stamp)
            value = value.node.item.home if value.node.item else None

    def write(self, node: Node, raw: Any) -> None:
        """Give a node another value."""
        self.oracle.append(node.values, Value(node, self.stamp, raw))
        self._touch(node.item.home if node.item else None, node.item.key if node.item else None)

    def put(self, value: Value, key: str, new: Item) -> None:
        """Put an item into an object."""
        for item in value.members.setdefault(key, []):
            if HEAD.sees(item) and not self.is_ghost:
                self.remove(item)
            elif self.sees(item):
                # It may be elsewhere too in the view at a later base, where others moved it.
                self.hide_place(item)
        self.oracle.append(value.members[key], new)
        self._touch(value, key)

    def insert(self, value: Value, place: int, new: Item) -> None:
        """Insert an item into an array or a text."""
        self.oracle.insert(value.items, place, new)
        self._touch(value)

    def place(self, node: Node, item: Item) -> None:
        """Note where a node is at the head."""
        if not self.is_ghost:
            self.oracle.set(node, "item", item)

    # Operations on members and elements

    def _add(self, item: dict[str, Any], tokens: list[str]) -> None:
        raw = item["value"]
        if not tokens:
            self._overwrite(self.oracle.root, None, raw)
            return
        value, key = self.open(tokens[:-1]), tokens[-1]
        if value.kind is list:
            self.insert(value, self.gap(value, key), new_item(raw, self.stamp, value, None))
        else:
            self._add_member(value, key, raw)

    def _overwrite(self, node: Node, seen: Item | None, raw: Any) -> None:
        """Write to a node that is at the head."""
        if not self.is_ghost:
            versions = self.written(node, seen)
            if versions and self.strategy == "merge" and self._merge(node, raw):
                self.merged |= versions
                return
            self.check(versions)
        self.write(node, raw)

    def _add_member(self, value: Value, key: str, raw: Any) -> None:
        seen = self.member(value, key)
        if seen is not None and (self.is_ghost or seen.node.alive()):
            self._overwrite(seen.node, seen, raw)
            return
        live = None if self.is_ghost else HEAD.member(value, key)
        if not self.is_ghost:
            versions = self.others(value.member_writes.get(key, []))
            versions |= self.gone_by(seen.node) if seen else set()
            versions |= self.written(live.node, live) if live else set()
            self.check(versions)
        if live is None or self._is_other(live):
            self.put(value, key, new_item(raw, self.stamp, value, key))
            return
        # Others created the same member.
        self._adopt(value, live)
        self.write(live.node, raw)

    def _is_foreign(self, live: Item) -> bool:
        """Tell whether others have moved what is at a member there since the base."""
        return live.is_moved and not self.knows(live.inserted)

    def _is_other(self, live: Item) -> bool:
        """Tell whether what the author writes to a member is another thing than what is there at the head."""
        return self._is_foreign(live) or any(map(self.knows, live.removed))

    def _adopt(self, value: Value, item: Item) -> None:
        """Let the author see a member that others created."""
        for each in value.members[item.key or ""]:
            if self.sees(each):
                self.hide_place(each)
        self.oracle.append(item.adopted, self.stamp)

    def _replace(self, item: dict[str, Any], tokens: list[str]) -> None:
        if not tokens:
            self._overwrite(self.oracle.root, None, item["value"])
            return
        value, seen = self.open(tokens[:-1]), self.find(tokens)
        is_free = value.kind is dict and HEAD.member(value, tokens[-1])
        if not self.is_ghost and not seen.node.alive() and not is_free:
            solid(seen.node.values[0].stamps[0])
        if value.kind is dict:
            self._add_member(value, tokens[-1], item["value"])
        elif seen.node.alive() or (self.is_ghost and not self._is_gone(seen)):
            self._overwrite(seen.node, seen, item["value"])
        else:
            # The element is put back to where the author sees it.
            if not self.is_ghost:
                self.check(self.gone_by(seen.node))
            self.hide(seen)
            self.insert(value, value.items.index(seen) + 1, new_item(item["value"], self.stamp, value, None))

    def _is_gone(self, seen: Item) -> bool:
        """Tell whether others removed an element itself, not only what contains it."""
        places = [seen, seen.node.item or seen]
        return not seen.node.values[0].stamps[0].reason and not any(map(HEAD.sees, places))

    def _merge(self, node: Node, raw: Any) -> bool:
        """Merge the incoming value with the head's, where both and what the author sees are objects, or strings."""
        seen, head = Effective(self.base, self.session).read(node), HEAD.read(node)
        if {type(seen), type(head), type(raw)} not in ({dict}, {str}):
            return False
        self._become(node, merge3(seen, head, raw))
        if not self._shows(node, raw):
            self.oracle.append(node.values, Value(node, self.stamp._replace(reason="target_gone"), raw))
        return True

    def _shows(self, node: Node, raw: Any) -> bool:
        """Tell whether the author sees a node hold a value, with no part that it alone sees."""
        try:
            return bool(self.read(node, is_copy=True) == raw)
        except Dropped:
            return False

    def _become(self, node: Node, target: Any) -> None:
        """Change a node at the head to another value, member by member."""
        value = HEAD.value(node)
        if value.kind is not dict or type(target) is not dict:
            if HEAD.read(node) != target:
                self.write(node, target)
            return
        for key in sorted({*value.members, *target}):
            live = HEAD.member(value, key)
            if live is None and key in target:
                self.put(value, key, new_item(target[key], self.stamp, value, key))
            elif live is not None and key in target and self._is_foreign(live):
                # What others moved there is another value.
                if HEAD.read(live.node) != target[key]:
                    self.put(value, key, new_item(target[key], self.stamp, value, key))
            elif live is not None and key in target:
                self._become(live.node, target[key])
            elif live is not None:
                self.remove(live)

    def _remove(self, item: dict[str, Any], tokens: list[str]) -> None:
        if self.is_ghost:
            # A merge patch may remove what is not there, from what is no object.
            if "value" in item:
                self._object(tokens[:-1])
            self.hide(self.find(tokens))
            return
        try:
            seen = self.find(tokens)
        except Dropped as gone:
            if str(gone) != "target_gone":
                raise
            # What contains it is gone, and it with that.
            self.follow(item, "target_gone")
            return
        node = seen.node
        if node.alive():
            self.check(self.written(node, seen))
            self.hide(seen)
            self.remove(node.item)
        else:
            reason = node.values[0].stamps[0].reason
            if reason == "depends_on_rejected":
                raise Dropped(reason)
            if self.strategy == "first_write_wins" and not reason:
                raise Rejected("conflict")
            self.hide(seen)

    def _move(self, item: dict[str, Any], tokens: list[str]) -> None:
        source = tokens_of(item["from"])
        seen = self.find(source)
        node, old = seen.node, seen.node.item
        if source == tokens and self.others(self.oracle.log):
            # Resolved, it is none; an event that is applied as it is keeps it.
            return
        if not self.is_ghost:
            self._need(node)
            self.check(self.others(node.moves))
        elif self._is_optimistic(source[:-1]):
            # What is inside of a value that only the author sees has no identity.
            raw = self.read(node)
            self.hide(seen)
            self._add({"value": raw}, tokens)
            return
        self.hide(seen)
        value, key = self.open(tokens[:-1]), tokens[-1]
        new = Item(node, self.stamp, value, None if value.kind is list else key, is_moved=True)
        if not self.is_ghost:
            if any(each is node for each in value.node.around()):
                raise Rejected("cycle")
            if value.kind is dict:
                live = HEAD.member(value, key)
                is_other = live is not None and live is not old
                versions = self.written(live.node, live) if is_other else set()
                self.check(versions | self.others(value.member_writes.get(key, [])))
        place = self.gap(value, key) if value.kind is list else 0
        if not self.is_ghost:
            self.remove(old)
            self.oracle.append(node.moves, self.stamp)
        if value.kind is list:
            self.insert(value, place, new)
        else:
            self.put(value, key, new)
        self.place(node, new)

    def _is_optimistic(self, tokens: list[str]) -> bool:
        """Tell whether only the author sees a container, or one around it."""
        around = [tokens[:depth] for depth in range(len(tokens) + 1)]
        return any(self.open(each).stamps[0].reason for each in around)

    def _need(self, node: Node) -> None:
        """Drop the operation where its node is not at the head."""
        if not node.alive():
            solid(node.values[0].stamps[0])
            self.lose()

    def _copy(self, item: dict[str, Any], tokens: list[str]) -> None:
        value = self.read(self.find(tokens_of(item["from"])).node, is_copy=not self.is_ghost)
        self._add({"value": value}, tokens)

    def _merge_below(self, item: dict[str, Any], tokens: list[str]) -> None:
        """Apply a member of a merge patch to what only the author sees."""
        value, key = self._object(tokens[:-1]), tokens[-1]
        seen = self.member(value, key)
        old = self.read(seen.node) if seen else None
        self._add_member(value, key, merge_patch(old, item["value"]))

    def _object(self, tokens: list[str]) -> Value:
        """Return a container; what is none becomes an object."""
        value = self.open(tokens)
        if value.kind is not dict:
            self.oracle.append(value.node.values, Value(value.node, value.stamps[0], {}))
        return self.value(value.node)

    # Operations in a value

    def _push(self, item: dict[str, Any], tokens: list[str]) -> None:
        value, key = self.open(tokens[:-1]), tokens[-1]
        seen = self.member(value, key) if value.kind is dict else self.find(tokens)
        if seen is None:
            live = None if self.is_ghost else HEAD.member(value, key)
            if live is None or self._is_other(live):
                self._add_member(value, key, [item["value"]])
                return
            array = HEAD.value(live.node)
            self._adopt(value, live)
            self.oracle.append(array.stamps, self.stamp)
        else:
            if not self.is_ghost:
                self._need(seen.node)
            array = self.open(tokens)
        if array.kind is not list:
            raise Rejected("not_an_array")
        self.insert(array, len(array.items), new_item(item["value"], self.stamp, array, None))
        leaving = self.items(array)[: -item["max"]]
        for each in [] if self.is_ghost else HEAD.items(array)[: -item["max"]]:
            is_kept = self.sees(each) and each not in leaving
            self.oracle.append(each.removed, Stamp(self.stamp.version, "#") if is_kept else self.stamp)
        for each in leaving:
            self.hide_place(each)

    def _test(self, item: dict[str, Any], tokens: list[str]) -> None:
        if self.is_ghost:
            return
        try:
            node = self.find(tokens).node
        except (Dropped, Rejected):
            raise Rejected("test_failed") from None
        if not node.alive() or HEAD.read(node) != item["value"]:
            raise Rejected("test_failed")

    def _inc(self, item: dict[str, Any], tokens: list[str]) -> None:
        node = self.find(tokens).node
        values = [self.value(node)]
        if not self.is_ghost:
            self._need(node)
            if HEAD.value(node).kind is not int:
                raise Rejected("not_a_number")
            self._touch(HEAD.value(node))
            # The author may see any of them, by its base.
            values = [each for each in node.values if self._may_see(each.stamps[0])]
        for value in values:
            self.oracle.append(value.amounts, (self.stamp, item["inc"]))

    def _may_see(self, stamp: Stamp) -> bool:
        return not stamp.reason or stamp.session == self.session

    def _text(self, tokens: list[str]) -> Value:
        if not self.is_ghost:
            self._need(self.find(tokens).node)
        value = self.open(tokens)
        if value.kind is not str:
            raise Rejected("not_a_string")
        return value

    def _str_ins(self, item: dict[str, Any], tokens: list[str]) -> None:
        home = self.open(tokens[:-1])
        if home.kind is dict and self.member(home, tokens[-1]) is None:
            live = None if self.is_ghost else HEAD.member(home, tokens[-1])
            if live is not None and not self._is_other(live):
                self.lose()
            self._add_member(home, tokens[-1], item["str"])
            return
        value = self._text(tokens)
        place = self.gap(value, str(item["pos"]))
        for char in reversed(item["str"]):
            self.insert(value, place, Item(char, self.stamp, value, None))

    def _str_del(self, item: dict[str, Any], tokens: list[str]) -> None:
        value = self._text(tokens)
        count = len(item["str"]) if "str" in item else item["len"]
        for char in self.items(value)[item["pos"] :][:count]:
            if self.strategy == "first_write_wins" and not self.is_ghost and self.others(char.removed):
                raise Rejected("conflict")
            if HEAD.sees(char):
                self.remove(char)
            else:
                self.hide(char)


NOTHING = object()
"""No member in a three-way merge."""


def merge3(seen: Any, head: Any, incoming: Any) -> Any:
    """Merge what an author made of `seen` with what others made of it."""
    if incoming in (seen, head):
        return head
    if seen == head or head is NOTHING:
        return incoming
    if incoming is NOTHING:
        return head
    if type(head) is dict and type(incoming) is dict:
        old = seen if type(seen) is dict else {}
        keys = {*old, *head, *incoming}
        found = {key: merge3(*(each.get(key, NOTHING) for each in (old, head, incoming))) for key in keys}
        return {key: each for key, each in found.items() if each is not NOTHING}
    if {type(seen), type(head), type(incoming)} == {str}:
        return merge_texts(seen, head, incoming)
    return incoming


def merge_texts(seen: str, head: str, incoming: str) -> str:
    """Apply both edits of a text; at one position the incoming insertion comes first."""
    edits = [edit_of(seen, incoming), edit_of(seen, head)]
    found = ""
    for position in range(len(seen) + 1):
        found += "".join(text for begin, _, text in edits if begin == position)
        if not any(begin <= position < end for begin, end, _ in edits):
            found += seen[position : position + 1]
    return found


def edit_of(old: str, new: str) -> tuple[int, int, str]:
    """Return the range of a text that an edit replaced, between the common beginning and the common end."""
    begin = next(i for i in range(len(old) + 1) if old[: i + 1] != new[: i + 1] or i == len(old))
    most = min(len(old), len(new)) - begin
    tail = next(i for i in range(most + 1) if i == most or old[-1 - i] != new[-1 - i])
    return begin, len(old) - tail, new[begin : len(new) - tail]


def operations_of(event: dict[str, Any], edit: Edit) -> Iterator[dict[str, Any]]:
    """Yield what an event asks for as the operations of a patch."""
    if "patch" in event:
        yield from event["patch"]
    elif "put" in event:
        yield {"op": "replace", "path": "", "value": event["put"]}
    elif "delete" in event:
        if edit.strategy == "merge":
            edit.strategy = "last_write_wins"
        yield {"op": "replace", "path": "", "value": {}}
    else:
        yield from merge_operations(edit, "", event["merge"])


def merge_operations(edit: Edit, path: str, change: Any) -> Iterator[dict[str, Any]]:
    """Yield the operations of a merge patch by what its author sees; what only the author sees counts as objects."""
    node = edit.oracle.root
    value = edit.value(node)
    for token in tokens_of(path):
        if value.stamps[0].reason:
            name = "remove" if change is None else "merge_below"
            yield {"op": name, "path": path, "value": change}
            return
        item = edit.member(value, token)
        if item is None:
            if change is not None:
                yield {"op": "add", "path": path, "value": merge_patch(None, change)}
            return
        node = item.node
        value = edit.value(node)
    if change is None and path:
        yield {"op": "remove", "path": path}
    elif type(change) is dict and (value.kind is dict or value.stamps[0].reason):
        for key in sorted(change):
            yield from merge_operations(edit, f"{path}/{escaped(key)}", change[key])
    elif edit.others(edit.oracle.log) or edit.read(node) != change:
        # Where there is nothing to resolve, a member that stays as it is makes no operation.
        yield {"op": "add", "path": path, "value": merge_patch(None, change)}


def merge_patch(old: Any, change: Any) -> Any:
    """Apply a merge patch as RFC 7396 defines it."""
    if type(change) is not dict:
        return change
    found = dict(old) if type(old) is dict else {}
    for key, each in change.items():
        if each is None:
            found.pop(key, None)
        else:
            found[key] = merge_patch(found.get(key), each)
    return found


def tokens_of(pointer: str) -> list[str]:
    """Split a pointer."""
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def escaped(key: str | int) -> str:
    """Write a key or an index as a token of a pointer."""
    return str(key).replace("~", "~0").replace("/", "~1")

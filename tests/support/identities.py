"""A naive oracle of fold 2: every value, element and character that ever existed is an object with an identity.

It implements `schemas/conflicts.md` directly and shares nothing with the product: no windows, effective patches or
runs of items. Nothing is ever deleted. What an author sees is a filter over everything that existed (`visible`). Each
session has its own order of an array's items, in which its own insertion directly follows its left neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

NOBODY = ""
"""The session of an event without a session."""

ABSENT = object()
"""The state of a deleted document."""

Write = tuple[int, str]
"""The version and the session of an effective event."""


class Dropped(Exception):
    """An operation has no target at the head. `node` is the target that the author sees."""

    node: Node | None = None


class Rejected(Exception):
    """An event is rejected."""


class Invalid(Exception):
    """A pointer has no target in the author's view."""


class Char:
    """One character."""

    def __init__(self, text: str) -> None:
        self.text = text


class Item:
    """A member, an element or a character, with the node that is or was there.

    `hidden`: sessions that removed it from their views, each below a version. `ghost`: the session that alone sees it,
    below a version, and the reason to drop an operation on it. `kept_by`: removals that their own session does not see.
    """

    def __init__(self, node: Node, born: Write, home: Value, key: str | None) -> None:
        self.node = node
        self.born = born
        self.home = home
        self.key = key
        self.died: Write | None = None
        self.hidden: list[tuple[str, int]] = []
        self.ghost: tuple[str, int, str] | None = None
        self.seen_by: list[str] = []
        self.kept_by: list[Write] = []
        self.is_moved = False

    def visible(self, base: int, session: str) -> bool:
        """Tell whether an author sees it."""
        for who, until in self.hidden:
            if who == session and base < until:
                return False
        if self.ghost:
            return self.ghost[0] == session and base < self.ghost[1]
        if self.born[0] > base and self.born[1] != session and session not in self.seen_by:
            return False
        if self.died is None:
            return True
        return self.died[0] > base and (self.died[1] != session or self.died in self.kept_by)

    @property
    def live(self) -> bool:
        """Tell whether it is at the head, if its container is."""
        return self.died is None and self.ghost is None


class Node:
    """A value with an identity: it survives moves and writes. `item` is where it is."""

    def __init__(self, item: Item | None = None) -> None:
        self.item = item
        self.values: list[Value] = []
        self.moves: list[Write] = []
        self.blurs: list[tuple[str, int, str]] = []
        self.pushed: list[str] = []

    def head(self) -> Value:
        """Return its value at the head."""
        return next(value for value in reversed(self.values) if not value.ghost)

    def view(self, base: int, session: str) -> Value:
        """Return its value as an author sees it."""
        for value in reversed(self.values):
            if value.ghost:
                if value.ghost[0] == session and base < value.ghost[1]:
                    return value
            elif value.born[0] <= base or value.born[1] == session:
                return value
        return self.values[0]

    def alive(self) -> bool:
        """Tell whether it is at the head."""
        node = self
        while (item := node.item) is not None:
            if not item.live or item.home is not item.home.node.head():
                return False
            node = item.home.node
        return True


class Value:
    """What a node holds from one write to the next.

    `ghost` is as in `Item`; where `is_merged`, the author wrote it and the head has the result of a merge.
    """

    is_merged = False

    def __init__(self, node: Node, born: Write, raw: Any, sessions: list[str]) -> None:
        self.node = node
        self.born = born
        self.ghost: tuple[str, int, str] | None = None
        self.writes: list[Write] = []
        self.members: dict[str, list[Item]] = {}
        self.member_writes: dict[str, list[Write]] = {}
        self.orders: dict[str, list[Item]] = {}
        self.scalar: Any = None
        self.amounts: list[tuple[Write, int]] = []
        self.kind = {dict: "object", list: "array", str: "text"}.get(type(raw), "scalar")
        if self.kind == "object":
            self.members = {key: [new_item(each, born, self, key, sessions)] for key, each in raw.items()}
        elif self.kind == "scalar":
            self.scalar = raw
        else:
            each = list(raw) if self.kind == "array" else map(Char, raw)
            items = [new_item(one, born, self, None, sessions) for one in each]
            self.orders = {session: list(items) for session in sessions}


def new_item(raw: Any, born: Write, home: Value, key: str | None, sessions: list[str]) -> Item:
    """Create an item with a new node."""
    node = Node()
    node.item = Item(node, born, home, key)
    node.values.append(Value(node, born, raw, sessions))
    return node.item


class Oracle:
    """One document with everything that ever was in it. Changes can be undone, the last one first."""

    def __init__(self, state: Any, sessions: list[str]) -> None:
        self.sessions = [*sessions, NOBODY]
        self.version = 1
        self.log = [(1, NOBODY)]
        self.is_absent = False
        self.root = Node()
        self.root.values.append(Value(self.root, (1, NOBODY), state, self.sessions))
        self._changes: list[Callable[[], Any]] = []

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
        return ABSENT if self.is_absent else self.read(self.root)

    def view(self, base: int, session: str) -> Any:
        """Return what an author sees."""
        return self.read(self.root, base, session)

    def read(self, node: Node, base: int | None = None, session: str = NOBODY) -> Any:
        """Return a node's value as JSON: at the head, or with a base as an author sees it."""
        value = node.head() if base is None else node.view(base, session)
        if value.kind == "object":
            found = {}
            for key, items in value.members.items():
                seen = [it for it in items if (it.live if base is None else it.visible(base, session))]
                if seen:
                    found[key] = self.read(seen[-1].node, base, session)
            return found
        if value.kind == "scalar":
            return amount(value, base, session)
        order = value.orders.get(session, value.orders[NOBODY])
        shown = [it.node for it in order if (it.live if base is None else it.visible(base, session))]
        if value.kind == "text":
            return "".join([node.values[0].scalar.text for node in shown])
        return [self.read(node, base, session) for node in shown]

    def foreign(self, writes: list[Write], base: int, session: str) -> set[int]:
        """Return the versions of others' writes after the base."""
        return {version for version, who in writes if version > base and who != session}

    def apply(self, event: dict[str, Any]) -> dict[str, Any]:
        """Fold an event; return what its outcome must say."""
        base = event.get("base", self.version)
        session = event.get("session") or f"{NOBODY}{len(self._changes)}"
        mark = self.mark()
        edit = Edit(self, base, session, event.get("on_conflict", "last_write_wins"), self.version + 1)
        operations = list(operations_of(event, edit))
        try:
            dropped = self._apply(edit, event, operations)
        except Rejected as rejected:
            self.undo(mark)
            if "session" in event and base < self.version:
                ghost = Edit(self, base, session, "", self.version, reason="depends_on_rejected")
                for item in operations:
                    ghost.follow(item)
            return {"reason": str(rejected)}
        self.set(self, "version", self.version + 1)
        self.append(self.log, edit.mine)
        lists = {"overwrote": sorted(edit.overwrote), "merged": sorted(edit.merged), "dropped": dropped}
        return {"reason": ""} | {name: each for name, each in lists.items() if each}

    def _apply(self, edit: Edit, event: dict[str, Any], operations: list[dict[str, Any]]) -> list[Any]:
        dropped = []
        is_whole = event.get("all_or_nothing") or any(item["op"] == "test" for item in operations)
        if edit.strategy == "reject" and self.foreign(self.log, edit.base, edit.session):
            raise Rejected("conflict")
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
                edit.follow(item)
        if self.is_absent and edit.base < self.version and not edit.is_effective:
            raise Rejected("target_gone")
        self.set(self, "is_absent", "delete" in event)
        return dropped


class Edit:
    """One event, applied in its author's view. A `reason` marks what only the author sees, of a rejected event."""

    def __init__(
        self, oracle: Oracle, base: int, session: str, strategy: str, version: int, reason: str = ""
    ) -> None:
        self.oracle = oracle
        self.base = base
        self.session = session
        self.strategy = strategy
        self.version = version
        self.mine = (version, session)
        self.reason = reason
        self.is_ghost = False
        self.is_effective = False
        self.overwrote: set[int] = set()
        self.merged: set[int] = set()

    def apply(self, item: dict[str, Any]) -> None:
        """Apply one operation."""
        getattr(self, "_" + item["op"])(item, tokens_of(item["path"]))

    def follow(self, item: dict[str, Any]) -> None:
        """Apply an operation that was dropped or rejected in the author's view only."""
        was = self.strategy, self.is_ghost, self.reason
        self.strategy, self.is_ghost, self.reason = "", True, self.reason or "target_gone"
        try:
            self.apply(item)
        except Dropped as dropped:
            self._blur(dropped.node)
        except (Invalid, Rejected):
            pass
        self.strategy, self.is_ghost, self.reason = was

    # The author's view

    def sees(self, item: Item) -> bool:
        """Tell whether the author sees an item."""
        return item.visible(self.base, self.session)

    def order(self, value: Value) -> list[Item]:
        """Return the items of an array or text in the author's order, with those that it does not see."""
        return value.orders.get(self.session, value.orders[NOBODY])

    def items(self, value: Value) -> list[Item]:
        """Return the items of an array or text that the author sees."""
        return [item for item in self.order(value) if self.sees(item)]

    def shown(self, value: Value, key: str) -> Item | None:
        """Return the member that the author sees at a key."""
        return next((it for it in reversed(value.members.get(key, [])) if self.sees(it)), None)

    def value(self, node: Node) -> Value:
        """Return what a node holds for the author."""
        value = node.view(self.base, self.session)
        if value.ghost:
            raise Dropped(value.ghost[2])
        return value

    def is_unseen(self, node: Node) -> bool:
        """Tell whether others created an array to which the author has pushed without seeing it."""
        own = any(value.born[1] == self.session for value in node.values)
        return self.session in node.pushed and not own and node.values[0].born[0] > self.base

    def open(self, node: Node) -> Value:
        """Return a container that the author sees and that is at the head."""
        value = self.value(node)
        if value is not node.head() or not node.alive() or self.is_unseen(node):
            self._lose(node)
        return value

    def _lose(self, node: Node) -> None:
        if self.strategy == "first_write_wins":
            raise Rejected("conflict")
        dropped = Dropped("target_gone")
        dropped.node = node
        raise dropped

    def find(self, tokens: list[str]) -> tuple[Node, Item | None]:
        """Return the node that a pointer means, and the item at which the author sees it."""
        node, item = self.oracle.root, None
        for depth, token in enumerate(tokens, 1):
            value = self.open(node)
            if value.kind == "object":
                item = self.shown(value, token)
                if item is not None and self.is_unseen(item.node) and item.node.item is not item:
                    # Others created it, and moved it away.
                    self._lose(item.node)
            elif value.kind == "array" and token.isdigit():
                item = dict(enumerate(self.items(value))).get(int(token))
            else:
                item = None
            if item is None:
                raise Invalid(tokens)
            if item.ghost and not (self.is_ghost and depth == len(tokens)):
                raise Dropped(item.ghost[2])
            node = item.node
        return node, item

    def gap(self, value: Value, token: str) -> tuple[Item | None, bool]:
        """Return the left neighbour of an array's gap, and whether the gap is the end."""
        if token == "-":
            return None, True
        shown = self.items(value)
        if not token.isdigit() or int(token) > len(shown):
            raise Invalid(token)
        return (shown[int(token) - 1] if int(token) else None), False

    def copied(self, node: Node) -> Any:
        """Return what the author sees a node hold; dropped where a part exists only for the author."""
        for who, until, reason in reversed(node.blurs):
            if who == self.session and self.base < until:
                raise Dropped(reason)
        value = node.view(self.base, self.session)
        if self.is_unseen(node):
            raise Dropped("target_gone")
        if value.ghost and not value.is_merged:
            raise Dropped(value.ghost[2])
        if value.kind == "scalar":
            return amount(value, self.base, self.session)
        if value.kind == "object":
            keys = {key: item for key in value.members if (item := self.shown(value, key))}
            return {key: self._solid(item) for key, item in keys.items()}
        each = [self._solid(item) for item in self.items(value)]
        return each if value.kind == "array" else "".join(each)

    def _solid(self, item: Item) -> Any:
        if item.ghost:
            raise Dropped(item.ghost[2])
        return self.copied(item.node)

    # What others wrote since the base

    def foreign(self, writes: list[Write]) -> set[int]:
        """Return the versions of others' writes after the base."""
        return self.oracle.foreign(writes, self.base, self.session)

    def written(self, node: Node) -> set[int]:
        """Return the versions in which others wrote to a node, to its member, or inside it."""
        writes = [value.born for value in node.values if not value.ghost] + node.head().writes
        if node.item is not None and node.item.key is not None:
            writes += node.item.home.member_writes.get(node.item.key, [])
        return self.foreign(writes)

    def gone_by(self, node: Node) -> set[int]:
        """Return the version in which a node left the head, if others removed it."""
        while (item := node.item) is not None:
            if item.died:
                return self.foreign([item.died])
            if item.home is not item.home.node.head():
                newer = item.home.node.values[item.home.node.values.index(item.home) + 1 :]
                return self.foreign([value.born for value in newer if not value.ghost][:1])
            node = item.home.node
        return set()

    def check(self, versions: set[int], *, is_conflict: bool = False) -> None:
        """Note what is overwritten, or reject where the first write wins."""
        if (versions or is_conflict) and self.strategy == "first_write_wins":
            raise Rejected("conflict")
        if not self.is_ghost:
            self.overwrote |= versions

    # Changes

    def make(self, value: Value, raw: Any, key: str | None) -> Item:
        """Create an item with a new node."""
        item = new_item(raw, self.mine, value, key, self.oracle.sessions)
        if self.is_ghost:
            item.ghost = (*self._private(), self.reason)
        return item

    def _private(self) -> tuple[str, int]:
        return self.session, self.version

    def hide(self, item: Item | None) -> None:
        """Remove an item from the author's view."""
        if item is not None:
            self.oracle.append(item.hidden, self._private())

    def touch(self, value: Value | None) -> None:
        """Note a write in a container and in all around it."""
        self.is_effective = True
        while value is not None:
            self.oracle.append(value.writes, self.mine)
            value = value.node.item.home if value.node.item else None

    def _note(self, item: Item) -> None:
        if item.key is not None:
            self.oracle.append(item.home.member_writes.setdefault(item.key, []), self.mine)

    def write(self, node: Node, raw: Any) -> None:
        """Give a node another value."""
        self.oracle.append(node.values, Value(node, self.mine, raw, self.oracle.sessions))
        self.is_effective = True
        if node.item:
            self._note(node.item)
            self.touch(node.item.home)

    def cover(self, node: Node, raw: Any, reason: str) -> Value:
        """Give a node another value in the author's view only."""
        value = Value(node, self.mine, raw, self.oracle.sessions)
        value.ghost = (*self._private(), reason)
        self.oracle.append(node.values, value)
        return value

    def kill(self, item: Item) -> None:
        """Remove an item from the head."""
        self.oracle.set(item, "died", self.mine)
        self._note(item)
        self.touch(item.home)

    def put(self, value: Value, key: str, new: Item) -> None:
        """Put an item into an object."""
        items = value.members.setdefault(key, [])
        for item in items:
            if item.live and item is not new and not self.is_ghost:
                self.oracle.set(item, "died", self.mine)
            if self.sees(item):
                self.hide(item)
        self.oracle.append(items, new)
        if not self.is_ghost:
            self._note(new)
            self.touch(value)

    def insert(self, value: Value, left: Item | None, new: Item, *, at_end: bool = False) -> None:
        """Insert an item: after its left neighbour in this session's order, in the gap of the head in the others'."""
        mine = self.order(value)
        place = len(mine) if at_end else (mine.index(left) + 1 if left else 0)
        right = next((item for item in mine[place:] if item.live), None)
        self.oracle.insert(mine, place, new)
        for order in value.orders.values():
            if order is not mine:
                self.oracle.insert(order, order.index(right) if right else len(order), new)
        if not self.is_ghost:
            self.touch(value)

    # Writes by a strategy

    def _add(self, item: dict[str, Any], tokens: list[str]) -> None:
        raw = item.get("value")
        if not tokens:
            self._overwrite(self.oracle.root, raw)
            return
        value = self.open(self.find(tokens[:-1])[0])
        if value.kind == "array":
            left, at_end = self.gap(value, tokens[-1])
            self.insert(value, left, self.make(value, raw, None), at_end=at_end)
        elif value.kind == "object":
            self._member(value, tokens[-1], raw)
        else:
            raise Invalid(tokens)

    def _overwrite(self, node: Node, raw: Any) -> None:
        """Write to a node that is at the head."""
        if self.is_ghost:
            self.cover(node, raw, self.reason)
            return
        versions = self.written(node)
        if versions and self.strategy == "merge" and self._merge(node, raw):
            self.merged |= versions
            return
        self.check(versions)
        self.write(node, raw)

    def _member(self, value: Value, key: str, raw: Any) -> None:
        shown = self.shown(value, key)
        if self.is_ghost:
            self.put(value, key, self.make(value, raw, key))
            return
        if shown is not None and not shown.ghost and shown.node.alive():
            self._overwrite(shown.node, raw)
            return
        live = next((it for it in value.members.get(key, []) if it.live), None)
        versions = self.foreign(value.member_writes.get(key, []))
        if shown is not None and not shown.ghost:
            versions |= self.gone_by(shown.node)
        if live is not None:
            versions |= self.written(live.node)
        self.check(versions, is_conflict=shown is not None and not shown.ghost)
        if live is not None and not live.is_moved:
            # Others created the same member.
            for it in value.members[key]:
                if self.sees(it):
                    self.hide(it)
            self._adopt(live)
            self.write(live.node, raw)
        else:
            self.put(value, key, self.make(value, raw, key))

    def _adopt(self, item: Item) -> None:
        """Let the author see a member that others created."""
        self.oracle.set(item, "hidden", [it for it in item.hidden if it[0] != self.session])
        self.oracle.append(item.seen_by, self.session)

    def _replace(self, item: dict[str, Any], tokens: list[str]) -> None:
        if not tokens:
            self._overwrite(self.oracle.root, item["value"])
            return
        value, key = self.open(self.find(tokens[:-1])[0]), tokens[-1]
        if value.kind == "object":
            shown = self.shown(value, key)
            if shown is None:
                raise Invalid(tokens)
            if shown.ghost and (self.is_ghost or not any(it.live for it in value.members[key])):
                raise Dropped(shown.ghost[2])
            self._member(value, key, item["value"])
            return
        node, place = self.find(tokens)
        if node.alive() and not self.is_ghost:
            self._overwrite(node, item["value"])
            return
        if place is not None and place.ghost:
            return
        # The element is put back to where the author sees it.
        self.check(self.gone_by(node), is_conflict=True)
        self.hide(place)
        self.insert(value, place, self.make(value, item["value"], None))

    def _merge(self, node: Node, raw: Any) -> bool:
        """Merge the incoming value with the head's, where both and what the author sees are objects, or strings."""
        try:
            seen = self.copied(node)
        except Dropped:
            return False
        head = self.oracle.read(node)
        if {type(seen), type(head), type(raw)} not in ({dict}, {str}):
            return False
        self._become(node, merge3(seen, head, raw))
        self.cover(node, raw, "target_gone").is_merged = True
        return True

    def _become(self, node: Node, target: Any) -> None:
        """Change a node at the head to another value, member by member."""
        value = node.head()
        if value.kind != "object" or type(target) is not dict:
            if self.oracle.read(node) != target:
                self.write(node, target)
            return
        for key in sorted({*value.members, *target}):
            live = next((it for it in value.members.get(key, []) if it.live), None)
            if live is None and key in target:
                self.put(value, key, self.make(value, target[key], key))
            elif live is not None and key in target:
                self._become(live.node, target[key])
            elif live is not None:
                self.kill(live)

    def _remove(self, item: dict[str, Any], tokens: list[str]) -> None:
        try:
            node, place = self.find(tokens)
        except Dropped as gone:
            if self.is_ghost or str(gone) != "target_gone":
                raise
            self.follow(item)
            return
        if not self.is_ghost:
            is_alive = node.alive()
            self.check(self.written(node) if is_alive else set(), is_conflict=not is_alive)
            if is_alive and node.item is not None:
                self.kill(node.item)
        self.hide(place)

    def _move(self, item: dict[str, Any], tokens: list[str]) -> None:
        source = tokens_of(item["from"])
        if self.is_ghost:
            self._move_ghost(item, source, tokens)
            return
        node, place = self.find(source)
        if source == tokens:
            return
        if not node.alive():
            self._lose(node)
        self.check(self.foreign(node.moves))
        old = node.item
        assert old is not None
        self.hide(place)
        target = self.find(tokens[:-1])[0]
        value = self.open(target)
        if value.kind not in {"array", "object"}:
            raise Invalid(tokens)
        left, at_end = self.gap(value, tokens[-1]) if value.kind == "array" else (None, False)
        if any(above is node for above in containers_of(target)):
            raise Rejected("cycle")
        new = Item(node, self.mine, value, None if value.kind == "array" else tokens[-1])
        new.is_moved = True
        if value.kind == "object":
            live = [it for it in value.members.get(tokens[-1], []) if it.live and it is not old]
            written = self.written(live[-1].node) if live else set()
            self.check(written | self.foreign(value.member_writes.get(tokens[-1], [])))
        self.kill(old)
        if value.kind == "array":
            self.insert(value, left, new, at_end=at_end)
        else:
            self.put(value, tokens[-1], new)
        self.oracle.set(node, "item", new)
        self.oracle.append(node.moves, self.mine)

    def _move_ghost(self, item: dict[str, Any], source: list[str], tokens: list[str]) -> None:
        if source == tokens:
            return
        try:
            self.hide(self.find(source)[1])
        except Dropped as dropped:
            self._blur(dropped.node)
        self._add(item, tokens)

    def _copy(self, item: dict[str, Any], tokens: list[str]) -> None:
        if not self.is_ghost:
            item = {"value": self.copied(self.find(tokens_of(item["from"]))[0])}
        self._add(item, tokens)

    # Operations in a value

    def _blur(self, node: Node | None) -> None:
        """Note that a node is not what the author sees."""
        if node is not None:
            self.oracle.append(node.blurs, (*self._private(), self.reason))

    def _push(self, item: dict[str, Any], tokens: list[str]) -> None:
        value, key = self.open(self.find(tokens[:-1])[0]), tokens[-1]
        if value.kind == "object" and self.shown(value, key) is None:
            live = next((it for it in value.members.get(key, []) if it.live), None)
            if live is None or self.is_ghost:
                self.put(value, key, self.make(value, [item["value"]], key))
                return
            self._push_to(live.node.head(), item, is_seen=False)
            self._adopt(live)
            self.oracle.append(live.node.pushed, self.session)
            return
        node, _ = self.find(tokens)
        if not self.is_ghost and self.is_unseen(node) and node.alive():
            self._push_to(node.head(), item, is_seen=False)
            return
        if not node.alive():
            self._lose(node)
        self._push_to(self.open(node), item, is_seen=True)

    def _push_to(self, value: Value, item: dict[str, Any], *, is_seen: bool) -> None:
        if value.kind != "array":
            raise Rejected("not_an_array")
        self.insert(value, None, self.make(value, item["value"], None), at_end=True)
        leaving = self.items(value)[: -item["max"]] if is_seen else []
        live = [] if self.is_ghost else [it for it in self.order(value) if it.live]
        for each in live[: -item["max"]]:
            is_kept = self.sees(each) and each not in leaving
            self.oracle.set(each, "died", self.mine)
            if is_kept:
                self.oracle.append(each.kept_by, self.mine)
        for each in leaving:
            self.hide(each)

    def _test(self, item: dict[str, Any], tokens: list[str]) -> None:
        if self.is_ghost:
            return
        try:
            node, _ = self.find(tokens)
            if node.alive() and self.oracle.read(node) == item["value"]:
                return
        except (Dropped, Rejected):
            pass
        raise Rejected("test_failed")

    def _inc(self, item: dict[str, Any], tokens: list[str]) -> None:
        node, _ = self.find(tokens)
        if self.is_ghost:
            self._blur(node)
            return
        if not node.alive():
            self._lose(node)
        value = node.head()
        if value.kind != "scalar" or not isinstance(value.scalar, int):
            raise Rejected("not_a_number")
        self.oracle.append(value.amounts, (self.mine, item["inc"]))
        self.touch(value)

    def _text(self, tokens: list[str]) -> Value:
        value = self.open(self.find(tokens)[0])
        if value.kind != "text":
            raise Rejected("not_a_string")
        return value

    def _str_ins(self, item: dict[str, Any], tokens: list[str]) -> None:
        value = self._text(tokens)
        shown = self.items(value)
        position = min(item["pos"], len(shown))
        left = shown[position - 1] if position else None
        for char in item["str"]:
            new = self.make(value, Char(char), None)
            self.insert(value, left, new)
            left = new

    def _str_del(self, item: dict[str, Any], tokens: list[str]) -> None:
        value = self._text(tokens)
        chars = self.items(value)[item["pos"] :][: item["len"]]
        self.check(set(), is_conflict=any(not char.live for char in chars))
        for char in chars:
            if char.live and not self.is_ghost:
                self.kill(char)
            self.hide(char)


def amount(value: Value, base: int | None, session: str) -> Any:
    """Return a scalar with what was added to it: at the head, or as an author sees it."""
    if isinstance(value.scalar, Char):
        return value.scalar.text
    if not value.amounts:
        return value.scalar
    return value.scalar + sum(
        by for (version, who), by in value.amounts if base is None or version <= base or who == session
    )


def containers_of(node: Node) -> Iterator[Node]:
    """Yield a node and all around it at the head."""
    yield node
    while node.item is not None:
        node = node.item.home.node
        yield node


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
    """Yield the operations of a merge patch by what its author sees."""
    try:
        old = edit.copied(edit.find(tokens_of(path))[0])
    except Invalid:
        old = NOTHING
    except (Dropped, Rejected):
        # Whatever was there is not at the head.
        old = {}
    if change is None and path:
        if old is not NOTHING:
            yield {"op": "remove", "path": path}
    elif type(change) is dict and type(old) is dict:
        for key in sorted(change):
            yield from merge_operations(edit, f"{path}/{key}", change[key])
    else:
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

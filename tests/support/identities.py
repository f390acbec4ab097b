"""A naive model of what authors mean: every member, element and character that ever was, each an object of its own.

It knows nothing of windows, pieces and effective patches. Nothing is ever forgotten: what an author sees is a filter
over all that there was, `visible`. Each session has its own order of an array's items, in which what the session
inserted follows directly what it was inserted after.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

NOBODY = "nobody"
"""The perspective of an event without a session."""


class Dropped(Exception):
    """An operation has nothing to apply to."""

    node: Any = None


class Rejected(Exception):
    """An event is rejected."""


class Invalid(Exception):
    """A pointer means nothing in the author's view."""


def is_same(author: str, session: str) -> bool:
    """Tell whether two events are of one session."""
    return author == session != NOBODY


class Item:
    """A place of an object or an array, or a character, with the node that is or was there."""

    def __init__(self, node: Any, born: tuple[int, str], home: Any, key: str | None) -> None:
        self.node = node
        self.born = born
        self.died: tuple[int, str] | None = None
        self.home = home
        self.key = key
        self.hidden: list[tuple[str, int]] = []
        self.ghost: tuple[str, int, str] | None = None
        self.seen_by: list[tuple[str, int]] = []
        self.is_moved = False
        self.kept_by: list[tuple[int, str]] = []

    def visible(self, base: int, session: str) -> bool:
        """Tell whether an author sees it."""
        if any(is_same(who, session) and base < until for who, until in self.hidden):
            return False
        if self.ghost:
            return is_same(self.ghost[0], session) and base < self.ghost[1]
        version, author = self.born
        is_adopted = any(is_same(who, session) for who, _ in self.seen_by)
        if not (version <= base or is_same(author, session) or is_adopted):
            return False
        if self.died is None:
            return True
        return self.died[0] > base and not (is_same(self.died[1], session) and self.died not in self.kept_by)

    @property
    def live(self) -> bool:
        """Tell whether it is at the head, as far as its container is."""
        return self.died is None and self.ghost is None


class Node:
    """A value with an identity."""

    def __init__(self) -> None:
        self.values: list[Value] = []
        self.item: Item | None = None
        self.moves: list[tuple[int, str]] = []
        self.blurs: list[tuple[str, int, str]] = []
        self.pushed: list[tuple[int, str]] = []

    def head(self) -> Value:
        """Its value at the head."""
        return next(value for value in reversed(self.values) if not value.ghost)

    def view(self, base: int, session: str) -> Value:
        """Its value as an author sees it."""
        for value in reversed(self.values):
            if value.ghost:
                if is_same(value.ghost[0], session) and base < value.ghost[1]:
                    return value
            elif value.born[0] <= base or is_same(value.born[1], session):
                return value
        return self.values[0]

    def alive(self) -> bool:
        """Tell whether it is at the head."""
        if self.item is None:
            return True
        home = self.item.home
        return self.item.live and home is home.node.head() and home.node.alive()


class Value:
    """What a node holds from one write to the next."""

    def __init__(self, node: Node, born: tuple[int, str], raw: Any, sessions: list[str]) -> None:
        self.node = node
        self.born = born
        self.ghost: tuple[str, int, str] | None = None
        self.writes: list[tuple[int, str]] = []
        self.members: dict[str, list[Item]] = {}
        self.orders: dict[str, list[Item]] = {}
        self.scalar: Any = None
        self.amounts: list[tuple[int, str, int]] = []
        self.places: dict[str, list[tuple[int, str]]] = {}
        self.kind = {dict: "object", list: "array", str: "text"}.get(type(raw), "scalar")
        if self.kind == "object":
            for key, each in raw.items():
                self.members[key] = [self._item(each, born, key, sessions)]
        elif self.kind in {"array", "text"}:
            items = [
                self._item(each if self.kind == "array" else Char(each), born, None, sessions) for each in raw
            ]
            self.orders = {session: list(items) for session in sessions}
        else:
            self.scalar = raw

    def _item(self, raw: Any, born: tuple[int, str], key: str | None, sessions: list[str]) -> Item:
        return new_item(raw, born, self, key, sessions)


class Char:
    """One character."""

    def __init__(self, text: str) -> None:
        self.text = text


def new_item(raw: Any, born: tuple[int, str], home: Value, key: str | None, sessions: list[str]) -> Item:
    """Make a place with a new node."""
    node = Node()
    item = Item(node, born, home, key)
    node.item = item
    node.values.append(Value(node, born, raw, sessions))
    return item


class World:
    """One document with all that ever was in it. Whatever is done to it can be undone, the last first."""

    def __init__(self, state: Any, sessions: list[str]) -> None:
        self._done: list[Callable[[], Any]] = []
        self.sessions = [*sessions, NOBODY]
        self.root = Node()
        self.root.values.append(Value(self.root, (1, NOBODY), state, self.sessions))
        self.version = 1
        self.log = [(1, NOBODY)]

    def append(self, things: list[Any], thing: Any) -> None:
        """Add to a list of the world."""
        things.append(thing)
        self._done.append(things.pop)

    def insert(self, things: list[Any], place: int, thing: Any) -> None:
        """Insert into a list of the world."""
        things.insert(place, thing)
        self._done.append(lambda: things.pop(place))

    def set(self, thing: Any, name: str, value: Any) -> None:
        """Set an attribute of a thing of the world."""
        old = getattr(thing, name)
        setattr(thing, name, value)
        self._done.append(lambda: setattr(thing, name, old))

    def mark(self) -> int:
        """Return where to undo to."""
        return len(self._done)

    def undo(self, mark: int) -> None:
        """Make all as it was at a mark."""
        while len(self._done) > mark:
            self._done.pop()()

    def show(self, base: int | None = None, session: str = NOBODY) -> Any:
        """Return the head as JSON, or what an author sees."""
        return self._show(self.root, base, session)

    def _show(self, node: Node, base: int | None, session: str) -> Any:
        value = node.head() if base is None else node.view(base, session)

        def seen(item: Item) -> bool:
            return item.live if base is None else item.visible(base, session)

        if value.kind == "scalar":
            raw = value.scalar
            if value.amounts:
                return raw + sum(
                    amount
                    for version, who, amount in value.amounts
                    if base is None or version <= base or is_same(who, session)
                )
            return raw.text if isinstance(raw, Char) else raw
        if value.kind == "object":
            found = {}
            for key, items in value.members.items():
                shown = [item for item in items if seen(item)]
                if shown:
                    found[key] = self._show(shown[-1].node, base, session)
            return found
        shown = [self._show(item.node, base, session) for item in value.orders[session] if seen(item)]
        return shown if value.kind == "array" else "".join(shown)

    def apply(self, event: dict[str, Any]) -> dict[str, Any]:
        """Fold an event; return status and dropped operations."""
        session, strategy = event.get("session", NOBODY), event.get("on_conflict", "last_write_wins")
        base = event.get("base", self.version)
        is_whole = event.get("all_or_nothing") or any(item["op"] == "test" for item in event["patch"])
        mark = self.mark()
        turn = Turn(self, base, session, strategy, self.version + 1)
        dropped = []
        try:
            if strategy == "reject" and self.foreign(base, session):
                raise Rejected("conflict")
            for number, item in enumerate(event["patch"]):
                before = self.mark()
                try:
                    turn.apply(item)
                except Dropped as gone:
                    if is_whole:
                        raise Rejected(str(gone)) from None
                    self.undo(before)
                    dropped.append({"operation": number, "reason": str(gone)})
                    turn.follow(item)
        except Rejected as rejected:
            self.undo(mark)
            if session != NOBODY and base < self.version:
                turn = Turn(self, base, session, strategy, self.version)
                turn.reason = "depends_on_rejected"
                for item in event["patch"]:
                    turn.follow(item)
            return {"status": "rejected", "reason": str(rejected)}
        self.set(self, "version", self.version + 1)
        self.append(self.log, (self.version, session))
        return {"status": "effective", "dropped": dropped}

    def foreign(self, base: int, session: str) -> bool:
        """Tell whether others wrote since."""
        return any(version > base and not is_same(who, session) for version, who in self.log)


class Turn:
    """One event being applied, in its author's view."""

    def __init__(self, world: World, base: int, session: str, strategy: str, version: int) -> None:
        self.world = world
        self.base = base
        self.session = session
        self.strategy = strategy
        self.version = version
        self.mine = (version, session)
        self.reason = "target_gone"

    def apply(self, item: dict[str, Any]) -> None:
        """Apply one operation."""
        getattr(self, "_" + item["op"])(item, tokens_of(item["path"]))

    # What pointers mean

    def sees(self, item: Item) -> bool:
        """Tell whether the author sees a place; what this event did is the author's own."""
        if (self.session, self.version) in item.hidden or (
            item.died == self.mine and self.mine not in item.kept_by
        ):
            return False
        if item.born == self.mine or (self.session, self.version) in item.seen_by:
            return True
        return item.visible(self.base, self.session)

    def value(self, node: Node) -> Value:
        """Return what a node holds for the author, in a container that must be at the head."""
        if self.session == NOBODY:
            own = [it for it in node.values if it.born == self.mine]
            value = own[-1] if own else node.view(self.base, NOBODY)
        else:
            value = node.view(self.base, self.session)
        if value.ghost:
            raise Dropped(value.ghost[2])
        return value

    def is_unseen(self, node: Node) -> bool:
        """Tell whether it is an array of others to which the author has pushed without having seen it."""
        made = node.values[0].born
        own = any(value.born == self.mine or is_same(value.born[1], self.session) for value in node.values)
        pushed = any(it == self.mine or is_same(it[1], self.session) for it in node.pushed)
        return pushed and not own and made[0] > self.base

    def open(self, node: Node) -> Value:
        """Return a container that is at the head."""
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

    def blur(self, node: Node) -> None:
        """Note that a node is not what the author sees."""
        self.world.append(node.blurs, (self.session, self.version, self.reason))

    def items(self, value: Value) -> list[Item]:
        """Return the items of an array or a text that the author sees."""
        return [item for item in value.orders[self.session] if self.sees(item)]

    def find(self, tokens: list[str], *, is_ghost_found: bool = False) -> tuple[Node, Item | None]:
        """Return the node that a pointer means, and the place where the author sees it."""
        node, item = self.world.root, None
        for token in tokens:
            value = self.open(node)
            if value.kind == "object":
                shown = [it for it in value.members.get(token, []) if self.sees(it)]
                if not shown:
                    raise Invalid(tokens)
                item = shown[-1]
                if self.is_unseen(item.node) and item.node.item is not item:
                    # Others have made it, and moved it on.
                    self._lose(item.node)
            elif value.kind == "array":
                shown = self.items(value)
                if not token.isdigit() or int(token) >= len(shown):
                    raise Invalid(tokens)
                item = shown[int(token)]
            else:
                raise Invalid(tokens)
            if item.ghost and not (is_ghost_found and token is tokens[-1]):
                raise Dropped(item.ghost[2])
            node = item.node
        return node, item

    # What others did meanwhile

    def foreign(self, writes: list[tuple[int, str]]) -> bool:
        """Tell whether one of these is of another author, since the base."""
        return any(
            version > self.base and not is_same(who, self.session)
            for version, who in writes
            if (version, who) != self.mine
        )

    def written(self, node: Node) -> bool:
        """Tell whether others wrote to a node, or in it."""
        place = node.item
        member = place.home.places.get(place.key, []) if place is not None and place.key is not None else []
        return (
            self.foreign([value.born for value in node.values if not value.ghost])
            or self.foreign(node.head().writes)
            or self.foreign(member)
        )

    def check(self, is_conflict: bool) -> None:
        """Reject, where the first write wins."""
        if is_conflict and self.strategy == "first_write_wins":
            raise Rejected("conflict")

    def touch(self, value: Value | None) -> None:
        """Note a write below all containers from this one up."""
        while value is not None:
            self.world.append(value.writes, self.mine)
            value = value.node.item.home if value.node.item else None

    # Changing the head

    def write(self, node: Node, raw: Any) -> None:
        """Give a node another value."""
        value = Value(node, self.mine, raw, self.world.sessions)
        self.world.append(node.values, value)
        if node.item:
            self.note(node.item)
            self.touch(node.item.home)

    def hide(self, item: Item) -> None:
        """Let the author no longer see a place."""
        self.world.append(item.hidden, (self.session, self.version))

    def note(self, item: Item) -> None:
        """Note a write of a member, whatever is there."""
        if item.key is not None:
            self.world.append(item.home.places.setdefault(item.key, []), self.mine)

    def kill(self, item: Item) -> None:
        """Take a place from the head."""
        self.world.set(item, "died", self.mine)
        self.note(item)
        self.touch(item.home)

    def put(self, value: Value, key: str, node_item: Item) -> None:
        """Put a place into an object."""
        for item in value.members.get(key, []):
            if item.live and item is not node_item:
                self.world.set(item, "died", self.mine)
            if self.sees(item):
                self.hide(item)
        self.world.append(value.members.setdefault(key, []), node_item)
        self.note(node_item)
        self.touch(value)

    def insert(self, value: Value, left: Item | None, new: Item, *, at_end: bool) -> None:
        """Put an item into an array: for this session after an item, for others at the gap of the head."""
        mine = value.orders[self.session]
        place = len(mine) if at_end else (mine.index(left) + 1 if left else 0)
        right = next((item for item in mine[place:] if item.live), None)
        self.world.insert(mine, place, new)
        for session, order in value.orders.items():
            if session != self.session:
                self.world.insert(order, order.index(right) if right else len(order), new)

    def gap(self, value: Value, token: str) -> tuple[Item | None, bool]:
        """Return what a gap of an array follows, or that it is the end."""
        if token == "-":
            return None, True
        shown = self.items(value)
        if not token.isdigit() or int(token) > len(shown):
            raise Invalid(token)
        return (shown[int(token) - 1] if int(token) else None), False

    def make(self, value: Value, raw: Any, key: str | None) -> Item:
        """Make a place with a new node."""
        return new_item(raw, self.mine, value, key, self.world.sessions)

    # Operations

    def _add(self, item: dict[str, Any], tokens: list[str]) -> None:
        if not tokens:
            self.check(self.written(self.world.root))
            self.write(self.world.root, item["value"])
            return
        node, _ = self.find(tokens[:-1])
        value = self.open(node)
        if value.kind == "array":
            left, at_end = self.gap(value, tokens[-1])
            new = self.make(value, item["value"], None)
            self.insert(value, left, new, at_end=at_end)
            self.touch(value)
        elif value.kind == "object":
            self._member(value, tokens[-1], item["value"])
        else:
            raise Invalid(tokens)

    def _member(self, value: Value, key: str, raw: Any) -> None:
        items = value.members.get(key, [])
        shown = [it for it in items if self.sees(it)]
        live = [it for it in items if it.live]
        if shown and not shown[-1].ghost and shown[-1].node.alive():
            self.check(self.written(shown[-1].node))
            self.write(shown[-1].node, raw)
            return
        is_conflict = bool(shown and not shown[-1].ghost) or self.foreign(value.places.get(key, []))
        if live:
            is_conflict |= self.written(live[-1].node)
        self.check(is_conflict)
        if live and not live[-1].is_moved:
            # Another has made the same member.
            for each in shown:
                self.hide(each)
            self.adopt(live[-1])
            self.write(live[-1].node, raw)
            return
        self.put(value, key, self.make(value, raw, key))

    def adopt(self, item: Item) -> None:
        """Let the author see a place."""
        self.world.set(item, "hidden", [it for it in item.hidden if it[0] != self.session])
        self.world.append(item.seen_by, (self.session, self.version))

    def _replace(self, item: dict[str, Any], tokens: list[str]) -> None:
        if not tokens:
            self._add(item, tokens)
            return
        parent, _ = self.find(tokens[:-1])
        value = self.open(parent)
        if value.kind == "object":
            items = value.members.get(tokens[-1], [])
            shown = [it for it in items if self.sees(it)]
            if not shown:
                raise Invalid(tokens)
            if shown[-1].ghost and not any(it.live for it in items):
                raise Dropped(shown[-1].ghost[2])
            self._member(value, tokens[-1], item["value"])
            return
        node, place = self.find(tokens)
        assert place is not None
        if node.alive():
            self.check(self.written(node))
            self.write(node, item["value"])
            return
        self.check(True)
        self.hide(place)
        new = self.make(value, item["value"], None)
        self.insert(value, place, new, at_end=False)
        self.touch(value)

    def _remove(self, item: dict[str, Any], tokens: list[str]) -> None:
        try:
            node, place = self.find(tokens)
        except Dropped as gone:
            if str(gone) != "target_gone":
                raise
            self.follow(item)
            return
        assert place is not None
        self.check(not node.alive() or self.written(node))
        if node.alive():
            assert node.item is not None
            self.kill(node.item)
        self.hide(place)

    def _move(self, item: dict[str, Any], tokens: list[str]) -> None:
        source = tokens_of(item["from"])
        node, place = self.find(source)
        if source == tokens:
            return
        assert place is not None
        if not node.alive():
            self._lose(node)
        self.check(self.foreign(node.moves))
        old = node.item
        assert old is not None
        mark = self.world.mark()
        self.hide(place)
        try:
            target, value, left, at_end = self._target(tokens)
        except (Dropped, Rejected, Invalid):
            self.world.undo(mark)
            raise
        above: Node | None = target
        while above is not None:
            if above is node:
                raise Rejected("cycle")
            above = above.item.home.node if above.item else None
        new = Item(node, self.mine, value, None if value.kind == "array" else tokens[-1])
        new.is_moved = True
        if value.kind == "object":
            live = [it for it in value.members.get(tokens[-1], []) if it.live and it is not old]
            is_written = bool(live) and self.written(live[-1].node)
            self.check(is_written or self.foreign(value.places.get(tokens[-1], [])))
        self.kill(old)
        if value.kind == "array":
            self.insert(value, left, new, at_end=at_end)
            self.touch(value)
        else:
            self.put(value, tokens[-1], new)
        self.world.set(node, "item", new)
        self.world.append(node.moves, self.mine)

    def _target(self, tokens: list[str]) -> tuple[Node, Value, Item | None, bool]:
        target, _ = self.find(tokens[:-1])
        value = self.open(target)
        if value.kind not in {"array", "object"}:
            raise Invalid(tokens)
        left, at_end = self.gap(value, tokens[-1]) if value.kind == "array" else (None, False)
        return target, value, left, at_end

    def _copy(self, item: dict[str, Any], tokens: list[str]) -> None:
        node, _ = self.find(tokens_of(item["from"]))
        self._add({"op": "add", "value": self.shown(node)}, tokens)

    def shown(self, node: Node) -> Any:
        """Return what the author sees a node hold."""
        for who, until, reason in reversed(node.blurs):
            if (who, until) == (self.session, self.version) or (
                is_same(who, self.session) and self.base < until
            ):
                raise Dropped(reason)
        value = self.value(node)
        if self.is_unseen(node):
            raise Dropped("target_gone")
        if value.kind == "scalar":
            amounts = [
                amount
                for version, who, amount in value.amounts
                if version <= self.base or is_same(who, self.session)
            ]
            raw = value.scalar.text if isinstance(value.scalar, Char) else value.scalar
            return raw + sum(amounts) if value.amounts else raw
        if value.kind == "object":
            found = {}
            for key, items in value.members.items():
                seen = [item for item in items if self.sees(item)]
                if seen:
                    self._solid(seen[-1])
                    found[key] = self.shown(seen[-1].node)
            return found
        seen = self.items(value)
        for item in seen:
            self._solid(item)
        return (
            [self.shown(item.node) for item in seen]
            if value.kind == "array"
            else "".join(self.shown(it.node) for it in seen)
        )

    def _solid(self, item: Item) -> None:
        if item.ghost:
            raise Dropped(item.ghost[2])

    def _push(self, item: dict[str, Any], tokens: list[str]) -> None:
        parent, _ = self.find(tokens[:-1])
        value = self.open(parent)
        if value.kind == "object":
            shown = [it for it in value.members.get(tokens[-1], []) if self.sees(it)]
            live = [it for it in value.members.get(tokens[-1], []) if it.live]
            if not shown:
                if not live:
                    self.put(value, tokens[-1], self.make(value, [item["value"]], tokens[-1]))
                    return
                self._push_to(live[-1].node.head(), item, is_seen=False)
                self.adopt(live[-1])
                self.world.append(live[-1].node.pushed, self.mine)
                return
        node, _ = self.find(tokens)
        if self.is_unseen(node) and node.alive():
            self._push_to(node.head(), item, is_seen=False)
            return
        if not node.alive():
            self._lose(node)
        self._push_to(self.open(node), item, is_seen=True)

    def _push_to(self, value: Value, item: dict[str, Any], *, is_seen: bool) -> None:
        if value.kind != "array":
            raise Rejected("not_an_array")
        new = self.make(value, item["value"], None)
        self.insert(value, None, new, at_end=True)
        leaving = self.items(value)[: -item["max"]] if is_seen else []
        live = [it for it in value.orders[self.session] if it.live]
        for each in live[: -item["max"]]:
            is_kept = self.sees(each) and each not in leaving
            self.world.set(each, "died", self.mine)
            if is_kept:
                self.world.append(each.kept_by, self.mine)
        for each in leaving:
            self.hide(each)
        self.touch(value)

    def _test(self, item: dict[str, Any], tokens: list[str]) -> None:
        try:
            node, _ = self.find(tokens)
            if node.alive() and self.world._show(node, None, NOBODY) == item["value"]:
                return
        except (Dropped, Rejected):
            pass
        raise Rejected("test_failed")

    def _inc(self, item: dict[str, Any], tokens: list[str]) -> None:
        node, _ = self.find(tokens)
        if not node.alive():
            self._lose(node)
        value = node.head()
        if not isinstance(value.scalar, int):
            raise Rejected("not_a_number")
        self.world.append(value.amounts, (*self.mine, item["inc"]))
        self.world.append(value.writes, self.mine)
        self.touch(node.item.home if node.item else None)

    def _text(self, tokens: list[str]) -> Value:
        node, _ = self.find(tokens)
        value = self.open(node)
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
            self.insert(value, left, new, at_end=False)
            left = new
        self.touch(value)

    def _str_del(self, item: dict[str, Any], tokens: list[str]) -> None:
        value = self._text(tokens)
        chars = self.items(value)[item["pos"] :][: item["len"]]
        self.check(any(not char.live for char in chars))
        for char in chars:
            if char.live:
                self.world.set(char, "died", self.mine)
            self.hide(char)
        if any(char.died == self.mine for char in chars):
            self.touch(value)

    # What an operation that is left out does for its author

    def follow(self, item: dict[str, Any]) -> None:
        """Do an operation in the author's view only."""
        strategy, self.strategy = self.strategy, ""
        try:
            self._follow(item, tokens_of(item["path"]))
        except Dropped as dropped:
            if dropped.node is not None:
                self.blur(dropped.node)
        except (Invalid, Rejected):
            pass
        self.strategy = strategy

    def _ghost(self, item: Item) -> Item:
        self.world.set(item, "ghost", (self.session, self.version, self.reason))
        return item

    def _follow(self, item: dict[str, Any], tokens: list[str]) -> None:
        name = item["op"]
        if name == "test":
            return
        if name == "inc":
            self.blur(self.find(tokens)[0])
            return
        if name in {"str_ins", "str_del"}:
            self._follow_text(item, self._text(tokens))
            return
        if name == "remove":
            _, place = self.find(tokens, is_ghost_found=True)
            self.hide(place)
            return
        if name == "push":
            self._follow_push(item, tokens)
            return
        if name == "move":
            source = tokens_of(item["from"])
            if source == tokens:
                return
            try:
                _, place = self.find(source, is_ghost_found=True)
                self.hide(place)
            except Dropped as dropped:
                if dropped.node is not None:
                    self.blur(dropped.node)
        self._follow_write(item, tokens, name)

    def _follow_write(self, item: dict[str, Any], tokens: list[str], name: str) -> None:
        raw = item.get("value")
        if not tokens:
            value = Value(self.world.root, self.mine, raw, self.world.sessions)
            self.world.set(value, "ghost", (self.session, self.version, self.reason))
            self.world.append(self.world.root.values, value)
            return
        parent, _ = self.find(tokens[:-1])
        value = self.open(parent)
        if value.kind == "object":
            items = value.members.setdefault(tokens[-1], [])
            shown = [each for each in items if self.sees(each)]
            if name == "replace" and shown and shown[-1].ghost:
                return
            for each in items:
                if self.sees(each):
                    self.hide(each)
            self.world.append(items, self._ghost(self.make(value, raw, tokens[-1])))
        elif value.kind == "array":
            if name == "replace":
                shown = self.items(value)
                if int(tokens[-1]) >= len(shown):
                    raise Invalid(tokens)
                left, at_end = shown[int(tokens[-1])], False
                if left.ghost:
                    return
                self.hide(left)
            else:
                left, at_end = self.gap(value, tokens[-1])
            new = self._ghost(self.make(value, raw, None))
            self.insert(value, left, new, at_end=at_end)

    def _follow_push(self, item: dict[str, Any], tokens: list[str]) -> None:
        parent, _ = self.find(tokens[:-1])
        value = self.open(parent)
        if value.kind == "object" and not any(self.sees(it) for it in value.members.get(tokens[-1], [])):
            self._follow_write({"value": [item["value"]]}, tokens, "add")
            return
        node, _ = self.find(tokens)
        array = self.open(node)
        new = self._ghost(self.make(array, item["value"], None))
        self.insert(array, None, new, at_end=True)
        for each in self.items(array)[: -item["max"]]:
            self.hide(each)

    def _follow_text(self, item: dict[str, Any], value: Value) -> None:
        shown = self.items(value)
        if item["op"] == "str_del":
            for char in shown[item["pos"] :][: item["len"]]:
                self.hide(char)
            return
        position = min(item["pos"], len(shown))
        left = shown[position - 1] if position else None
        for char in item["str"]:
            new = self._ghost(self.make(value, Char(char), None))
            self.insert(value, left, new, at_end=False)
            left = new


def tokens_of(pointer: str) -> list[str]:
    """Split a pointer."""
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]

"""The identity model of one window as a whole, and what a pointer means in its author's view.

Used by all operations of a stale event.
"""

from __future__ import annotations

from collections.abc import Callable

from refold.core.errors import Refused
from refold.core.fold.acts import UNKNOWN, Act, Change, What, acts_of
from refold.core.fold.gone import Gone, ghost
from refold.core.fold.identity import Content, Node, foreign_versions
from refold.core.fold.places import Place, hide_ranges, node_of
from refold.core.json_text import Json
from refold.core.pointer import index, missing_member, render, resolve
from refold.core.replay import apply_accepted


class Model:
    """The identities of one document within one window, as an author's session sees them."""

    def __init__(self, state_before: Callable[[Change, int], Json], taken: int = 0) -> None:
        """`state_before` returns the state before an operation of a change."""
        self.head: Callable[[], Json] = dict
        """Returns the document's state."""
        self.taken = taken
        """How many of the document's changes are known to it."""
        self.last_own = 0
        """The sequence of the session's last event, whose acts it has before its change is known."""
        self.acts: dict[tuple[int, int], Act] = {}
        self.root = Node(self, None, None)
        self._state_before = state_before
        self._order = 0

    def add(self, change: Change, *, is_own: bool) -> None:
        """Add one event."""
        for act in acts_of(change, is_own=is_own):
            self.push(act)

    def push(self, act: Act) -> None:
        """Add one act."""
        self._order += 1
        act.order = self._order
        self.acts[act.event.sequence, act.number] = act
        if act.value is not UNKNOWN and (act.kind is What.hide or act.kind is What.blur):
            removed = self.acts.get(act.value)
            if removed is not None and act.kind is What.blur:
                removed.blur = act
                for place in removed.places:
                    if place.node is not None:
                        place.node.blur = act
            elif removed is not None:
                removed.hidden.append((act.position, act.count))
                hide_ranges(removed)
        else:
            self.root.take(act, 0)

    def locate(self, act: Act) -> None:
        """Hand half of a move on until it is in its place."""
        while act.node is None:
            holder = act.holder
            assert holder is not None
            holder.open(act.order)
            assert act.node is not None or act.holder is not holder, "a move leads to no place"

    def was_there(self, content: Content, key: str) -> bool:
        """Tell whether a member was there before the first act on it."""
        act = next(iter(content.writes.get(key, [])), None)
        if act is None or (act.kind is not What.add and act.kind is not What.into):
            return True
        return key in resolve(self._before(act), act.tokens[:-1])

    def initial(self, content: Content) -> tuple[Json, int]:
        """Return a value of the type that a content had at first, and how many items it had."""
        born = content.born
        if born is not None and born.kind is not What.into and born.value is not UNKNOWN:
            return born.value, _length(born.value)
        if born is not None and born.kind is What.remove:
            return {}, 0
        if self._is_settled(content):
            value = resolve(self.head(), content.node.path())
            length = _length_before(_length(value), content.acts)
            if length is not None:
                return value, length
        act, depth = content.acts[0]
        value = resolve(self._before(act), act.tokens[:depth])
        return value, _length(value)

    def _before(self, act: Act) -> Json:
        """Return the state before an act; a value that arrives has left its place."""
        state = self._state_before(act.event, act.operation)
        if act.kind is What.into and act.partner is not None:
            state = apply_accepted(state, [{"op": "remove", "path": render(act.partner.tokens)}])
        return state

    def _is_settled(self, content: Content) -> bool:
        """Tell whether a content is known to be at the head, with all acts on the way to it taken."""
        while content is content.node.head:
            place = content.node.place
            if place is None:
                return True
            content = place.home
            if not place.is_live or content.taken < len(content.acts):
                return False
        return False


def _length(value: Json) -> int:
    return len(value) if type(value) is list or type(value) is str else 0


def _length_before(length: int, acts: list[tuple[Act, int]]) -> int | None:
    """Return how long a container was before acts; None where a deletion may have gone beyond the end."""
    for act, depth in reversed(acts):
        if act.kind is What.delete_text and depth == len(act.tokens) and act.position >= length:
            if act.position == length:
                return None
            continue
        length -= _growth(act, depth)
    return length


def _growth(act: Act, depth: int) -> int:
    """Return by how many items an act made its container longer."""
    if depth == len(act.tokens):
        return {What.insert_text: act.count, What.delete_text: -act.count}.get(act.kind, 0)
    if depth + 1 < len(act.tokens):
        return 0
    return {What.add: 1, What.into: 1, What.remove: -1, What.out: -1}.get(act.kind, 0)


class Found:
    """What a pointer means in the author's view: a node, and the tokens below it that nobody else has touched.

    `place` is where the author sees the node, in a container that is at the head. With tokens below it, so is the node.
    """

    __slots__ = ("node", "place", "rest")

    def __init__(self, node: Node, place: Place | None, rest: tuple[str, ...]) -> None:
        self.node = node
        self.place = place
        self.rest = rest

    def is_alive(self) -> bool:
        """Tell whether it is at the head."""
        return bool(self.rest) or self.node.is_alive()

    def path(self) -> tuple[str, ...]:
        """Return its path at the head, where it must be alive."""
        return self.node.path() + self.rest

    def opened(self) -> Content | None:
        """Return what the node holds, with all its places; None where view and head are the same there.

        Raises `Gone` where it is not at the head.
        """
        if self.rest:
            return None
        self.node.settle()
        content = self.node.view
        try:
            content.check_alive()
        except Gone as gone:
            gone.found = self
            raise
        if not content.foreign:
            return None
        content.open()
        return content


def find(model: Model, tokens: tuple[str, ...], *, is_ghost_found: bool = False) -> Found:
    """Find what a pointer means in the author's view. Raises `Refused` where it means nothing, and `Gone`.

    `is_ghost_found`: it may be what only the author sees.
    """
    found = Found(model.root, None, ())
    for depth, token in enumerate(tokens):
        content = found.opened()
        if content is None or (content.members is not None and token not in content.members):
            return Found(found.node, found.place, tokens[depth:])
        place: Place
        if content.members is not None:
            seen = content.seen_member(token)
            others = foreign_versions(content.writes.get(token, [])) if seen is None else set()
            if others:
                # They have made it meanwhile.
                raise Gone("target_gone", max(others))
            if seen is None:
                raise missing_member({}, token)
            place = seen
        elif content.sequence is not None and not content.is_text:
            sequence = content.sequence
            place = content.element(*sequence.seen_at(index(token, sequence.seen)))
        else:
            raise Refused("target_missing", "the path leads into a value that has no members")
        is_found = is_ghost_found and depth + 1 == len(tokens)
        if place.born is not None and place.born.kind is What.show and not is_found:
            raise ghost(place.born)
        found = Found(node_of(place), place, ())
    return found

"""The identity model: what became of each value of a document within a window, and what the author sees of it.

It is built when a stale event arrives, from the effective patches after the event's base, and only as far as the
event's pointers lead. A *node* is a value with an identity: it keeps it where it is moved or written. A *place* is
where a node is or was: a member of an object, or a piece of an array. A *content* is what a node holds between two
writes of it. The author's view and the head are two ways to read the same places.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from refold.core.errors import Refused
from refold.core.fold.acts import ON_VALUE, Act, What
from refold.core.fold.gone import Gone, ghost
from refold.core.fold.items import take_item
from refold.core.fold.places import Member, Place, die, hide_ranges, key_of, node_of
from refold.core.fold.sequence import Piece, Sequence

if TYPE_CHECKING:
    from refold.core.fold.model import Model

EVERYTHING: Final = 2**62


class Node:
    """A value with an identity. `place` is where it is at the head, or was last, `origin` the first; None for the root.

    `blur` is an act that changed it in the author's view in a way that is not kept.
    """

    __slots__ = ("blur", "contents", "model", "moves", "origin", "place")

    def __init__(self, model: Model, place: Place | None, born: Act | None) -> None:
        self.model = model
        self.place = self.origin = place
        self.contents = [Content(self, born)]
        self.moves: list[Act] = []
        self.blur: Act | None = None

    @property
    def head(self) -> Content:
        """What it holds at the head."""
        last = self.contents[-1]
        if len(self.contents) == 1 or not last.is_ghost:
            return last
        return next(content for content in reversed(self.contents) if not content.is_ghost)

    @property
    def view(self) -> Content:
        """What it holds in the author's view."""
        return next((it for it in reversed(self.contents) if it.born and it.born.is_own), self.contents[0])

    def take(self, act: Act, depth: int) -> None:
        """Take an act at or below the node."""
        if depth == len(act.tokens) and act.kind is What.blur:
            self.blur = act
        elif depth == len(act.tokens) and act.kind not in ON_VALUE:
            self.contents.append(Content(self, act))
        else:
            self.head.push(act, depth)

    def is_alive(self) -> bool:
        """Tell whether it is at the head."""
        self.settle()
        place = self.place
        if place is None:
            return True
        home = place.home
        return place.is_live and home is home.node.head and home.node.is_alive()

    def settle(self) -> None:
        """Follow its moves to the last one."""
        place = self.place
        while place is not None:
            place.home.node.settle()
            place.home.open()
            if self.place is place and place.died is not None and place.died.kind is What.out:
                partner = place.died.partner
                assert partner is not None
                self.model.locate(partner)
            if self.place is place:
                return
            place = self.place

    def path(self) -> tuple[str, ...]:
        """Return its path at the head, where it must be alive."""
        place = self.place
        return () if place is None else (*place.home.node.path(), key_of(place))

    def written(self) -> set[int]:
        """Return the versions of others that wrote it, or in it as it is at the head, or the member where it is."""
        acts = [content.born for content in self.contents if content.born is not None]
        acts += [act for act, _ in self.head.acts]
        if isinstance(self.place, Member):
            acts += self.place.home.writes.get(self.place.key, [])
        return foreign_versions(acts)

    def gone_by(self) -> int:
        """Return the version that removed it, or what holds it, from the head; 0 where it is there."""
        self.settle()
        place = self.place
        if place is None:
            return 0
        if not place.is_live:
            return place.died.event.version if place.died is not None and place.died is not place.born else 0
        home = place.home
        if home is home.node.head:
            return home.node.gone_by()
        later = home.node.contents[home.node.contents.index(home) + 1 :]
        return next(it.born.event.version for it in later if it.born is not None and not it.is_ghost)


def foreign_versions(acts: Iterable[Act]) -> set[int]:
    """Return the versions of others among acts."""
    return {act.event.version for act in acts if not act.is_own}


class Content:
    """What a node holds between two writes; `born` is the write, None for what it held at the base."""

    __slots__ = (
        "acts",
        "born",
        "foreign",
        "is_open",
        "is_text",
        "members",
        "node",
        "sequence",
        "taken",
        "writes",
    )

    def __init__(self, node: Node, born: Act | None) -> None:
        self.node = node
        self.born = born
        self.writes: dict[str, list[Act]] = {}
        self.acts: list[tuple[Act, int]] = []
        self.taken = 0
        self.foreign = 0
        self.is_open = False
        self.is_text = False
        self.members: dict[str, list[Member]] | None = None
        self.sequence: Sequence | None = None

    @property
    def is_ghost(self) -> bool:
        """Tell whether only the author sees it."""
        return self.born is not None and self.born.kind is What.show

    def check_alive(self) -> None:
        """Raise `Gone` where it is not at the head."""
        if self.born is not None and self.born.kind is What.show:
            raise ghost(self.born)
        node = self.node
        if not node.is_alive():
            raise Gone("target_gone", node.gone_by())
        if self is not node.head:
            later = node.contents[node.contents.index(self) + 1 :]
            raise Gone(
                "target_gone", max(it.born.event.version for it in later if it.born and not it.is_ghost)
            )

    def push(self, act: Act, depth: int) -> None:
        """Add an act at or below its value; it is taken when the content is opened."""
        self.acts.append((act, depth))
        self.foreign += act.is_foreign
        act.holder = self

    def open(self, until: int = EVERYTHING) -> None:
        """Hand its acts on to its places, up to an act's order."""
        if not self.is_open:
            self._begin()
        while self.taken < len(self.acts):
            act, depth = self.acts[self.taken]
            if act.order > until:
                break
            self.taken += 1
            if self.members is not None:
                self._take_member(act, depth)
            elif self.sequence is not None:
                take_item(self, self.sequence, act, depth)

    def _begin(self) -> None:
        value, length = self.node.model.initial(self)
        self.is_open = True
        if type(value) is dict:
            self.members = {}
        elif type(value) is list or type(value) is str:
            self.sequence = Sequence(self, length)
            self.is_text = type(value) is str

    def items(self) -> Sequence:
        """Return the items of an array or a string that is open. Raises `Refused`."""
        if self.sequence is None:
            raise Refused("target_missing", "the path leads into a value that has no members")
        return self.sequence

    def seen_member(self, key: str) -> Member | None:
        """Return the place of a member that was touched in the author's view."""
        assert self.members is not None
        place = next((place for place in reversed(self.members[key]) if place.is_seen), None)
        if place is None or place.born is not None or not self._may_be_new(key):
            return place
        node = node_of(place)
        node.settle()
        # Only where it has moved on does it matter whether it was there, and the author has not made it.
        is_own = node.view is not node.contents[0]
        if node.place is place or is_own or self.node.model.was_there(self, key):
            return place
        place.is_seen = False
        return None

    def live_member(self, key: str) -> Member | None:
        """Return the place of a member that was touched at the head, where it may not be."""
        assert self.members is not None
        return next((place for place in reversed(self.members[key]) if place.is_live), None)

    def _may_be_new(self, key: str) -> bool:
        first = next(iter(self.writes.get(key, [])), None)
        return first is not None and (first.kind is What.add or first.kind is What.into)

    def member(self, key: str) -> list[Member]:
        """Return the places that a member has had, the oldest first; a member may not have been there at the base."""
        assert self.members is not None
        places = self.members.get(key)
        if places is None:
            place = Member(self, key, None, is_seen=True, is_live=True)
            place.node = Node(self.node.model, place, None)
            places = self.members[key] = [place]
        return places

    def _take_member(self, act: Act, depth: int) -> None:
        if depth == len(act.tokens):
            return
        key, kind = act.tokens[depth], act.kind
        places = self.member(key)
        live = next((place for place in reversed(places) if place.is_live), None)
        if len(act.tokens) > depth + 1 or kind in ON_VALUE:
            if live is not None:
                node_of(live).take(act, depth + 1)
            return
        if kind < What.hide:
            self.writes.setdefault(key, []).append(act)
        if kind is What.remove or kind is What.out:
            if live is not None:
                act.node = live.node
                die(live, act)
        elif kind is What.hide:
            if live is not None:
                live.is_seen = False
        elif live is not None and (kind is What.replace or kind is What.add):
            if act.is_own and kind is What.add and not live.is_seen:
                for place in places:
                    place.is_seen = place is live
            node_of(live).take(act, depth + 1)
        else:
            self._occupy(places, live, act)

    def _occupy(self, places: list[Member], live: Member | None, act: Act) -> None:
        """Put another node into a member's place."""
        is_ghost = act.kind is What.show
        if live is not None and not is_ghost:
            die(live, act)
        new = Member(self, act.tokens[-1], act, is_seen=act.is_own, is_live=not is_ghost)
        if act.is_own:
            for place in places:
                place.is_seen = False
        places.append(new)
        self.settle_node(new, act)

    def settle_node(self, place: Place, act: Act) -> None:
        """Give a new place its node: that of a move, or a new one."""
        model = self.node.model
        if act.kind is What.show:
            place.died = act
            act.places.append(place)
            hide_ranges(act)
        if act.kind is not What.into:
            # An element gets its node when it is touched.
            if isinstance(place, Member):
                place.node = Node(model, place, act)
            return
        assert act.partner is not None
        model.locate(act.partner)
        node = place.node = act.partner.node
        assert node is not None
        act.node = node
        node.place = place
        node.moves.append(act)

    def element(self, piece: Piece, offset: int) -> Piece:
        """Return the element of an array at an offset of a piece, as a piece with a node."""
        assert self.sequence is not None
        piece = self.sequence.single(piece, offset)
        if piece.node is None:
            piece.node = Node(self.node.model, piece, piece.born)
        return piece

"""Identities of the values of one document within a window: what became of each, and what an author sees of it.

A *node* is a value with an identity, which it keeps where it is moved or written. A *place* is where a node is or was:
a member of an object, or a piece of an array or of a text. A *content* is what a node holds from one write to the
next. A removed place stays, as an author who does not know of the removal still sees it. The head and each author's
view are filters over the same places.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from refold.core.json_text import Json

if TYPE_CHECKING:
    from refold.core.fold.sequence import Block, Sequence


class Stamp:
    """The event that inserted, removed or wrote something.

    `version` is the one that the event made or, of a rejected event, the one at which it was rejected. What is
    `is_optimistic` was done in the views of the event's session only, while their base is below that version; `reason`
    says why an operation on what was made by it is dropped.
    """

    __slots__ = ("is_optimistic", "reason", "sequence", "session", "version")

    def __init__(self, sequence: int, version: int, session: str | None, reason: str = "") -> None:
        self.sequence = sequence
        self.version = version
        self.session = session
        self.is_optimistic = bool(reason)
        self.reason = reason

    def cancel(self) -> None:
        """Make it as if the event had never been: no author knows of it, and the head does not count it."""
        self.sequence, self.session, self.is_optimistic = 0, None, True

    def without_author(self) -> Stamp:
        """Return the stamp of a removal that its author does not see as its own."""
        return Stamp(0, self.version, None)


class Author:
    """Whose view it is: an event's base, session and sequence."""

    __slots__ = ("base", "is_optimistic", "sequence", "session")

    def __init__(self, base: int, session: str | None, sequence: int, *, is_optimistic: bool = True) -> None:
        """Without `is_optimistic`, what the author did without effect is left out."""
        self.base = base
        self.session = session
        self.sequence = sequence
        self.is_optimistic = is_optimistic

    def knows(self, stamp: Stamp) -> bool:
        """Tell whether what was stamped is done in the author's view."""
        if stamp.is_optimistic and not self.is_optimistic:
            return False
        if stamp.sequence == self.sequence:
            return True
        is_own = stamp.session is not None and stamp.session == self.session
        if stamp.is_optimistic:
            return is_own and self.base < stamp.version
        return is_own or stamp.version <= self.base

    def sees(self, place: Place) -> bool:
        """Tell whether a place is in the author's view of its container."""
        inserted, removed = place.inserted, place.removed
        if inserted and not any(map(self.knows, inserted)):
            return False
        return not (removed and any(map(self.knows, removed)))

    def without_optimistic(self) -> Author:
        """Return the author without its updates that had no effect."""
        return Author(self.base, self.session, self.sequence, is_optimistic=False)

    def others(self, stamps: Iterable[Stamp]) -> set[int]:
        """Return the versions after the base that other sessions made."""
        return {
            stamp.version
            for stamp in stamps
            if stamp.version > self.base
            and not stamp.is_optimistic
            and stamp.sequence != self.sequence
            and (stamp.session is None or stamp.session != self.session)
        }


class Place:
    """Where a node is or was. `inserted` is empty for what was there before the window.

    `value` is what a place held that is not at the head any more, `unit` the name of its removal. `node` is made when
    it is needed.
    """

    __slots__ = ("count", "inserted", "is_live", "node", "removed", "unit", "value")

    def __init__(self, inserted: list[Stamp], *, count: int = 1, is_live: bool = True) -> None:
        self.inserted = inserted
        self.removed: list[Stamp] = []
        self.is_live = is_live
        self.count = count
        self.node: Node | None = None
        self.value: Json = None
        self.unit: tuple[int, int] | None = None

    @property
    def home(self) -> Content:
        """The container's content of which it is a part."""
        raise NotImplementedError

    @property
    def key(self) -> str:
        """Its key or index among what is, or was last, at the head."""
        raise NotImplementedError

    def ensure_node(self) -> Node:
        """Return the node at the place."""
        if self.node is None:
            self.node = Node(self)
            self.node.contents.append(Content(self.node, self.inserted[0] if self.inserted else None))
        return self.node

    def is_at_head(self) -> bool:
        """Tell by the stamps whether it is at the head of its container."""
        if self.inserted and all(stamp.is_optimistic for stamp in self.inserted):
            return False
        return all(stamp.is_optimistic for stamp in self.removed)


class Member(Place):
    """A member of an object."""

    __slots__ = ("_home", "_key")

    def __init__(self, home: Content, key: str, inserted: list[Stamp], *, is_live: bool = True) -> None:
        super().__init__(inserted, is_live=is_live)
        self._home = home
        self._key = key

    @property
    def home(self) -> Content:
        """The object's content."""
        return self._home

    @property
    def key(self) -> str:
        """Its key."""
        return self._key


class Piece(Place):
    """A run of elements or characters with one fate. An element that was touched is a piece of its own."""

    __slots__ = ("block",)

    block: Block

    @property
    def home(self) -> Content:
        """The content of the array or text."""
        return self.block.sequence.content

    @property
    def key(self) -> str:
        """Its index at the head."""
        return str(self.block.sequence.live_before(self))


class Node:
    """A value with an identity; `place` is where it is or was last at the head, None for the root; `places` are all."""

    __slots__ = ("contents", "moves", "place", "places")

    def __init__(self, place: Place | None) -> None:
        self.place = place
        self.places = [] if place is None else [place]
        self.contents: list[Content] = []
        self.moves: list[Stamp] = []

    @property
    def head(self) -> Content:
        """What it holds at the head."""
        for content in reversed(self.contents):
            if not content.is_optimistic:
                return content
        return self.contents[0]

    def view(self, author: Author) -> Content | None:
        """Return what it holds in an author's view; None where the author does not know what."""
        for content in reversed(self.contents):
            if (
                content.stamp is None
                or author.knows(content.stamp)
                or any(map(author.knows, content.adopted))
            ):
                return content
        return None

    @property
    def is_optimistic(self) -> bool:
        """Tell whether it never was at the head."""
        return self.contents[0].is_optimistic

    def is_alive(self) -> bool:
        """Tell whether it is at the head."""
        node = self
        while (place := node.place) is not None:
            home = place.home
            node = home.node
            if not place.is_live or home is not node.head:
                return False
        return True

    def path(self) -> tuple[str, ...]:
        """Return its path at the head, where it must be alive."""
        place = self.place
        return () if place is None else (*place.home.node.path(), place.key)

    def written(self, author: Author, seen: Place | None) -> set[int]:
        """Return the versions of others that wrote it, or in it, or to the member where the author sees it."""
        versions = author.others([content.stamp for content in self.contents if content.stamp])
        versions |= author.others(self.head.writes)
        if isinstance(seen, Member) and seen is self.place:
            versions |= author.others(seen.home.keys.get(seen.key, ()))
        return versions


class Content:
    """What a node holds from one write to the next; `stamp` is the write, None before the window.

    It is opened when something in it is touched: then it has `members`, or a `sequence`. `writes` are all writes below
    it, `keys` those of each member, `adopted` pushes of authors who did not know of it. `value` is what it was when it
    was overwritten, `unit` the name of that. `amounts` were added to a number, each with the number before.
    """

    __slots__ = (
        "adopted", "amounts", "is_open", "is_text", "keys", "members", "node", "sequence", "stamp", "unit", "value",
        "writes",
    )  # fmt: skip

    def __init__(self, node: Node, stamp: Stamp | None) -> None:
        self.node = node
        self.stamp = stamp
        self.adopted: list[Stamp] = []
        self.writes: list[Stamp] = []
        self.keys: dict[str, list[Stamp]] = {}
        self.amounts: list[tuple[Stamp, Json, Json]] = []
        self.is_open = False
        self.is_text = False
        self.members: dict[str, list[Member]] | None = None
        self.sequence: Sequence | None = None
        self.value: Json = None
        self.unit: tuple[int, int] | None = None

    @property
    def is_optimistic(self) -> bool:
        """Tell whether it is in its author's view only."""
        return self.stamp is not None and self.stamp.is_optimistic

    def is_alive(self) -> bool:
        """Tell whether it is at the head."""
        return self is self.node.head and self.node.is_alive()

    def adopt(self, stamp: Stamp) -> None:
        """Let an author who pushed to an array that it does not know see it, with its own elements."""
        if self.stamp is not None and self.node.place is not None and self.sequence is not None:
            if self.node.place.inserted:
                self.node.place.inserted.append(stamp)
            self.adopted.append(stamp)
            self.sequence.stamp_first(self.stamp)

    def has_touched(self, key: str) -> bool:
        """Tell whether it is an object in which a member was touched: that has places, which may all be removed."""
        return self.members is not None and key in self.members

    def seen_member(self, author: Author, key: str) -> Member | None:
        """Return where an author sees a member that was touched."""
        assert self.members is not None
        return next((it for it in reversed(self.members.get(key, ())) if author.sees(it)), None)

    def live_member(self, key: str) -> Member | None:
        """Return where a member that was touched is at the head."""
        assert self.members is not None
        return next((it for it in reversed(self.members.get(key, ())) if it.is_live), None)

    def gone_by(self) -> Stamp | None:
        """Return what took it, or what holds it, from the head."""
        node = self.node
        if self is not node.head:
            later = node.contents[node.contents.index(self) + 1 :]
            return next(it.stamp for it in later if it.stamp and not it.is_optimistic)
        place = node.place
        if place is None:
            return None
        removal = next((stamp for stamp in place.removed if not stamp.is_optimistic), None)
        return place.home.gone_by() if removal is None else removal

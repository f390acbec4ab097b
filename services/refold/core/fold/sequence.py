"""The elements of an array, or the characters of a string, within a window: runs of items with one fate each.

A run that nothing touched is one piece, however long. An item that was removed stays as a piece that is not live, in
its place between the others, as the author may still see it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from refold.core.fold.acts import Act
    from refold.core.fold.identity import Content, Node

BLOCK_PIECES_MAX: Final = 32
"""Pieces of a block, whose sums make a search by position quick."""


class Piece:
    """A run of items. An element that was touched is a piece of its own and has a node.

    `is_seen`: in the author's view; `is_live`: at the head. `start` counts from the array's beginning at the base,
    or from the beginning of the text that `born` inserted. `died` is the act that removed it, `offset` where it
    begins among what that removed.
    """

    __slots__ = ("block", "born", "count", "died", "is_live", "is_seen", "node", "offset", "start")

    def __init__(self, count: int, born: Act | None, start: int, *, is_seen: bool, is_live: bool) -> None:
        self.count = count
        self.born = born
        self.start = start
        self.is_seen = is_seen
        self.is_live = is_live
        self.died: Act | None = None
        self.offset = 0
        self.node: Node | None = None
        self.block: Block

    @property
    def home(self) -> Content:
        """The content of which it is a part."""
        return self.block.sequence.content


class Block:
    """Some pieces in a row, with how many of their items are live and seen."""

    __slots__ = ("live", "pieces", "seen", "sequence")

    def __init__(self, sequence: Sequence, pieces: list[Piece]) -> None:
        self.sequence = sequence
        self.pieces = pieces
        self.live = sum(piece.count for piece in pieces if piece.is_live)
        self.seen = sum(piece.count for piece in pieces if piece.is_seen)
        for piece in pieces:
            piece.block = self


class Sequence:
    """Pieces in order; `live` and `seen` count the items at the head and in the author's view."""

    __slots__ = ("blocks", "content", "live", "seen")

    def __init__(self, content: Content, count: int) -> None:
        """`count` items are there at the base."""
        self.content = content
        self.live = self.seen = count
        first = [Piece(count, None, 0, is_seen=True, is_live=True)] if count else []
        self.blocks = [Block(self, first)]

    def pieces(self) -> Iterator[Piece]:
        """Yield all pieces in order."""
        for block in self.blocks:
            yield from block.pieces

    def live_at(self, position: int) -> tuple[Piece, int]:
        """Return the piece with an item of the head, and the item's offset in it. Raises `LookupError`."""
        for block in self.blocks:
            if position < block.live:
                for piece in block.pieces:
                    if piece.is_live:
                        if position < piece.count:
                            return piece, position
                        position -= piece.count
            position -= block.live
        raise LookupError(position)

    def seen_at(self, position: int) -> tuple[Piece, int]:
        """Return the piece with an item of the author's view, and the item's offset in it. Raises `LookupError`."""
        for block in self.blocks:
            if position < block.seen:
                for piece in block.pieces:
                    if piece.is_seen:
                        if position < piece.count:
                            return piece, position
                        position -= piece.count
            position -= block.seen
        raise LookupError(position)

    def live_before(self, piece: Piece) -> int:
        """Count the items of the head before a piece."""
        count = 0
        for block in self.blocks:
            if block is piece.block:
                break
            count += block.live
        for other in piece.block.pieces:
            if other is piece:
                break
            if other.is_live:
                count += other.count
        return count

    def mark(self, piece: Piece, *, is_seen: bool, is_live: bool) -> None:
        """Change a piece's flags."""
        block, count = piece.block, piece.count
        seen, live = (is_seen - piece.is_seen) * count, (is_live - piece.is_live) * count
        block.seen += seen
        block.live += live
        self.seen += seen
        self.live += live
        piece.is_seen, piece.is_live = is_seen, is_live

    def cut(self, piece: Piece, offset: int) -> None:
        """Divide a piece, so that an item begins or ends one; the part before keeps the object."""
        if not 0 < offset < piece.count:
            return
        rest = Piece(
            piece.count - offset,
            piece.born,
            piece.start + offset,
            is_seen=piece.is_seen,
            is_live=piece.is_live,
        )
        piece.count = offset
        if piece.died is not None:
            rest.died, rest.offset = piece.died, piece.offset + offset
            piece.died.places.append(rest)
        pieces = piece.block.pieces
        rest.block = piece.block
        pieces.insert(pieces.index(piece) + 1, rest)
        self._divide(piece.block)

    def single(self, piece: Piece, offset: int) -> Piece:
        """Return a piece of one item."""
        if piece.count > 1:
            if offset:
                self.cut(piece, offset)
                piece = self.next(piece)
            self.cut(piece, 1)
        return piece

    def next(self, piece: Piece) -> Piece:
        """Return the piece after one that is not the last of its block, or the first of the next block."""
        pieces = piece.block.pieces
        at = pieces.index(piece) + 1
        if at < len(pieces):
            return pieces[at]
        following = iter(self.blocks[self.blocks.index(piece.block) + 1 :])
        return next(block.pieces[0] for block in following if block.pieces)

    def before(self, piece: Piece | None) -> list[Piece]:
        """Return the removed pieces up to and with a piece, the nearest first, back to one that is live."""
        found: list[Piece] = []
        if piece is None:
            return found
        at = self.blocks.index(piece.block)
        pieces = piece.block.pieces[: piece.block.pieces.index(piece) + 1]
        while True:
            for other in reversed(pieces):
                if other.is_live:
                    return found
                found.append(other)
            at -= 1
            if at < 0:
                return found
            pieces = self.blocks[at].pieces

    def insert_after(self, piece: Piece | None, new: Piece) -> None:
        """Insert after a piece, or at the front."""
        block = self.blocks[0] if piece is None else piece.block
        at = 0 if piece is None else block.pieces.index(piece) + 1
        self._insert(block, at, new)

    def insert_before(self, piece: Piece, new: Piece) -> None:
        """Insert before a piece."""
        self._insert(piece.block, piece.block.pieces.index(piece), new)

    def append(self, new: Piece) -> None:
        """Insert at the end, after all that was removed there."""
        block = self.blocks[-1]
        self._insert(block, len(block.pieces), new)

    def _insert(self, block: Block, at: int, new: Piece) -> None:
        new.block = block
        block.pieces.insert(at, new)
        live, seen = new.count * new.is_live, new.count * new.is_seen
        block.live += live
        block.seen += seen
        self.live += live
        self.seen += seen
        self._divide(block)

    def _divide(self, block: Block) -> None:
        if len(block.pieces) > BLOCK_PIECES_MAX:
            half = len(block.pieces) // 2
            at = self.blocks.index(block)
            self.blocks[at : at + 1] = [
                Block(self, block.pieces[:half]),
                Block(self, block.pieces[half:]),
            ]

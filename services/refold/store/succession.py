"""A fresh projection that is to take the live one's place, once both are seen to be equal.

The port's part for `refold.projector.rebuild`; PostgreSQL's adapter is `refold.store.postgres.succession`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol


class Row(NamedTuple):
    """What is compared of a document; `state_hash` is the SHA-256 of its canonical bytes, None where it is absent."""

    version: int
    last_sequence: int
    state_hash: str | None


class Unequal(NamedTuple):
    """A document, or (with empty names) a part of the books, that the two projections have otherwise."""

    namespace: str
    document: str
    live: Row | str | None
    fresh: Row | str | None


class Held(Protocol):
    """The live projection held still: nothing is committed to it meanwhile."""

    sequence: int
    """How far it has come."""

    def unequal(self, after_sequence: int) -> AsyncGenerator[Unequal]:
        """Compare what changed behind a sequence, and the checkpoints and counts."""

    async def swap(self) -> None:
        """Put the fresh projection in the live one's place when the holding ends; the live one ends."""


class Succession(Protocol):
    """Two projections of one log in one database."""

    async def prepare(self) -> None:
        """Refuse what would not follow a swap (`StoreDiffers`), and clear away what an earlier one left."""

    async def copy_indexes(self) -> None:
        """Give the fresh projection the indexes that were added to the live one."""

    def unequal(self, until_sequence: int) -> AsyncGenerator[Unequal]:
        """Compare what has not changed since a sequence that the fresh one stands at and the live one has passed."""

    def hold(self) -> AbstractAsyncContextManager[Held]:
        """Hold the live projection still for a moment. Raises `StoreUnavailable` where it cannot be had in time."""

    async def drop_former(self) -> None:
        """Let go of the projection that was replaced."""


class Bound(NamedTuple):
    """What a projection says of the log that it was made from."""

    log_id: str
    read_sequence: int
    """How far it had been folded; 0 where that cannot be read."""


class Replacement(Protocol):
    """A fresh projection that takes the place of a damaged one, which is kept under another name."""

    async def prepare(self) -> None:
        """Raise `StoreDiffers` where something reads the damaged projection and would not follow the replacement."""

    async def bound(self) -> Bound | None:
        """Read what the damaged projection was made from; None where it cannot be read."""

    async def copy_indexes(self) -> None:
        """Give the fresh projection the indexes that were added to the damaged one."""

    def hold(self) -> AbstractAsyncContextManager[None]:
        """Keep everyone from committing to the damaged projection; when the block ends, the fresh one takes its place.

        Raises `StoreUnavailable` where that cannot be had in time.
        """

    @property
    def kept(self) -> str:
        """The name that the damaged projection is kept under; empty where nothing was left of it."""

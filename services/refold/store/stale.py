"""Refuse to read a store that has lost its last commits in a crash, until they are folded again from the log.

Used by adapters each time that they connect: PostgreSQL without `fsync` of each commit, Redis and SQLite alike may lose
the tail of what was committed, state and checkpoint together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from refold.core.errors import LogError, StoreUnavailable
from refold.core.stream import PARTITIONS


async def _no_sequence() -> int:
    return 0


class StaleCheck:
    """What a store must have folded before it is read."""

    def __init__(self) -> None:
        """Require nothing."""
        self.sent_sequences: Callable[[], Sequence[int]] = list
        self.end_sequence: Callable[[], Awaitable[int]] = _no_sequence
        self._end: int | None = None

    def require(
        self,
        sent_sequences: Callable[[], Sequence[int]],
        end_sequence: Callable[[], Awaitable[int]] | None = None,
    ) -> None:
        """Set what is required from now on, as `ports.Connected.refuse_stale` says."""
        self.sent_sequences = sent_sequences
        if end_sequence is not None:
            self.end_sequence = end_sequence

    async def required(self, *, may_have_crashed: bool) -> list[int]:
        """Return by partition what must have been folded, empty if nothing; call it before the sequences are read.

        `may_have_crashed`: no connection lives that has been checked. Otherwise every commit that was read before is
        still there. Raises `StoreUnavailable` where the log's end is not known.
        """
        sent, end = self.sent_sequences(), await self._end_of_log() if may_have_crashed else 0
        if not end and not any(sent):
            return []
        return [max(end, sequence) for sequence in sent or [0] * PARTITIONS]

    def check(self, required: Sequence[int], folded: Mapping[int, int]) -> None:
        """Compare with the folded sequences by partition; what is missing is 0. Raises `StoreUnavailable`.

        Afterwards a connection that has been checked lives.
        """
        for partition, required_sequence in enumerate(required):
            folded_sequence = folded.get(partition, 0)
            if folded_sequence < required_sequence:
                message = "the store may have lost its last commits, and is being folded up to the log's end"
                facts = {"folded_sequence": folded_sequence, "required_sequence": required_sequence}
                raise StoreUnavailable(message, **facts)
        self._end = None

    async def _end_of_log(self) -> int:
        """Return the log's end as of the first check after a crash: under load there are always more events."""
        if self._end is None:
            try:
                self._end = await self.end_sequence()
            except LogError as error:
                message = "the log's end is not known, and so not whether the store has lost commits"
                raise StoreUnavailable(message, cause=str(error)) from error
        return self._end

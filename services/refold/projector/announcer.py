"""Send a shard's notices, or keep them while the projector of another store sends the same.

Used by the projector's loop. Where one log is folded into several stores, each by a projector of its own, one of them
announces: the first in the order of the stores that has caught up. The others keep what it has not announced yet.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from refold.core import json_text
from refold.core.errors import LogUnavailable, Refused
from refold.core.stream import PARTITIONS, parse_shard
from refold.core.timestamp import format_time
from refold.log import Message, Notices
from refold.projector.notices import Announced, committed_notice, joined, progress_notice
from refold.telemetry.logging import get_logger

SILENT_SECONDS: Final = 3.0
"""A projector takes over when it has heard no progress of one that goes before it for this long."""

BEHIND_EVENTS_MAX: Final = 10_000
"""A projector this far behind another one has not caught up, whatever the order; it folds so many in a second."""

KEPT_BYTES_MAX: Final = 64 * 1024 * 1024
"""Notices kept by a projector that does not announce; beyond it the oldest are dropped, as if they were lost."""


class _Turn(NamedTuple):
    """What one turn of the fold has to say: the sequence it ends at, its messages, its changes and effective events."""

    sequence: int
    messages: list[Message]
    changes: int
    effective: int
    size: int


class Announcer:
    """The notices of one loop over a shard, all on one connection and in order."""

    def __init__(
        self,
        replies: Notices,
        *,
        shard: str,
        stores: Sequence[str],
        store: str,
        folded_sequence: int,
        broker_now: Callable[[], int],
        timer: Callable[[], float],
    ) -> None:
        """`stores` are the names of all stores in their order, empty where there is one; `store` is this one's."""
        self._replies = replies
        self._shard = shard
        self._partitions = parse_shard(shard)
        self._ranks = {name: rank for rank, name in enumerate(stores)} if len(stores) > 1 else {}
        self._store = store
        self._broker_now, self._timer = broker_now, timer
        self._sending = asyncio.Lock()
        self._folded_sequence = folded_sequence
        # By partition: when it was last announced by one that goes before this one, and how far.
        self._led_at = [timer()] * PARTITIONS
        self._passed = [0] * PARTITIONS
        self._kept: deque[_Turn] = deque()
        self._kept_bytes = 0
        self.is_leading = not self._ranks
        self._announced = self._begin()
        self._end_sequence: int | None = None

    @property
    def is_one_of_several(self) -> bool:
        """Tell whether other projectors fold the same shard into other stores."""
        return bool(self._ranks)

    @property
    def is_first(self) -> bool:
        """Tell whether its store is the first of several."""
        return self._ranks.get(self._store) == 0

    @property
    def _passed_sequence(self) -> int:
        """Return up to where others have announced all of this shard."""
        return min(self._passed[partition] for partition in self._partitions)

    def catch_up_to(self, end_sequence: int) -> None:
        """Let the first of several stores announce as soon as it has folded the log up to the end that it had."""
        self._end_sequence = end_sequence

    def hear(self, _: str, body: bytes) -> None:
        """Take a projector's progress: one of another store announces."""
        notice = json_text.object_in(body)
        store, folded, epoch = notice.get("store"), notice.get("folded"), notice.get("epoch")
        rank = self._ranks.get(store) if isinstance(store, str) and store != self._store else None
        if rank is None or type(folded) is not int or type(epoch) is not str:
            return
        try:
            heard = parse_shard(str(notice.get("shard")))
        except Refused:
            return
        ours, is_before = self._folded_sequence, rank < self._ranks[self._store]
        leads = folded > ours + BEHIND_EVENTS_MAX or (is_before and folded + BEHIND_EVENTS_MAX >= ours)
        for partition in heard:
            self._passed[partition] = max(folded, self._passed[partition])
            if leads:
                self._led_at[partition] = self._timer()
        if not leads and epoch > format_time(self._announced.started_at):
            # It took over while this one was silent: receivers would take this one's epoch for a former one.
            self.is_leading = False
        passed_sequence = self._passed_sequence
        while self._kept and self._kept[0].sequence <= passed_sequence:
            self._kept_bytes -= self._kept.popleft().size

    async def send(
        self, sequence: int, replies: list[Message], changes: list[Message], *, effective: int
    ) -> None:
        """Send the outcomes and changes of a turn, which ends at a sequence and had so many effective events.

        They go out in one write: another one costs projector and broker about 40 µs each while little is written.
        """
        messages = joined(replies) + changes
        size = sum(len(message[1]) for message in messages)
        turn = _Turn(sequence, messages, len(changes), effective, size)
        async with self._sending:
            self._folded_sequence = sequence
            await self._decide()
            await (self._send_turn(turn) if self.is_leading else self._keep(turn))

    async def send_all(self, messages: Sequence[Message]) -> None:
        """Send messages that come after their turn."""
        size = sum(len(message[1]) for message in messages)
        turn = _Turn(self._folded_sequence, list(messages), 0, 0, size)
        async with self._sending:
            await (self._send(turn.messages) if self.is_leading else self._keep(turn))

    async def send_progress(self, committed_sequence: int) -> None:
        """Send how far the shard is: after every commit, and as a sign of life.

        On the connection of the changes, and never between those of one turn: who counts the changes that came before
        it knows whether one was lost.
        """
        async with self._sending:
            await self._decide()
            messages: list[Message] = []
            if self.is_leading:
                messages.append(progress_notice(committed_sequence, self._announced))
            if self._ranks:
                messages.append(committed_notice(committed_sequence, self._announced))
            await self._send(messages)

    async def _decide(self) -> None:
        """Take over, with what is kept, or step back."""
        if not self._ranks:
            return
        now, was_leading = self._timer(), self.is_leading
        self.is_leading = all(now - self._led_at[each] >= SILENT_SECONDS for each in self._partitions)
        has_caught_up = self._end_sequence is not None and self._folded_sequence >= max(
            self._end_sequence, *self._passed
        )
        if not self.is_leading and self.is_first and has_caught_up:
            self._led_at = [-SILENT_SECONDS] * PARTITIONS
            self.is_leading = True
        if self.is_leading and not was_leading:
            get_logger().info("announcer_takes_over", store=self._store, sequence=self._folded_sequence)
            self._announced = self._begin()
            kept, self._kept, self._kept_bytes = self._kept, deque(), 0
            for turn in kept:
                await self._send_turn(turn)
            self._announced.folded_sequence = self._folded_sequence
        elif was_leading and not self.is_leading:
            get_logger().info("announcer_steps_back", store=self._store, sequence=self._folded_sequence)

    def _begin(self) -> Announced:
        """Begin an epoch."""
        return Announced(
            shard=self._shard,
            store=self._store if self._ranks else "",
            started_at=self._broker_now(),
            folded_sequence=self._folded_sequence,
        )

    async def _keep(self, turn: _Turn) -> None:
        if not turn.messages or turn.sequence <= self._passed_sequence:
            return
        self._kept.append(turn)
        self._kept_bytes += turn.size
        while self._kept_bytes > KEPT_BYTES_MAX:
            self._kept_bytes -= self._kept.popleft().size

    async def _send_turn(self, turn: _Turn) -> None:
        if turn.messages:
            await self._send(turn.messages)
        announced = self._announced
        announced.folded_sequence = turn.sequence
        announced.changes_sent += turn.changes
        announced.changes_unsent += turn.effective - turn.changes

    async def _send(self, messages: list[Message]) -> None:
        """Send messages. Notices may be lost without harm to the state, so a dead connection is only logged."""
        try:
            await self._replies.send_all(messages)
        except LogUnavailable as error:
            get_logger().warning("notices_lost", sequence=self._folded_sequence, error=str(error))

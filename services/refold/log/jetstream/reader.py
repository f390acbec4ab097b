"""The whole log in order and unfiltered, from a sequence on, then its live tail, whatever happens to the broker.

Used by `refold.log.jetstream`; a subject filter would make it ten times slower.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import structlog

from refold.core.errors import LogHole, LogUnavailable, TimedOut
from refold.core.limits import RECONNECT_SECONDS, RECONNECT_SECONDS_MAX
from refold.core.record import Record
from refold.log.jetstream.api import stored_record, stream_info, unreadable_range
from refold.log.jetstream.client import BrokerClient
from refold.log.jetstream.feed import Feed, FeedLost

READ_STALLS_MAX: Final = 3
"""New consumers that deliver nothing, one after the other, although the log has more."""

_log = structlog.get_logger()


async def read_log(client: BrokerClient, after_sequence: int) -> AsyncGenerator[list[Record], None]:
    """Yield every record after a sequence, run by run; ends only by `aclose`.

    Raises `LogHole` where the log lacks a sequence or the broker cannot read it, `TimedOut` where the broker delivers
    nothing although it has more, `LogUnavailable` once the client is closed for good.
    """
    reading = Reading(client, after_sequence)
    while True:
        try:
            feed = await reading.begin()
            try:
                while True:
                    run = await feed.take()
                    if not run:
                        await reading.check_quiet()
                        continue
                    async with aclosing(reading.within_leader(run)) as parts:
                        async for part in parts:
                            yield part
            finally:
                feed.close()
        except FeedLost as lost:
            _log.info("feed_lost", why=str(lost), sequence=reading.last_sequence + 1)
            await reading.lose(feed, lost)
        except LogUnavailable as error:
            if client.is_closed:
                raise
            _log.info("log_unreadable", error=str(error), sequence=reading.last_sequence + 1)
            await reading.pause()


class Reading:
    """How far one reader has come, over all its consumers."""

    def __init__(self, client: BrokerClient, after_sequence: int) -> None:
        """Begin after a sequence."""
        self.last_sequence = after_sequence
        self._client = client
        self._pause_seconds = RECONNECT_SECONDS
        self._has_replicas = False
        self._leader_sequence = 0
        self._gap_end = 0
        self._quiet_sequence = -1
        self._stalls = 0

    async def begin(self) -> Feed:
        """Make a consumer where reading has come to. Raises `LogHole` where the log ends before that."""
        await self._client.until_up()
        await self._ask_leader()
        if self._leader_sequence < self.last_sequence:
            message = "the log ends before what has been read from it"
            raise LogHole(message, last_sequence=self._leader_sequence, read_sequence=self.last_sequence)
        if self._gap_end:
            await self._check_gap()
        return await Feed.open(self._client, self.last_sequence + 1)

    async def within_leader(self, run: list[Record]) -> AsyncGenerator[list[Record], None]:
        """Hand a run on, and never what the stream's leader does not have: a replica may be wrong."""
        while self._has_replicas and run[-1].sequence > self._leader_sequence:
            await self._ask_leader()
            known = self._leader_sequence - self.last_sequence
            if 0 < known < len(run):
                yield self._pass(run[:known])
                run = run[known:]
            elif known <= 0:
                await self.pause()
        yield self._pass(run)

    async def check_quiet(self) -> None:
        """Tell a quiet log from one whose next event cannot be read, the second time that nothing has come.

        Raises `LogHole` with the range that the broker cannot read, `FeedLost` where a new consumer may help.
        """
        await self._ask_leader()
        next_sequence = self.last_sequence + 1
        if self._leader_sequence < next_sequence or self._quiet_sequence != next_sequence:
            self._quiet_sequence = next_sequence
            return
        if await stored_record(self._client, seq=next_sequence) is None:
            first, last = await unreadable_range(self._client, next_sequence, self._leader_sequence)
            message = "the broker has events that it cannot read: a block of its storage is damaged"
            raise LogHole(message, first_sequence=first, last_sequence=last)
        self._stalls += 1
        if self._stalls > READ_STALLS_MAX:
            message = "the broker delivers no events, although it has more"
            raise TimedOut(message, next_sequence=next_sequence, last_sequence=self._leader_sequence)
        raise FeedLost("the consumer delivers nothing, although there is more")

    async def lose(self, feed: Feed, lost: FeedLost) -> None:
        """Note how a consumer ended; one that gave nothing is not made anew at once."""
        if feed.first_sequence == self.last_sequence + 1:
            self._gap_end = lost.found
            await self.pause()

    async def pause(self) -> None:
        """Wait before the next attempt, longer each time that nothing has come between."""
        await asyncio.sleep(self._pause_seconds)
        self._pause_seconds = min(2 * self._pause_seconds, RECONNECT_SECONDS_MAX)

    def _pass(self, run: list[Record]) -> list[Record]:
        self.last_sequence = run[-1].sequence
        self._pause_seconds = RECONNECT_SECONDS
        self._stalls = 0
        return run

    async def _check_gap(self) -> None:
        """A new consumer has found the same gap: raise `LogHole` if the leader lacks the event, too."""
        missing, self._gap_end = (self.last_sequence + 1, self._gap_end - 1), 0
        if await stored_record(self._client, seq=missing[0]) is None:
            raise LogHole("the log lacks events", first_sequence=missing[0], last_sequence=missing[1])

    async def _ask_leader(self) -> None:
        info = await stream_info(self._client)
        self._has_replicas = info["config"]["num_replicas"] > 1
        self._leader_sequence = info["state"]["last_seq"]

"""How much must be folded before a read may answer, and the waiting for it.

Used by the routes that read.
"""

from __future__ import annotations

import asyncio
from typing import Literal, Protocol

from refold.core.errors import LogUnavailable, TimedOut
from refold.core.page import Clock, Point
from refold.core.timestamp import format_time, parse_time
from refold.gateway.inflight import waiting, waiting_count
from refold.gateway.limits import VERSION_LOOKS_PER_SECOND_MAX
from refold.gateway.parts import Parts
from refold.gateway.problems import Problem


class AsOf(Protocol):
    """What a query says of the moment that it asks for."""

    @property
    def at(self) -> str | None:
        """Return a TIME."""

    @property
    def clock(self) -> Literal["recorded", "occurred"] | None:
        """Return by which times it goes."""

    @property
    def sequence(self) -> int | None:
        """Return a sequence of the log."""


async def folded_point(parts: Parts, query: AsOf, deadline: float) -> Point | None:
    """Return the point asked for, once everything before it is folded; None where none is. Raises `TimedOut`.

    By occurred time it is what is folded now: an author may always tell of something earlier.
    """
    if query.sequence is not None:
        await wait_for_sequence(parts, query.sequence, deadline)
        return Point(Clock.sequence, query.sequence)
    if query.at is None:
        return None
    time = parse_time(query.at)
    if query.clock == "occurred":
        return Point(Clock.occurred, time)
    await wait_for_time(parts, time, deadline)
    return Point(Clock.recorded, time)


def refuse_contradictions(query: AsOf, *names: str) -> None:
    """Refuse more than one of these parameters, and a clock without a time."""
    given = [name for name in names if getattr(query, name) is not None]
    if len(given) > 1:
        raise Problem(422, "contradictory", f"{' and '.join(given)}: only one of them", field=given[1])
    if query.clock is not None and query.at is None:
        raise Problem(422, "contradictory", "clock: it says by which times `at` goes", field="clock")


async def wait_for_sequence(parts: Parts, sequence: int, deadline: float) -> None:
    """Wait until the log is folded up to a sequence. Raises `TimedOut`."""
    if not await parts.progress.reach(sequence, deadline):
        detail = "the projection has not come so far in time"
        raise TimedOut(detail, sequence=sequence, folded_sequence=parts.progress.sequence)


async def wait_for_version(
    parts: Parts, namespace: str, document: str, version: int, deadline: float
) -> None:
    """Wait until a document is at a version or past it. Raises `TimedOut`."""
    folded_sequence = parts.progress.sequence
    if await _version(parts, namespace, document) >= version:
        return
    async with waiting():
        while True:
            found = await _version(parts, namespace, document)
            if found >= version:
                return
            if not await parts.progress.reach(folded_sequence + 1, deadline):
                raise TimedOut("the document has not come so far in time", version=version, head=found)
            # All that wait would look after every commit.
            await asyncio.sleep(waiting_count() / VERSION_LOOKS_PER_SECOND_MAX)
            folded_sequence = parts.progress.sequence


async def _version(parts: Parts, namespace: str, document: str) -> int:
    head = await parts.store.head(namespace, document)
    return 0 if head is None else head.snapshot.version


async def wait_for_time(parts: Parts, time: int, deadline: float) -> None:
    """Wait until no event can be recorded at or before a time that is not folded. Raises `TimedOut`.

    A time before the folded clock needs no look at the log; else all that the log holds must be folded.
    """
    if await parts.progress.is_past(time):
        return
    try:
        async with waiting():
            info = await parts.log.info()
    except LogUnavailable:
        await parts.progress.refresh()
        if time < parts.progress.clock:
            return
        raise
    if time > info.time:
        detail = f"at: a time at or before now, which is {format_time(info.time)} by the broker's clock"
        raise Problem(422, "time_in_future", detail, field="at")
    await wait_for_sequence(parts, info.last_sequence, deadline)

"""How much must be folded before a read may answer, and the waiting for it.

Used by the routes that read.
"""

from __future__ import annotations

from refold.core.errors import LogUnavailable, TimedOut
from refold.core.timestamp import format_time
from refold.gateway.parts import Parts
from refold.gateway.problems import Problem


async def wait_for_sequence(parts: Parts, sequence: int, deadline: float) -> None:
    """Wait until the log is folded up to a sequence. Raises `TimedOut`."""
    if not await parts.progress.reach(sequence, deadline):
        detail = "the projection has not come so far in time"
        raise TimedOut(detail, sequence=sequence, folded_sequence=parts.progress.sequence)


async def wait_for_version(
    parts: Parts, namespace: str, document: str, version: int, deadline: float
) -> None:
    """Wait until a document is at a version or past it. Raises `TimedOut`."""
    while True:
        folded_sequence = parts.progress.sequence
        head = await parts.store.head(namespace, document)
        found = 0 if head is None else head.snapshot.version
        if found >= version:
            return
        if not await parts.progress.reach(folded_sequence + 1, deadline):
            raise TimedOut("the document has not come so far in time", version=version, head=found)


async def wait_for_time(parts: Parts, time: int, deadline: float) -> None:
    """Wait until no event can be recorded at or before a time that is not folded. Raises `TimedOut`.

    A time before the folded clock needs no look at the log; else all that the log holds must be folded.
    """
    if time < parts.progress.clock:
        return
    try:
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

"""Appends an event surely: one whose acknowledgement was lost is looked for, then sent again.

Used by the routes that write; design.md, "The log speaks for itself" and "The stream", says why this is right.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from refold.core.canonical import Json
from refold.core.errors import LogUnavailable
from refold.core.limits import LOST_ATTEMPTS_MAX, NOTICE_WAIT_SECONDS, RECOVER_SECONDS
from refold.gateway.asking import deadline_in
from refold.gateway.draft import Draft
from refold.gateway.parts import Parts
from refold.gateway.problems import Problem
from refold.log import Acknowledgement, Appended, Publication


class Written(NamedTuple):
    """An event in the log; its outcome where that is known already."""

    sequence: int
    outcome: dict[str, Json] | None = None


async def append_surely(parts: Parts, draft: Draft, publication: Publication) -> Written:
    """Append a draft's event, which expects nothing of its document."""
    for _ in range(LOST_ATTEMPTS_MAX):
        acknowledgement = await append(parts, publication)
        if isinstance(acknowledgement, Appended):
            return Written(acknowledgement.sequence)
        outcome = await recover(parts, draft)
        if outcome is not None:
            return Written(outcome["sequence"], outcome)
    raise LogUnavailable(f"the log acknowledged none of {LOST_ATTEMPTS_MAX} attempts")


async def append(parts: Parts, publication: Publication) -> Acknowledgement:
    """Append once, timed."""
    started = parts.timer()
    acknowledgement = await parts.log.append(publication)
    parts.metrics.append_seconds.observe(parts.timer() - started)
    return acknowledgement


async def recover(parts: Parts, draft: Draft) -> dict[str, Json] | None:
    """Find out what became of an event whose acknowledgement was lost; None where the log has it not."""
    if not await catch_up(parts, deadline_in(RECOVER_SECONDS)):
        detail = (
            "no acknowledgement came, so the log may have the event or not: ask for the outcome of its id"
        )
        raise Problem(504, "acknowledgement_lost", detail, id=draft.id)
    return await parts.history.outcome_of_id(draft.namespace, draft.document, draft.id)


async def catch_up(parts: Parts, deadline: float) -> bool:
    """Wait until all is folded that the log holds now; False where the deadline passes first."""
    while True:
        try:
            info = await parts.log.info()
        except LogUnavailable:
            if asyncio.get_running_loop().time() + NOTICE_WAIT_SECONDS >= deadline:
                return False
            # The broker is being reached again: its adapter says so only by answering.
            await asyncio.sleep(NOTICE_WAIT_SECONDS)
        else:
            return await parts.progress.reach(info.last_sequence, deadline)


async def repeated(parts: Parts, draft: Draft) -> dict[str, Json] | None:
    """Return the outcome of an event that its author sends again under his own id, as a duplicate's."""
    if not draft.has_own_id:
        return None
    entry = await parts.store.find_id(draft.namespace, draft.document, draft.id)
    if entry is None or not draft.is_content_of(entry):
        return None
    outcome = await parts.history.outcome(draft.namespace, draft.document, entry.sequence)
    if outcome is None:
        return None
    told = ("status", "version", "sequence", "recorded_at", "created", "reason")
    first = {name: outcome[name] for name in told if name in outcome}
    return {**outcome, "status": "duplicate", "first": first}

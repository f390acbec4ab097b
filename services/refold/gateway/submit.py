"""Appends an event surely: one whose acknowledgement was lost is looked for, then sent again.

Used by the routes that write; `refold.gateway.recovery` does the looking.
"""

from __future__ import annotations

from typing import NamedTuple

from refold.core.canonical import Json
from refold.core.errors import LogUnavailable
from refold.core.limits import LOST_ATTEMPTS_MAX
from refold.gateway.draft import Draft
from refold.gateway.parts import Parts
from refold.gateway.recovery import recover
from refold.log import Acknowledgement, Appended, Publication


class Written(NamedTuple):
    """An event in the log; its outcome where that is known already.

    `is_repeat`: an earlier request of its author put it there, so that this one is its duplicate.
    """

    sequence: int
    outcome: dict[str, Json] | None = None
    is_repeat: bool = False


async def append_surely(parts: Parts, draft: Draft, publication: Publication) -> Written:
    """Append a draft's event, which expects nothing of its document."""
    folded_sequence = parts.progress.sequence
    for _ in range(LOST_ATTEMPTS_MAX):
        acknowledgement = await append(parts, publication)
        if isinstance(acknowledgement, Appended):
            return Written(acknowledgement.sequence)
        sequence = await recover(parts, [publication], folded_sequence, event_id=draft.id)
        if sequence is not None:
            return Written(sequence)
    raise never_acknowledged()


async def append(parts: Parts, publication: Publication) -> Acknowledgement:
    """Append once, timed."""
    started = parts.timer()
    acknowledgement = await parts.log.append(publication)
    parts.metrics.append_seconds.observe(parts.timer() - started)
    return acknowledgement


async def repeated(parts: Parts, draft: Draft) -> Written | None:
    """Find the event that its author sends again under his own id; None where there is none of this content."""
    entry = await parts.store.find_id(draft.namespace, draft.document, draft.id) if draft.has_own_id else None
    if entry is None or not draft.is_content_of(entry.headers, entry.body):
        return None
    outcome = await parts.history.outcome(draft.namespace, draft.document, entry.sequence)
    return Written(entry.sequence, outcome, is_repeat=True)


def as_duplicate(outcome: dict[str, Json]) -> dict[str, Json]:
    """Show an event's outcome to who sent it again, as the fold shows a duplicate's."""
    if outcome["status"] == "duplicate":
        return outcome
    told = ("status", "version", "sequence", "recorded_at", "created", "reason")
    first = {name: outcome[name] for name in told if name in outcome}
    left = {name: value for name, value in outcome.items() if name not in _OF_THE_FIRST}
    return {**left, "status": "duplicate", "first": first}


def never_acknowledged() -> LogUnavailable:
    """Say that an event was sent in vain again and again."""
    return LogUnavailable(f"the log acknowledged none of {LOST_ATTEMPTS_MAX} attempts")


_OF_THE_FIRST = frozenset({"occurred_at", "reason", "detail"})

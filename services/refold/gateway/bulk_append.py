"""Puts one batch of a bulk request into the log, surely and in its order.

Used by the bulk route; an atomic batch is in the log whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from refold.core.errors import LogUnavailable
from refold.core.limits import LOST_ATTEMPTS_MAX, RECOVER_SECONDS
from refold.gateway.asking import deadline_in
from refold.gateway.buffers import Item
from refold.gateway.parts import Parts
from refold.gateway.problems import Problem
from refold.gateway.submit import Written, catch_up
from refold.log import Appended, Publication, Stale, Unknown


@dataclass(slots=True, kw_only=True)
class Batch:
    """Lines on their way: `written` by index, once they are in the log; `failure` of those that are not."""

    items: list[Item]
    written: dict[int, Written] = field(default_factory=dict)
    failure: Problem | None = None
    deadline: float = 0.0


async def append_batch(parts: Parts, batch: Batch) -> None:
    """Append a batch's events in order, each exactly once in effect, for each carries an id."""
    left = [index for index, item in enumerate(batch.items) if item.publication is not None]
    for _ in range(LOST_ATTEMPTS_MAX):
        if not left:
            return
        started = parts.timer()
        appended = await _append_all(parts, [_publication(batch, index) for index in left])
        parts.metrics.append_seconds.observe(parts.timer() - started)
        if isinstance(appended, list):
            written = [Written(acknowledgement.sequence) for acknowledgement in appended]
            batch.written.update(zip(left, written, strict=True))
            return
        left = await _recover(parts, batch, left)
    if left:
        raise LogUnavailable(f"the log acknowledged none of {LOST_ATTEMPTS_MAX} attempts")


async def _append_all(parts: Parts, publications: list[Publication]) -> list[Appended] | Unknown:
    if len(publications) == 1:
        one = await parts.log.append(publications[0])
        assert not isinstance(one, Stale)
        return [one] if isinstance(one, Appended) else one
    many = await parts.log.append_atomically(publications)
    assert not isinstance(many, Stale)
    return many


async def _recover(parts: Parts, batch: Batch, left: list[int]) -> list[int]:
    """Find out which events the log has after all; return those that it has not."""
    if not await catch_up(parts, deadline_in(RECOVER_SECONDS)):
        detail = (
            "no acknowledgement came, so the log may have these events or not: ask for their ids' outcomes"
        )
        raise Problem(504, "acknowledgement_lost", detail)
    missing: list[int] = []
    for index in left:
        publication = _publication(batch, index)
        event_id = batch.items[index].event_id
        outcome = await parts.history.outcome_of_id(publication.namespace, publication.document, event_id)
        if outcome is None:
            missing.append(index)
        else:
            batch.written[index] = Written(outcome["sequence"], outcome)
    return missing


def _publication(batch: Batch, index: int) -> Publication:
    publication = batch.items[index].publication
    assert publication is not None
    return publication

"""Puts one batch of a bulk request into the log, surely and in its order.

Used by the bulk route; an atomic batch is in the log whole or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from refold.core.limits import LOST_ATTEMPTS_MAX
from refold.gateway.buffers import Item
from refold.gateway.parts import Parts
from refold.gateway.problems import Problem
from refold.gateway.recovery import recover
from refold.gateway.submit import Written, never_acknowledged
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
    wanted = [(at, item.publication) for at, item in enumerate(batch.items) if item.publication is not None]
    if wanted:
        sequences = await _append_surely(parts, [publication for _, publication in wanted])
        for (index, _), sequence in zip(wanted, sequences, strict=True):
            batch.written[index] = Written(sequence)


async def _append_surely(parts: Parts, publications: list[Publication]) -> list[int]:
    folded_sequence = parts.progress.sequence
    for _ in range(LOST_ATTEMPTS_MAX):
        started = parts.timer()
        appended = await _append_all(parts, publications)
        parts.metrics.append_seconds.observe(parts.timer() - started)
        if isinstance(appended, list):
            return [acknowledgement.sequence for acknowledgement in appended]
        first = await recover(parts, publications, folded_sequence)
        if first is not None:
            return list(range(first, first + len(publications)))
    raise never_acknowledged()


async def _append_all(parts: Parts, publications: list[Publication]) -> list[Appended] | Unknown:
    if len(publications) == 1:
        one = await parts.log.append(publications[0])
        assert not isinstance(one, Stale)
        return [one] if isinstance(one, Appended) else one
    many = await parts.log.append_atomically(publications)
    assert not isinstance(many, Stale)
    return many

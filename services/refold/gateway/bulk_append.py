"""Puts one batch of a bulk request into the log, surely and in its order.

Used by the bulk route; an atomic batch is in the log whole or not at all. While the broker refuses batches, the events
are appended one by one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from refold.core.errors import BatchRefused, LogUnavailable
from refold.core.limits import LOST_ATTEMPTS_MAX
from refold.gateway.buffers import Item
from refold.gateway.parts import Parts
from refold.gateway.problems import Problem
from refold.gateway.recovery import recover
from refold.gateway.submit import Written, never_acknowledged
from refold.log import Acknowledgement, Appended, Publication, Stale, Unknown


@dataclass(slots=True, kw_only=True)
class Batch:
    """Lines on their way: `written` by index, once they are in the log; `failure` of those that are not."""

    items: list[Item]
    written: dict[int, Written] = field(default_factory=dict)
    failure: Problem | None = None
    deadline: float = 0.0


async def append_batch(parts: Parts, batch: Batch) -> None:
    """Append a batch's events in order, each exactly once in effect, for each carries an id.

    Raises where not all are in the log for sure; `batch.written` says which are.
    """
    wanted = {at: item.publication for at, item in enumerate(batch.items) if item.publication is not None}
    if not wanted:
        return
    try:
        sequences = await _append_surely(parts, list(wanted.values()))
    except BatchRefused:
        await _append_singly(parts, batch, wanted)
    else:
        batch.written |= {at: Written(sequence) for at, sequence in zip(wanted, sequences, strict=True)}


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


async def _append_singly(parts: Parts, batch: Batch, wanted: dict[int, Publication]) -> None:
    """Append each event on its own: the log keeps a document's events in order, and none behind one that failed."""
    folded_sequence = parts.progress.sequence
    left = dict(wanted)
    for _ in range(LOST_ATTEMPTS_MAX):
        started = parts.timer()
        answers = await asyncio.gather(*map(parts.log.append, left.values()), return_exceptions=True)
        parts.metrics.append_seconds.observe(parts.timer() - started)
        answered = dict(zip(left, answers, strict=True))
        for at, answer in answered.items():
            if isinstance(answer, Appended):
                batch.written[at] = Written(answer.sequence)
        lost = [at for at, answer in answered.items() if isinstance(answer, Unknown)]
        # Behind a lost event, the rest of its document was not sent: it is sent again after it.
        _raise_failure(answers, except_unsent=bool(lost))
        for at in lost:
            sequence = await recover(parts, [wanted[at]], folded_sequence)
            if sequence is not None:
                batch.written[at] = Written(sequence)
        left = {at: publication for at, publication in left.items() if at not in batch.written}
        if not left:
            return
    raise never_acknowledged()


def _raise_failure(answers: list[Acknowledgement | BaseException], *, except_unsent: bool) -> None:
    for answer in answers:
        if isinstance(answer, BaseException) and not (except_unsent and isinstance(answer, LogUnavailable)):
            raise answer

"""After a lost acknowledgement: what the log has after all, told by what was folded.

Used by the modules of the gateway that append; design.md, "The stream", says why this is right.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from refold.core.errors import StoreError
from refold.gateway.context import Context
from refold.gateway.limits import RECOVER_SECONDS
from refold.gateway.requests import deadline_in
from refold.gateway.responses import Problem
from refold.log import Publication, validated_headers
from refold.store.ports import SnapshotStore


async def recover(
    context: Context, publications: Sequence[Publication], after_sequence: int, *, event_id: str = ""
) -> int | None:
    """Return the first sequence of what went together unacknowledged; None where the log has it not.

    `after_sequence`: folded before it was sent, so that an event of an earlier request is never taken for ours.
    It is told apart by its bytes, not by its id: that may have been used before, or have left the id window since.
    """
    last = publications[-1]
    key = (last.namespace, last.document)
    if not await context.consistency.catch_up(deadline_in(RECOVER_SECONDS), key):
        raise _in_doubt(event_id)
    try:
        return await _first_sequence(context.store, publications, after_sequence)
    except StoreError as error:
        raise _in_doubt(event_id) from error


async def _first_sequence(
    store: SnapshotStore, publications: Sequence[Publication], after_sequence: int
) -> int | None:
    """Look for the last of them; a batch is there when its first stands as far before it as it must."""
    before = len(publications) - 1
    async with aclosing(_sequences_of(store, publications[-1], after_sequence)) as found:
        async for sequence in found:
            if not before or await _is_at(store, publications[0], sequence - before):
                return sequence - before
    return None


async def _sequences_of(
    store: SnapshotStore, publication: Publication, after_sequence: int
) -> AsyncGenerator[int, None]:
    """Yield where a document has events of these very bytes, newest first."""
    content = validated_headers(publication), publication.body
    names = publication.namespace, publication.document
    async with aclosing(store.segments(*names, after_version=None, is_descending=True)) as runs:
        async for run in runs:
            for entry in reversed(run.entries):
                if entry.sequence > after_sequence and (entry.headers, entry.body) == content:
                    yield entry.sequence
            if run.base_sequence <= after_sequence:
                return


async def _is_at(store: SnapshotStore, publication: Publication, sequence: int) -> bool:
    entry = await store.entry(publication.namespace, publication.document, sequence)
    return entry is not None and (entry.headers, entry.body) == (
        validated_headers(publication),
        publication.body,
    )


def _in_doubt(event_id: str) -> Problem:
    detail = (
        "no acknowledgement came, so the log may have what was sent or not: send it again under the same id, "
        "or ask for the id's outcome"
    )
    problem = Problem(504, "acknowledgement_lost", detail)
    if event_id:
        problem.facts["id"] = event_id
    return problem

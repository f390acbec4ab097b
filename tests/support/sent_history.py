"""Compare everything that clients were sent with the history of the documents. For tests that kill processes."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import jsonpatch
import orjson

from refold.client import Change, Refold
from refold.core import json_text
from support.raw_authors import Received
from support.strict_clients import INCREMENT, Context

TOGETHER = 16
COMPARED = ("version", "sequence", "recorded_at", "occurred_at", "type", "actor", "id", "patch")


@dataclass(frozen=True, slots=True)
class Histories:
    """The changes of all documents, in order: version N is at N - 1."""

    changes: dict[str, list[Change]]

    def version_at(self, document: str, sequence: int) -> int:
        """Return the document's version as of a sequence of the log."""
        return bisect_right(self.changes[document], sequence, key=lambda change: change.sequence)


async def compare(context: Context, received: Received, documents: Iterable[str]) -> None:
    """Read all histories, and compare; the projection must be complete."""
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(Refold(url)) for url in context.urls]
        changes = {
            name: [each async for each in gateways[0].history(context.namespace, name)] for name in documents
        }
        histories = Histories(changes)
        for document in changes:
            await _compare_document(context, histories, document, gateways)
            _compare_changes(context, histories, received, document)
        _compare_answers(context, histories)
        _compare_carried(context, histories)
        await _compare_outcomes(context, received, gateways[0])


async def _compare_document(
    context: Context, histories: Histories, document: str, gateways: list[Refold]
) -> None:
    """Replay a history: versions are contiguous, each increment counts on by one, states are those that were read."""
    changes, sent = histories.changes[document], context.sent
    versions = [change.version for change in changes]
    sent.expect(f"the versions of {document}", found=versions, expected=[*range(1, len(changes) + 1)])
    state, counted = None, 0
    for change in changes:
        state = jsonpatch.apply_patch(state, change.patch, in_place=True)
        counted += change.type == INCREMENT
        sent.expect(f"the count of {document}, {change.version}", found=state["count"], expected=counted)
        known = sent.digests.get((document, change.version))
        if known is not None:
            digest = sha256(json_text.dumps(state)).digest()
            sent.expect(f"the state of {document}, {change.version}", found=known, expected=digest)
    newest = sent.everywhere[document].version
    if newest > len(changes):
        sent.violate("lost", f"{document} is at {len(changes)}, but version {newest} was sent")
    for gateway in gateways:
        head = await gateway.get(context.namespace, document)
        found = head.version, head.state
        sent.expect(f"the head of {document} at {gateway.url}", found=found, expected=(len(changes), state))


def _compare_changes(context: Context, histories: Histories, received: Received, document: str) -> None:
    """Every change that was sent is the history's."""
    for version, body in received.changes.get(document, {}).items():
        view, what = orjson.loads(body), f"change {version} of {document}"
        if version > len(histories.changes[document]):
            context.sent.violate("lost", f"{what} was sent")
            continue
        change = asdict(histories.changes[document][version - 1])
        expected = {name: change[name] for name in COMPARED}
        context.sent.expect(what, found={name: view[name] for name in COMPARED}, expected=expected)


def _compare_answers(context: Context, histories: Histories) -> None:
    """An acknowledged write took effect where it was said, a refused one did not, and none twice."""
    sent, answers = context.sent, context.answers
    effective = Counter(
        change.id for changes in histories.changes.values() for change in changes if change.id is not None
    )
    sent.expect("effective twice", found=[it for it, times in effective.items() if times > 1], expected=[])
    sent.expect("effective, though refused", found=sorted(answers.refused & effective.keys()), expected=[])
    for event_id, written in answers.written.items():
        changes = histories.changes[written.document]
        if written.version > len(changes):
            sent.violate("lost", f"{event_id} was acknowledged as {written}")
            continue
        change = changes[written.version - 1]
        found = change.id, change.sequence if written.sequence else 0
        sent.expect(f"the change of {event_id}", found=found, expected=(event_id, written.sequence))
    sent.counts["writes in doubt that took effect"] = len(answers.in_doubt & effective.keys())
    sent.counts["increments"] = sum(
        change.type == INCREMENT for changes in histories.changes.values() for change in changes
    )


def _compare_carried(context: Context, histories: Histories) -> None:
    """A read that carried a sequence has all of the document up to there."""
    for read in context.sent.carried:
        expected = histories.version_at(read.document, read.min_sequence)
        if read.version < expected:
            context.sent.violate(
                "behind", f"{read.by} at {read.at:.3f} s: version {read.version}, expected {expected}"
            )


async def _compare_outcomes(context: Context, received: Received, gateway: Refold) -> None:
    """Every outcome that an author received is the one that is looked up; an acknowledged event is in the log."""
    transport, documents = gateway._transport, _documents_of(received)

    async def compare_one(sequence: int) -> None:
        path = f"/v1/{context.namespace}/{documents[sequence]}/outcomes/{sequence}"
        answer = await transport.request("GET", path)
        found, body = orjson.loads(answer.body), received.outcomes.get(sequence)
        what = f"the outcome of sequence {sequence}"
        if body is not None:
            context.sent.expect(what, found=orjson.loads(body), expected=found)
        if sequence in received.appended:
            context.sent.expect(
                f"the id of {what}", found=found["id"], expected=received.appended[sequence][1]
            )

    await _each(sorted(documents), compare_one)


def _documents_of(received: Received) -> dict[int, str]:
    """Return the document of every sequence that an author knows."""
    documents = {sequence: document for sequence, (document, _) in received.appended.items()}
    return documents | {
        sequence: orjson.loads(body)["document"] for sequence, body in received.outcomes.items()
    }


async def _each(values: list[Any], call: Callable[[Any], Awaitable[None]]) -> None:
    """Call it for each value, several at a time."""
    remaining = iter(values)

    async def work() -> None:
        for value in remaining:
            await call(value)

    await asyncio.gather(*(work() for _ in range(TOGETHER)))

"""Routes that write one document: PUT, PATCH, DELETE. Nothing is published that the fold would reject unseen.

Mounted by `refold.gateway.app`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from refold.core.canonical import Json
from refold.core.headers import JSON_PATCH, MERGE_PATCH
from refold.core.outcome import Status
from refold.core.split import SplitWrite
from refold.gateway.answers import outcome_answer, pending_answer
from refold.gateway.asking import (
    carried_headers,
    deadline_in,
    event_fields,
    media_type,
    read_json,
    wait_seconds,
)
from refold.gateway.conditions import Condition, write_condition
from refold.gateway.described import DELETING, PATCHING, PUTTING
from refold.gateway.draft import Draft, draft
from refold.gateway.inflight import waiting
from refold.gateway.large_put import PUT_BYTES_MAX, append_large, as_whole, split_of
from refold.gateway.parts import Parts, parts_of
from refold.gateway.problems import Problem
from refold.gateway.queries import refuse_query
from refold.gateway.seen import BareHead
from refold.gateway.strict import append_strictly, refuse_absent
from refold.gateway.submit import Written, append_surely, as_duplicate
from refold.log import Publication

router: Final = APIRouter(tags=["write"])

_STATE_TYPES: Final = ("application/json",)
_PATCH_TYPES: Final = (JSON_PATCH, MERGE_PATCH)


@router.put("/v1/{namespace}/{document}", **PUTTING)
async def put_document(request: Request, namespace: str, document: str) -> Response:
    """Write the document's whole state.

    A state that is too large for one event (1 MiB) is written as several, all or none: each takes a version, and the
    answer is the last one's. A single string over 1 MiB cannot be written.
    """
    made = _begin(request, namespace, document)
    state = await read_json(request, _STATE_TYPES, PUT_BYTES_MAX, "state_too_large")
    return await _write(request, made, {"put": state})


@router.patch("/v1/{namespace}/{document}", **PATCHING)
async def patch_document(request: Request, namespace: str, document: str) -> Response:
    """Change the document by a JSON Patch or a merge patch, all or nothing."""
    made = _begin(request, namespace, document)
    patch = await read_json(request, _PATCH_TYPES)
    kind = "patch" if media_type(request) == JSON_PATCH else "merge"
    return await _write(request, made, {kind: patch})


@router.delete("/v1/{namespace}/{document}", **DELETING)
async def delete_document(request: Request, namespace: str, document: str) -> Response:
    """Make the document absent; its history stays."""
    return await _write(request, _begin(request, namespace, document), {"delete": True})


def _begin(request: Request, namespace: str, document: str) -> Draft:
    """Read everything that stands before the body, so that what is wrong there is said first."""
    refuse_query(request)
    parts = parts_of(request)
    fields = event_fields(request)
    return draft(namespace, document, fields, made_id=parts.new_id(), headers=carried_headers(request))


async def _write(request: Request, made: Draft, change: dict[str, Json]) -> Response:
    parts = parts_of(request)
    wait = wait_seconds(request, parts.wait_seconds)
    condition = write_condition(_joined(request, "if-match"), _joined(request, "if-none-match"))
    if condition is not None and not made.fields.keys().isdisjoint(("base", "on_conflict")):
        detail = (
            "If-Match and If-None-Match say base and strategy; leave Refold-Base and Refold-On-Conflict out"
        )
        raise Problem(422, "contradictory", detail)
    headers = made.headers + ((("Refold-Reply", parts.reply_subject),) if wait > 0 else ())
    made = replace(made, fields={**made.fields, **change}, headers=headers)
    # Held to the rules before the first look at the store.
    split = split_of(made) if "put" in change else None
    what = made.publication() if split is None else split
    # Refused before it is published, never after: where too many wait, this write is not begun.
    async with waiting():
        deadline = deadline_in(wait)
        written = await _publish(parts, made, what, condition)
        outcome = written.outcome
        if outcome is None and wait > 0:
            outcome = await _outcome(
                parts, made, written.sequence, 1 if split is None else len(split), deadline
            )
    if outcome is None:
        parts.seen.forget(made.namespace, made.document)
        return pending_answer(made.namespace, made.document, written.sequence, made.id)
    _note(parts, made, outcome)
    return outcome_answer(as_duplicate(outcome) if written.is_repeat else outcome)


async def _outcome(
    parts: Parts, made: Draft, sequence: int, events: int, deadline: float
) -> dict[str, Json] | None:
    """Wait for the last event's outcome; of several, the first one says whether the document was created."""
    names, when_late = (made.namespace, made.document), parts.early.want
    outcome = await parts.outcomes.wait(*names, sequence, deadline, when_late=when_late)
    if outcome is None or events == 1:
        return outcome
    first = await parts.outcomes.wait(*names, sequence - events + 1, deadline, when_late=when_late)
    return as_whole(outcome, first)


def _note(parts: Parts, made: Draft, outcome: dict[str, Json]) -> None:
    """Remember the head now; of an ineffective event's outcome it is not told whether the document is absent."""
    if outcome["status"] in _EFFECTIVE:
        head = BareHead(outcome["version"], outcome["sequence"], "delete" in made.fields)
        parts.seen.note(made.namespace, made.document, head)
    else:
        parts.seen.forget(made.namespace, made.document)


async def _publish(
    parts: Parts, made: Draft, what: Publication | SplitWrite, condition: Condition | None
) -> Written:
    # What must be known to decide is waited for even where the outcome is not.
    deadline = deadline_in(max(parts.wait_seconds, _DECIDE_SECONDS))
    if condition is not None or "delete" in made.fields or isinstance(what, SplitWrite):
        # Decided by the document's row, and a refusal shows it.
        await parts.readiness.wait(deadline)
    if isinstance(what, SplitWrite):
        return await append_large(parts, made, what, condition, deadline)
    if condition is not None:
        return await append_strictly(parts, made, condition, deadline)
    if "delete" in made.fields:
        known = await refuse_absent(parts, made, deadline)
        if known is not None:
            return known
    return await append_surely(parts, made, what)


def _joined(request: Request, name: str) -> str | None:
    values = request.headers.getlist(name)
    return ", ".join(values) if values else None


_EFFECTIVE: Final = tuple(status.name for status in Status if status.is_effective)

_DECIDE_SECONDS: Final = 5.0
"""How long a write may wait for what decides it, whatever `Refold-Wait` says of its outcome."""

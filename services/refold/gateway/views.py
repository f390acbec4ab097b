"""Routes that show a document's past, a namespace's documents, and all namespaces.

Mounted by `refold.gateway.app`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from refold.core.canonical import Json
from refold.core.errors import TimedOut
from refold.core.headers import JSON_PATCH
from refold.core.record import check_name
from refold.core.timestamp import format_time
from refold.gateway import models
from refold.gateway.answers import json_answer, page_answer
from refold.gateway.asking import deadline_in
from refold.gateway.described import described
from refold.gateway.freshness import folded_point, refuse_contradictions
from refold.gateway.parts import Parts, parts_of
from refold.gateway.problems import Problem
from refold.gateway.queries import (
    DiffQuery,
    HistoryQuery,
    ListQuery,
    OutcomeQuery,
    RejectionsQuery,
    no_query,
)
from refold.gateway.recovery import catch_up
from refold.store import Head, Name

router: Final = APIRouter(tags=["read"])

_PATCH: Final[dict[int, Any]] = {
    200: {
        "description": "An RFC 6902 patch.",
        "content": {JSON_PATCH: {"schema": {"type": "array", "items": {"type": "object"}}}},
    }
}


@router.get(
    "/v1/{namespace}/{document}/history", **described("History", "readHistory", models.Changes, 422, 504)
)
async def read_history(
    request: Request, namespace: str, document: str, query: Annotated[HistoryQuery, Query()]
) -> Response:
    """List the document's versions with the changes that made them, bounded; `next` continues."""
    await _begin(request, namespace, document)
    found = await parts_of(request).history.changes(
        namespace,
        document,
        after=query.after,
        limit=query.limit,
        is_descending=query.order == "desc",
        path=query.path,
    )
    return page_answer(found.items, found.next)


@router.get(
    "/v1/{namespace}/{document}/diff",
    **described("Diff of two versions", "readDiff", None, 404, 422, 504, also=_PATCH),
)
async def read_diff(
    request: Request, namespace: str, document: str, query: Annotated[DiffQuery, Query()]
) -> Response:
    """Return the patch that turns one version into the other; an earlier one last undoes."""
    await _begin(request, namespace, document)
    patch = await parts_of(request).history.diff(namespace, document, query.from_, query.to)
    return Response(orjson.dumps(patch), 200, None, JSON_PATCH)


@router.get(
    "/v1/{namespace}/{document}/rejections",
    **described("Rejections", "readRejections", models.Rejections, 422, 504),
)
async def read_rejections(
    request: Request, namespace: str, document: str, query: Annotated[RejectionsQuery, Query()]
) -> Response:
    """List what the fold refused for this document, newest first."""
    await _begin(request, namespace, document)
    items, following = await parts_of(request).history.rejections(
        namespace, document, limit=query.limit, before_sequence=query.after
    )
    return json_answer({"items": items, "next": following})


@router.get(
    "/v1/{namespace}/{document}/outcomes",
    **described("Outcome by id", "readOutcomeById", models.Outcome, 404, 422, 429, 504),
)
async def read_outcome_by_id(
    request: Request, namespace: str, document: str, query: Annotated[OutcomeQuery, Query()]
) -> Response:
    """Return what became of the first event with this id, once all that the log holds now is folded."""
    await _begin(request, namespace, document)
    parts = parts_of(request)
    found = await parts.history.outcome_of_id(namespace, document, query.id)
    if found is None:
        if not await catch_up(parts, deadline_in(query.timeout)):
            raise TimedOut("the projection has not caught up with the log in time")
        found = await parts.history.outcome_of_id(namespace, document, query.id)
    if found is None:
        raise Problem(404, "outcome_unknown", "the document's last events have none with this id", field="id")
    return json_answer(found)


@router.get(
    "/v1/{namespace}/{document}/outcomes/{sequence}",
    dependencies=[Depends(no_query)],
    **described(
        "Outcome by sequence",
        "readOutcome",
        models.Outcome,
        404,
        422,
        504,
        also={202: {"model": models.Pending, "description": "Not folded yet."}},
    ),
)
async def read_outcome(
    request: Request, namespace: str, document: str, sequence: models.Sequence
) -> Response:
    """Return what became of the document's event at this sequence."""
    await _begin(request, namespace, document)
    parts = parts_of(request)
    found = await parts.history.outcome(namespace, document, sequence)
    if found is None:
        await parts.progress.refresh()
        found = await parts.history.outcome(namespace, document, sequence)
    if found is not None:
        return json_answer(found)
    if await _is_coming(parts, sequence):
        return json_answer({"status": "pending", "sequence": sequence}, 202)
    detail = f"the document has no event at sequence {sequence}"
    raise Problem(404, "outcome_unknown", detail, field="sequence")


@router.get("/v1/{namespace}", **described("Documents", "listDocuments", models.Documents, 422, 429, 504))
async def list_documents(request: Request, namespace: str, query: Annotated[ListQuery, Query()]) -> Response:
    """List the namespace's present documents by id, bounded; none for a namespace that is unknown.

    With `sequence`, or `at` by recorded time, every answer along `next` is of that one moment, whatever is
    written meanwhile. By occurred time it is of what is folded when it is asked for. An answer may hold less
    than `limit`, even nothing, and have a `next`: only `next` null is the end.
    """
    check_name(namespace, "namespace")
    refuse_contradictions(query, "where", "at", "sequence", "absent")
    parts = parts_of(request)
    await parts.early.caught_up(namespace, None, deadline_in(query.timeout))
    if query.absent is not None:
        return await _list_names(request, namespace, query)
    prefix, limit, cursor = query.prefix, query.limit, query.cursor
    point = await folded_point(parts, query, deadline_in(query.timeout))
    if point is None:
        page = await parts.store.list_documents(
            namespace, prefix=prefix, where=query.where, limit=limit, cursor=cursor
        )
    else:
        page = await parts.store.list_at(namespace, point, prefix=prefix, limit=limit, cursor=cursor)
    items = [_item(head, is_bare=query.fields == "id") for head in page.heads]
    return page_answer(items, page.cursor)


@router.get(
    "/v1",
    dependencies=[Depends(no_query)],
    **described("Namespaces", "listNamespaces", models.Namespaces),
)
async def list_namespaces(request: Request) -> Response:
    """List the namespaces with their document and event counts."""
    counts = await parts_of(request).store.namespaces()
    return json_answer({"items": [count._asdict() for count in counts]})


def _item(head: Head, *, is_bare: bool) -> bytes:
    view: dict[str, Json] = {
        "id": head.document,
        "version": head.snapshot.version,
        "recorded_at": format_time(head.snapshot.recorded_at),
        "occurred_at": format_time(head.snapshot.occurred_at),
    }
    if not is_bare:
        assert head.snapshot.state is not None, head.document
        view["state"] = orjson.Fragment(head.snapshot.state)
    return orjson.dumps(view)


async def _list_names(request: Request, namespace: str, query: ListQuery) -> Response:
    if query.fields is None:
        detail = "absent: only with fields=id, for what is absent has no state"
        raise Problem(422, "contradictory", detail, field="absent")
    found = await parts_of(request).store.list_names(
        namespace, prefix=query.prefix, limit=query.limit, cursor=query.cursor
    )
    return page_answer([_named(name) for name in found.names], found.cursor)


def _named(name: Name) -> bytes:
    view: dict[str, Json] = {
        "id": name.document,
        "version": name.version,
        "recorded_at": format_time(name.recorded_at),
    }
    return orjson.dumps(view if name.is_present else view | {"absent": True})


async def _is_coming(parts: Parts, sequence: int) -> bool:
    """Tell whether the log holds a sequence that is not folded yet."""
    if sequence <= parts.progress.sequence:
        return False
    return sequence <= (await parts.log.info()).last_sequence


async def _begin(request: Request, namespace: str, document: str) -> None:
    """Check the names, and wait for what this gateway answered of the document."""
    check_name(namespace, "namespace")
    check_name(document, "document")
    parts = parts_of(request)
    await parts.early.caught_up(namespace, document, deadline_in(parts.wait_seconds))

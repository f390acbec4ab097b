"""The hot route: one document's state, at its head or at any version, time or sequence.

Mounted by `refold.gateway.app`, served by `refold.gateway.hot`; `refold.gateway.openapi` describes it.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from refold.core import canonical
from refold.core.errors import DocumentAbsent, Refused
from refold.core.page import NEVER, Clock, Point, Snapshot
from refold.core.pointer import parse, resolve
from refold.core.record import check_name
from refold.core.timestamp import format_time
from refold.gateway.answers import JSON
from refold.gateway.asking import deadline_in
from refold.gateway.conditions import is_unchanged, tag_of
from refold.gateway.freshness import (
    folded_point,
    refuse_contradictions,
    wait_for_sequence,
    wait_for_version,
)
from refold.gateway.parts import Parts, parts_of
from refold.gateway.problems import Problem
from refold.gateway.queries import ReadQuery, read_query


async def read_document(request: Request, namespace: str, document: str) -> Response:
    """Answer with the state, or 304 where the reader has it."""
    parts = parts_of(request)
    check_name(namespace, "namespace")
    check_name(document, "document")
    await parts.early.caught_up(namespace, document, deadline_in(parts.wait_seconds))
    if not request.scope["query_string"]:
        return _answer(request, await _newest(parts, namespace, document), None)
    query = read_query(request)
    snapshot = await _asked(parts, namespace, document, query)
    return _answer(request, snapshot, query.path)


async def _newest(parts: Parts, namespace: str, document: str) -> Snapshot:
    head = await parts.store.head(namespace, document)
    parts.seen.note_row(namespace, document, head)
    return NEVER if head is None else head.snapshot


async def _asked(parts: Parts, namespace: str, document: str, query: ReadQuery) -> Snapshot:
    refuse_contradictions(query, "version", "at", "sequence")
    deadline = deadline_in(query.timeout)
    if query.min_sequence is not None:
        await wait_for_sequence(parts, query.min_sequence, deadline)
    if query.min_version is not None:
        await wait_for_version(parts, namespace, document, query.min_version, deadline)
    if query.version is not None:
        return await parts.history.snapshot(namespace, document, Point(Clock.version, query.version))
    point = await folded_point(parts, query, deadline)
    if point is None:
        return await _newest(parts, namespace, document)
    return await parts.history.snapshot(namespace, document, point)


def _answer(request: Request, snapshot: Snapshot, path: str | None) -> Response:
    if snapshot.state is None:
        raise DocumentAbsent("the document is absent then", version=snapshot.version)
    headers = {
        "ETag": tag_of(snapshot.version),
        "Refold-Version": str(snapshot.version),
        "Refold-Sequence": str(snapshot.sequence),
        "Refold-Recorded-At": format_time(snapshot.recorded_at),
        "Refold-Occurred-At": format_time(snapshot.occurred_at),
    }
    known = request.headers.getlist("if-none-match")
    if known and is_unchanged(", ".join(known), snapshot.version):
        return Response(None, 304, headers)
    body = snapshot.state if path is None else _value_at(snapshot.state, path)
    return Response(body, 200, headers, JSON)


def _value_at(state: bytes, path: str) -> bytes:
    try:
        tokens = parse(path)
    except Refused as refused:
        raise Refused(refused.reason, refused.message, field="path", shape=refused.shape) from refused
    try:
        return canonical.dumps(resolve(canonical.loads(state), tokens))
    except Refused as refused:
        raise Problem(404, "path_absent", f"path: {refused}", field="path") from refused

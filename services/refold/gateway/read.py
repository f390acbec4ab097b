"""The hot route: one document's state, at its head or at any version, time or sequence.

A plain Starlette route, mounted by `refold.gateway.app`; `refold.gateway.openapi` describes it.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from refold.core import canonical
from refold.core.errors import DocumentAbsent, Refused
from refold.core.page import NEVER, Clock, Point, Snapshot
from refold.core.pointer import parse, resolve
from refold.core.record import check_name
from refold.core.timestamp import format_time, parse_time
from refold.gateway.answers import JSON
from refold.gateway.asking import deadline_in
from refold.gateway.conditions import is_unchanged, tag_of
from refold.gateway.freshness import wait_for_sequence, wait_for_time, wait_for_version
from refold.gateway.parts import Parts, parts_of
from refold.gateway.problems import Problem
from refold.gateway.queries import ReadQuery, read_query


async def read_document(request: Request) -> Response:
    """Answer with the state, or 304 where the reader has it."""
    parts, names = parts_of(request), request.path_params
    namespace = check_name(names["namespace"], "namespace")
    document = check_name(names["document"], "document")
    if not request.scope["query_string"]:
        return _answer(request, await _newest(parts, namespace, document), None)
    query = read_query(request)
    snapshot = await _asked(parts, namespace, document, query)
    return _answer(request, snapshot, query.path)


async def _newest(parts: Parts, namespace: str, document: str) -> Snapshot:
    head = await parts.store.head(namespace, document)
    return NEVER if head is None else head.snapshot


async def _asked(parts: Parts, namespace: str, document: str, query: ReadQuery) -> Snapshot:
    _refuse_contradictions(query)
    deadline = deadline_in(query.timeout)
    if query.min_sequence is not None:
        await wait_for_sequence(parts, query.min_sequence, deadline)
    if query.min_version is not None:
        await wait_for_version(parts, namespace, document, query.min_version, deadline)
    point = await _point(parts, query, deadline)
    if point is None:
        return await _newest(parts, namespace, document)
    return await parts.history.snapshot(namespace, document, point)


async def _point(parts: Parts, query: ReadQuery, deadline: float) -> Point | None:
    """Return the point asked for, once everything before it is folded; None is the head."""
    if query.version is not None:
        return Point(Clock.version, query.version)
    if query.sequence is not None:
        await wait_for_sequence(parts, query.sequence, deadline)
        return Point(Clock.sequence, query.sequence)
    if query.at is None:
        return None
    time = parse_time(query.at)
    if query.clock == "occurred":
        return Point(Clock.occurred, time)
    await wait_for_time(parts, time, deadline)
    return Point(Clock.recorded, time)


def _refuse_contradictions(query: ReadQuery) -> None:
    points = [name for name in ("version", "at", "sequence") if getattr(query, name) is not None]
    if len(points) > 1:
        detail = f"{' and '.join(points)}: only one says when"
        raise Problem(422, "contradictory", detail, field=points[1])
    if query.clock is not None and query.at is None:
        raise Problem(422, "contradictory", "clock: it says by which times `at` goes", field="clock")


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

"""The routes about the system: probes, metrics, status, the contract and its page. Part of `refold.gateway.app`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import cache
from importlib.resources import files
from typing import Any, Final

import orjson
import yaml
from starlette.requests import Request

from refold.core.errors import ProjectionBehind, RefoldError, StoreUnavailable, TimedOut
from refold.core.json_text import Json
from refold.gateway.context import Context, context_of
from refold.gateway.requests import refuse_query
from refold.gateway.responses import JSON, Problem, Response, json_response, shown
from refold.gateway.stores import store_views
from refold.log import LogInfo, lag_seconds
from refold.telemetry.health import within
from refold.telemetry.metrics.exposition import accepted_by

PROBE_SECONDS: Final = 2.0
"""A part that has not answered a probe by then is not reachable."""

HEALTH_JSON: Final = "application/health+json"

DOCS_CACHE_SECONDS: Final = 86_400
"""How long a browser may keep the files of the page of the API."""

# --- Probes, metrics, status -----------------------------------------------------------------------------


async def read_liveness(request: Request) -> Response:
    """Answer while the process is alive."""
    refuse_query(request)
    return json_response({"status": "alive"})


async def read_readiness(request: Request) -> Response:
    """Check that log, store and projector can be reached and the projection is near the log's end; name what fails."""
    refuse_query(request)
    context = context_of(request)
    faults = await _faults(context)
    if faults:
        detail = "; ".join(f"{name}: {_shown(error)}" for name, error in faults.items())
        behind = faults.get("projection")
        facts = shown(behind.facts) if isinstance(behind, ProjectionBehind) else {}
        raise Problem(503, "not_ready", detail, unreachable=sorted(faults), **facts)
    return json_response({"status": "ready", **await _problems(context)})


async def is_ready(context: Context) -> bool:
    """Return what the readiness probe would answer."""
    return not await _faults(context)


async def _faults(context: Context) -> dict[str, RefoldError]:
    """Return by name why the gateway is not ready."""
    checks = {**context.checks, "projection": context.readiness.check}
    errors = await asyncio.gather(*(_error(check) for check in checks.values()))
    return {name: error for name, error in zip(checks, errors, strict=True) if error is not None}


async def read_health(request: Request) -> Response:
    """Return what the checks of the system find; 503 where one fails."""
    refuse_query(request)
    status, view = await context_of(request).health.report()
    return Response(orjson.dumps(view), 503 if status == "fail" else 200, None, HEALTH_JSON)


async def read_metrics(request: Request) -> Response:
    """Return this process's metrics for Prometheus."""
    refuse_query(request)
    body, media_type = await context_of(request).exposition.read(accepted_by(request.scope))
    return Response(body, 200, None, media_type)


async def read_status(request: Request) -> Response:
    """Describe the system, and how far each partition is folded."""
    refuse_query(request)
    context = context_of(request)
    try:
        checkpoints = await within(context.store.checkpoints(), PROBE_SECONDS)
    except TimeoutError as error:
        message = f"the store has not answered within {PROBE_SECONDS:g} s; /health says more"
        raise StoreUnavailable(message) from error
    info = await context.log.info()
    # Partitions share a few sequences.
    sequences = {checkpoint.read_sequence for checkpoint in checkpoints}
    seconds = {sequence: await lag_seconds(context.log, info, sequence) for sequence in sequences}
    folded_sequence = min(sequences, default=0)
    view: dict[str, Json] = {
        "log_id": info.log_id,
        "fold": max((checkpoint.fold for checkpoint in checkpoints), default=0),
        "versions": dict(context.versions),
        **_lag(info, folded_sequence, max(seconds.values(), default=0.0)),
        **await _problems(context),
        "partitions": [
            {"partition": each.partition, **_lag(info, each.read_sequence, seconds[each.read_sequence])}
            for each in checkpoints
        ],
    }
    if context.sources is not None:
        view["stores"] = store_views(context.sources, info.last_sequence)
    return json_response(view)


def _lag(info: LogInfo, folded_sequence: int, seconds: float) -> dict[str, Json]:
    return {
        "last_sequence": info.last_sequence,
        "folded_sequence": folded_sequence,
        "lag_events": max(0, info.last_sequence - folded_sequence),
        "lag_seconds": seconds,
    }


async def _problems(context: Context) -> dict[str, Json]:
    """Return the member `problems`; none where nothing is known to need an operator."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            found: Json = dict(await context.problems())
    except (TimeoutError, RefoldError):
        return {}
    return {"problems": found} if found else {}


async def _error(check: Callable[[], Coroutine[Any, Any, object]]) -> RefoldError | None:
    try:
        await within(check(), PROBE_SECONDS)
    except TimeoutError:
        return TimedOut(f"no answer in {PROBE_SECONDS} s")
    except RefoldError as error:
        return error
    return None


def _shown(error: RefoldError) -> str:
    # The message of `ProjectionBehind` contains its facts.
    return f"{error.code}: {error.message if isinstance(error, ProjectionBehind) else error}"


# --- What this is, the contract, and its page ------------------------------------------------------------

ABOUT: Final = "JSON documents as the fold of an immutable log: any version, at any time."
LINKS: Final = {
    "documentation": "/docs",
    "contract": "/openapi.json",
    "namespaces": "/v1",
    "status": "/status",
    "readiness": "/readyz",
    "health": "/health",
    "liveness": "/healthz",
    "metrics": "/metrics",
}
DOCS_FILES: Final = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}


async def read_index(request: Request) -> Response:
    """Describe the service and link its resources: a page for browsers, JSON for others."""
    refuse_query(request)
    version = context_of(request).versions["refold"]
    if "text/html" in request.headers.get("accept", ""):
        links = "".join(f'<li><a href="{path}">{name}</a></li>' for name, path in LINKS.items())
        return Response(_INDEX.format(version=version, about=ABOUT, links=links), 200, None, _HTML)
    return json_response({"name": "Refold", "version": version, "about": ABOUT, "links": LINKS})


async def read_openapi(request: Request) -> Response:
    """Return the contract."""
    refuse_query(request)
    contract = await asyncio.to_thread(openapi_document)
    return Response(orjson.dumps(contract), 200, None, JSON)


async def read_docs(request: Request) -> Response:
    """Return the page of the contract."""
    refuse_query(request)
    return Response(_DOCS, 200, None, _HTML)


async def read_docs_file(request: Request) -> Response:
    """Return a file of that page, which needs nothing from the network."""
    refuse_query(request)
    name: str = request.path_params["file"]
    media_type = DOCS_FILES.get(name)
    if media_type is None:
        raise Problem(404, "not_found", f"there is no file {name[:80]!r} here")
    content = await asyncio.to_thread(_docs_file, name)
    return Response(content, 200, {"Cache-Control": f"max-age={DOCS_CACHE_SECONDS}"}, media_type)


@cache
def openapi_document() -> dict[str, Any]:
    """Return the contract, `openapi.yaml` of this package."""
    text = files("refold.gateway").joinpath("openapi.yaml").read_bytes()
    document: dict[str, Any] = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe.
    return document


def _docs_file(name: str) -> bytes:
    [folder] = files("swagger_ui_bundle").joinpath("vendor").iterdir()
    return folder.joinpath(name).read_bytes()


_HTML: Final = "text/html"
_INDEX: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Refold</title><meta name="color-scheme" content="light dark">
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}}</style></head>
<body><h1>Refold {version}</h1><p>{about}</p><ul>{links}</ul></body></html>
"""
_DOCS: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Refold: HTTP API</title>
<link rel="icon" href="/docs/favicon-32x32.png"><link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><div id="page"></div><script src="/docs/swagger-ui-bundle.js"></script>
<script>SwaggerUIBundle({url: "/openapi.json", dom_id: "#page", deepLinking: true})</script></body></html>
"""

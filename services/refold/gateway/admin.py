"""Routes that say how the system does: alive, ready, metrics, status.

Mounted by `refold.gateway.app`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from fastapi import APIRouter, Depends
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response

from refold.core.canonical import Json
from refold.core.checkpoint import Checkpoint
from refold.core.errors import ProjectionBehind, RefoldError, TimedOut
from refold.gateway import models
from refold.gateway.answers import json_answer
from refold.gateway.described import described
from refold.gateway.parts import parts_of
from refold.gateway.problems import Problem, shown
from refold.gateway.queries import no_query
from refold.gateway.readiness import lag_seconds
from refold.log import LogInfo

router: Final = APIRouter(tags=["operate"], dependencies=[Depends(no_query)])

CHECK_SECONDS: Final = 2.0
"""What has not answered a probe by then is not reachable."""


@router.get("/healthz", **described("Alive", "readHealth", models.Health))
async def read_health() -> Response:
    """Say that the process is alive."""
    return json_answer({"status": "alive"})


@router.get("/readyz", **described("Ready", "readReadiness", models.Health))
async def read_readiness(request: Request) -> Response:
    """Say whether log, store and projector can be reached and the projection is near the log's end; 503 names what not.

    `folded_sequence` and `required_sequence` show how far a gateway that has just started still waits;
    `lag_events` and `lag_seconds` a lag over the bound.
    """
    parts = parts_of(request)
    checks = {**parts.checks, "projection": parts.readiness.check}
    errors = await asyncio.gather(*(_error(check) for check in checks.values()))
    faults = {name: error for name, error in zip(checks, errors, strict=True) if error is not None}
    if faults:
        detail = "; ".join(f"{name}: {_said(error)}" for name, error in faults.items())
        behind = faults.get("projection")
        facts = shown(behind.facts) if isinstance(behind, ProjectionBehind) else {}
        raise Problem(503, "not_ready", detail, unreachable=sorted(faults), **facts)
    return json_answer({"status": "ready"})


@router.get(
    "/metrics",
    **described(
        "Metrics",
        "readMetrics",
        None,
        also={200: {"description": "Prometheus.", "content": {"text/plain": {}}}},
    ),
)
async def read_metrics(request: Request) -> Response:
    """Show this process's metrics to Prometheus."""
    return Response(generate_latest(parts_of(request).registry), 200, None, CONTENT_TYPE_LATEST)


@router.get("/status", **described("Status", "readStatus", models.SystemStatus))
async def read_status(request: Request) -> Response:
    """Say what the system is made of and how far each partition has been folded."""
    parts = parts_of(request)
    checkpoints = await parts.store.checkpoints()
    info = await parts.log.info()
    # Partitions share a few sequences.
    sequences = {checkpoint.read_sequence for checkpoint in checkpoints}
    seconds = {sequence: await lag_seconds(parts.log, info, sequence) for sequence in sequences}
    partitions = [_partition(info, checkpoint, seconds) for checkpoint in checkpoints]
    folded_sequence = min((checkpoint.read_sequence for checkpoint in checkpoints), default=0)
    view: dict[str, Json] = {
        "log_id": info.log_id,
        "fold": max((checkpoint.fold for checkpoint in checkpoints), default=0),
        "versions": parts.about._asdict(),
        "last_sequence": info.last_sequence,
        "folded_sequence": folded_sequence,
        "lag_events": max(0, info.last_sequence - folded_sequence),
        "lag_seconds": max(seconds.values(), default=0.0),
        "partitions": partitions,
    }
    return json_answer(view)


def _partition(info: LogInfo, checkpoint: Checkpoint, seconds: dict[int, float]) -> dict[str, Json]:
    return {
        "partition": checkpoint.partition,
        "last_sequence": info.last_sequence,
        "folded_sequence": checkpoint.read_sequence,
        "lag_events": max(0, info.last_sequence - checkpoint.read_sequence),
        "lag_seconds": seconds[checkpoint.read_sequence],
    }


async def _error(check: Callable[[], Awaitable[object]]) -> RefoldError | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await check()
    except TimeoutError:
        return TimedOut(f"no answer in {CHECK_SECONDS} s")
    except RefoldError as error:
        return error
    return None


def _said(error: RefoldError) -> str:
    # What is behind says its numbers in a sentence.
    return f"{error.code}: {error.message if isinstance(error, ProjectionBehind) else error}"

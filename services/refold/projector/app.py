"""The projector's service: a FastStream application with life cycle, probes, metrics and the control subject.

Made by `refold.wiring.projector`; the hot loop is not FastStream's but the supervisor's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from faststream.asgi import AsgiFastStream, AsgiResponse, get
from faststream.nats import NatsBroker
from prometheus_client import CollectorRegistry, make_asgi_app

from refold.core import json_text
from refold.log import CONTROL_SUBJECT
from refold.projector import FOLDING
from refold.projector.supervisor import Supervisor


def create_service(
    supervisor: Supervisor, broker: NatsBroker, registry: CollectorRegistry, *, when_ended: Callable[[], None]
) -> AsgiFastStream:
    """Return the ASGI application. `when_ended` is called when the supervisor ends, whatever the reason."""

    answer_control(broker, lambda: view_of(supervisor))

    @get
    async def healthz(_: Any) -> AsgiResponse:
        return _json(200, {"status": "alive"})

    @get
    async def readyz(_: Any) -> AsgiResponse:
        return _json(200 if supervisor.stage in FOLDING else 503, view_of(supervisor))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        task = asyncio.create_task(supervisor.run(), name="projector")
        task.add_done_callback(lambda _: when_ended())
        try:
            yield
        finally:
            task.cancel()
            # Cancelling is the normal end; an unexpected error is raised.
            with suppress(asyncio.CancelledError):
                await task
            await supervisor.finish()

    routes: list[tuple[str, Any]] = [
        ("/healthz", healthz),
        ("/readyz", readyz),
        ("/metrics", make_asgi_app(registry)),
    ]
    return AsgiFastStream(broker, logger=None, lifespan=lifespan, asgi_routes=routes)


def answer_control(broker: NatsBroker, view: Callable[[], dict[str, Any]]) -> None:
    """Answer requests on the control subject; the AsyncAPI document is made of the same subscriber."""

    @broker.subscriber(CONTROL_SUBJECT, title="projector.control")
    async def control(_: Any) -> dict[str, Any]:
        """Ask the projector what it is doing: the request is empty, the answer `{"stage","sequence","error"}`."""
        return view()


def view_of(supervisor: Supervisor) -> dict[str, Any]:
    """Return what the projector is doing: its stage, the committed sequence, its last error."""
    return {
        "stage": supervisor.stage.value,
        "sequence": supervisor.committed_sequence,
        "error": supervisor.error,
    }


def _json(status: int, value: dict[str, Any]) -> AsgiResponse:
    return AsgiResponse(json_text.dumps(value), status, headers={"content-type": "application/json"})

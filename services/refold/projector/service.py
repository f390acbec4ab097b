"""The projector's service shell: a FastStream application with life cycle, probes, metrics and control subjects.

Made by `refold.wiring.projector`; the hot loop is the runner's, not FastStream's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from faststream.asgi import AsgiFastStream, AsgiResponse, get
from faststream.nats import NatsBroker
from prometheus_client import CollectorRegistry, make_asgi_app

from refold.core import canonical
from refold.log import CONTROL_SUBJECT
from refold.projector.runner import Runner, Stage


def create_service(
    runner: Runner, broker: NatsBroker, registry: CollectorRegistry, *, when_ended: Callable[[], None]
) -> AsgiFastStream:
    """Return the ASGI application. `when_ended` is called when the runner ends, whatever the reason."""

    answer_control(broker, lambda: view_of(runner))

    @get
    async def healthz(_: Any) -> AsgiResponse:
        return _json(200, {"status": "alive"})

    @get
    async def readyz(_: Any) -> AsgiResponse:
        return _json(200 if runner.stage in {Stage.working, Stage.standby} else 503, view_of(runner))

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        task = asyncio.create_task(runner.run(), name="projector")
        task.add_done_callback(lambda _: when_ended())
        try:
            yield
        finally:
            task.cancel()
            # Cancelling is how it ends here; an error of its own is raised, for nobody foresaw it.
            with suppress(asyncio.CancelledError):
                await task
            await runner.finish()

    routes: list[tuple[str, Any]] = [
        ("/healthz", healthz),
        ("/readyz", readyz),
        ("/metrics", make_asgi_app(registry)),
    ]
    return AsgiFastStream(broker, logger=None, lifespan=lifespan, asgi_routes=routes)


def answer_control(broker: NatsBroker, view: Callable[[], dict[str, Any]]) -> None:
    """Answer whoever asks on the control subject; the AsyncAPI document is made of the same subscriber."""

    @broker.subscriber(CONTROL_SUBJECT, title="projector.control")
    async def control(_: Any) -> dict[str, Any]:
        """Ask the projector what it is doing: the request is empty, the answer `{"stage","sequence","error"}`."""
        return view()


def view_of(runner: Runner) -> dict[str, Any]:
    """Show what the projector is doing: its stage, the sequence committed, its last error."""
    return {"stage": runner.stage.value, "sequence": runner.committed_sequence, "error": runner.error}


def _json(status: int, value: dict[str, Any]) -> AsgiResponse:
    return AsgiResponse(canonical.dumps(value), status, headers={"content-type": "application/json"})

"""The gateway's composition: ports, application, server. Run by `refold gateway` and, as a child, by `refold up`.

Shutdown order: no new requests; those that wait are answered; then the log sends what waits and closes, then the
store's connections.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector

from refold import __version__
from refold.core import canonical
from refold.core.errors import ServiceUnavailable
from refold.gateway.app import create_app
from refold.gateway.early_outcomes import EarlyOutcomes
from refold.gateway.outcomes import Outcomes
from refold.gateway.parts import About, Parts
from refold.gateway.progress import Progress
from refold.history import History
from refold.log import CONTROL_SUBJECT, PROGRESS_SUBJECT
from refold.log.jetstream import JetStreamLog, JetStreamNotices
from refold.projector.notices import outcome_view
from refold.store.postgres import PostgresStore
from refold.telemetry.logging import get_logger
from refold.telemetry.metrics import GatewayMetrics
from refold.wiring.log import open_log
from refold.wiring.serving import chosen_port, serve, stop_on_signals
from refold.wiring.settings import Settings

REPLY_SUBJECT: Final = "refold.reply.gateway"
FOLDING_STAGES: Final = frozenset({"working", "standby"})


async def run(settings: Settings) -> None:
    """Run until SIGINT or SIGTERM."""
    stop = stop_on_signals()
    async with _parts(settings) as parts:
        port = chosen_port(settings.http_host, settings.http_port)
        get_logger().info("gateway_listening", host=settings.http_host, port=port)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(parts.progress.watch(), name="progress")
            folding = tasks.create_task(parts.early.run(), name="early-outcomes")
            releasing = tasks.create_task(_release(parts, stop), name="release")
            await serve(create_app(parts), host=settings.http_host, port=port, stop=stop)
            watching.cancel()
            folding.cancel()
            releasing.cancel()
        get_logger().info("gateway_stopped")


@asynccontextmanager
async def _parts(settings: Settings) -> AsyncIterator[Parts]:
    async with AsyncExitStack() as endings:
        dsn, schema = settings.required("postgres_url"), settings.postgres_schema
        store = await PostgresStore.open(dsn, schema=schema, where_seconds=settings.statement_timeout_seconds)
        endings.push_async_callback(store.close)
        log = await open_log(settings.required("nats_url"), "refold-gateway")
        endings.push_async_callback(log.close)
        history, progress = History(store), Progress(store.checkpoints)
        store.never_before(lambda: progress.sequence)
        outcomes = Outcomes(history.outcome, progress)
        reply_subject = await _listen(JetStreamNotices(log.client), outcomes, progress)
        await progress.refresh()
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        yield Parts(
            log=log,
            store=store,
            history=history,
            outcomes=outcomes,
            early=EarlyOutcomes(log, store, progress, outcomes, outcome_view),
            progress=progress,
            reply_subject=reply_subject,
            checks=_checks(log, store),
            about=await _about(log, store),
            metrics=GatewayMetrics(registry),
            registry=registry,
            new_id=_new_id,
            timer=time.perf_counter,
            wait_seconds=settings.wait_seconds,
        )


async def _listen(notices: JetStreamNotices, outcomes: Outcomes, progress: Progress) -> str:
    """Listen to progress and, on a subject that nobody can guess, to outcomes; return that subject."""
    reply_subject = f"{REPLY_SUBJECT}.{_new_id()}"
    await notices.listen(reply_subject, outcomes.hear)
    await notices.listen(PROGRESS_SUBJECT, progress.hear)
    await notices.flush()
    return reply_subject


async def _about(log: JetStreamLog, store: PostgresStore) -> About:
    broker = log.client.connected_server_version
    nats = f"{broker.major}.{broker.minor}.{broker.patch}"
    return About(refold=__version__, nats=nats, postgres=await store.server_version())


def _checks(log: JetStreamLog, store: PostgresStore) -> dict[str, Callable[[], Awaitable[object]]]:
    async def projector() -> None:
        _, body = await log.client.ask(CONTROL_SUBJECT)
        told = canonical.loads(body)
        if told["stage"] not in FOLDING_STAGES:
            raise ServiceUnavailable(f"the projector is {told['stage']}: {told['error']}")

    return {"nats": log.info, "postgres": store.ping, "projector": projector}


async def _release(parts: Parts, stop: asyncio.Event) -> None:
    """Once the gateway is to end, let go of whoever waits: the server ends when they are answered."""
    await stop.wait()
    parts.progress.release()
    parts.outcomes.release()


def _new_id() -> str:
    return uuid.uuid4().hex

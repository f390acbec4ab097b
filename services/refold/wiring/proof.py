"""What proves and renews a projection, put together: verify and rebuild, straight at NATS and PostgreSQL.

Used by the commands of the same names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from refold.core.errors import Refused, ServiceUnavailable
from refold.embedded.folder import read_passwords
from refold.log import EventLog
from refold.projector import rebuild, verify
from refold.store.postgres import PostgresStore
from refold.store.postgres.succession import PostgresSuccession
from refold.telemetry.logging import configure
from refold.wiring.endpoints import ENDPOINTS, read_endpoints
from refold.wiring.log import open_log
from refold.wiring.projector import bounds_of
from refold.wiring.replaying import PROCESSES_MAX, processors, replay_in_processes
from refold.wiring.settings import Settings, load


async def run_verify(settings: Settings, listener: verify.Listener, scope: verify.Scope) -> verify.Tally:
    """Hold the projection against its log."""
    async with AsyncExitStack() as endings:
        log = await endings.enter_async_context(_log(settings))
        store = await endings.enter_async_context(_store(settings, settings.postgres_schema))
        return await verify.verify(log, store, listener, scope)


async def run_rebuild(
    settings: Settings, into: str, listener: rebuild.Listener, *, processes: int | None = None
) -> rebuild.Rebuilt:
    """Make the projection anew in the schema `into`, and put it in the live one's place when it is equal.

    What is far behind is folded by so many processes; None: as many as there are processors, at most eight.
    """
    live = settings.postgres_schema
    if into == live:
        raise Refused("bad_usage", "must be another schema than the live one", field="--into", shape=into)
    async with AsyncExitStack() as endings:
        parts = rebuild.Parts(
            log=await endings.enter_async_context(_log(settings)),
            live=await endings.enter_async_context(_store(settings, live)),
            fresh=await endings.enter_async_context(_store(settings, into)),
            succession=await endings.enter_async_context(
                PostgresSuccession.open(settings.required("postgres_url"), live=live, fresh=into)
            ),
            bounds=bounds_of(settings),
            processes=min(PROCESSES_MAX, processes or processors()),
            replay_in_shards=partial(replay_in_processes, settings, into),
        )
        return await rebuild.rebuild(parts, listener)


def reach(data: Path | None) -> Settings:
    """Find the servers: of the folder named, else by `REFOLD_NATS_URL` and `REFOLD_POSTGRES_URL`, else of `./.refold`.

    Raises `ServiceUnavailable` where the folder's system does not run.
    """
    # The command's output is its answer: what it logs meanwhile is not part of it.
    configure("error", service="refold")
    settings = load(data=data)
    is_named = "data" in settings.model_fields_set
    if not is_named and settings.nats_url is not None and settings.postgres_url is not None:
        return settings
    endpoints, passwords = read_endpoints(settings.data), read_passwords(settings.data)
    if not endpoints or "projector" not in passwords:
        message = (
            "no system runs there: name its folder (--data), or set REFOLD_NATS_URL and REFOLD_POSTGRES_URL"
        )
        raise ServiceUnavailable(message, missing=str(settings.data / ENDPOINTS))
    address = urlsplit(str(endpoints["nats"])).netloc
    nats_url = f"nats://projector:{passwords['projector']}@{address}"
    return load(data=data, nats_url=nats_url, postgres_url=endpoints["postgres"])


@asynccontextmanager
async def _log(settings: Settings) -> AsyncIterator[EventLog]:
    log = await open_log(settings.required("nats_url"), "refold-proof")
    try:
        yield log
    finally:
        await log.close()


@asynccontextmanager
async def _store(settings: Settings, schema: str) -> AsyncIterator[PostgresStore]:
    store = await PostgresStore.open(settings.required("postgres_url"), schema=schema, readers_max=2)
    try:
        yield store
    finally:
        await store.close()

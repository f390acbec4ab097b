"""Opens the log, and tells the broker's time. Used by every composition that needs the log."""

from __future__ import annotations

import asyncio
import time
import uuid
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from refold.core.errors import LogDiffers, LogError, LogHole, LogMissing, StoreDamaged, StoreError
from refold.embedded.folder import FolderMarker
from refold.embedded.log_files import kept_folders
from refold.embedded.nats import NATS_USERS, NatsServer, inbox_prefix
from refold.embedded.system import Servers
from refold.log.jetstream import (
    DEFAULT_INBOX_PREFIX,
    Client,
    Consumer,
    ConsumerLost,
    JetStreamLog,
    KeyValueMarker,
    LogMarker,
    Traces,
    connect,
    create_log,
    no_traces,
)
from refold.projector.witness import hold_documents_against, hold_log_against
from refold.store.postgres import PostgresStore
from refold.store.postgres.schema import bound_log

_PROVOKE_SECONDS: Final = 2.0


def inbox_of(url: str) -> str:
    """Return the inbox prefix of the URL's user: each of ours has its own, anyone else the usual one."""
    prefixes: dict[str, str] = {user: inbox_prefix(user) for user in NATS_USERS}
    return prefixes.get(urlsplit(url).username or "", DEFAULT_INBOX_PREFIX)


async def connect_to(url: str, name: str) -> Client:
    """Connect as the URL's user. Raises `LogUnavailable`."""
    return await connect(url, inbox_prefix=inbox_of(url), name=name)


async def make_log(
    admin_url: str, *, replicas: int = 1, marker: LogMarker | None = None, traces: Traces = no_traces
) -> str:
    """Create the log where there has been none, or complete or check the one that is there; return its id.

    Without a marker of the caller's, it is in the broker's key-value store. Raises `LogMissing`.
    """
    client = await connect_to(admin_url, "refold-administrator")
    try:
        return await create_log(
            client,
            log_id=uuid.uuid4().hex,
            replicas=replicas,
            marker=marker or KeyValueMarker(client, replicas=replicas),
            traces=traces,
        )
    finally:
        await client.close()


async def make_embedded_log(servers: Servers, schema: str) -> str:
    """Create or check the log of a data folder, hold it against the projection, and return its id.

    Nothing may write before this has returned. Raises `LogMissing`, `LogHole`, `LogDiffers`, with what the folder holds
    and what nats-server says of it as facts.
    """
    nats, dsn = servers.nats, servers.postgres.dsn

    async def traces() -> list[str]:
        return [*await projection_traces(dsn, schema), *nats.stored_blocks()]

    try:
        marker = FolderMarker(servers.folder.path)
        log_id = await make_log(nats.url("administrator"), marker=marker, traces=traces)
        await _check_projected(nats.url("projector"), dsn, schema)
    except (LogMissing, LogHole, LogDiffers) as error:
        if isinstance(error, LogHole) and "first_sequence" in error.facts:
            await _provoke(nats.url("projector"), int(str(error.facts["first_sequence"])))
        raise _with_findings(error, nats) from error
    return log_id


def _with_findings(error: LogError, nats: NatsServer) -> LogError:
    """Add what is on disk, what nats-server says of it, and what was kept."""
    message, losses = str(error), "\n".join(nats.losses)
    earlier = [kept for kept in kept_folders(nats.child.command.folder) if str(kept) not in losses]
    found = [
        *(line for line in nats.stored_blocks() if line not in message),
        *(f"nats-server says: {line}" for line in nats.complaints()),
        *nats.losses,
        *(f"kept from an earlier start: {kept}" for kept in earlier),
    ]
    return type(error)("\n  ".join([message, *found]))


async def _check_projected(url: str, dsn: str, schema: str) -> None:
    """Hold the log against the checkpoints; a projection that cannot be read is reported by the projector."""
    log = await open_log(url, "refold-start")
    try:
        try:
            store = await PostgresStore.open(dsn, schema=schema, readers_max=1)
        except StoreError:
            return
        try:
            checkpoints = await store.checkpoints()
        except StoreError:
            return
        finally:
            await store.close()
        if checkpoints:
            await hold_log_against(log, checkpoints)
    finally:
        await log.close()


async def refuse_damaged(servers: Servers, schema: str, log_id: str) -> None:
    """Raise `StoreDamaged` where tables or rows of the projection are missing; services report what else is wrong."""
    try:
        store = await PostgresStore.open(servers.postgres.dsn, schema=schema, readers_max=2)
        try:
            log = await open_log(servers.nats.url("projector"), "refold-start")
            try:
                await hold_documents_against(log, store, await store.bind(log_id))
            finally:
                await log.close()
        finally:
            await store.close()
    except StoreDamaged as error:
        run = f"refold rebuild --from-nothing --data {servers.folder.path}"
        raise StoreDamaged(error.what, **error.facts, run=run) from error
    except StoreError:
        return


async def _provoke(url: str, sequence: int) -> None:
    """Read at a sequence that cannot be read, so that nats-server logs why: a single request it refuses in silence."""
    client = await connect_to(url, "refold-start")
    try:
        consumer = await Consumer.create(client, sequence)
        with suppress(TimeoutError, ConsumerLost):
            async with asyncio.timeout(_PROVOKE_SECONDS):
                await consumer.take()
        consumer.close()
    finally:
        await client.close()


async def projection_traces(dsn: str, schema: str) -> list[str]:
    """Say which log a projection is bound to; nothing where it is bound to none. Raises `StoreUnavailable`."""
    log_id = await bound_log(dsn, schema)
    return [] if log_id is None else [f"the projection (schema {schema}) is bound to log {log_id}"]


class BrokerClock:
    """The broker's clock, carried on by our own monotonic one."""

    def __init__(self, broker_nanoseconds: int) -> None:
        """Set it to what the broker just said."""
        self._offset = broker_nanoseconds - time.monotonic_ns()

    def __call__(self) -> int:
        """Return nanoseconds since 1970."""
        return time.monotonic_ns() + self._offset


async def open_log(url: str, name: str) -> JetStreamLog:
    """Open the log that is there. Raises `LogUnavailable`, `LogMissing`, `LogDiffers`, `LogHole`."""
    return await JetStreamLog.open(url, inbox_prefix=inbox_of(url), name=name)

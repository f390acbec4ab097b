"""NATS and PostgreSQL: started on a data folder or found where they run, and the log and projection opened there.

Used by every composition. `create_log` makes a new log where there has been none, or where the operator says that the
old one is lost. Nothing of a lost log is deleted: its projection stays as a schema of another name, and what is left of
its files stays beside the broker's.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import urlsplit

from refold.core import json_text
from refold.core.errors import (
    LogDiffers,
    LogError,
    LogHole,
    LogMissing,
    LogUnavailable,
    ServiceUnavailable,
    StoreDamaged,
    StoreError,
    StoreOutdated,
    raising_first,
)
from refold.core.json_text import Json
from refold.core.stream import SYSTEM_NAMESPACE
from refold.embedded import SECRETS, no_system, read_endpoints, read_passwords
from refold.embedded.folder import DataFolder, FolderMarker, open_folder
from refold.embedded.log_cipher import LogCipher, remember_cipher
from refold.embedded.nats import (
    NATS_USERS,
    Durability,
    NatsServer,
    inbox_prefix,
    kept_folders,
    put_streams_aside,
    start_nats,
    stored_blocks,
)
from refold.embedded.postgres import PostgresServer, start_postgres
from refold.embedded.process import Server
from refold.history import check_documents, check_log
from refold.log import Appended, Publication
from refold.log.jetstream import JetStreamLog, JetStreamNotices
from refold.log.jetstream.client import DEFAULT_INBOX_PREFIX, Client, connect
from refold.log.jetstream.consume import Consumer, ConsumerLost
from refold.log.jetstream.stream import KeyValueMarker, LogMarker, Traces, delete_empty_stream, no_traces
from refold.log.jetstream.stream import create_log as create_stream
from refold.store.postgres import PostgresStore
from refold.store.postgres.schema import bound_log, put_aside
from refold.telemetry.logging import configure
from refold.wiring.settings import Settings, load

_PROVOKE_SECONDS: Final = 2.0
OUTCOME_SECONDS: Final = 10.0
"""How long an administrator's write waits for its outcome."""

AnyServer = TypeVar("AnyServer", bound=Server)


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """The running servers and their folder."""

    folder: DataFolder
    nats: NatsServer
    postgres: PostgresServer

    @property
    def addresses(self) -> dict[str, str]:
        """Their addresses, as the endpoints file names them; that of PostgreSQL is a secret."""
        return {
            "nats": self.nats.address,
            "nats_monitor": self.nats.monitor,
            "postgres": self.postgres.dsn,
        }


@asynccontextmanager
async def running_servers(
    path: Path,
    *,
    durability: Durability = "fsync",
    nats_port: int = 0,
    postgres_port: int = 0,
    cipher: LogCipher | None = None,
) -> AsyncIterator[Servers]:
    """Lock the folder, end what a killed run has left in it, start both servers at once, and end them afterwards."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(await open_folder(path))

        async def started(start: Awaitable[AnyServer]) -> AnyServer:
            server = await start
            stack.push_async_callback(server.stop)
            return server

        with raising_first():
            async with asyncio.TaskGroup() as tasks:
                nats = tasks.create_task(
                    started(start_nats(folder, port=nats_port, sync=durability, cipher=cipher))
                )
                postgres = tasks.create_task(started(start_postgres(folder, port=postgres_port)))
        yield Servers(folder=folder, nats=nats.result(), postgres=postgres.result())


@asynccontextmanager
async def servers_of(settings: Settings) -> AsyncIterator[Servers]:
    """Start the servers of a data folder on which no system runs, on free ports, for as long as the block runs.

    No log is opened or created. Raises `DataFolderInUse` while a system runs there, `ServiceUnavailable` if the folder
    holds no system.
    """
    if not read_passwords(settings.data):
        message = f"{settings.data} holds no system's data; is it the right folder (--data)?"
        raise ServiceUnavailable(message, missing=str(settings.data / SECRETS))
    durability, cipher = settings.durability, log_cipher(settings)
    async with running_servers(settings.data, durability=durability, cipher=cipher) as servers:
        yield servers


def log_cipher(settings: Settings) -> LogCipher | None:
    """Return the key of the embedded log; None where it is not encrypted."""
    if settings.log_key is None:
        return None
    before = settings.log_key_before
    return LogCipher(
        key=settings.log_key.get_secret_value(), before=before.get_secret_value() if before else None
    )


def reach(data: Path | None) -> Settings:
    """Return settings that reach running servers: those of the folder named, else of `REFOLD_NATS_URL` and
    `REFOLD_POSTGRES_URL`, else of `./.refold`.

    Raises `ServiceUnavailable` if no system runs on the folder.
    """
    # The command's output is its answer; log lines are not part of it.
    configure("error", service="refold")
    settings = load(data=data)
    if settings.names_servers:
        return settings
    endpoints, passwords = read_endpoints(settings.data), read_passwords(settings.data)
    if not endpoints or "projector" not in passwords:
        raise no_system(settings.data if "data" in settings.model_fields_set else None)
    address = urlsplit(str(endpoints["nats"])).netloc
    nats_url = f"nats://projector:{passwords['projector']}@{address}"
    return load(data=data, nats_url=nats_url, postgres_url=endpoints["postgres"])


# --- The log and the projection on them ---------------------------------------------------------------


async def put_system(data: Path | None, document: str, state: Json, *, log_id: str) -> dict[str, Any]:
    """Put a document of the system's namespace as the administrator; return its outcome, or that it is pending.

    Raises `ServiceUnavailable` where nothing says how to reach the log, `LogDiffers` where it is not that of `log_id`.
    """
    # The command's output is its answer; log lines are not part of it.
    configure("error", service="refold")
    log = await open_log(_administrator_url(data), "refold-administrator")
    try:
        found = (await log.info()).log_id
        if found != log_id:
            raise LogDiffers(
                "the administrator's address is that of another log", expected=log_id, found=found
            )
        arrived: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        subject = f"_INBOX.{uuid.uuid4().hex}"
        await JetStreamNotices(log.client).listen(
            subject, lambda _, body: None if arrived.done() else arrived.set_result(json_text.object_in(body))
        )
        stored = await log.append(
            Publication(
                namespace=SYSTEM_NAMESPACE,
                document=document,
                body=json_text.dumps({"id": uuid.uuid4().hex, "put": state}),
                headers=(("Refold-Reply", subject),),
            )
        )
        if not isinstance(stored, Appended):
            raise LogUnavailable("the broker did not acknowledge the event, which may be in the log")
        with suppress(TimeoutError):
            async with asyncio.timeout(OUTCOME_SECONDS):
                return await arrived
        return {"status": "pending", "sequence": stored.sequence}
    finally:
        await log.close()


def _administrator_url(data: Path | None) -> str:
    """Return the administrator's address: of the folder named, else `REFOLD_NATS_ADMIN_URL`, else of `./.refold`."""
    settings = load(data=data)
    is_named = "data" in settings.model_fields_set
    if settings.nats_admin_url and not is_named:
        return settings.required("nats_admin_url")
    endpoints, passwords = read_endpoints(settings.data), read_passwords(settings.data)
    if not endpoints or "administrator" not in passwords:
        raise no_system(settings.data if is_named else None)
    return f"nats://administrator:{passwords['administrator']}@{urlsplit(str(endpoints['nats'])).netloc}"


def inbox_of(url: str) -> str:
    """Return the inbox prefix of the URL's user: that of `NATS_USERS`, else the client's default."""
    prefixes: dict[str, str] = {user: inbox_prefix(user) for user in NATS_USERS}
    return prefixes.get(urlsplit(url).username or "", DEFAULT_INBOX_PREFIX)


async def connect_to(url: str, name: str) -> Client:
    """Connect as the URL's user. Raises `LogUnavailable`."""
    return await connect(url, inbox_prefix=inbox_of(url), name=name)


async def open_log(url: str, name: str) -> JetStreamLog:
    """Open an existing log. Raises `LogUnavailable`, `LogMissing`, `LogDiffers`, `LogHole`."""
    return await JetStreamLog.open(url, inbox_prefix=inbox_of(url), name=name)


@asynccontextmanager
async def _connected(url: str, name: str) -> AsyncIterator[Client]:
    client = await connect_to(url, name)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def open_both(
    url: str, dsn: str, name: str, **options: Any
) -> AsyncIterator[tuple[JetStreamLog, PostgresStore]]:
    """Open an existing log and its projection; `options` are those of `PostgresStore.open`."""
    async with AsyncExitStack() as stack:
        log = await open_log(url, f"refold-{name}")
        stack.push_async_callback(log.close)
        store = await PostgresStore.open(dsn, **options)
        stack.push_async_callback(store.close)
        yield log, store


def _open_servers(
    servers: Servers, schema: str
) -> AbstractAsyncContextManager[tuple[JetStreamLog, PostgresStore]]:
    url, dsn = servers.nats.url("projector"), servers.postgres.dsn
    return open_both(url, dsn, "start", schema=schema, readers_max=2)


async def make_log(
    admin_url: str, *, replicas: int = 1, marker: LogMarker | None = None, traces: Traces = no_traces
) -> str:
    """Create the log if there has been none, else complete or check the one that is there; return its id.

    The default marker is in the broker's key-value store. Raises `LogMissing`.
    """
    async with _connected(admin_url, "refold-administrator") as client:
        marker = marker or KeyValueMarker(client, replicas=replicas)
        log_id = uuid.uuid4().hex
        return await create_stream(client, log_id=log_id, replicas=replicas, marker=marker, traces=traces)


async def make_embedded_log(servers: Servers, schema: str) -> str:
    """Create or check the log of a data folder, compare it with the projection, and return its id.

    Nothing may write before this has returned. Raises `LogMissing`, `LogHole`, `LogDiffers`, with what the folder holds
    and what nats-server logged about it.
    """
    nats, dsn = servers.nats, servers.postgres.dsn

    async def traces() -> list[str]:
        return [*await projection_traces(dsn, schema), *stored_blocks(nats.home)]

    try:
        marker = FolderMarker(servers.folder.path)
        log_id = await make_log(nats.url("administrator"), marker=marker, traces=traces)
        # A projection that cannot be read is reported by the projector.
        with suppress(StoreError):
            async with _open_servers(servers, schema) as (log, store):
                if checkpoints := await store.checkpoints():
                    await check_log(log, checkpoints)
    except (LogMissing, LogHole, LogDiffers) as error:
        if isinstance(error, LogHole) and "first_sequence" in error.facts:
            await _provoke(nats.url("projector"), int(str(error.facts["first_sequence"])))
        raise _with_findings(error, nats) from error
    remember_cipher(nats.home, nats.cipher)
    return log_id


def _with_findings(error: LogError, nats: NatsServer) -> LogError:
    """Add what is on disk, what nats-server logged about it, and what was kept."""
    message, losses = str(error), "\n".join(nats.losses)
    earlier = [kept for kept in kept_folders(nats.home) if str(kept) not in losses]
    found = [
        *(line for line in stored_blocks(nats.home) if line not in message),
        *(f"nats-server says: {line}" for line in nats.complaints()),
        *nats.losses,
        *(f"kept from an earlier start: {kept}" for kept in earlier),
    ]
    return type(error)("\n  ".join([message, *found]))


async def _provoke(url: str, sequence: int) -> None:
    """Read from a sequence that cannot be read, so that nats-server logs why: for a single request it logs nothing."""
    async with _connected(url, "refold-start") as client:
        consumer = await Consumer.create(client, sequence)
        with suppress(TimeoutError, ConsumerLost):
            async with asyncio.timeout(_PROVOKE_SECONDS):
                await consumer.take()
        consumer.close()


async def refuse_damaged(servers: Servers, schema: str, log_id: str) -> None:
    """Raise `StoreDamaged` or `StoreOutdated` where a command replaces the projection; services report other errors."""
    try:
        async with _open_servers(servers, schema) as (log, store):
            await check_documents(log, store, await store.bind(log_id))
    except StoreDamaged as error:
        run = f"refold rebuild --from-nothing --data {servers.folder.path}"
        raise StoreDamaged(error.what, **error.facts, run=run) from error
    except StoreOutdated as error:
        run = f"refold rebuild --data {servers.folder.path}"
        raise StoreOutdated(**error.facts, run=run) from error
    except StoreError:
        return


async def projection_traces(dsn: str, schema: str) -> list[str]:
    """Describe which log a projection is bound to; empty if none. Raises `StoreUnavailable`."""
    log_id = await bound_log(dsn, schema)
    return [] if log_id is None else [f"the projection (schema {schema}) is bound to log {log_id}"]


def broker_clock(now: int) -> Callable[[], int]:
    """Return a clock that continues the broker's time by this process's monotonic one, in nanoseconds."""
    offset = now - time.monotonic_ns()
    return lambda: time.monotonic_ns() + offset


class Created(NamedTuple):
    """The log's id, and where the projection and the files of a lost one are kept."""

    log_id: str
    kept: tuple[str, ...]


async def create_log(data: Path | None, *, has_lost_the_log: bool) -> Created:
    """Create the log, or check the existing one; a lost one is replaced only if the operator says so.

    Works on a data folder on which no system runs, else with the administrator's NATS address. Raises `LogMissing`.
    """
    configure("error", service="refold")
    settings = load(data=data)
    schema = settings.postgres_schema
    if "data" not in settings.model_fields_set and settings.nats_admin_url and settings.postgres_url:
        url, dsn = settings.required("nats_admin_url"), settings.required("postgres_url")
        traces = partial(projection_traces, dsn, schema)
        make = partial(make_log, url, replicas=settings.nats_replicas, traces=traces)
        return await _create(has_lost_the_log, make, partial(_forget, url, dsn, schema))
    async with servers_of(settings) as servers:
        make = partial(make_embedded_log, servers, schema)
        forget = partial(_forget_embedded, servers, schema)
        return await _create(has_lost_the_log, make, forget)


async def _create(
    has_lost_the_log: bool, make: Callable[[], Awaitable[str]], forget: Callable[[], Awaitable[list[str]]]
) -> Created:
    try:
        return Created(await make(), ())
    except LogMissing:
        if not has_lost_the_log:
            raise
    kept = await forget()
    return Created(await make(), tuple(kept))


async def _forget_embedded(servers: Servers, schema: str) -> list[str]:
    marker = FolderMarker(servers.folder.path)
    kept = await _forget(servers.nats.url("administrator"), servers.postgres.dsn, schema, marker)
    return [*kept, *map(str, put_streams_aside(servers.nats.home))]


async def _forget(url: str, dsn: str, schema: str, marker: LogMarker | None = None) -> list[str]:
    """Rename the projection, then remove the marker and a stream without events; return what is kept."""
    async with _connected(url, "refold-administrator") as client:
        kept = await put_aside(dsn, schema)
        await delete_empty_stream(client)
        await (marker or KeyValueMarker(client)).forget()
    return [] if kept is None else [f"schema {kept}"]

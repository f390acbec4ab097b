"""NATS and PostgreSQL: started on a data folder or found where they run, and the log and projection opened there.

Used by every composition.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from refold.core import json_text
from refold.core.errors import (
    LogDiffers,
    LogError,
    LogHole,
    LogMissing,
    LogUnavailable,
    ServiceUnavailable,
    StoreError,
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
    start_nats,
    stored_blocks,
)
from refold.embedded.postgres import PostgresServer, start_postgres
from refold.embedded.process import Server
from refold.history import check_log
from refold.log import Appended, LogInfo, Publication
from refold.log.jetstream import JetStreamLog, JetStreamNotices
from refold.log.jetstream.client import DEFAULT_INBOX_PREFIX, Client, connect
from refold.log.jetstream.consume import Consumer, ConsumerLost
from refold.log.jetstream.stream import KeyValueMarker, LogMarker, Traces, no_traces
from refold.log.jetstream.stream import create_log as create_stream
from refold.telemetry.logging import configure
from refold.wiring.settings import Settings, load
from refold.wiring.storage import storage_flags
from refold.wiring.store_url import StoreUrl, file_url
from refold.wiring.stores import (
    ConnectedStore,
    bound_log,
    files_folder,
    for_commands,
    has_postgres,
    naming_repair,
    open_store,
    own_stores,
    store_urls,
)

_PROVOKE_SECONDS: Final = 2.0
_RESTORE: Final = (
    "restore the log's storage from its newest copy, then start again, and keep the stores meanwhile"
)
OUTCOME_SECONDS: Final = 10.0
"""How long an administrator's write waits for its outcome."""

AnyServer = TypeVar("AnyServer", bound=Server)


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """The running servers and their folder."""

    folder: DataFolder
    nats: NatsServer
    postgres: PostgresServer | None

    def settings(self, settings: Settings) -> Settings:
        """Return settings that reach these servers, and the stores as `refold up` has them."""
        stores = " ".join(store.text if store.url else self._url_of(store) for store in own_stores(settings))
        given = {
            "nats_url": SecretStr(self.nats.url("projector")),
            "nats_monitor": self.nats.monitor,
            "postgres_url": SecretStr(self.postgres.dsn) if self.postgres else None,
            "stores": SecretStr(stores),
        }
        return settings.model_copy(update=given)

    def addresses(self, settings: Settings) -> dict[str, str]:
        """Return the addresses, as the endpoints file names them; those of the stores are secrets."""
        postgres = {"postgres": self.postgres.dsn} if self.postgres else {}
        nats = {"nats": self.nats.address, "nats_monitor": self.nats.monitor}
        return {**nats, **postgres, "stores": settings.required("stores")}

    def _url_of(self, store: StoreUrl) -> str:
        """Return the address of a store of the data folder."""
        if store.kind == "files":
            return file_url(files_folder(self.folder.path))
        assert self.postgres is not None
        return self.postgres.dsn


@asynccontextmanager
async def running_servers(
    path: Path,
    *,
    durability: Durability = "fsync",
    nats_port: int = 0,
    postgres_port: int = 0,
    cipher: LogCipher | None = None,
    has_postgres: bool = True,
    within: Callable[[DataFolder], AbstractContextManager[object]] = nullcontext,
) -> AsyncIterator[Servers]:
    """Lock the folder, end what a killed run has left in it, start the servers at once, and end them afterwards.

    `within` is entered before the first server starts, and left when the last has ended.
    """
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(await open_folder(path))
        stack.enter_context(within(folder))

        async def started(start: Awaitable[AnyServer]) -> AnyServer:
            server = await start
            stack.push_async_callback(server.stop)
            return server

        with raising_first():
            async with asyncio.TaskGroup() as tasks:
                nats = tasks.create_task(
                    started(start_nats(folder, port=nats_port, sync=durability, cipher=cipher))
                )
                postgres = None
                if has_postgres:
                    postgres = tasks.create_task(started(start_postgres(folder, port=postgres_port)))
        yield Servers(
            folder=folder, nats=nats.result(), postgres=None if postgres is None else postgres.result()
        )


@asynccontextmanager
async def servers_of(settings: Settings) -> AsyncIterator[Servers]:
    """Start the servers of a data folder on which no system runs, on free ports, for as long as the block runs.

    No log is opened or created. Raises `DataFolderInUse` while a system runs there, `ServiceUnavailable` if the folder
    holds no system.
    """
    if not read_passwords(settings.data):
        message = f"{settings.data} holds no system's data; is it the right folder (--data)?"
        raise ServiceUnavailable(message, missing=str(settings.data / SECRETS))
    async with running_servers(
        settings.data,
        durability=settings.durability,
        cipher=log_cipher(settings),
        has_postgres=has_postgres(settings),
    ) as servers:
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
    """Return settings that reach running servers: those of the folder named, else of `REFOLD_NATS_URL` with
    `REFOLD_STORES` or `REFOLD_POSTGRES_URL`, else of `./.refold`. Of a folder, values are stored as its system does.

    Raises `ServiceUnavailable` if no system runs on the folder, `Refused` where a variable contradicts its settings.
    """
    # The command's output is its answer; log lines are not part of it.
    configure("error", service="refold")
    settings = load(data=data)
    if settings.names_servers:
        return for_commands(settings)
    endpoints, passwords = read_endpoints(settings.data), read_passwords(settings.data)
    if not endpoints or "projector" not in passwords:
        raise no_system(settings.data if "data" in settings.model_fields_set else None)
    address = urlsplit(str(endpoints["nats"])).netloc
    nats_url = f"nats://projector:{passwords['projector']}@{address}"
    postgres_url, stores = endpoints.get("postgres"), endpoints["stores"]
    storage = storage_flags(settings, endpoints.get("storage", {}))
    found = load(data=data, nats_url=nats_url, postgres_url=postgres_url, stores=stores, **storage)
    return for_commands(found)


# --- The log and the projection on them ---------------------------------------------------------------


async def put_system(data: Path | None, document: str, state: Json, *, log_id: str) -> dict[str, Any]:
    """Put a document of the system's namespace as the administrator; return its outcome, or that it is pending.

    Raises `ServiceUnavailable` where nothing says how to reach the log, `LogDiffers` where it is not that of `log_id`.
    """
    # The command's output is its answer; log lines are not part of it.
    configure("error", service="refold")
    log = await open_log(administrator_url(data), "refold-administrator")
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


def administrator_url(data: Path | None) -> str:
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


async def log_info(settings: Settings, name: str) -> LogInfo:
    """Ask an existing log for its id and sequences, by a connection of its own. Raises what `open_log` raises."""
    log = await open_log(settings.required("nats_url"), f"refold-{name}")
    try:
        return await log.info()
    finally:
        await log.close()


@asynccontextmanager
async def connected(url: str, name: str) -> AsyncIterator[Client]:
    """Connect for the block."""
    client = await connect_to(url, name)
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def opened(
    settings: Settings,
    name: str,
    store: StoreUrl,
    *,
    shard: str = "",
    readers_max: int | None = None,
) -> AsyncIterator[tuple[JetStreamLog, ConnectedStore]]:
    """Open an existing log and a projection of it; errors of damage, also in the block, name the store's repair."""
    async with AsyncExitStack() as stack:
        stack.enter_context(naming_repair(store, settings))
        log = await open_log(settings.required("nats_url"), f"refold-{name}")
        stack.push_async_callback(log.close)
        opened = await open_store(
            store, settings, (await log.info()).log_id, shard=shard, readers_max=readers_max
        )
        stack.push_async_callback(opened.close)
        yield log, opened


async def make_log(
    admin_url: str, *, replicas: int = 1, marker: LogMarker | None = None, traces: Traces = no_traces
) -> str:
    """Create the log if there has been none, else complete or check the one that is there; return its id.

    The default marker is in the broker's key-value store. Raises `LogMissing`.
    """
    async with connected(admin_url, "refold-administrator") as client:
        marker = marker or KeyValueMarker(client, replicas=replicas)
        log_id = uuid.uuid4().hex
        return await create_stream(client, log_id=log_id, replicas=replicas, marker=marker, traces=traces)


async def make_embedded_log(servers: Servers, settings: Settings) -> str:
    """Create or check the log of a data folder, compare it with its projections, and return its id.

    `settings` are those of `Servers.settings`. Nothing may write before this has returned. Raises `LogMissing`,
    `LogHole`, `LogDiffers`, with what the folder holds and what nats-server logged about it.
    """
    nats = servers.nats

    async def traces() -> list[str]:
        return [*await projection_traces(settings), *stored_blocks(nats.home)]

    try:
        marker = FolderMarker(servers.folder.path)
        log_id = await make_log(nats.url("administrator"), marker=marker, traces=traces)
        for store in store_urls(settings):
            # A projection that cannot be read is reported by its projector.
            with suppress(StoreError):
                if await bound_log(store, settings) != log_id:
                    continue
                async with opened(settings, "start", store, readers_max=2) as (log, projection):
                    if checkpoints := await projection.checkpoints():
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
        *([_RESTORE] if isinstance(error, LogHole) else []),
    ]
    return type(error)("\n  ".join([message, *found]))


async def _provoke(url: str, sequence: int) -> None:
    """Read from a sequence that cannot be read, so that nats-server logs why: for a single request it logs nothing."""
    async with connected(url, "refold-start") as client:
        consumer = await Consumer.create(client, sequence)
        with suppress(TimeoutError, ConsumerLost):
            async with asyncio.timeout(_PROVOKE_SECONDS):
                await consumer.take()
        consumer.close()


async def projection_traces(settings: Settings) -> list[str]:
    """Describe which logs the projections are bound to; empty if none is. Raises `StoreUnavailable`."""
    found = [(store, await bound_log(store, settings)) for store in store_urls(settings)]
    schema = settings.postgres_schema
    return [
        f"the projection in {store.name} (schema {schema}) is bound to log {log_id} (if that is the log of "
        "another system, the store belongs to that one: set another store here)"
        for store, log_id in found
        if log_id is not None
    ]


def broker_clock(now: int) -> Callable[[], int]:
    """Return a clock that continues the broker's time by this process's monotonic one, in nanoseconds."""
    offset = now - time.monotonic_ns()
    return lambda: time.monotonic_ns() + offset

"""The whole system on this machine: its servers, the log, projector and gateway, each kept running.

Used by `refold up`, `refold demo` and measurements. It ends in this order: gateway, projector, NATS, PostgreSQL.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import (
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, NamedTuple, TextIO, cast
from urllib.parse import urlsplit

import orjson

from refold import __version__
from refold.alerts.rules import load_rules
from refold.core.errors import (
    KeyUnknown,
    KeyWrong,
    RefoldError,
    StoreDamaged,
    StoreDiffers,
    StoreError,
    StoreOutdated,
    TimedOut,
)
from refold.embedded import write_endpoints
from refold.embedded.folder import DataFolder
from refold.embedded.nats import NatsUser, start_nats
from refold.embedded.postgres import start_postgres
from refold.embedded.process import LOOPBACK, START_SECONDS, LogFile, Process
from refold.history import check_documents
from refold.telemetry.http import get
from refold.telemetry.logging import configure, get_logger
from refold.wiring.servers import Servers, log_cipher, make_embedded_log, opened, running_servers
from refold.wiring.service import Listener, hand_work, start_process, stop_on_signals
from refold.wiring.settings import Settings, described, handed_on, load
from refold.wiring.storage import storage_settings
from refold.wiring.store_url import StoreUrl
from refold.wiring.stores import bound_log, has_postgres, own_stores, repair_of, store_flag, store_urls
from refold.wiring.supervise import Part, Say, kept, nats_fault, postgres_fault, service_fault

LOOK_SECONDS: Final = 0.05
SPACE_BYTES_MIN: Final = 32 * 1024 * 1024
"""With less space, neither server can start: a WAL file of PostgreSQL has 16 MiB, a block of the log 8."""
SAY_SECONDS: Final = 5.0
"""A start that takes longer than this says what it waits for, this often."""
PROBE_SECONDS: Final = 10.0
"""One request to the readiness probe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system that is ready. `stores` are their addresses without passwords, `services` the URLs of all by name."""

    data: Path
    http: str
    nats: str
    stores: tuple[str, ...]
    services: Mapping[str, str]


async def up(settings: Settings, say: Say) -> None:
    """Run the system until a signal; say a line a part, then `ready` with the addresses."""
    configure(settings.log_level, service="up")

    def say_if_possible(line: str) -> None:
        # A terminal that is gone, or a full disk behind stdout, must not end the system.
        with suppress(OSError):
            say(line)

    async def serve() -> None:
        async with running_system(settings, say_if_possible, partial(_logged, settings)) as system:
            get_logger().info("system_ready", http=system.http)
            folder = settings.data.absolute()
            say_if_possible(f"commands   find it by --data {folder}, or by REFOLD_DATA={folder}")
            say_if_possible(f"ready      {'  '.join((system.http, system.nats, *system.stores))}")
            await asyncio.Event().wait()

    await until_signal(serve(), say_if_possible)


async def until_signal(work: Awaitable[None], say: Say) -> None:
    """Await something; a signal that asks to stop cancels it and waits until it has cleaned up."""
    stop = stop_on_signals()
    working = asyncio.ensure_future(work)
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        await working
        return
    say("stopping")
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    say("stopped")


@contextmanager
def _logged(settings: Settings, folder: DataFolder) -> Iterator[None]:
    """Keep the log of `refold up` itself in a file of the data folder, with the error that ends it."""
    configure(settings.log_level, service="up", stream=cast(TextIO, LogFile(folder.path / "up.log")))
    log = get_logger()
    log.info("system_starting", version=__version__)
    try:
        yield
    except RefoldError as error:
        log.critical("service_ended", code=error.code, error=str(error))
        raise
    except Exception:
        log.exception("service_crashed")
        raise
    finally:
        log.info("system_stopped")


@asynccontextmanager
async def running_system(
    settings: Settings,
    say: Say,
    within: Callable[[DataFolder], AbstractContextManager[object]] = nullcontext,
) -> AsyncIterator[System]:
    """Start everything, run the block once it is ready, keep it running, end it.

    `within` is entered once the data folder is locked. Raises `ChildFailed` if a part dies too often.
    """
    services = _services(settings)
    async with AsyncExitStack() as stack:
        # They load their code while the servers start.
        processes = {name: start_process(each.service, name) for name, each in services.items()}
        for process in processes.values():
            stack.push_async_callback(process.stop)
        servers = await stack.enter_async_context(
            running_servers(
                settings.data,
                durability=settings.durability,
                nats_port=settings.nats_port,
                postgres_port=settings.postgres_port,
                cipher=log_cipher(settings),
                has_postgres=has_postgres(settings),
                within=within,
            )
        )
        found = servers.settings(settings)
        # After the folder is locked: of a second system, the folder is the fault and not its ports.
        listeners = {
            name: Listener.choose(each.address, partial(servers.folder.choose_port, name))
            for name, each in services.items()
        }
        log_id = await make_embedded_log(servers, found)
        await refuse_damaged(servers, found, log_id)
        _say_servers(servers, found, log_id, say)
        has_space = partial(_has_space, servers.folder.path)
        parts = _server_parts(servers, found, has_space, say)
        for name, listener in listeners.items():
            service, log = services[name], servers.folder.path / f"{name}.log"
            flags = _flags(service, listener, servers, found) | _asked(service, listeners, servers)
            start = partial(_start_service, service.service, name, flags, log)
            hand_work(processes[name], log, flags)
            ask = partial(service_fault, listener.url)
            # Nothing that only watches may end what it watches.
            is_vital = service.service not in {"alerts", "usage"}
            parts.append(Part(processes[name], start, ask, has_space, is_vital=is_vital))
            say(f"{name:<10} process {parts[-1].pid}  {listener.url}/metrics")
        for part in parts:
            stack.push_async_callback(part.stop)
            get_logger().info("part_started", part=part.name, pid=part.pid)
        async with kept(parts, say):
            await _until_ready(listeners["gateway"].url, say)
            urls = {name: listener.url for name, listener in listeners.items()}
            _write_endpoints(servers, urls, settings, found)
            stores = tuple(store.address for store in store_urls(found))
            http, nats = urls["gateway"], servers.nats.address
            yield System(data=servers.folder.path, http=http, nats=nats, stores=stores, services=urls)


def _write_endpoints(servers: Servers, urls: Mapping[str, str], settings: Settings, found: Settings) -> None:
    endpoints = {
        "http": urls["gateway"],
        "probe": urls["projector"],
        "services": urls,
        "storage": storage_settings(settings),
        **servers.addresses(found),
    }
    write_endpoints(servers.folder.path, endpoints, described(settings))


@asynccontextmanager
async def temporary_system(say: Say = lambda _: None, **settings: Any) -> AsyncIterator[System]:
    """Run a whole system in a temporary folder, on free ports: `from refold import temporary_system`.

    `settings` are those of `refold up`: `durability="os"` is `REFOLD_DURABILITY=os`.
    """
    configure("error", service="temporary")
    with TemporaryDirectory(prefix="refold-") as folder:
        given = load(data=Path(folder), http="127.0.0.1:0", nats_port=0, **settings)
        async with running_system(given, say) as system:
            yield system


async def refuse_damaged(servers: Servers, settings: Settings, log_id: str) -> None:
    """Raise what a service could only report again and again: a store that is damaged, outdated or another log's,
    that cannot hold a projection, or that has other keys.

    A store that cannot be reached is waited for by its services.
    """
    for store in store_urls(settings):
        run = f"refold rebuild{{}} --data {servers.folder.path}{store_flag(store, settings)}"
        try:
            if (bound := await bound_log(store, settings)) not in {None, log_id}:
                message = "it belongs to another system's log: set another store here"
                raise StoreDiffers(message, expected=log_id, found=bound)
            async with opened(settings, "start", store, readers_max=2) as (log, projection):
                await check_documents(log, projection, await projection.bind(log_id))
        except StoreDamaged as error:
            if store.kind == "redis":
                raise
            run = run.format(" --from-nothing")
            repair = repair_of(store, settings)
            raise StoreDamaged(error.what, repair=repair, **error.facts, run=run) from error
        except StoreOutdated as error:
            raise StoreOutdated(**error.facts, run=run.format("")) from error
        except StoreDiffers as error:
            raise StoreDiffers(f"{store.name}: {error.message}", **error.facts) from error
        except (KeyUnknown, KeyWrong):
            raise
        except StoreError:
            continue


class _Service(NamedTuple):
    """One of our processes: where it listens, and the store that a projector folds into, by name."""

    service: Literal["projector", "gateway", "alerts", "usage"]
    address: str
    store: str | None = None


def _services(settings: Settings) -> dict[str, _Service]:
    """Return the processes by name: a projector for each store, the gateway, and what else is set.

    That is the alert engine where it has rules, and the usage service.
    """
    first, *others = (store.name for store in own_stores(settings))
    if settings.alerts is not None:
        # A fault in the file is reported before anything starts.
        load_rules(settings.alerts)
    return {
        "projector": _Service("projector", settings.probe, first),
        **{f"projector-{name}": _Service("projector", f"{LOOPBACK}:0", name) for name in others},
        "gateway": _Service("gateway", settings.http),
        **({"usage": _Service("usage", f"{LOOPBACK}:0")} if settings.usage else {}),
        **({} if settings.alerts is None else {"alerts": _Service("alerts", f"{LOOPBACK}:0")}),
    }


def _asked(service: _Service, listeners: Mapping[str, Listener], servers: Servers) -> dict[str, object]:
    """Return the addresses that a service asks: the alert engine all others and NATS' monitoring, the gateway it."""
    urls = {name: listener.url for name, listener in listeners.items()} | {"nats": servers.nats.monitor}
    engine = urls.pop("alerts", None)
    if service.service == "alerts":
        return {"alerts_targets": ",".join(f"{name}={url}" for name, url in urls.items())}
    return {"alerts_url": engine} if service.service == "gateway" and engine else {}


def _flags(service: _Service, listener: Listener, servers: Servers, settings: Settings) -> dict[str, object]:
    """Return a service's settings: each is a NATS user of its own, and none the administrator."""
    if service.service == "alerts":
        return _alerts_flags(listener, servers, settings)
    # The usage service reads the log as the projector does.
    user: NatsUser = "gateway" if service.service == "gateway" else "projector"
    listening = {"http" if service.service == "gateway" else "probe": listener.address}
    return handed_on(
        settings,
        **listening,
        projector_store=service.store,
        nats_url=servers.nats.url(user),
        nats_reply_url=servers.nats.url("reply") if service.service == "projector" else None,
        nats_admin_url=None,
        log_key=None,
        log_key_before=None,
    )


def _alerts_flags(listener: Listener, servers: Servers, settings: Settings) -> dict[str, object]:
    """Return the settings of the alert engine, which reaches neither the log nor a store."""
    return {
        "probe": listener.address,
        "data": str(servers.folder.path),
        "alerts": str(settings.alerts),
        "log_level": settings.log_level,
    }


async def _start_service(service: str, name: str, flags: dict[str, object], log: Path) -> Process:
    process = start_process(service, name)
    hand_work(process, log, flags)
    return process


def _server_parts(
    servers: Servers, settings: Settings, has_space: Callable[[], bool], say: Say
) -> list[Part]:
    """Return PostgreSQL first, if there is one: parts are ended from the last to the first."""
    folder, nats = servers.folder, servers.nats

    async def start_nats_again() -> Process:
        started = await start_nats(
            folder,
            port=nats.port,
            monitor_port=nats.monitor_port,
            sync=settings.durability,
            cipher=nats.cipher,
        )
        for loss in started.losses:
            say(f"nats       {loss}")
        # It may have come back with less than it had; then nothing may continue.
        await make_embedded_log(replace(servers, nats=started), settings)
        return started.child

    nats_part = Part(nats.child, start_nats_again, partial(nats_fault, nats), has_space)
    return [*_postgres_parts(servers, has_space), nats_part]


def _postgres_parts(servers: Servers, has_space: Callable[[], bool]) -> list[Part]:
    folder, postgres = servers.folder, servers.postgres
    if postgres is None:
        return []

    async def start_again() -> Process:
        return (await start_postgres(folder, port=postgres.port)).child

    return [Part(postgres.child, start_again, partial(postgres_fault, postgres), has_space)]


def _has_space(folder: Path) -> bool:
    """Return whether the servers can start: each needs space for one file of its log."""
    return shutil.disk_usage(folder).free >= SPACE_BYTES_MIN


def _say_servers(servers: Servers, settings: Settings, log_id: str, say: Say) -> None:
    for store in store_urls(settings):
        say(f"{store.name:<10} {_where(store)}")
    say(f"nats       {servers.nats.host}:{servers.nats.port}  {servers.nats.monitor}/varz")
    for loss in servers.nats.losses:
        say(f"           {loss}")
    is_safe = settings.durability == "fsync"
    flushed = "" if is_safe else ", durability os: the last moments may be lost with the machine's power"
    say(f"log        {log_id}{flushed}")


def _where(store: StoreUrl) -> str:
    """Return a store's folder, or its host and port."""
    return str(store.folder) if store.kind == "files" else urlsplit(store.url).netloc.rpartition("@")[2]


async def _until_ready(gateway: str, say: Say) -> None:
    """Wait for the gateway's readiness probe. Raises `TimedOut` if nothing makes progress for too long."""
    loop = asyncio.get_running_loop()
    deadline, say_at, folded_sequence = loop.time() + START_SECONDS, loop.time() + SAY_SECONDS, -1
    while (problem := await _not_ready(gateway)) is not None:
        now, detail = loop.time(), problem.get("detail", "the gateway does not answer yet")
        if problem.get("folded_sequence", -1) > folded_sequence:
            folded_sequence, deadline = problem["folded_sequence"], now + START_SECONDS
        if now >= deadline:
            raise TimedOut(f"the system was not ready in time: {detail}", seconds=START_SECONDS)
        if now >= say_at:
            say(f"waiting    {detail}")
            say_at = now + SAY_SECONDS
        await asyncio.sleep(LOOK_SECONDS)


async def _not_ready(gateway: str) -> dict[str, Any] | None:
    """Return the readiness probe's problem document, empty if there is none; None when it is ready."""
    # A response that is cut off: the gateway has just ended.
    with suppress(OSError, orjson.JSONDecodeError):
        answer = await get(f"{gateway}/readyz", seconds=PROBE_SECONDS)
        if answer.status == 200:
            return None
        if answer.status == 503:
            problem: dict[str, Any] = orjson.loads(answer.body)
            return problem
    return {}

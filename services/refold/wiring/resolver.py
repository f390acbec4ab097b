"""The resolver's service: it decides on conflicts by the resolvers of a module. Run by `refold resolver`.

It receives conflicts on `conflict.<ns>.<doc>`, at most once; at start and periodically it works through the open
ones that it has missed. Decisions are strict events with an id, so that several services may run at once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from faststream import FastStream
from faststream.nats import NatsBroker

from refold.client import RecordedConflict, Refold
from refold.client.resolvers import Resolver, read_notice, resolvers_of, settle
from refold.core.errors import RefoldError, Refused
from refold.telemetry.logging import get_logger
from refold.wiring.broker import broker_of
from refold.wiring.servers import connect_to
from refold.wiring.service import start
from refold.wiring.settings import Settings

POLL_SECONDS: Final = 10.0
"""How often open conflicts are looked for whose notices were missed."""

CONFLICTS_SUBJECT: Final = "conflict.*.*"

STUCK_MAX: Final = 10_000
"""Conflicts that could not be settled and are remembered, so that each is a warning once."""


def run_resolver(module: str, *, url: str, nats_url: str | None, poll_seconds: float) -> None:
    """Run a module's resolvers until a stop signal; `nats_url` of None is the setting."""
    resolvers = resolvers_of(load_module(module))
    start(
        "resolver", partial(_run, resolvers=resolvers, url=url, poll_seconds=poll_seconds), nats_url=nats_url
    )


def load_module(name: str) -> ModuleType:
    """Import a module by its dotted name, from the working folder too, or by the path of its file."""
    if not name.endswith(".py"):
        sys.path.insert(0, str(Path.cwd()))
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
            raise Refused(
                "bad_usage", "there is no such module, nor a file of that name", field=name
            ) from error
    path = Path(name)
    if not path.is_file():
        raise Refused("bad_usage", "there is no such file", field=name)
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


async def _run(
    settings: Settings, *, resolvers: Mapping[str, Resolver], url: str, poll_seconds: float
) -> None:
    """Run until a stop signal. Raises `LogUnavailable` and `ServiceUnavailable` where there is no system at start."""
    nats_url = settings.required("nats_url")
    # FastStream would wait for a server without a word.
    await (await connect_to(nats_url, "refold-resolver")).close()
    async with Refold(url) as refold:
        await refold.status()
        service = create_service(broker_of(nats_url), Settler(refold, resolvers), poll_seconds=poll_seconds)
        get_logger().info("resolver_working", strategies=sorted(resolvers))
        await service.run()


def create_service(broker: NatsBroker, settler: Settler, *, poll_seconds: float) -> FastStream:
    """Return the application: it listens, and polls from its start on."""
    listening = asyncio.Event()
    # Of the services with the same resolvers, one hears of each conflict.
    queue = f"resolver-{sha256(' '.join(sorted(settler.resolvers)).encode()).hexdigest()[:16]}"

    @broker.subscriber(CONFLICTS_SUBJECT, queue=queue, title="resolver.conflicts")
    async def hear(notice: Any) -> None:
        """Decide on a conflict."""
        if isinstance(notice, dict):
            await settler.settle(read_notice(notice))

    async def poll() -> None:
        await listening.wait()
        while True:
            await settler.catch_up()
            await asyncio.sleep(poll_seconds)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        polling = asyncio.create_task(poll(), name="poll")
        polling.add_done_callback(lambda _: service.exit())
        try:
            yield
        finally:
            if not polling.done():
                polling.cancel()
            await asyncio.wait({polling})
            if not polling.cancelled():
                polling.result()

    service = FastStream(broker, logger=None, lifespan=lifespan, after_startup=[listening.set])
    return service


class Settler:
    """Settle conflicts one after the other, each by the resolver that it names, if there is one here."""

    def __init__(self, refold: Refold, resolvers: Mapping[str, Resolver]) -> None:
        self.resolvers = resolvers
        self._refold = refold
        self._lock = asyncio.Lock()
        self._stuck: set[int] = set()

    async def catch_up(self) -> None:
        """Settle the open conflicts of all documents. A service that does not answer is only logged."""
        try:
            async for conflict in self._refold.conflicts():
                await self.settle(conflict)
        except RefoldError as error:
            get_logger().warning("conflicts_unknown", code=error.code, error=str(error))

    async def settle(self, conflict: RecordedConflict) -> None:
        """Settle a conflict; one that cannot be settled stays open, and is a warning once."""
        resolver = self.resolvers.get(conflict.strategy)
        if resolver is None:
            return
        name = {"document": f"{conflict.namespace}/{conflict.document}", "sequence": conflict.sequence}
        async with self._lock:
            try:
                outcome = await settle(self._refold, resolver, conflict)
                if outcome is not None:
                    outcome.raise_for_status()
                    get_logger().info(
                        "conflict_settled", **name, resolver=resolver.name, version=outcome.version
                    )
            except Exception as error:  # noqa: BLE001 - a resolver may raise anything; the others go on.
                if conflict.sequence not in self._stuck:
                    code = error.code if isinstance(error, RefoldError) else type(error).__name__
                    get_logger().warning("conflict_open", **name, code=code, error=str(error), exc_info=error)
                    self._stuck.add(conflict.sequence)
                if len(self._stuck) > STUCK_MAX:
                    self._stuck.clear()

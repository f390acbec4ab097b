"""The projector's composition: ports, runner, service. Run by `refold projector` and, as a child, by `refold up`.

Shutdown order: the probes stop, the loop is cancelled (what it had not committed is folded again from the log),
then the store lets go of the shard, then the connections to the log close.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from faststream.nats import NatsBroker
from prometheus_client import CollectorRegistry

from refold.core.limits import PENDING_BYTES_MAX
from refold.log.jetstream import JetStreamLog, JetStreamNotices
from refold.projector.partition import Bounds, Ports
from refold.projector.runner import Runner
from refold.projector.service import create_service
from refold.store.postgres import PostgresStore
from refold.telemetry.logging import get_logger
from refold.telemetry.metrics import ProjectorMetrics
from refold.wiring.log import BrokerClock, inbox_of, open_log
from refold.wiring.serving import chosen_port, serve, stop_on_signals
from refold.wiring.settings import Settings, split_address


async def run(settings: Settings) -> None:
    """Run until SIGINT or SIGTERM; raises the error that stopped the projector for good."""
    stop = stop_on_signals()
    registry = CollectorRegistry()
    async with _ports(settings, registry) as ports:
        runner = Runner(ports, bounds_of(settings))
        url = settings.required("nats_url")
        broker = NatsBroker(url, inbox_prefix=inbox_of(url), logger=None)
        service = create_service(runner, broker, registry, when_ended=stop.set)
        host, port = split_address(settings.probe)
        port = chosen_port(host, port)
        get_logger().info("projector_listening", host=host, port=port)
        await serve(service, host=host, port=port, stop=stop)
        runner.raise_if_stopped()


def bounds_of(settings: Settings) -> Bounds:
    """Read the loop's bounds out of the settings."""
    return Bounds(
        cache_bytes_max=settings.cache_bytes_max,
        pending_events_max=settings.commit_events_max,
        pending_bytes_max=PENDING_BYTES_MAX,
    )

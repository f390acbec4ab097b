"""The projector's composition: ports, supervisor, service. Run by `refold projector` and, as a child, by `refold up`.

Shutdown order: the probes stop, the loop is cancelled (what it had not committed is folded again from the log), states
that lag are written, then the store lets go of the shard, then the connections to the log close.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from faststream.nats import NatsBroker
from faststream.nats.security import NatsUserPassword
from prometheus_client import CollectorRegistry

from refold.embedded.process import choose_port
from refold.log.jetstream import JetStreamNotices
from refold.log.jetstream.connection import credentials_of
from refold.projector.app import create_service
from refold.projector.commit_buffer import PENDING_BYTES_MAX
from refold.projector.loop import Bounds, Ports
from refold.projector.supervisor import ShardOf, Supervisor
from refold.store.postgres import PostgresStore
from refold.store.postgres.flush import StateLag
from refold.telemetry.logging import get_logger
from refold.telemetry.metrics import ProjectorMetrics
from refold.wiring.log import BrokerClock, connect_to, inbox_of, make_log, open_log, projection_traces
from refold.wiring.service import collect_seldom, serve, stop_on_signals
from refold.wiring.settings import Settings, split_address

_UNLIMITED: Final = -1
_PING_SECONDS: Final = 5


async def run(settings: Settings) -> None:
    """Run until a stop signal. Raises the error that stopped the projector."""
    stop = stop_on_signals()
    collect_seldom()
    registry = CollectorRegistry()
    async with _ports(settings, registry) as ports:
        supervisor = Supervisor(ports, bounds_of(settings))
        url = settings.required("nats_url")
        service = create_service(supervisor, _control(url), registry, when_ended=stop.set)
        host, port = split_address(settings.probe)
        port = choose_port(host, port)
        get_logger().info("projector_listening", host=host, port=port)
        await serve(service, host=host, port=port, stop=stop, idle_seconds=settings.http_idle_seconds)
        supervisor.raise_if_stopped()


def bounds_of(settings: Settings) -> Bounds:
    """Return the loop's bounds."""
    return Bounds(
        cache_bytes_max=settings.cache_bytes_max,
        pending_events_max=settings.commit_events_max,
        pending_bytes_max=PENDING_BYTES_MAX,
    )


def state_lag_of(settings: Settings) -> StateLag:
    """Return by how much a row's state may be older than the row."""
    return StateLag(bytes_min=settings.state_lag_bytes, seconds=settings.state_lag_seconds)


@asynccontextmanager
async def _ports(settings: Settings, registry: CollectorRegistry) -> AsyncIterator[Ports]:
    url = settings.required("nats_url")
    if settings.nats_admin_url is not None:
        traces = partial(projection_traces, settings.required("postgres_url"), settings.postgres_schema)
        await make_log(settings.required("nats_admin_url"), replicas=settings.nats_replicas, traces=traces)
    async with AsyncExitStack() as endings:
        log = await open_log(url, "refold-projector")
        endings.push_async_callback(log.close)
        replies = JetStreamNotices(await connect_to(_reply_url(settings), "refold-replies"))
        endings.push_async_callback(replies.close)
        store = await PostgresStore.open(
            settings.required("postgres_url"),
            schema=settings.postgres_schema,
            shard=ShardOf.parse(settings.shard).lease_name,
            state_lag=state_lag_of(settings),
        )
        endings.push_async_callback(store.close)
        yield Ports(
            log=log,
            store=store,
            notices=JetStreamNotices(log.client),
            replies=replies,
            metrics=ProjectorMetrics(registry),
            broker_now=BrokerClock((await log.info()).time),
            timer=time.perf_counter,
            shard=settings.shard,
        )


def _control(url: str) -> NatsBroker:
    """Return the broker connection for control subjects: to any of the servers, reconnecting without limit."""
    servers = url.split(",")
    user, password = credentials_of(servers)
    # nats-py would forget the addresses' user for a server that it discovers; FastStream accepts one user for all.
    security = None if user is None else NatsUserPassword(user, password or "")
    return NatsBroker(
        [_without_user(server) for server in servers],
        security=security,
        inbox_prefix=inbox_of(url),
        max_reconnect_attempts=_UNLIMITED,
        ping_interval=_PING_SECONDS,
        logger=None,
    )


def _without_user(server: str) -> str:
    parts = urlsplit(server)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _reply_url(settings: Settings) -> str:
    return settings.required("nats_url" if settings.nats_reply_url is None else "nats_reply_url")

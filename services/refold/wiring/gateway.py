"""The gateway's composition: ports, application, server. Run by `refold gateway` and, as a child, by `refold up`.

Shutdown order: live streams end; no new requests; those that wait are answered; the store's connections close; the log
sends what waits and closes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import ChainMap
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

from prometheus_client import CollectorRegistry

from refold import __version__
from refold.core import json_text
from refold.core.errors import LogHole
from refold.gateway.access import Access
from refold.gateway.app import Gateway
from refold.gateway.consistency import Consistency
from refold.gateway.context import Context
from refold.gateway.inflight import InFlightLimits
from refold.gateway.live import Connections, LiveLimits
from refold.gateway.ops import is_ready
from refold.gateway.outcomes import Outcomes
from refold.gateway.readiness import Readiness
from refold.gateway.stores import StoreCollector
from refold.gateway.tracing import Tracing
from refold.history import History
from refold.history.conflicts import Conflicts
from refold.live import log_name
from refold.live.backlog import Backlog
from refold.live.documents import DocumentSubscriptions
from refold.live.feed import Feed
from refold.live.namespace import NamespaceSubscriptions
from refold.live.reader import ConsistentReader
from refold.live.streams import Live
from refold.log import COMMITTED_SUBJECT, CONTROL_SUBJECT, PROGRESS_SUBJECT
from refold.log.jetstream import JetStreamLog, JetStreamNotices
from refold.store.layers.cached import CachedReader
from refold.store.layers.sources import ALL_PARTITIONS, Sources
from refold.telemetry.logging import get_logger
from refold.telemetry.metrics.exposition import Exposition
from refold.telemetry.metrics.gateway import CacheMetrics, GatewayMetrics, LiveMetrics
from refold.telemetry.metrics.process import BrokerMetrics, ServiceMetrics
from refold.wiring.broker import watching_storage_limit
from refold.wiring.gateway_stores import GatewayStores, opened_stores
from refold.wiring.health import health_of
from refold.wiring.http_server import connections_max, serve
from refold.wiring.instances import OwnersCheck, answering_status
from refold.wiring.probes import NEWEST_MIGRATION
from refold.wiring.profiling import answering_profiles
from refold.wiring.servers import open_log
from refold.wiring.service import Listener, collect_seldom, open_spans, stop_on_signals
from refold.wiring.settings import Settings, parts_of

REPLY_SUBJECT: Final = "refold.reply.gateway"
IDS_DRAWN: Final = 256

REQUEST_CONNECTIONS: Final = 512
"""Connections that live streams leave to requests."""

READY_WAIT_SECONDS: Final = 1.0
"""A starting gateway listens at the latest after this, even if the projection has not caught up by then."""


async def run(settings: Settings) -> None:
    """Run until SIGINT or SIGTERM."""
    stop, listener = stop_on_signals(), Listener.choose(settings.http)
    collect_seldom()
    async with _traced_context(settings) as (context, feed):
        metrics = ServiceMetrics(context.registry, __version__, migration=NEWEST_MIGRATION)
        async with asyncio.TaskGroup() as tasks:
            catching_up = tasks.create_task(context.readiness.catch_up(), name="catch-up")
            background = [
                catching_up,
                tasks.create_task(context.consistency.watch(), name="consistency"),
                tasks.create_task(feed.run(), name="live-feed"),
                tasks.create_task(context.live.run(), name="live"),
                tasks.create_task(_release(context, stop), name="release"),
                tasks.create_task(metrics.measure_loop_delay(), name="loop-delay"),
                tasks.create_task(metrics.watch_readiness(partial(is_ready, context)), name="readiness"),
            ]
            # It usually takes milliseconds; then no read is refused at all.
            await asyncio.wait({catching_up}, timeout=READY_WAIT_SECONDS)
            seconds = settings.http_idle_seconds
            await serve(Gateway(context), listener, stop=stop, idle_seconds=seconds)
            for task in background:
                task.cancel()
        get_logger().info("gateway_stopped")


@asynccontextmanager
async def _log_and_stores(
    settings: Settings, registry: CollectorRegistry, sent_sequences: Callable[[], Sequence[int]]
) -> AsyncIterator[tuple[JetStreamLog, GatewayStores]]:
    log = await open_log(settings.required("nats_url"), "refold-gateway")
    try:
        with watching_storage_limit(log, settings.nats_monitor), answering_status(log.client):
            async with (
                opened_stores(settings, log, (await log.info()).log_id, sent_sequences, registry) as stores,
                answering_profiles(log.client, "gateway", is_on=settings.profiling),
            ):
                yield log, stores
    finally:
        await log.close()


@asynccontextmanager
async def _traced_context(settings: Settings) -> AsyncIterator[tuple[Context, Feed]]:
    async with _context(settings) as (context, feed):
        with open_spans(settings, "gateway", context.registry) as spans:
            tracing = None
            if spans is not None:
                tracing = Tracing(spans, ratio=settings.trace_ratio, now=time.time_ns)
            yield replace(context, tracing=tracing), feed


@asynccontextmanager
async def _context(settings: Settings) -> AsyncIterator[tuple[Context, Feed]]:
    registry = CollectorRegistry()
    async with _log_and_stores(settings, registry, lambda: consistency.sequences) as (log, stores):
        sources, newest = stores.sources, stores.newest
        reader = CachedReader(stores.reader, bytes_max=settings.cache_states_bytes)
        history, notices = History(reader), JetStreamNotices(log.client)
        consistency = Consistency(log, reader, notices, sources)
        _register(registry, log, reader, sources)
        gateway_metrics = GatewayMetrics(registry, namespaces_max=settings.metric_namespaces_max)
        log.observe_groups(gateway_metrics.append_batch_events.observe)
        outcomes = Outcomes(history.outcome, consistency, gateway_metrics.outcome_wait_seconds)
        new_id = _ids().__next__
        # No author can guess the subject on which outcomes come.
        reply_subject = f"{REPLY_SUBJECT}.{new_id()}"
        await notices.listen(reply_subject, outcomes.hear)
        await notices.listen(PROGRESS_SUBJECT, consistency.hear)
        if sources is not None:
            await notices.listen(COMMITTED_SUBJECT, consistency.hear)
        await notices.flush()
        await consistency.refresh()
        info = await log.info()
        _refuse_hole(info.last_sequence, consistency.sequence)
        if sources is not None:
            # A gateway before this one may have answered from any of it.
            sources.require(info.last_sequence, ALL_PARTITIONS)
        metrics, consistent = LiveMetrics(registry), ConsistentReader(newest, History(newest), consistency)
        feed = Feed(notices, newest, consistent, consistency, metrics)
        live = _live(
            settings, feed, consistent, Backlog(log, newest), consistency, log_name(info.log_id), metrics
        )
        context = Context(
            log=log,
            store=reader,
            history=history,
            conflicts=Conflicts(reader),
            outcomes=outcomes,
            consistency=consistency,
            readiness=_readiness(settings, log, consistency, info.last_sequence),
            live=live,
            live_connections=Connections(_live_limits(settings), registry),
            reply_subject=reply_subject,
            checks=_checks(log, stores),
            problems=partial(_problems, log, stores),
            health=health_of(log, stores, consistency, settings),
            versions=ChainMap(stores.versions, _versions(log)),
            metrics=gateway_metrics,
            registry=registry,
            exposition=Exposition(registry),
            new_id=new_id,
            timer=time.perf_counter,
            wait_seconds=settings.wait_seconds,
            sources=sources,
            access=Access(hosts=parts_of(settings.http_hosts), cors_origins=parts_of(settings.cors_origins)),
            in_flight_limits=_in_flight_limits(settings),
        )
        yield context, feed


def _readiness(
    settings: Settings, log: JetStreamLog, consistency: Consistency, end_sequence: int
) -> Readiness:
    return Readiness(
        log,
        consistency,
        required_sequence=end_sequence,
        lag_seconds_max=settings.ready_lag_seconds,
        allows_stale_reads=settings.stale_reads,
    )


def _refuse_hole(last_sequence: int, folded_sequence: int) -> None:
    if last_sequence < folded_sequence:
        # New events would get the sequences of those that the log has lost.
        message = "the log ends before what has been folded from it"
        raise LogHole(message, last_sequence=last_sequence, folded_sequence=folded_sequence)


def _versions(log: JetStreamLog) -> dict[str, str | None]:
    return {"refold": __version__, "nats": log.client.server_info["version"]}


def _register(
    registry: CollectorRegistry, log: JetStreamLog, reader: CachedReader, sources: Sources | None
) -> None:
    """Add the metrics of the connection to NATS, of the cache and of several stores."""
    BrokerMetrics(registry, log.connection)
    CacheMetrics(registry, {"states": lambda: reader.counts})
    if sources is not None:
        registry.register(StoreCollector(sources))


def _in_flight_limits(settings: Settings) -> InFlightLimits:
    return InFlightLimits(
        waiting_max=settings.http_waiting_max,
        waiting_per_client_max=settings.http_waiting_per_client_max,
        body_seconds=settings.http_body_seconds,
    )


def _live_limits(settings: Settings) -> LiveLimits:
    return LiveLimits(
        connections_max=min(settings.live_connections_max, max(1, connections_max() - REQUEST_CONNECTIONS)),
        per_client_max=settings.live_per_client_max,
    )


def _live(
    settings: Settings,
    feed: Feed,
    reader: ConsistentReader,
    backlog: Backlog,
    consistency: Consistency,
    log: str,
    metrics: LiveMetrics,
) -> Live:
    documents = DocumentSubscriptions(feed, reader, log=log, metrics=metrics)
    namespaces = NamespaceSubscriptions(
        feed, backlog, lambda: consistency.sequence, reader.reaches, log=log, metrics=metrics
    )
    age_seconds = settings.live_seconds_max
    return Live(feed, documents, namespaces, log=log, metrics=metrics, age_seconds=age_seconds)


def _checks(log: JetStreamLog, stores: GatewayStores) -> dict[str, Callable[[], Coroutine[Any, Any, object]]]:
    names = [source.name for source in stores.sources.stores] if stores.sources is not None else [""]
    name = "stores" if stores.sources is not None else next(iter(stores.versions))
    return {"nats": log.info, name: stores.reader.ping, "projector": OwnersCheck(log.client, names).check}


async def _problems(log: JetStreamLog, stores: GatewayStores) -> dict[str, str]:
    """Return what an operator should do about the keys, as this process and a projector see it."""
    reply = await log.client.request(CONTROL_SUBJECT)
    answer = {} if reply.has_no_responders else json_text.object_in(reply.payload)
    found = {"keys": stores.key_problem, "projector": answer.get("problem")}
    return {name: problem for name, problem in found.items() if problem}


async def _release(context: Context, stop: asyncio.Event) -> None:
    """When the gateway stops, end every wait and stream: the server ends once all requests are answered."""
    await stop.wait()
    context.live.shut_down()
    context.readiness.release()
    context.consistency.release()


def _ids() -> Iterator[str]:
    """Make ids that no author can guess; the random bytes of many are drawn at once, since a draw is a system call."""
    while True:
        drawn = os.urandom(16 * IDS_DRAWN)
        for start in range(0, len(drawn), 16):
            yield drawn[start : start + 16].hex()

"""A feed on real servers: each version comes once and in order, although connections, brokers and projectors die."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry

from refold.core.errors import LogUnavailable
from refold.gateway.consistency import Consistency
from refold.history import History
from refold.live.feed import Feed
from refold.live.reader import ConsistentReader
from refold.live.watched import WatchedDocument
from refold.log import PROGRESS_SUBJECT
from refold.log.jetstream import JetStreamNotices
from refold.telemetry.metrics.gateway import LiveMetrics
from support.broker import running_broker
from support.feeding import running
from support.proxy import Proxy
from support.services import Site, append_all, kill, log_of, make_site, projector, store_of, until

NAMES = [f"d{number}" for number in range(5)]
EVENTS = [(name, b'{"merge":{"n":%d}}' % number) for number in range(20) for name in NAMES]


@asynccontextmanager
async def feeding(site: Site, registry: CollectorRegistry) -> AsyncIterator[Feed]:
    """Run a feed over connections of its own."""
    async with store_of(site) as store, log_of(site) as log:
        notices = JetStreamNotices(log.client)
        consistency = Consistency(log, store, notices)
        await notices.listen(PROGRESS_SUBJECT, consistency.hear)
        reader = ConsistentReader(store, History(store), consistency)
        feed = Feed(notices, store, reader, consistency, LiveMetrics(registry))
        async with running(feed.run(), consistency.watch()):
            yield feed


async def written(site: Site) -> None:
    """Write to all documents, as soon as there is a broker."""

    async def write() -> bool:
        try:
            async with log_of(site) as log:
                return await append_all(log, EVENTS) > 0
        except LogUnavailable:
            return False

    await until(write)


async def test_every_version_comes_once_whatever_dies(tmp_path: Path, postgres_dsn: str) -> None:
    registry = CollectorRegistry()
    async with running_broker(tmp_path) as broker, AsyncExitStack() as opened:
        site = await make_site(broker.server, postgres_dsn)
        proxy = opened.enter_context(closing(Proxy(broker.server.host, broker.port)))
        behind_proxy = replace(site, nats=replace(site.nats, port=proxy.port))
        projecting = await opened.enter_async_context(projector(site))
        feed = await opened.enter_async_context(feeding(behind_proxy, registry))
        documents = [await feed.watch(("n", name)) for name in NAMES]

        async def have_come(rounds: int) -> None:
            async def look() -> bool:
                return [document.version for document in documents] == [20 * rounds] * len(NAMES)

            await until(look)

        await written(site)
        await have_come(1)
        # The connection is lost, with notices that the broker has sent.
        with proxy.losing_answers():
            await written(site)
        await have_come(2)
        broker.kill()
        await broker.start()
        await written(site)
        await have_come(3)
        # What this projector committed or announced last is not known to the next.
        await written(site)
        await kill(projecting)
        await opened.enter_async_context(projector(site))
        await have_come(4)
        await until(lambda: _is_up_to_date(feed, site))
    for document in documents:
        assert versions(document) == list(range(1, 81))
    assert registry.get_sample_value("refold_live_gaps_total") > 0
    assert registry.get_sample_value("refold_live_audit_behind_total") == 0


def versions(document: WatchedDocument) -> list[int]:
    return [change.version for change in document.changes]


async def _is_up_to_date(feed: Feed, site: Site) -> bool:
    async with log_of(site) as log:
        return feed.sequence == (await log.info()).last_sequence and feed.behind_seconds == 0

"""Redis with the log behind it: versions that it does not keep come from JetStream, as a full store has them."""

from __future__ import annotations

from contextlib import AsyncExitStack

from refold.core.errors import HistoryElsewhere
from refold.core.history import Clock, Point
from refold.history.replayed import Replayed
from refold.log import Publication
from refold.projector.loop import LoopLimits
from refold.projector.replay import begin_replay
from refold.store.memory import MemoryStore
from refold.store.redis import RedisStore
from support.broker import running_broker

LIMITS = LoopLimits(cache_bytes_max=1 << 24, pending_events_max=1_000, pending_bytes_max=1 << 24)


async def test_old_versions_are_replayed_with_the_permissions_of_the_gateway(tmp_path, redis_url):
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(running_broker(tmp_path))
        await broker.make_log()
        writer, log = await broker.open_log(), await broker.open_log("gateway")
        for begin in range(0, 600, 200):
            await writer.append_atomically([published(number) for number in range(begin, begin + 200)])
        end = (await writer.info()).last_sequence
        recent, full = await RedisStore.open(redis_url), MemoryStore()
        stack.push_async_callback(recent.close)
        for store in (recent, full):
            # In parts, so that pages close in several commits.
            for until in (200, 400, end):
                await (await begin_replay(writer, store, LIMITS, range(64))).run(until)
        elsewhere = 0
        replayed = Replayed(log, recent)
        for version in (1, 2, 50, 199, 250, 300):
            point = Point(Clock.version, version)
            try:
                await recent.snapshot_at("n", "a", point)
            except HistoryElsewhere:
                elsewhere += 1
            expected = await full.snapshot_at("n", "a", point)
            assert await replayed.snapshot_at("n", "a", point) == expected
            assert expected is not None
            sequence = expected.sequence
            assert await replayed.entry("n", "a", sequence) == await full.entry("n", "a", sequence)
        assert elsewhere


def published(number: int) -> Publication:
    patch = b'{"patch":[{"op":"add","path":"/x%d","value":%d}],"id":"%d"}' % (number % 9, number, number)
    return Publication(namespace="n", document="ab"[number % 5 == 0], body=patch)

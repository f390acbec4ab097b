"""The cursor of a long poll: it has returned all that is before it."""

from __future__ import annotations

import asyncio

import orjson
import pytest
from prometheus_client import CollectorRegistry

from refold.gateway.live import Connections, LiveLimits
from refold.gateway.live.poll import read_messages
from refold.live import Mailbox
from support.streams import LOG, MemoryFeed, asked, live_of


@pytest.mark.parametrize("turns_count", range(6))
async def test_a_change_that_comes_at_the_deadline_is_returned_or_left_to_the_next_poll(
    turns_count: int,
) -> None:
    feed, mailbox = MemoryFeed(), Mailbox()
    stream = await live_of(feed).open([asked(after=0)], mailbox)
    connection = Connections(LiveLimits(), CollectorRegistry()).enter("poll", "ann")
    polled = asyncio.create_task(read_messages(stream, mailbox, connection, wait_seconds=0, is_first=False))
    for _ in range(turns_count):
        await asyncio.sleep(0)
    feed.publish([{"op": "add", "path": "/n", "value": 1}])
    body = orjson.loads((await polled).body)
    versions = [message["version"] for message in body["messages"]]
    assert (versions, body["cursor"]) in [([], f"{LOG}-0"), ([1], f"{LOG}-1")]

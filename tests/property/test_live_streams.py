"""Whatever a subscriber's pace, and however often it is cut off: what it makes of its messages is the document.

Schedules of changes, slow subscribers, lost connections and returns, by seed (`SEED`), without servers.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from refold.core import json_text
from refold.core.errors import Refused
from refold.core.pointer import parse, resolve
from refold.live import Cursor, Mode
from refold.live.fanout import Stream
from refold.live.pattern import Pattern
from refold.live.streams import Live
from support.streams import ABSENT, KEY, MemoryFeed, Reader, asked, copied, live_of, random_patch

SEED = 20261130
SCHEDULES = 10_000
PARTS = 8
PARTS_OF_EVERY_RUN = 2

PATHS = ["", "", "/a", "/b", "/a/0", "/a/b", "/c/1/a", "/0", "/b/2", "/*", "/a/*", "/*/a", "/*/*", "/a/*/b"]


class Subscriber:
    """A client: its subscription, its connection now, and all that it has got."""

    def __init__(self, random: Random, live: Live, feed: MemoryFeed) -> None:
        path = random.choice(PATHS)
        is_wild = "*" in path or random.randrange(5) == 0
        self.asked = asked(
            path=path,
            depth=None if is_wild else random.choice([None, None, 0, 1]),
            mode=Mode.values if is_wild else Mode.patch,
            is_native=random.random() < 0.5,
            is_merged=random.random() < 0.7,
        )
        self.random, self.live, self.feed = random, live, feed
        self.reader = Reader()
        self.stream: Stream | None = None

    async def connect(self) -> None:
        """Connect, or connect again with the last cursor."""
        cursor = self.reader.cursors[-1] if self.reader.cursors else None
        self.reader.set_open(True)
        self.reader.is_ended = False
        if cursor is not None:
            # It may be beyond the last message, where that did not concern the subscription.
            self.reader.version = Cursor.parse(cursor).value
        self.stream = await self.live.open(
            [self.asked], self.reader, cursor=cursor, is_reconnect=cursor is not None
        )

    async def act(self) -> None:
        """Be slow or quick, get a sign of life, or lose the connection."""
        kind = self.random.randrange(8)
        if self.stream is None or not self.stream.is_open:
            await self.connect()
        elif kind == 0:
            self.stream.close()
        elif kind == 1:
            self.stream.alive()
        else:
            self.reader.set_open(kind < 6)

    def check(self) -> None:
        """Compare with the document."""
        state = self.feed.states.get(KEY, [ABSENT])[-1]
        tokens = Pattern.parse(self.asked.path, self.asked.depth)
        if self.asked.mode is Mode.values:
            found = {} if state is ABSENT else dict(tokens.matches(state))
            assert json_text.dumps(self.reader.values) == json_text.dumps(found)
        elif self.asked.depth is None:
            assert written(self.reader.value) == written(value_at(state, self.asked.path))
        else:
            # What is deeper may be older.
            shown, there = self.reader.value, value_at(state, self.asked.path)
            assert outline(shown, self.asked.depth) == outline(there, self.asked.depth)


def value_at(state: Any, path: str) -> Any:
    try:
        return ABSENT if state is ABSENT else resolve(state, parse(path))
    except Refused:
        return ABSENT


def written(value: Any) -> bytes | None:
    return None if value is ABSENT else json_text.dumps(value)


def outline(value: Any, depth: int) -> Any:
    """Return a value down to so many levels; of what is deeper only its kind."""
    if isinstance(value, dict):
        return {key: outline(item, depth - 1) for key, item in value.items()} if depth else dict
    if isinstance(value, list):
        return [outline(item, depth - 1) for item in value] if depth else list
    return value


async def play(seed: str) -> None:
    """Play one schedule."""
    random = Random(seed)
    feed = MemoryFeed()
    live = live_of(feed)
    for _ in range(random.randint(0, 4)):
        publish(random, feed)
    subscribers = [Subscriber(random, live, feed) for _ in range(random.randint(1, 4))]
    for _ in range(random.choice([5, 10, 20])):
        if random.random() < 0.6:
            publish(random, feed)
        else:
            await random.choice(subscribers).act()
        if random.random() < 0.5:
            await asyncio.sleep(0)
    for subscriber in subscribers:
        if subscriber.stream is None or not subscriber.stream.is_open:
            await subscriber.connect()
        subscriber.reader.set_open(True)
    for _ in range(100):
        await asyncio.sleep(0)
    for subscriber in subscribers:
        subscriber.check()
        assert subscriber.stream is not None
        subscriber.stream.close()
    assert not feed.documents, "a watch was not ended"


def publish(random: Random, feed: MemoryFeed) -> None:
    state = copied(feed.states.get(KEY, [ABSENT])[-1])
    feed.publish(random_patch(random, state, is_native=True))


@pytest.mark.parametrize(
    "part",
    [
        part if part < PARTS_OF_EVERY_RUN else pytest.param(part, marks=pytest.mark.slow)
        for part in range(PARTS)
    ],
)
async def test_what_a_subscriber_makes_of_its_messages_is_the_document(part: int) -> None:
    for number in range(part, SCHEDULES, PARTS):
        try:
            await play(f"{SEED}/{number}")
        except BaseException as error:
            error.add_note(f"schedule {SEED}/{number}")
            raise

"""Live streams and `schemas/live.schema.json` agree in both directions: what is sent is documented, and the reverse."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from refold.core.errors import StoreUnavailable
from refold.gateway.live.sse import later_response
from refold.live import Mode
from refold.live.streams import Live
from support.contracts import contract, validator
from support.streams import MemoryFeed, Reader, asked, live_of

SCHEMA = contract("live.schema.json")
IS_MESSAGE = validator(SCHEMA)


class Site:
    """Streams over a feed in memory, with all messages of all readers."""

    def __init__(self) -> None:
        self.feed = MemoryFeed()
        self.live: Live = live_of(self.feed)
        self.readers: list[Reader] = []

    async def open(self, cursor: str | None = None, **fields: Any) -> Reader:
        """Add a subscriber."""
        reader = Reader(None)
        self.readers.append(reader)
        reader.stream = await self.live.open([asked(**fields)], reader, cursor=cursor)  # type: ignore[attr-defined]
        return reader

    async def publish(self, *operations: Any, **fields: Any) -> None:
        """Publish one version, and send it."""
        self.feed.publish(list(operations), **fields)
        await turns()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def set_to(path: str, value: Any) -> Any:
    return {"op": "add", "path": path, "value": value}


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr("refold.live.watched.RING_CHANGES_MAX", 3)
    monkeypatch.setattr("refold.live.documents.REPLAYED_MAX", 2)
    monkeypatch.setattr("refold.live.values.MATCHES_MAX", 4)
    return Site()


async def exercise_documents(site: Site) -> None:
    whole, part = await site.open(), await site.open(path="/o")
    values = await site.open(path="/o/*", mode=Mode.values)
    await site.publish(set_to("", {}), type="made", actor="ann", id="1", meta={"by": 1})
    await site.publish(set_to("/o", {"a": 1, "b": 2}), type="made", actor="ann", id="2", meta={"by": 1})
    slow = [whole, part, values]
    for operations in (
        # Merged; then smaller than what it took; then more than is kept.
        [[set_to("/o/a", 2)], [{"op": "remove", "path": "/o/b"}]],
        [[set_to("/o/c", "x" * 500)], [{"op": "remove", "path": "/o/c"}, set_to("/o/a", 3)]],
        [[set_to("/o/a", number)] for number in range(10)],
    ):
        for reader in slow:
            reader.set_open(False)
        await site.publish(set_to("/o/a", 0))
        for some in operations:
            await site.publish(*some)
        for reader in slow:
            reader.set_open(True)
        await turns()
    await site.open(after=1)
    await site.open(cursor="00000000-1")
    await site.open(path="/none")
    whole.stream.alive()  # type: ignore[attr-defined]


async def exercise_lists(site: Site) -> None:
    await site.open(mode=Mode.changes)
    await site.open(mode=Mode.changes, cursor="00000000-1")
    await site.open(mode=Mode.heads, document=None, prefix="o")
    await site.open(mode=Mode.changes, document=None, prefix="o", cursor="00000000@1")
    await site.publish(set_to("/n", 1), type="made", actor="ann", id="3", meta={"by": 1})


async def exercise_ends(site: Site) -> None:
    wide = await site.open(path="/o/*", mode=Mode.values)
    await site.publish(set_to("/o", dict.fromkeys("abcde", 1)))
    assert wide.is_ended
    single = await site.open(is_merged=False)
    single.set_open(False)

    async def fail(*_: Any) -> Any:
        raise StoreUnavailable

    site.live._documents._reader.changes = fail  # type: ignore[method-assign]
    for number in range(10):
        await site.publish(set_to("/o/a", number))
    single.set_open(True)
    await turns()
    assert single.is_ended
    old = await site.open()
    old.stream.bye("age")  # type: ignore[attr-defined]
    await site.open()
    site.live.shut_down()


def documented() -> Iterator[tuple[str, str, Any]]:
    """Yield kind, member, and each of its values that an `enum` lists."""
    for name in (each["$ref"].rpartition("/")[2] for each in SCHEMA["oneOf"]):
        for member, described in SCHEMA["$defs"][name]["properties"].items():
            yield from ((name, member, value) for value in described.get("enum", [None]))


def occurred(message: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for member, value in message.items():
        enum = SCHEMA["$defs"][message["kind"]]["properties"][member].get("enum")
        yield message["kind"], member, value if enum else None


async def test_streams_send_everything_documented_and_nothing_else(site: Site) -> None:
    await exercise_documents(site)
    await exercise_lists(site)
    await exercise_ends(site)
    messages = [message for reader in site.readers for message in reader.messages]
    data = later_response().body.partition(b"data: ")[2]
    for message in [*messages, orjson.loads(data)]:
        IS_MESSAGE.validate(message)
    seen = {each for message in [*messages, orjson.loads(data)] for each in occurred(message)}
    assert seen == set(documented())

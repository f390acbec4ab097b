"""What subscribers of a namespace are sent: every change after their position, in the order of the log."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any, NoReturn

import pytest

from refold.core.errors import Refused
from refold.live import Mode, Subscription, backlog, namespace, ring
from refold.live.changes import TypeFilter
from support.announcing import Announced, Announcer
from support.streams import KEY, LOG, MemoryFeed, Reader

TYPES = ("order.paid", "order.sent", "note", None)


async def turns(count: int = 10) -> None:
    """Let what is due run."""
    for _ in range(count):
        await asyncio.sleep(0)


def asked(**fields: Any) -> Subscription:
    return Subscription(**{"namespace": "shop", "mode": Mode.changes, **fields})


def is_wanted(announced: Announced, wanted: Subscription) -> bool:
    """Tell whether a change is of a subscription: not the system's own words."""
    (name, document), found = announced.key, announced.fields()["type"]
    is_type = wanted.type in {None, found} or (wanted.type == "order.*" and str(found).startswith("order."))
    return name == wanted.namespace and document.startswith(wanted.prefix) and is_type


class Consumer:
    """A subscriber that keeps its last cursor, and returns with it."""

    def __init__(self, wanted: Subscription) -> None:
        self.wanted = wanted
        self.readers: list[Reader] = []
        self.stream: Any = None
        self.cursor: str | None = None

    async def connect(self, live: Any) -> None:
        """Connect, from where the last connection ended."""
        if self.stream is not None:
            self.stream.close()
        if self.readers and self.reader.cursors:
            self.cursor = self.reader.cursors[-1]
        self.readers.append(Reader(None))
        is_reconnect = self.cursor is not None
        self.stream = await live.open(
            [self.wanted], self.reader, cursor=self.cursor, is_reconnect=is_reconnect
        )

    @property
    def reader(self) -> Reader:
        """Return that of the present connection."""
        return self.readers[-1]

    def check(self, everything: list[Announced]) -> None:
        """Check what all connections were sent: in order, nothing that is not wanted, nothing missing."""
        got: dict[int, dict[str, Any]] = {}
        for reader in self.readers:
            messages = [it for it in reader.messages if it["kind"] in {"change", "head"}]
            sequences = [message["sequence"] for message in messages]
            assert sequences == sorted(set(sequences)), "in the order of the log, each once a connection"
            got |= zip(sequences, messages, strict=True)
        start = self.wanted.after
        if start is None:
            first = self.readers[0].messages[0]
            assert first["kind"] == "ready", first
            start = first["sequence"]
        due = [it for it in everything if it.change.sequence > start and is_wanted(it, self.wanted)]
        if self.wanted.mode is Mode.changes:
            expected = {it.change.sequence: {"kind": "change", **it.fields()} for it in due}
            assert got == expected
        else:
            newest = {it.key[1]: it.fields() for it in due}
            found = {message["document"]: message for _, message in sorted(got.items())}
            names = ("namespace", "document", "version", "sequence", "type", "actor")
            heads = {name: {"kind": "head"} | {it: head[it] for it in names} for name, head in newest.items()}
            assert found == heads
            assert set(got) <= {it.change.sequence for it in due}


SUBSCRIPTIONS = (
    {},
    {"prefix": "a"},
    {"type": "order.*"},
    {"type": "note", "prefix": "b"},
    {"mode": Mode.heads},
    {"mode": Mode.heads, "prefix": "a", "after": 0},
    {"after": 0},
    {"after": 40, "namespace": "other"},
    {"namespace": "quiet"},
)


@pytest.mark.parametrize("seed", range(12))
async def test_no_change_is_missed_whatever_is_lost_and_however_slow(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    for module, name, value in (
        (ring, "RING_CHANGES_MAX", random.choice([5, 60, 1_000])), (ring, "SUPERSEDED_MIN", 4),
        (backlog, "PART_EVENTS_MAX", 15), (backlog, "PART_SCANNED_MAX", 60), (namespace, "LOOK_SECONDS", 0),
        (backlog, "OUTLINES_MAX", 7), (backlog, "BLOCKS_MAX", 3),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    feed = Announcer(random)
    await feed.begin()
    await write(feed, random, 100)
    await feed.commit()
    live = feed.live()
    consumers = [Consumer(asked(**fields)) for fields in SUBSCRIPTIONS]
    for consumer in consumers:
        await consumer.connect(live)
    for _ in range(120):
        await write(feed, random, random.choice([0, 1, 5, 30]))
        feed.send(loss=random.choice([0, 0, 0.1, 1]))
        if random.random() < 0.7:
            feed.progress(restart=0.05)
        if random.random() < 0.5:
            await feed.commit()
        await turns(random.randrange(30))
        consumer = random.choice(consumers)
        consumer.reader.set_open(random.random() < 0.6)
        if random.random() < 0.1:
            await consumer.connect(live)
        if random.random() < 0.02:
            # The gateway starts again.
            live = feed.live()
            for each in consumers:
                await each.connect(live)
    await settle(feed, consumers)
    for consumer in consumers:
        consumer.check(feed.all_changes)
    assert live._namespaces._replays_bytes == 0


async def write(feed: Announcer, random: Random, count: int) -> None:
    """Publish events, some of which are rejected."""
    for _ in range(count):
        key = random.choice(["shop", "shop", "shop", "other"]), random.choice("ab") + str(random.randrange(6))
        event: dict[str, Any] = random.choice(
            [{"put": random.random()}, {"delete": True}, {"base": 99, "put": 1}]
        )
        kind = random.choice(TYPES)
        await feed.append(key, event | ({} if kind is None else {"type": kind, "actor": "ann"}))


async def settle(feed: Announcer, consumers: list[Consumer]) -> None:
    """Let everything be announced, committed and sent."""
    for consumer in consumers:
        consumer.reader.set_open(True)
    for _ in range(60):
        feed.send(loss=0)
        feed.progress()
        await feed.commit()
        await turns(100)
    for consumer in consumers:
        consumer.stream.alive()
        assert consumer.reader.cursors[-1] == f"{LOG}@{feed.committed_sequence}"


async def test_while_a_shard_is_silent_what_waits_for_it_is_not_searched_at_each_notice() -> None:
    class Unsearched(dict[int, ring.Noted]):
        """Changes that may be looked up, but not gone through."""

        def __iter__(self) -> NoReturn:
            """Fail. Raises `AssertionError`."""
            raise AssertionError

    kept, changes = ring.Ring(), MemoryFeed()
    for _ in range(3):
        kept.take(KEY, changes.publish([]))
    kept.advance(1, 0)
    waiting, kept._pending = kept._pending, Unsearched(kept._pending)
    kept.advance(1, 0)
    kept._pending = waiting
    kept.advance(3, 0)
    assert [noted.sequence for noted in kept._changes] == [1, 2, 3]


async def test_a_slow_subscriber_gets_the_newest_head_of_each_document_and_every_change() -> None:
    feed = Announcer(Random(1))
    await feed.begin()
    await feed.commit()
    live, heads, changes = feed.live(), Reader(None), Reader(None)
    await live.open([asked(mode=Mode.heads)], heads)
    await live.open([asked()], changes)
    for reader in (heads, changes):
        reader.set_open(False)
    for number in range(100):
        await feed.append(("shop", "ab"[number % 2]), {"put": number})
        feed.send(loss=0)
        feed.progress()
    await settle(feed, [])
    for reader in (heads, changes):
        reader.set_open(True)
    assert len(changes.messages) == 1 + 100
    # One more was taken before the reader was found closed.
    versions = [message["version"] for message in heads.messages[1:]]
    assert versions[-2:] == [50, 50]
    assert len(versions) == 3


async def test_who_returns_with_a_cursor_that_means_nothing_begins_again() -> None:
    feed = Announcer(Random(1))
    await feed.begin()
    await feed.append(("shop", "a"), {"put": 1})
    await feed.commit()
    live = feed.live()
    for cursor in ("deadbeef@1", f"{LOG}-1", "nonsense"):
        reader = Reader(None)
        await live.open([asked(prefix="a")], reader, cursor=cursor, is_reconnect=True)
        assert reader.messages == [{"kind": "reset", "namespace": "shop", "prefix": "a", "sequence": 2}]


async def test_a_sequence_that_the_log_does_not_have_begins_again() -> None:
    feed, reader = Announcer(Random(1)), Reader(None)
    await feed.begin()
    await feed.commit()
    await feed.live().open([asked()], reader, cursor=f"{LOG}@9")
    assert [message["kind"] for message in reader.messages] == ["reset"]


@pytest.mark.parametrize(
    "fields",
    [{"mode": Mode.patch}, {"namespace": "a b"}, {"prefix": "\x00"}, {"document": "a", "mode": Mode.heads}],
)
async def test_a_subscription_that_is_none_is_refused(fields: dict[str, Any]) -> None:
    feed = Announcer(Random(1))
    await feed.begin()
    with pytest.raises(Refused):
        await feed.live().open([asked(**fields)], Reader(None))


async def test_the_changes_of_one_document_are_sent_one_by_one_from_any_version() -> None:
    feed = Announcer(Random(1))
    live = feed.live()
    for number in range(2_500):
        patch = (
            [{"op": "inc", "path": "/n", "inc": 1}] if number else [{"op": "add", "path": "/n", "value": 0}]
        )
        feed.publish(patch, ("shop", "a"), type=TYPES[number % 4])
    new, old, paid = Reader(None), Reader(None), Reader(None)
    about = {"document": "a"}
    await live.open([asked(**about)], new)
    await live.open([asked(**about, after=3)], old)
    await live.open([asked(**about, type="order.*")], paid, cursor=f"{LOG}-2490")
    while len(old.messages) < 2_497:
        await turns()
    feed.publish([{"op": "inc", "path": "/n", "inc": 1}], ("shop", "a"), type="order.paid")
    await turns()
    ready = {"kind": "ready", "namespace": "shop", "document": "a", "version": 2_500, "sequence": 2_500}
    assert new.messages[0] == ready
    assert [message["version"] for message in new.messages[1:]] == [2_501]
    assert [message["version"] for message in old.messages] == list(range(4, 2_502))
    assert old.messages[0]["patch"] == [{"op": "inc", "path": "/n", "inc": 1}]
    assert [message["version"] for message in paid.messages] == [2_493, 2_494, 2_497, 2_498, 2_501]
    assert paid.cursors[-1] == f"{LOG}-2501"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, ["order", "order.paid", 'a"type":"order', "", None]),
        ("order", ["order"]),
        ("order*", ["order", "order.paid"]),
        ("order.*", ["order.paid"]),
        ("*", ["order", "order.paid", 'a"type":"order', ""]),
        ('a"type":"order', ['a"type":"order']),
        ("ord", []),
    ],
)
def test_types_are_told_exactly_or_by_their_beginning(wanted: str | None, found: list[str | None]) -> None:
    types = ["order", "order.paid", 'a"type":"order', "", None]
    feed, passes = MemoryFeed(), TypeFilter(wanted).passes
    put = [{"op": "add", "path": "/type", "value": {"type": "order", "version": 1}}]
    changes = [feed.publish(put, type=each, meta={"type": "order"}) for each in types]
    assert [change.fields()["type"] for change in changes if passes(change)] == found

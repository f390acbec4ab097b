"""The feed: a watched document gets every version once and in order, whatever is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import pytest

from refold.core.document import from_canonical
from refold.core.errors import StoreUnavailable
from refold.core.history import Clock, Point
from refold.live import LiveFull, progress
from refold.live import feed as feeds
from refold.live.ring import Ring
from refold.live.watched import Change, WatchedDocument
from refold.log.memory import MemoryLog
from refold.projector import notices
from refold.store import Commit, Head, Key
from refold.store.memory import MemoryStore, Tables
from support.feeding import HOUR, World, feeding, until

DOCUMENTS = ("a", "b", "c", "d", "e.f")


class Checked(WatchedDocument):
    """A watched document that refuses a gap, a version that comes twice, and a change without a patch."""

    def append(self, change: Change) -> None:
        """Take the next version."""
        assert change.version == self.version + 1
        assert change.sequence > self.sequence
        assert change.operations()
        super().append(change)


@pytest.fixture(autouse=True)
def _only_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """No audit comes by time or silence, unless a test asks for it."""
    monkeypatch.setattr(progress, "AUDIT_SECONDS", 3_600.0)
    monkeypatch.setattr(progress, "SILENT_SECONDS", 3_600.0)
    monkeypatch.setattr(feeds, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(feeds, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(feeds, "WatchedDocument", Checked)


def losing(*lost: int) -> Callable[[str], int]:
    """Lose the changes with these numbers, from 1 on."""
    number = 0

    def copies(subject: str) -> int:
        nonlocal number
        number += subject.startswith("change.")
        return not (subject.startswith("change.") and number in lost)

    return copies


async def is_current(world: World, document: WatchedDocument) -> bool:
    """Compare a watched document with the end of the log, which must be committed."""
    end = (await world.log.info()).last_sequence
    if world.consistency.sequence < end:
        return False
    head = await world.store.head("n", document.document)
    if head is None:
        return False
    found = document.version, document.state()
    return found == (head.snapshot.version, from_canonical(head.snapshot.state))


async def test_each_change_is_appended_once_in_order() -> None:
    async with feeding() as world, world.projecting():
        await world.write("a")
        document = await world.feed.watch(("n", "a"))
        world.wire.copies = lambda _: 2
        for _ in range(5):
            await world.write("a", {"patch": [{"op": "add", "path": "/log", "value": []}]})
        await until(lambda: is_current(world, document))
        assert [change.version for change in document.changes] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("lost", [(2,), (6,), (2, 3, 5, 6), (1, 2, 3, 4, 5, 6)])
async def test_lost_changes_come_from_history(lost: tuple[int, ...]) -> None:
    async with feeding() as world, world.projecting():
        document = await world.feed.watch(("n", "a"))
        await until(lambda: world.feed.sequence >= 1)
        world.wire.copies = losing(*lost)
        for number in range(6):
            await world.write("a", {"put": number, "meta": {"by": number}, "id": f"e{number}"})
        await until(lambda: is_current(world, document))
        assert [change.fields()["meta"] for change in document.changes] == [{"by": by} for by in range(6)]
        assert world.count("gaps_total") > 0
        assert world.count("audit_behind_total") == 0


async def test_a_change_from_history_has_the_bytes_of_its_notice() -> None:
    events = [
        {"put": {"a": [1.0], "n": 1}, "id": "one", "meta": {"z": 1, "a": None}},
        {"merge": {"b": {"c": None}}, "actor": "é", "type": "t"},
        {"patch": [{"op": "inc", "path": "/n", "inc": 2}, {"op": "add", "path": "/a/-", "value": 1e30}]},
        {"put": {"a": 1}, "base": 1, "occurred_at": "1999-12-31T23:59:59.5+01:00"},
        {"delete": True},
        {"put": None},
    ]
    async with feeding() as world, world.projecting():
        document = await world.feed.watch(("n", "é/1"))
        world.wire.copies = lambda subject: not subject.startswith("change.")
        for event in events:
            await world.write("é/1", event)
        await until(lambda: is_current(world, document))
    sent: list[bytes] = []
    async with feeding(log=world.log) as again:
        await again.wire.listen("change.n.>", lambda _, body: sent.append(body))
        async with again.projecting():
            await until(lambda: len(sent) == len(events))
    assert [change.body for change in document.changes] == sent


async def test_a_change_that_is_too_large_for_a_notice_comes_from_history(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notices, "NOTICE_BYTES_MAX", 300)
    async with feeding() as world, world.projecting():
        document = await world.feed.watch(("n", "a"))
        for text in ("x" * 500, "y", "z" * 500):
            await world.write("a", {"put": text})
        await until(lambda: is_current(world, document))
        assert [change.version for change in document.changes] == [1, 2, 3]


async def test_more_than_a_ring_of_lost_changes_is_one_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "RING_CHANGES_MAX", 3)
    async with feeding() as world, world.projecting():
        document = await world.feed.watch(("n", "a"))
        world.wire.copies = losing(*range(100))
        for _ in range(9):
            await world.write("a")
        await until(lambda: is_current(world, document))
        assert len(document.changes) <= 3


async def test_messages_that_are_no_notices_change_nothing() -> None:
    acknowledgement = b'{"stream":"STATE", "seq":7}'
    async with feeding() as world, world.projecting():
        document = await world.feed.watch(("n", "a"))
        await until(lambda: world.feed.sequence >= 1)
        audits = world.count("audits_total", why="lost")
        for subject in ("change.n.a", "change.n.b", "change.x", "refold.progress"):
            for body in (acknowledgement, b"", b"[]", b'{"actor"', b'{"shard":"1-x","epoch":""}'):
                await world.wire.send_all([(subject, body)])
        await world.write("a")
        await until(lambda: is_current(world, document))
        assert document.version == 1
        assert world.count("audits_total", why="lost") == audits


class HeldStore(MemoryStore):
    """A store whose commits wait while it is held."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def commit(self, commit: Commit) -> None:
        """Commit once open."""
        await self.is_open.wait()
        await super().commit(commit)


async def test_a_document_that_was_announced_before_it_is_watched_is_read_after_its_commit() -> None:
    async with feeding() as world:
        held = HeldStore(world.tables)
        heard: list[bytes] = []
        await world.wire.listen("change.n.*", lambda _, body: heard.append(body))
        async with world.projecting(held) as loop:
            await world.feed.watch(("n", "other"))
            await until(lambda: loop.committed_sequence >= 1)
            held.is_open.clear()
            await world.write("a")
            await until(lambda: len(heard) == 1)
            watching = asyncio.create_task(world.feed.watch(("n", "a")))
            await asyncio.wait({watching}, timeout=0.05)
            assert not watching.done()
            held.is_open.set()
            assert (await watching).version == 1


async def test_a_head_that_was_read_before_an_audit_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with feeding() as world, world.projecting():
        await world.feed.watch(("n", "other"))
        await until(lambda: world.feed.sequence >= 1)
        read, is_answered, is_read = world.store.head, asyncio.Event(), asyncio.Event()

        async def head(*key: str, **known: int | None) -> Head | None:
            found = await read(*key, **known)
            is_read.set()
            await is_answered.wait()
            return found

        monkeypatch.setattr(world.store, "head", head)
        watching = asyncio.create_task(world.feed.watch(("n", "a")))
        await is_read.wait()
        world.wire.copies = losing(1)
        last = await world.write("a")
        await until(lambda: world.feed.sequence == last)
        is_answered.set()
        assert (await watching).version == 1


async def test_events_too_old_to_be_announced_come_from_history() -> None:
    async with feeding() as world:
        world.age = HOUR
        async with world.projecting():
            document = await world.feed.watch(("n", "a"))
            await until(lambda: world.feed.sequence >= 1)
            for _ in range(5):
                await world.write("a")
            await until(lambda: is_current(world, document))
            assert world.count("audits_total", why="unsent") > 0
            assert len(document.changes) == 5


async def test_what_a_dead_projector_committed_and_never_announced_is_found_at_the_takeover() -> None:
    async with feeding() as world:
        async with world.projecting() as loop:
            document = await world.feed.watch(("n", "a"))
            await until(lambda: world.feed.sequence >= 1)
            world.wire.copies = lambda _: 0
            last = await world.write("a")
            await until(lambda: loop.committed_sequence == last)
        world.wire.copies = lambda _: 1
        async with world.projecting():
            await until(lambda: is_current(world, document))
        assert world.count("audits_total", why="takeover") > 0


async def test_a_feed_that_hears_no_progress_looks_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENT_SECONDS", 0.02)
    monkeypatch.setattr(feeds, "USUAL_SECONDS", 0.02)
    async with feeding() as world, world.projecting():
        document = await world.feed.watch(("n", "a"))
        await until(lambda: world.feed.sequence >= 1)
        world.wire.copies = lambda _: 0
        await world.write("a")
        await until(lambda: document.version == 1)
        assert world.count("audits_total", why="silence") > 0
        assert world.feed.behind_seconds > 0
        world.wire.copies = lambda _: 1
        await until(lambda: world.feed.behind_seconds == 0)


async def test_a_regular_audit_does_not_count_what_may_still_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "AUDIT_SECONDS", 0.01)
    async with feeding() as world, world.projecting() as loop:
        document = await world.feed.watch(("n", "a"))
        await until(lambda: world.feed.sequence >= 1)
        world.wire.is_late = True
        last = await world.write("a")
        await until(lambda: loop.committed_sequence == last)
        audits = world.count("audits_total", why="time")
        await until(lambda: world.count("audits_total", why="time") > audits + 2)
        assert document.version == 0
        world.wire.is_late = False
        await until(lambda: is_current(world, document))
        assert (world.count("audit_behind_total"), world.count("gaps_total")) == (0, 0)


async def restore_older(world: World) -> None:
    """Restore the log from an older copy, of which nothing is folded yet."""
    world.log = MemoryLog("log-1")
    await world.write("a", {"put": "old"})
    for name in ("checkpoints", "documents"):
        getattr(world.tables, name).clear()
    world.tables.log_id = None


async def test_a_projection_that_went_back_is_followed() -> None:
    async with feeding() as world:
        async with world.projecting():
            document = await world.feed.watch(("n", "a"))
            for _ in range(3):
                await world.write("a")
            await until(lambda: is_current(world, document))
        await restore_older(world)
        async with world.projecting():
            await until(lambda: document.version == 1)
            assert document.state() == "old"


async def test_a_change_that_comes_while_a_document_begins_again_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with feeding() as world:
        async with world.projecting():
            document = await world.feed.watch(("n", "a"))
            await until(lambda: world.feed.sequence >= 1)
            for _ in range(3):
                await world.write("a")
            await until(lambda: is_current(world, document))
        await restore_older(world)
        read, is_answered, is_read = world.store.head, asyncio.Event(), asyncio.Event()

        async def head(*key: str) -> Head | None:
            found = await read(*key)
            is_read.set()
            await is_answered.wait()
            return found

        monkeypatch.setattr(world.store, "head", head)
        heard: list[bytes] = []
        await world.wire.listen("change.n.a", lambda _, body: heard.append(body))
        async with world.projecting() as loop:
            await is_read.wait()
            heard.clear()
            last = await world.write("a", {"put": "new"})
            await until(lambda: heard != [] and loop.committed_sequence == last)
            is_answered.set()
            await until(lambda: document.version == 2)
            assert document.state() == "new"


async def test_a_document_is_watched_until_its_last_user_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "WATCHED_MAX", 1)
    async with feeding() as world, world.projecting():
        key: Key = ("n", "a")
        first, second = await asyncio.gather(world.feed.watch(key), world.feed.watch(key))
        assert first is second
        with pytest.raises(LiveFull):
            await world.feed.watch(("n", "b"))
        world.feed.release(key)
        assert await world.feed.watch(key) is first
        for _ in range(2):
            world.feed.release(key)
        await world.feed.watch(("n", "b"))


async def test_a_request_that_ends_while_the_feed_subscribes_leaves_no_subscription(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    is_flushing = asyncio.Event()

    async def flush() -> None:
        is_flushing.set()
        await asyncio.Event().wait()

    async with feeding() as world:
        with monkeypatch.context() as held:
            held.setattr(world.wire, "flush", flush)
            watching = asyncio.create_task(world.feed.watch(("n", "a")))
            await is_flushing.wait()
            watching.cancel()
            await asyncio.wait({watching})
        document = await world.feed.watch(("n", "a"))
        async with world.projecting():
            for _ in range(3):
                last = await world.write("a")
                await until(lambda last=last: world.feed.sequence == last)  # type: ignore[misc]
        assert document.version == 3
        assert world.count("audits_total", why="lost") == 0


async def test_a_store_that_fails_fails_the_watch_and_no_later_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: str) -> None:
        raise StoreUnavailable

    async with feeding() as world, world.projecting():
        with monkeypatch.context() as broken:
            broken.setattr(world.store, "head", fail)
            watches = await asyncio.gather(
                *(world.feed.watch(("n", "a")) for _ in range(2)), return_exceptions=True
            )
        assert [type(error) for error in watches] == [StoreUnavailable] * 2
        document = await world.feed.watch(("n", "a"))
        await world.write("a")
        await until(lambda: is_current(world, document))


class Heard:
    """A listener that keeps what it is passed."""

    def __init__(self) -> None:
        self.sequences: list[int] = []
        self.sequence = self.gap_sequence = 0

    def take(self, key: Key, change: Change) -> None:
        """Keep a change."""
        assert key[0] in {"n", "_refold"}
        self.sequences.append(change.sequence)

    def advance(self, sequence: int, gap_sequence: int) -> None:
        """Keep both."""
        assert (sequence, gap_sequence) >= (self.sequence, self.gap_sequence)
        self.sequence, self.gap_sequence = sequence, gap_sequence


async def test_a_listener_has_all_changes_but_those_up_to_its_gap() -> None:
    async with feeding() as world, world.projecting():
        await world.write("a")
        heard = Heard()
        end = await world.feed.add_listener(heard)
        began = await world.write("b")
        await until(lambda: heard.sequence == began)
        gap = heard.gap_sequence
        last = max([await world.write(name) for name in DOCUMENTS])
        await until(lambda: heard.sequence == last)
        assert set(range(gap + 1, last + 1)) <= set(heard.sequences)
        world.wire.copies = losing(2)
        last = max([await world.write(name) for name in DOCUMENTS])
        await until(lambda: heard.sequence == last)
        assert last - 4 <= heard.gap_sequence <= last
        end()
        await world.write("a")
        await until(lambda: world.feed.sequence == last + 1)
        assert heard.sequence == last


async def test_only_a_change_that_came_without_its_patch_is_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notices, "NOTICE_BYTES_MAX", 500)
    async with feeding() as world, world.projecting():
        ring = Ring()
        await world.feed.add_listener(ring)
        document = await world.feed.watch(("n", "a"))
        began = await world.write("a", {"put": {"n": 1}})
        await until(lambda: ring.sequence == began)
        floor, gaps_count = ring.floor, world.count("gaps_total")
        inner = {"occurred_at": "", "patch": None, "recorded_at": ""}
        for event in (
            {"put": {"n": 1, **inner}, "meta": inner, "type": '"patch":null,"recorded_at":'},
            {"put": {"n": 1, "job": inner}, "type": '","patch":null,"recorded_at":"'},
        ):
            last = await world.write("a", event)
        await until(lambda: ring.sequence == last)
        assert (ring.floor, world.count("gaps_total")) == (floor, gaps_count)

        patch = [{"op": "inc", "path": "/n", "inc": 1}, {"op": "add", "path": "/text", "value": "x" * 500}]
        large = await world.write("a", {"patch": patch, "meta": {"op": "inc"}})
        await until(lambda: ring.sequence == large)
        assert ring.floor == large
        await until(lambda: is_current(world, document))
        assert document.changes[-1].operations() == patch


class Failing(Heard):
    """A listener that fails at some changes."""

    def take(self, key: Key, change: Change) -> None:
        """Take a change. Raises `LookupError`."""
        super().take(key, change)
        if change.fields()["type"] == "fails":
            raise LookupError


async def test_a_change_whose_handling_fails_counts_as_lost() -> None:
    async with feeding() as world, world.projecting():
        listen = world.wire.listen

        async def listen_on(subject: str, handle: Callable[[str, bytes], None]) -> Callable[[], None]:
            def take(subject: str, body: bytes) -> None:
                with suppress(LookupError):
                    handle(subject, body)

            return await listen(subject, take)

        world.wire.listen = listen_on  # An error ends no connection, as with NATS.
        failing = Failing()
        await world.feed.add_listener(failing)
        began = await world.write("a")
        await until(lambda: failing.sequence == began)
        failed = await world.write("b", {"put": 1, "type": "fails"})
        await until(lambda: failing.sequence == failed)
        assert failing.gap_sequence == failed
        await until(lambda: world.count("audits_total", why="lost") > 0)
        await until(lambda: world.feed.sequence == failed)
        last = await world.write("b")
        await until(lambda: failing.sequence == last)
        assert failing.gap_sequence == failed


@pytest.mark.parametrize("seed", range(12))
async def test_every_watched_document_ends_as_the_store_has_it(seed: int) -> None:
    chance = random.Random(seed)

    def copies(subject: str) -> int:
        # The broker loses messages, but sends none twice: a loss and a repetition would count as none.
        loss = losses.get(subject.partition(".")[0], 0.0)
        return 0 if chance.random() < loss else 1

    async def check() -> None:
        """Compare what the feed says to be appended with the store."""
        for name, document in watched.items():
            sequence, version = world.feed.sequence, document.version
            found = await world.store.snapshot_at("n", name, Point(Clock.sequence, sequence))
            assert found is None or found.version <= version, f"{name} lacks changes up to {sequence}"

    losses: dict[str, float] = {}
    watched: dict[str, WatchedDocument] = {}
    async with feeding() as world, AsyncExitStack() as running:
        world.wire.copies = copies
        world.store.delay = lambda: chance.choice([0.0, 0.0, 0.003, 0.01])
        await running.enter_async_context(world.projecting())
        watched["a"] = await world.feed.watch(("n", "a"))
        for _ in range(60):
            for _ in range(chance.randrange(8)):
                await world.write(chance.choice(DOCUMENTS))
            match chance.randrange(8):
                case 0:
                    losses = {"change": chance.choice([0.0, 0.1, 0.9]), "refold": chance.choice([0.0, 0.5])}
                case 1:
                    await running.aclose()
                    await running.enter_async_context(world.projecting())
                case 2:
                    world.age = chance.choice([0, HOUR])
                case 3 | 4:
                    name = chance.choice(DOCUMENTS)
                    if name in watched:
                        world.feed.release(("n", name))
                        del watched[name]
                    else:
                        watched[name] = await world.feed.watch(("n", name))
                case 5:
                    world.wire.is_late = not world.wire.is_late
                case _:
                    await asyncio.sleep(chance.random() / 200)
            await check()
        losses, world.wire.is_late = {}, False
        for document in watched.values():
            await until(lambda document=document: is_current(world, document))  # type: ignore[misc]
        await until(lambda: world.feed.sequence == world.consistency.sequence)

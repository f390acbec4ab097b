"""Of the projectors of several stores, one announces: the first that has caught up."""

from __future__ import annotations

import json

import pytest

from refold.projector import announcer as announcer_module
from refold.projector.announcer import BEHIND_EVENTS_MAX, SILENT_SECONDS, Announcer

STORES = ("redis", "postgres")


class World:
    """Projectors of one shard by one clock; what each sends reaches the others."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.sent: list[tuple[str, str, bytes]] = []
        self.announcers: dict[str, Announcer] = {}

    def start(self, store: str, folded_sequence: int = 0, stores: tuple[str, ...] = STORES) -> Announcer:
        self.announcers[store] = Announcer(
            _Wire(self, store),
            shard="0-63",
            stores=stores,
            store=store,
            folded_sequence=folded_sequence,
            broker_now=lambda: int(self.now * 1e9),
            timer=lambda: self.now,
        )
        return self.announcers[store]

    async def fold(self, sequence: int, *stores: str) -> None:
        for store in stores or tuple(self.announcers):
            await self.announcers[store].send(sequence, [], [(f"change.{sequence}", b"{}")], effective=1)
            await self.announcers[store].send_progress(sequence)

    def changes(self, store: str) -> list[str]:
        return [subject for sender, subject, _ in self.sent if sender == store and "change." in subject]

    def progress(self, store: str) -> list[dict]:
        return [
            json.loads(body)
            for sender, subject, body in self.sent
            if (sender, subject) == (store, "refold.progress")
        ]


class _Wire:
    def __init__(self, world: World, store: str) -> None:
        self.world, self.store = world, store

    async def send_all(self, messages) -> None:
        for subject, body in messages:
            self.world.sent.append((self.store, subject, body))
            if subject == "refold.progress":
                for name, announcer in self.world.announcers.items():
                    if name != self.store:
                        announcer.hear(subject, body)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def pair(world) -> World:
    world.start("redis").catch_up_to(0)
    world.start("postgres").catch_up_to(0)
    return world


async def test_the_only_projector_announces_and_sends_nothing_about_stores(world):
    world.start("", stores=())
    await world.fold(1)
    assert [subject for _, subject, _ in world.sent] == ["change.1", "refold.progress"]
    assert "store" not in world.progress("")[0]


async def test_the_first_announces_at_once_and_both_say_how_far_their_stores_are(pair):
    await pair.fold(1)
    assert (pair.changes("redis"), pair.changes("postgres")) == (["change.1"], [])
    committed = [json.loads(body) for _, subject, body in pair.sent if subject == "refold.committed"]
    epoch = committed[0]["epoch"]
    assert committed == [{"store": store, "shard": "0-63", "sequence": 1, "epoch": epoch} for store in STORES]


async def test_after_silence_the_next_sends_exactly_what_was_not_announced_in_a_new_epoch(pair):
    await pair.fold(1)
    epoch = pair.progress("redis")[-1]["epoch"]
    for sequence in (2, 3):
        await pair.fold(sequence, "postgres")
    pair.now += SILENT_SECONDS
    await pair.fold(4, "postgres")
    assert pair.changes("postgres") == ["change.2", "change.3", "change.4"]
    [progress] = pair.progress("postgres")
    assert (progress["folded"], progress["sent"], progress["unsent"]) == (4, 3, 0)
    assert progress["epoch"] > epoch


async def test_it_steps_back_when_one_before_it_has_caught_up(pair):
    pair.now += SILENT_SECONDS
    await pair.fold(1, "postgres")
    pair.start("redis").catch_up_to(1)
    await pair.fold(1, "redis")
    await pair.fold(2)
    assert pair.changes("postgres") == ["change.1"]
    assert pair.changes("redis")[-1] == "change.2"


async def test_one_that_resyncs_does_not_announce_before_it_has_caught_up(pair):
    end = 3 * BEHIND_EVENTS_MAX
    pair.now += SILENT_SECONDS
    await pair.fold(end, "postgres")
    pair.start("redis").catch_up_to(end)
    for sequence in range(BEHIND_EVENTS_MAX // 2, end, BEHIND_EVENTS_MAX // 2):
        pair.now += 1
        await pair.fold(sequence, "redis")
        await pair.announcers["postgres"].send_progress(end)
    assert pair.changes("redis") == []
    await pair.fold(end, "redis")
    assert pair.progress("redis")[-1]["folded"] == end


async def test_one_that_was_stopped_for_a_while_begins_a_new_epoch(pair):
    await pair.fold(1)
    pair.now += SILENT_SECONDS
    await pair.fold(2, "postgres")
    await pair.fold(2, "redis")
    await pair.fold(3)
    assert pair.progress("redis")[-1]["epoch"] >= pair.progress("postgres")[-1]["epoch"]
    assert pair.changes("postgres") == ["change.2"]
    assert pair.changes("redis")[-1] == "change.3"


async def test_what_is_kept_is_bounded_in_bytes(pair, monkeypatch):
    monkeypatch.setattr(announcer_module, "KEPT_BYTES_MAX", 4)
    for sequence in range(1, 10):
        await pair.fold(sequence, "postgres")
    pair.now += SILENT_SECONDS
    await pair.announcers["postgres"].send_progress(9)
    assert pair.changes("postgres") == ["change.8", "change.9"]


async def test_what_is_not_progress_of_another_store_is_ignored(pair):
    await pair.fold(1)
    standby = pair.announcers["postgres"]
    for body in (b"", b"[]", b'{"store":1}', b'{"store":"x","folded":9,"epoch":"z","shard":"0-63"}'):
        standby.hear("refold.progress", body)
    standby.hear("refold.progress", b'{"store":"redis","folded":9,"epoch":"z","shard":"z"}')
    pair.now += SILENT_SECONDS
    await pair.fold(2, "postgres")
    assert pair.changes("postgres") == ["change.2"]

"""What a connection is sent: first, later, when it returns, and when it ends."""

from __future__ import annotations

import asyncio
import tracemalloc
from contextlib import nullcontext
from typing import Any, NoReturn

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import Message, Receive, Scope, Send

from refold.core.errors import Refused
from refold.gateway.inflight import InFlight, InFlightLimits, Waiters, deadline_in, waiting
from refold.live import Frame, LiveFull, Mailbox, Mode, documents
from refold.live.watched import Change
from refold.store import Key
from support.streams import KEY, LOG, MemoryFeed, Reader, asked, live_of


def put(value: Any, path: str = "/n") -> list[Any]:
    return [{"op": "add", "path": path, "value": value}]


async def turns() -> None:
    """Let all passes run."""
    for _ in range(10):
        await asyncio.sleep(0)


def shown(reader: Reader) -> list[tuple[str, int]]:
    return [(message["kind"], message["version"]) for message in reader.messages]


async def test_a_subscriber_gets_a_snapshot_then_each_change_as_it_was_announced() -> None:
    feed = MemoryFeed()
    live, reader = live_of(feed), Reader()
    feed.publish(put(1))
    await live.open([asked()], reader)
    change = feed.publish(put(2), actor="ann", meta={"by": 1})
    await turns()
    assert shown(reader) == [("snapshot", 1), ("change", 2)]
    assert reader.messages[1] == {"kind": "change", **change.fields()}
    assert reader.cursors == [f"{LOG}-1", f"{LOG}-2"]


async def test_a_document_that_never_existed_is_absent_until_it_does() -> None:
    feed = MemoryFeed()
    live, reader = live_of(feed), Reader()
    await live.open([asked()], reader)
    feed.publish(put(1))
    await turns()
    assert reader.messages[0]["absent"] is True
    assert reader.value == {"n": 1}


async def test_a_slow_subscriber_gets_one_message_for_all_that_it_missed() -> None:
    feed = MemoryFeed()
    live, reader = live_of(feed), Reader()
    feed.publish([{"op": "add", "path": "/text", "value": "x" * 500}])
    await live.open([asked()], reader)
    reader.set_open(False)
    feed.publish(put(0))
    await turns()
    for number in range(1, 101):
        feed.publish(put(number))
        await turns()
    reader.set_open(True)
    assert shown(reader) == [("snapshot", 1), ("change", 2), ("change", 102)]
    assert reader.messages[2]["merged"] == 100
    assert reader.messages[2]["patch"] == put(100)


async def test_who_wants_each_change_gets_each_from_any_age() -> None:
    feed = MemoryFeed()
    live, reader = live_of(feed), Reader(version=10)
    for number in range(3_000):
        feed.publish(put(number))
    await live.open([asked(after=10, is_merged=False)], reader)
    while len(reader.messages) < 2_990:
        await turns()
    assert shown(reader) == [("change", version) for version in range(11, 3_001)]


@pytest.mark.parametrize("after", [5, 8, 9])
async def test_a_subscriber_returns_to_where_it_was(after: int) -> None:
    feed = MemoryFeed()
    live, reader = live_of(feed), Reader(version=after)
    for number in range(9):
        feed.publish(put(number))
    await live.open([asked(is_native=True)], reader, cursor=f"{LOG}-{after}", is_reconnect=True)
    await turns()
    assert shown(reader) == [("change", version) for version in range(after + 1, 10)]


@pytest.mark.parametrize("cursor", ["deadbeef-3", f"{LOG}-99", "nonsense"])
async def test_a_cursor_that_means_nothing_here_gets_a_snapshot(cursor: str) -> None:
    feed = MemoryFeed()
    live, reader = live_of(feed), Reader()
    for number in range(9):
        feed.publish(put(number))
    await live.open([asked()], reader, cursor=cursor, is_reconnect=True)
    assert shown(reader) == [("snapshot", 9)]
    assert reader.messages[0]["why"] == "log"


async def test_a_version_that_another_gateway_sent_is_waited_for() -> None:
    feed = MemoryFeed()
    live, reader, first = live_of(feed), Reader(version=2), Reader()
    feed.publish(put(1))
    await live.open([asked()], first)
    feed.is_late = True
    feed.publish(put(2))
    opening = asyncio.create_task(live.open([asked()], reader, cursor=f"{LOG}-2", is_reconnect=True))
    await turns()
    assert not opening.done()
    feed.deliver()
    await opening
    assert reader.messages == []
    feed.publish(put(3))
    feed.deliver()
    await turns()
    assert shown(reader) == [("change", 3)]


async def test_a_sequence_that_the_log_does_not_have_gets_a_snapshot() -> None:
    feed = MemoryFeed()
    live, reader = live_of(feed), Reader()
    feed.publish(put(1))
    await live.open([asked()], reader, cursor=f"{LOG}@99", is_reconnect=True)
    assert reader.messages[0]["why"] == "log"


async def test_each_change_with_an_interval_comes_from_history_too() -> None:
    feed = MemoryFeed()
    live, reader = live_of(feed), Reader(version=0)
    for number in range(3_000):
        feed.publish(put(number))
    await live.open([asked(after=0, is_merged=False, interval=60_000)], reader)
    while len(reader.messages) < 3_000:
        await turns()
    assert reader.version == 3_000


async def test_a_stream_holds_the_history_of_one_subscription_at_a_time() -> None:
    feed = MemoryFeed()
    live, reader = live_of(feed), Reader(None)
    keys = [("acme", f"order-{number}") for number in range(3)]
    for key in keys:
        for number in range(2_500):
            feed.publish(put(number), key)
    wanted = [asked(document=document, after=0, is_merged=False) for _, document in keys]
    reader.set_open(False)
    reader.is_ready = False
    stream = await live.open(wanted, reader)
    most = 0
    while len(reader.messages) < 7_500:
        await turns()
        most = max(most, sum(entry.replay is not None for entry in stream.entries[1:]))
        reader.set_open(True)
        reader.set_open(False)
    assert most <= 1 + len(keys), "those that are read while the stream is opened, and one"
    versions = [message["version"] for message in reader.messages if message["document"] == "order-2"]
    assert versions == list(range(1, 2_501))


async def test_several_subscriptions_have_no_cursor_before_all_have_begun() -> None:
    feed = MemoryFeed()
    live, reader = live_of(feed), Reader(None)
    feed.publish(put(1))
    feed.publish(put(1), ("acme", "order-2"))
    await live.open([asked(), asked(document="order-2")], reader)
    assert [message["kind"] for message in reader.messages] == ["snapshot", "snapshot"]
    assert reader.cursors == [f"{LOG}@2"]


async def test_a_document_that_has_grown_is_counted_again() -> None:
    feed = MemoryFeed()
    document = await feed.watch(KEY)
    feed.publish([{"op": "add", "path": "", "value": {"text": "x" * 100_000}}])
    assert document.count() > 100_000
    feed.publish([{"op": "replace", "path": "", "value": {}}])
    feed.publish([{"op": "replace", "path": "", "value": {"text": "x" * 200_000}}])
    feed.publish([{"op": "replace", "path": "", "value": {}}])
    assert document.count() == 2


async def test_a_subscriber_that_fails_does_not_stop_the_others(capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(Reader):
        def send(self, frame: Frame, cursor: str) -> None:
            if self.messages:
                raise OSError("a defect")
            super().send(frame, cursor)

    feed = MemoryFeed()
    live, broken, reader = live_of(feed), Broken(), Reader()
    feed.publish(put(1))
    await live.open([asked()], broken)
    await live.open([asked()], reader)
    for number in range(3):
        feed.publish(put(number))
        await turns()
    assert reader.version == 4
    assert broken.is_ended
    assert "live_stream_crashed" in capfd.readouterr().out


async def test_a_stream_whose_load_crashes_ends(capfd: pytest.CaptureFixture[str]) -> None:
    async def fail(_: int) -> NoReturn:
        raise LookupError

    live, reader = live_of(MemoryFeed()), Reader()
    stream = await live.open([asked()], reader)
    stream.entries[0].load = fail
    stream.load(stream.entries[0])
    await turns()
    assert reader.is_ended
    assert "live_stream_crashed" in capfd.readouterr().out


async def test_a_bad_cursor_is_refused_on_a_first_connect() -> None:
    with pytest.raises(Refused, match="a cursor is the id"):
        await live_of(MemoryFeed()).open([asked()], Reader(), cursor="nonsense")


async def test_a_cursor_of_several_subscriptions_is_never_beyond_what_was_sent() -> None:
    feed = MemoryFeed()
    live, reader, again = live_of(feed), Reader(None), Reader(None)
    other = ("acme", "order-2")
    feed.publish(put(1))
    feed.publish(put(1), other)
    both = [asked(), asked(document="order-2")]
    stream = await live.open(both, reader)
    reader.set_open(False)
    feed.publish(put(2))
    feed.publish(put(2), other)
    feed.publish(put(3))
    await turns()
    # One more was taken before the reader was found closed; where it stops, it returns.
    stream.close()
    await live.open(both, again, cursor=reader.cursors[-1], is_reconnect=True)
    await turns()
    got = {
        (it["document"], it["version"]) for it in reader.messages + again.messages if it["kind"] != "alive"
    }
    assert {("order-1", 3), ("order-2", 2)} <= got
    assert again.cursors[-1] == f"{LOG}@5"


async def test_an_interval_bounds_how_often_a_subscriber_is_sent_something() -> None:
    feed = MemoryFeed()
    live, reader = live_of(feed), Reader()
    feed.publish(put(0))
    await live.open([asked(interval=30)], reader)
    for number in range(1, 20):
        feed.publish(put(number))
        await turns()
    assert len(reader.messages) <= 2
    async with asyncio.timeout(5):
        while reader.version != 20:  # noqa: ASYNC110 - a timer of the loop sends it
            await asyncio.sleep(0.005)
    assert reader.value == {"n": 19}


async def test_a_sign_of_life_moves_the_cursor_past_what_did_not_concern_the_query() -> None:
    feed = MemoryFeed()
    live, reader = live_of(feed), Reader()
    feed.publish(put(1))
    stream = await live.open([asked(path="/other")], reader)
    feed.publish(put(2))
    await turns()
    stream.alive()
    assert [message["kind"] for message in reader.messages] == ["snapshot", "alive"]
    assert reader.cursors[-1] == f"{LOG}-2"


async def test_a_shutdown_ends_every_stream_with_a_bye() -> None:
    feed = MemoryFeed()
    live, readers = live_of(feed), [Reader(), Reader()]
    for reader in readers:
        await live.open([asked()], reader)
    live.shut_down()
    for reader in readers:
        assert reader.is_ended
        assert reader.messages[-1]["kind"] == "bye"
        assert reader.messages[-1]["reason"] == "shutdown"
    assert not feed.documents


async def test_a_pattern_that_grows_too_wide_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("refold.live.values.MATCHES_MAX", 2)
    feed = MemoryFeed()
    live, reader = live_of(feed), Reader()
    feed.publish([{"op": "add", "path": "", "value": {"a": 1, "b": 2}}])
    await live.open([asked(path="/*", mode=Mode.values)], reader)
    feed.publish(put(3))
    await turns()
    assert [message["kind"] for message in reader.messages] == ["snapshot", "error", "bye"]
    assert reader.messages[1]["code"] == "pattern_too_wide"
    with pytest.raises(Refused, match="at most 2 values"):
        await live.open([asked(path="/*", mode=Mode.values)], Reader())
    assert not feed.documents


async def test_a_mailbox_gets_the_next_message_when_the_last_is_taken() -> None:
    feed = MemoryFeed()
    live, mailbox = live_of(feed), Mailbox()
    feed.publish(put(1))
    await live.open([asked()], mailbox)
    feed.publish(put(2))
    feed.publish(put(3))
    await turns()
    first, second = await mailbox.next(), await mailbox.next()
    assert first is not None
    assert second is not None
    assert (first[0].kind, second[0].kind) == ("snapshot", "change")
    assert (first[1], second[1]) == (f"{LOG}-1", f"{LOG}-3")
    live.shut_down()
    last = await mailbox.next()
    assert last is not None
    assert last[0].kind == "bye"
    assert await mailbox.next() is None


async def test_values_take_memory_by_their_size_however_many_patterns_match_them() -> None:
    feed, patterns, members = MemoryFeed(), 16, 1_000
    live, reader = live_of(feed), Reader(version=None)
    feed.publish([{"op": "add", "path": "", "value": {f"m{number}": number for number in range(members)}}])
    tracemalloc.start()
    try:
        await live.open(
            [asked(path="/*", depth=depth, mode=Mode.values) for depth in range(patterns)], reader
        )
        taken_bytes = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert taken_bytes / patterns / members < 1_024


async def test_values_that_patterns_match_count_as_what_may_be_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    feed, wide = MemoryFeed(), {f"m{number}": number for number in range(100)}
    live = live_of(feed)
    feed.publish([{"op": "add", "path": "", "value": wide}])
    monkeypatch.setattr(documents, "STATES_BYTES_MAX", 100_000)
    subscriptions = [asked(path="/*", depth=depth, mode=Mode.values) for depth in range(9)]
    with pytest.raises(LiveFull):
        await live.open(subscriptions, Reader(None))
    stream = await live.open(subscriptions[:3], Reader(None))
    stream.close()
    assert not any(feed.counts.values())


@pytest.mark.parametrize("is_poll", [False, True])
async def test_a_request_that_leaves_takes_nothing_from_others_that_wait_for_the_same_changes(
    *, is_poll: bool
) -> None:
    feed, in_flight, has_left = MemoryFeed(), InFlight(InFlightLimits(), CollectorRegistry()), asyncio.Event()
    for number in range(3):
        feed.publish(put(number))
    commits: Waiters[int] = Waiters()
    read = feed.past_changes

    async def past_changes(key: Key, after: int, limit: int) -> list[Change]:
        assert await commits.wait(3, deadline_in(10))
        return await read(key, after, limit)

    feed.past_changes = past_changes  # type: ignore[method-assign]
    live, readers = live_of(feed), [Reader(1), Reader(1)]

    async def serve(scope: Scope, _: Receive, send: Send) -> None:
        async with waiting() if is_poll else nullcontext():
            await live.open([asked(after=1, is_merged=False)], readers[scope["reader"]])
        await send({"type": "http.response.start", "status": 200})

    async def leave() -> Message:
        await has_left.wait()
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/live/v1", "client": None}
    requests = [
        asyncio.create_task(in_flight.serve(serve, {**scope, "reader": number}, receive, send))
        for number, receive in enumerate((leave, asyncio.Event().wait))
    ]
    await turns()
    has_left.set()
    await turns()
    commits.wake(lambda _: True)
    await asyncio.gather(*requests)
    await turns()
    assert shown(readers[1]) == [("change", 2), ("change", 3)]
    assert (in_flight.working_count, in_flight.waiting_count) == (0, 0)

"""`watch` yields each version once and in order, whatever the network does to the messages."""

import asyncio
import json
import random
from contextlib import aclosing
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.client import (
    LogDiffers,
    Refold,
    Refused,
    ServiceUnavailable,
    apply_patch,
    link,
    sync,
)
from refold.client.watch import DocumentView
from support.extended import accepted_patches, apply
from support.json_values import containers, copied
from support.scripted import (
    chunk,
    event,
    json_answer,
    never,
    problem,
    scripted_server,
    stream,
    then_wait,
)

NOW = "2026-01-02T03:04:05.000000006Z"
DEADLINE_SECONDS = 60.0
RETRY = b"retry: 1000\n\n"


def about(version):
    return {"namespace": "acme", "document": "d", "version": version, "sequence": version, "recorded_at": NOW}


def snapshot(version, why="first", **members):
    return {"kind": "snapshot", **about(version), "why": why, **members}


def change(version, *patch, **members):
    return {"kind": "change", **about(version), "patch": [*patch], **members}


def replace(path, value):
    return {"op": "replace", "path": path, "value": value}


def at(version):
    return f"0a1b2c3d-{version}"


def events(*messages):
    """Return messages as a stream whose cursors are their versions."""
    return stream(RETRY, *(event(it, at(it["version"])) for it in messages))


def read_at(version, state, status=b"200 OK"):
    body = json.dumps(state).encode()
    headers = b"Refold-Version: %d\r\nRefold-Sequence: %d\r\nContent-Length: %d" % (
        version,
        version,
        len(body),
    )
    return b"HTTP/1.1 " + status + b"\r\n" + headers + b"\r\n\r\n" + body


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(link, "PAUSE_SECONDS_MIN", 0.0)
    monkeypatch.setattr(link, "PAUSE_SECONDS_MAX", 0.0)


@pytest.fixture
async def server():
    async with scripted_server() as made:
        yield made


@pytest.fixture
async def refold(server):
    async with Refold(server.url, timeout_seconds=20.0) as client:
        yield client


async def taken(updates, count):
    """Return so many updates, and close the iterator."""
    async with aclosing(updates), asyncio.timeout(DEADLINE_SECONDS):
        return [await anext(updates) for _ in range(count)]


async def test_a_document_is_its_state_then_each_change_with_what_it_made(server, refold):
    author = {"type": "order.paid", "actor": "ann", "id": "p-7", "meta": {"till": 3}}
    server.add(then_wait(events(snapshot(3, state={"total": 1}), change(4, replace("/total", 2), **author))))
    first, second = await taken(refold.watch("acme", "d"), 2)
    assert (first.version, first.state, first.patch, first.cursor) == (3, {"total": 1}, [], at(3))
    assert (second.version, second.state, second.patch) == (4, {"total": 2}, [replace("/total", 2)])
    assert {name: getattr(second, name) for name in author} == author
    assert first.state == {"total": 1}
    (asked,) = server.asked
    assert (asked.path, asked.query) == ("/v1/acme/d/live", {"ops": "native"})


async def test_options_are_the_fields_of_the_subscription(server, refold):
    server.add(*[then_wait(events(snapshot(0, absent=True)))] * 2)
    await taken(refold.watch("acme", "a/b", path="/x", depth=1, interval=0.25, merge=False), 1)
    expected = {"path": "/x", "depth": "1", "interval": "250", "merge": "false", "ops": "native"}
    assert (server.asked[0].path, server.asked[0].query) == ("/v1/acme/a%2Fb/live", expected)
    with pytest.raises(TypeError, match="did you mean path"):
        refold.watch("acme", "d", paht="/x")
    with pytest.raises(Refused, match="cursor of an update"):
        refold.watch("acme", "d", after="yesterday")
    with pytest.raises(Refused, match="merge=False has each change"):
        refold.watch("acme", "d", mode="changes")
    with pytest.raises(Refused, match="all that match"):
        refold.watch("acme", "d", path="/users/*/at", after=3)


async def test_a_document_that_ends_and_begins_again(server, refold):
    made = {"op": "add", "path": "", "value": {"a": 1}}
    removed = {"op": "remove", "path": ""}
    messages = (
        snapshot(0, absent=True),
        change(1, made),
        change(2, removed),
        change(3, {**made, "path": "/b"}),
    )
    server.add(then_wait(events(*messages)))
    found = [(it.is_absent, it.state) for it in await taken(refold.watch("acme", "d"), 4)]
    assert found == [(True, None), (False, {"a": 1}), (True, None), (False, {"b": {"a": 1}})]


async def test_a_pattern_has_all_values_and_those_that_changed(server, refold):
    first = snapshot(3, path="/*/at", values={"/a/at": 1, "/b/at": 2})
    second = {**change(5), "kind": "values", "values": {"/c/at": 3}, "gone": ["/a/at"], "after": 3}
    third = snapshot(9, "gap", path="/*/at", values={"/c/at": 3.0})
    server.add(then_wait(events(first, second, third)))
    found = await taken(refold.watch("acme", "d", path="/*/at"), 3)
    assert [it.state for it in found] == [{"/a/at": 1, "/b/at": 2}, {"/b/at": 2, "/c/at": 3}, {"/c/at": 3.0}]
    assert [it.values for it in found] == [{"/a/at": 1, "/b/at": 2}, {"/c/at": 3}, {"/c/at": 3.0}]
    assert [it.gone for it in found] == [(), ("/a/at",), ("/b/at",)]
    assert server.asked[0].query == {"path": "/*/at"}


async def test_a_watch_after_a_version_begins_with_the_state_there(server, refold):
    for after in (2, at(2)):
        server.asked.clear()
        server.add(read_at(2, {"n": 2}), then_wait(events(change(3, replace("/n", 3)))))
        (update,) = await taken(refold.watch("acme", "d", after=after), 1)
        assert (update.version, update.state) == (3, {"n": 3})
        read, watched = server.asked
        assert (read.path, read.query["version"]) == ("/v1/acme/d", "2")
        sent = watched.query.get("after"), watched.headers.get("last-event-id")
        assert sent == (("2", None) if after == 2 else (None, at(2)))


@pytest.mark.parametrize("code", ["document_absent", "path_absent"])
async def test_a_watch_after_a_version_without_a_value_begins_absent(server, refold, code):
    made = change(3, {"op": "add", "path": "", "value": 1})
    server.add(problem(404, code), then_wait(events(made)))
    (update,) = await taken(refold.watch("acme", "d", path="/n", after=2), 1)
    assert (update.version, update.state, update.patch) == (3, 1, made["patch"])


async def test_a_watch_after_a_version_that_never_was_begins_with_the_state_now(server, refold):
    server.add(problem(404, "version_unknown"), then_wait(events(snapshot(1, state=1))))
    (update,) = await taken(refold.watch("acme", "d", after=7), 1)
    assert (update.version, update.state, "after" in server.asked[1].query) == (1, 1, False)


async def test_a_snapshot_after_a_gap_is_an_update_like_others(server, refold):
    server.add(events(snapshot(3, state={"a": 1, "b": 2})))
    server.add(then_wait(events(snapshot(3, state=0), snapshot(9, "gap", state={"a": 1, "b": 3}))))
    _, second = await taken(refold.watch("acme", "d"), 2)
    assert (second.version, second.state, second.patch) == (9, {"a": 1, "b": 3}, [replace("/b", 3)])
    assert server.asked[1].headers["last-event-id"] == at(3)


async def test_an_older_copy_of_the_log_is_followed_down(server, refold):
    server.add(
        events(snapshot(9, state=9)),
        then_wait(events(snapshot(9, "log", state=9), snapshot(2, "log", state=2))),
    )
    found = await taken(refold.watch("acme", "d"), 2)
    assert [(it.version, it.state) for it in found] == [(9, 9), (2, 2)]


async def test_a_change_that_does_not_apply_begins_with_a_snapshot(server, refold):
    server.add(
        events(snapshot(1, state={}), change(2, replace("/n", 1))),
        then_wait(events(snapshot(2, state={"n": 1}))),
    )
    found = await taken(refold.watch("acme", "d"), 2)
    assert [it.state for it in found] == [{}, {"n": 1}]
    assert "last-event-id" not in server.asked[1].headers


async def test_a_quiet_path_resumes_where_the_last_alive_was(server, refold):
    alive = event({"kind": "alive", "sequence": 9, "behind_seconds": 0}, at(12))
    server.add(stream(event(snapshot(9, state=1), at(9)), alive))
    server.add(then_wait(events(change(15, replace("", 2), after=12), change(17, replace("", 3), after=15))))
    found = await taken(refold.watch("acme", "d", path="/n"), 3)
    assert [it.state for it in found] == [1, 2, 3]
    assert server.asked[1].headers["last-event-id"] == at(12)


async def test_changes_of_a_namespace_come_once_and_continue_at_their_cursor(server, refold):
    ready = event({"kind": "ready", "namespace": "acme", "sequence": 7}, "0a1b2c3d@7")
    one = change(4, replace("", 1), sequence=8)
    other = {**change(4, replace("", 2), sequence=9), "document": "e"}
    server.add(stream(ready, event(one, "0a1b2c3d@8"), event(other, "0a1b2c3d@8")))
    server.add(then_wait(stream(event(other, "0a1b2c3d@9"), event(change(5, sequence=10), "0a1b2c3d@10"))))
    found = await taken(refold.watch("acme", mode="changes", type="order.*", after=7), 3)
    assert [(it.document, it.version) for it in found] == [("d", 4), ("e", 4), ("d", 5)]
    assert (found[0].patch, found[0].cursor) == ([replace("", 1)], "0a1b2c3d@8")
    subs = [json.loads(asked.query["sub"]) for asked in server.asked]
    fields = {"namespace": "acme", "mode": "changes", "type": "order.*"}
    assert subs == [{**fields, "after": 7}, fields]
    assert server.asked[1].headers["last-event-id"] == "0a1b2c3d@8"


async def test_heads_of_a_namespace_whose_log_is_another_end_with_an_error(server, refold):
    head = {**change(4), "kind": "head"}
    reset = event({"kind": "reset", "namespace": "acme", "sequence": 3}, "ffffffff@3")
    server.add(then_wait(stream(event(head, "0a1b2c3d@8"), reset)))
    updates = refold.watch("acme", prefix="d")
    assert (await anext(updates)).version == 4
    with pytest.raises(LogDiffers):
        await anext(updates)


async def test_a_watch_that_begins_after_the_end_of_the_log_names_it(server, refold):
    server.add(stream(event({"kind": "reset", "namespace": "acme", "sequence": 3}, "ffffffff@3")))
    with pytest.raises(Refused, match="after: the log ends at 3") as refused:
        await anext(refold.watch("acme", after=9))
    assert refused.value.reason == "sequence_in_future"


@pytest.mark.parametrize("options", [{"path": "/a"}, {"depth": 1}, {"prefix": "a"}, {"type": "t"}])
def test_an_option_of_the_other_kind_of_watch_is_refused(refold, options):
    document = None if options.keys() & {"path", "depth"} else "d"
    with pytest.raises(Refused, match=f"{min(options)}: only of a"):
        refold.watch("acme", document, **options)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413])
async def test_what_refuses_for_good_is_an_error(server, refold, status):
    server.add(problem(status, "no"))
    with pytest.raises(Refused) as refused:
        await anext(refold.watch("acme", "d"))
    assert refused.value.reason == "no"


async def test_a_refusal_within_a_stream_is_an_error(server, refold):
    server.add(then_wait(stream(event({"kind": "error", "code": "pattern_too_wide", "detail": "wide"}))))
    with pytest.raises(Refused, match="wide") as refused:
        await anext(refold.watch("acme", "d", path="/*"))
    assert refused.value.reason == "pattern_too_wide"


async def test_what_passes_is_waited_for(server, refold):
    bye = event({"kind": "bye", "reason": "shutdown", "retry_seconds": 0}, at(1))
    server.add(problem(503, "full"), problem(429, "busy"), stream(event(snapshot(1, state=1), at(1)), bye))
    server.add(
        b"garbage\r\n\r\n", stream(b"data: no message\n\n"), then_wait(events(change(2, replace("", 2))))
    )
    found = await taken(refold.watch("acme", "d"), 2)
    assert [it.state for it in found] == [1, 2]
    assert [it.headers.get("last-event-id") for it in server.asked] == [None, None, None, at(1), at(1), at(1)]


async def test_the_service_says_how_long_a_stream_waits_at_least(server, refold, monkeypatch):
    slept = []

    async def sleep(_, seconds):
        slept.append(seconds)

    monkeypatch.setattr(link.Link, "_sleep", sleep)
    busy = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
    server.add(busy, then_wait(events(snapshot(1, state=1))))
    await taken(refold.watch("acme", "d"), 1)
    assert slept == [7.0]


async def test_a_service_that_was_never_reached_is_an_error(unused_tcp_port):
    async with Refold(f"http://127.0.0.1:{unused_tcp_port}") as client:
        with pytest.raises(ServiceUnavailable):
            await anext(client.watch("acme", "d"))


async def test_where_streams_are_buffered_or_cut_messages_are_polled_for(server, refold, monkeypatch):
    monkeypatch.setattr(link, "FIRST_SECONDS", 0.05)
    polls = [
        json_answer({"messages": [snapshot(1, state=1), change(2, replace("", 2))], "cursor": at(2)}),
        json_answer({"messages": [change(3, replace("", 3))], "cursor": at(3)}),
    ]
    for streams in ([never], [then_wait(stream())], [stream(RETRY)] * link.SHORT_STREAMS_MAX):
        server.asked.clear()
        server.scripts.clear()
        server.add(*streams, *polls)
        found = await taken(refold.watch("acme", "d"), 3)
        assert [it.state for it in found] == [1, 2, 3]
        asked = server.asked[len(streams) :]
        assert [it.headers["accept"] for it in asked] == ["application/json"] * 2
        assert [it.query["wait"] for it in asked] == ["10.0"] * 2
        assert [it.headers.get("last-event-id") for it in asked] == [None, at(2)]


async def test_after_a_time_of_polling_streams_are_tried_again(server, refold, monkeypatch):
    monkeypatch.setattr(link, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(link, "POLLING_SECONDS", 0.001)
    empty = json_answer({"messages": [], "cursor": at(1)})

    async def poll(asked, write):
        is_stream = "event-stream" in asked.headers["accept"]
        await write(events(change(2, replace("", 2))) if is_stream else empty)

    server.add(then_wait(stream()), json_answer({"messages": [snapshot(1, state=1)], "cursor": at(1)}))
    server.otherwise = poll
    found = await taken(refold.watch("acme", "d"), 2)
    assert [it.state for it in found] == [1, 2]


async def test_an_end_of_the_iteration_closes_the_connection_and_leaves_no_task(server, refold):
    async def follow():
        async for _ in refold.watch("acme", "d"):
            pass

    async def leave():
        async for _ in refold.watch("acme", "d"):
            break

    async def cancel():
        task = asyncio.create_task(follow())
        await server.until_asked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def close():
        await taken(refold.watch("acme", "d"), 1)

    for number, way in enumerate((leave, cancel, close), 1):
        server.asked.clear()
        server.add(then_wait(events(snapshot(1, state=1))))
        await way()
        await server.until_closed(number)
    files = [task.get_coro().cr_code.co_filename for task in asyncio.all_tasks()]
    assert not [file for file in files if "/refold/" in file]


@pytest.mark.parametrize("answer", [then_wait(events(snapshot(1, state=1))), problem(503, "full")])
async def test_the_end_of_the_client_ends_the_iteration(server, refold, answer, monkeypatch):
    monkeypatch.setattr(link, "PAUSE_SECONDS_MAX", 3_600.0)
    monkeypatch.setattr(link, "PAUSE_SECONDS_MIN", 3_600.0)
    server.add(answer)
    found = asyncio.create_task(collected(refold.watch("acme", "d")))
    await server.until_asked()
    await refold.close()
    assert len(await asyncio.wait_for(found, DEADLINE_SECONDS)) <= 1


async def collected(updates):
    return [update async for update in updates]


async def test_the_synchronous_client_watches_while_other_threads_use_it(server):
    has_read = asyncio.Event()

    async def stream_until_read(asked, write):
        await write(events(snapshot(1, state=1)))
        await has_read.wait()
        await write(chunk(event(change(2, replace("", 2)), at(2))))
        await never(asked, write)

    server.add(stream_until_read, read_at(1, 1))
    client = sync.Refold(server.url)
    updates = client.watch("acme", "d")
    assert (await asyncio.to_thread(next, updates)).state == 1
    waiting = asyncio.create_task(asyncio.to_thread(next, updates))
    assert (await asyncio.to_thread(client.get, "acme", "d")).state == 1
    has_read.set()
    assert (await waiting).state == 2
    await asyncio.to_thread(updates.close)
    await server.until_closed(1)
    await asyncio.to_thread(client.close)


class FaultyGateway:
    """Sends one document from where the client resumes; every connection ends with a fault, until the last."""

    def __init__(self, seed, count):
        self.random = random.Random(seed)
        self.states, self.patches = [None], [[]]
        for version in range(1, count + 1):
            patch = self.patch(version)
            self.patches.append(patch)
            self.states.append(apply_patch(self.states[-1] or {}, patch))

    def patch(self, version):
        """Return a patch of a state that has an array and an object of arrays."""
        if version % 17 == 1:
            return [{"op": "add", "path": "", "value": {"list": [], "of": {"a": [version]}, "n": 0}}]
        return self.random.choice(
            (
                [
                    {"op": "add", "path": "/list/-", "value": {"version": version}},
                    {"op": "inc", "path": "/n", "inc": 1},
                ],
                [{"op": "add", "path": "/list/0", "value": [version]}],
                [{"op": "add", "path": "/of/a/0", "value": version}],
                [
                    {"op": "move", "from": "/of/a", "path": "/of/b"},
                    {"op": "move", "from": "/of/b", "path": "/of/a"},
                ],
                [{"op": "copy", "from": "/of", "path": "/of/c"}, {"op": "remove", "path": "/of/c"}],
            )
        )

    def messages(self, position, *, is_merged):
        """Return what follows a position: changes, sometimes several as one, sometimes a snapshot."""
        head = len(self.states) - 1
        while position is None or position < head:
            if position is None or (is_merged and self.random.random() < 0.1):
                why, position = ("first", self.random.randint(1, head)) if position is None else ("gap", head)
                yield snapshot(position, why, state=self.states[position])
                continue
            last = min(head, position + (self.random.randint(1, 3) if is_merged else 1))
            patch = [operation for each in self.patches[position + 1 : last + 1] for operation in each]
            several = {"after": position, "merged": last - position} if last > position + 1 else {}
            yield change(last, *patch, **several)
            position = last

    async def answer(self, asked, write):
        cursor = asked.headers.get("last-event-id") or asked.query.get("after")
        position = int(cursor.rpartition("-")[2]) if cursor else None
        messages = [*self.messages(position, is_merged=asked.query.get("merge") != "false")]
        if self.random.random() < 0.3 and len(messages) > 2:
            # Lost, twice, or in another order.
            place = self.random.randrange(1, len(messages) - 1)
            messages[place : place + 1] = [messages[place]] * self.random.choice((0, 2))
        if asked.headers["accept"] == "application/json":
            some = messages[: self.random.randint(1, 5)]
            cursor = at(some[-1]["version"]) if some else cursor
            await write(json_answer({"messages": some, "cursor": cursor}))
            return
        sent = events(*messages[: self.random.randint(1, 20)])
        cut = self.random.randrange(len(sent))
        for start in range(0, cut, 1_000):
            await write(sent[start : min(cut, start + 1_000)])


@pytest.mark.parametrize("is_merged", [False, True])
@pytest.mark.parametrize("seed", range(10))
async def test_each_version_comes_once_and_in_order_over_any_network(
    server, refold, monkeypatch, seed, is_merged
):
    monkeypatch.setattr(link, "POLLING_SECONDS", 0.01)
    gateway = FaultyGateway(seed, 60)
    server.otherwise = gateway.answer
    found = []
    async with (
        aclosing(refold.watch("acme", "d", merge=is_merged)) as updates,
        asyncio.timeout(DEADLINE_SECONDS),
    ):
        async for update in updates:
            found.append(update)
            if update.version == 60:
                break
    versions = [update.version for update in found]
    assert versions == sorted(set(versions))
    if not is_merged:
        assert versions == [*range(versions[0], 61)]
    for update in found:
        assert update.state == gateway.states[update.version], update.version
    for before, update in pairwise(found):
        assert apply_patch(before.state, update.patch) == update.state


def test_a_move_changes_no_state_that_was_given_out():
    view = DocumentView()
    view.begin(0, None)
    before = {"a": [{"from": 1}, {}, {"to": {}}], "b": [0]}
    moves = (
        {"op": "move", "from": "/a/0", "path": "/a/1/to/x"},
        {"op": "move", "from": "/b/0", "path": "/a/0/y"},
    )
    first, second = (
        view.take(it, "", at(it["version"] - 1))
        for it in (change(1, {"op": "add", "path": "", "value": before}), change(2, *moves))
    )
    assert first.state == {"a": [{"from": 1}, {}, {"to": {}}], "b": [0]}
    assert second.state == {"a": [{"y": 0}, {"to": {"x": {"from": 1}}}], "b": []}


@given(st.data())
def test_states_that_were_given_out_stay_as_they_are(data):
    state = data.draw(containers())
    view, given_out, expected = DocumentView(), [], []
    view.begin(0, copied(state))
    for version in range(1, 4):
        patch = data.draw(accepted_patches(state))
        state, _, effect = apply(copied(state), copied(patch))
        update = view.take(change(version, *copied(effect or patch)), "", at(version - 1))
        given_out.append(update.state)
        expected.append(copied(state))
        assert update.patch == (effect or patch)
    assert given_out == expected

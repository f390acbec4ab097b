"""Outcomes and changes are sent after the fold; a client that has received one reads nothing older.

A transaction of the test's own holds the projector's commits, so that every order can be seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import asyncpg
import orjson
import pytest

from refold.client import Refold
from refold.embedded.nats import NatsServer
from refold.log import Publication
from refold.log.jetstream import JetStreamNotices
from refold.wiring.servers import connect_to
from support.http import Api, outcome, problem
from support.services import (
    Site,
    append_all,
    folded_to,
    gateway,
    held_commits,
    kill,
    log_of,
    make_site,
    projector,
    store_of,
    until,
)
from support.system import System


@pytest.fixture
async def site(fresh_nats: NatsServer, postgres_dsn: str) -> Site:
    return await make_site(fresh_nats, postgres_dsn)


async def test_a_client_reads_what_it_was_sent_at_another_gateway_and_after_a_restart(site: Site) -> None:
    async with AsyncExitStack() as opened:
        await opened.enter_async_context(projector(site))
        one = await opened.enter_async_context(gateway(site))
        other = await opened.enter_async_context(gateway(site, wait_seconds=60))
        refold = await opened.enter_async_context(Refold(str(one.client.base_url)))
        elsewhere = await opened.enter_async_context(Refold(str(other.client.base_url)))
        async with held_commits(site.dsn):
            # One client, whose next requests go to another gateway.
            elsewhere._note(await refold.put("n", "d", {"n": 1}))
            reads = [
                elsewhere.get("n", "d"),
                collected(elsewhere.list("n", timeout_seconds=60)),
                collected(elsewhere.history("n", "d")),
                elsewhere.diff("n", "d", 0, 1),
                elsewhere.namespaces(),
            ]
            waiting = [asyncio.ensure_future(read) for read in reads]
            done, _ = await asyncio.wait(waiting, timeout=0.5)
            assert not done
            await kill(one.process)
            async with gateway(site, is_ready_awaited=False) as again:
                behind = await again.client.get("/v1/n/d")
                assert (behind.status_code, behind.json()["code"]) == (503, "projection_behind")
        document, listed, history, patch, namespaces = [await each for each in waiting]
    assert (document.version, document.state) == (1, {"n": 1})
    assert [each.id for each in listed] == ["d"]
    assert [each.version for each in history] == [1]
    assert patch == [{"op": "add", "path": "", "value": {"n": 1}}]
    assert [each.documents for each in namespaces if each.name == "n"] == [1]


async def collected(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def test_a_sequence_after_the_end_of_the_log_is_422_and_one_that_is_late_504(
    api: Api, system: System
) -> None:
    written = outcome(await api.put("d", 1), 201)
    last = written["sequence"]
    for path in (
        "d",
        "",
        "d/history",
        "d/diff?from=0&to=1",
        "d/rejections",
        "d/outcomes?id=k",
        f"d/outcomes/{last}",
    ):
        url = f"/v1/{api.namespace}/{path}".rstrip("/")
        ahead = await api.client.get(url, headers={"Refold-Min-Sequence": str(last + 10**6)})
        view = problem(ahead, 422, "sequence_in_future")
        assert view["field"] == "Refold-Min-Sequence"
        bad = await api.client.get(url, headers={"Refold-Min-Sequence": "-1"})
        problem(bad, 422, "bad_parameter")
    async with held_commits(system.postgres_dsn):
        later = outcome(await api.put("other", 1), 201)["sequence"]
        # Partitions are at one sequence.
        late = await api.client.get(
            f"/v1/{api.namespace}?timeout=0.1", headers={"Refold-Min-Sequence": str(later)}
        )
        problem(late, 504, "timed_out")


class Received:
    """The messages of one subject, by their sequence in the log; one that comes again must be the same."""

    def __init__(self) -> None:
        self.bodies: dict[int, bytes] = {}
        self.count = 0

    def hear(self, _: str, body: bytes) -> None:
        """Take a message."""
        self.count += 1
        sequence: int = orjson.loads(body)["sequence"]
        assert self.bodies.setdefault(sequence, body) == body

    async def has(self, count: int) -> bool:
        """Return whether so many came."""
        return self.count >= count


@pytest.fixture
async def received(site: Site) -> AsyncIterator[tuple[Received, Received]]:
    """Subscribe to the outcomes on `_INBOX.me` and to all changes, as an author."""
    client = await connect_to(site.nats.url("author"), "test-author")
    notices, outcomes, changes = JetStreamNotices(client), Received(), Received()
    await notices.listen("_INBOX.me", outcomes.hear)
    await notices.listen("change.n.*", changes.hear)
    await notices.flush()
    yield outcomes, changes
    await client.close()


async def test_reads_wait_for_the_commit_of_what_was_answered(api: Api, system: System) -> None:
    assert (await api.put("old", {"n": 1}, Idempotency_Key="k")).status_code == 201
    async with held_commits(system.postgres_dsn):
        # The first commit after a pause begins at once; what follows waits for it in memory.
        answers = await asyncio.gather(
            api.put("new", {"n": 1}),
            api.merge("old", {"n": 2}),
            api.put("old", {"n": 1}, Idempotency_Key="k"),
            api.patch("other", {"op": "test", "path": "/n", "value": 9}),
        )
        assert [answer.status_code for answer in answers] == [201, 200, 201, 409]
        views = [answer.json().get("outcome", answer.json()) for answer in answers]
        # A state that this gateway put is exact without the store.
        assert (await api.get("new")).json() == {"n": 1}
        paths = ["old", "new/history", "old?version=2", "old/diff?from=1&to=2", "other/rejections", ""]
        paths += [f"{view['document']}/outcomes/{view['sequence']}" for view in views]
        reading = [
            asyncio.create_task(api.client.get(f"/v1/{api.namespace}/{path}".rstrip("/"))) for path in paths
        ]
        reading.append(asyncio.create_task(api.client.get("/v1")))
        reading.append(asyncio.create_task(api.client.get(f"/v1/_rejections?namespace={api.namespace}")))
        done, _ = await asyncio.wait(reading, timeout=0.5)
        assert not done
    head, history, second, diff, rejections, listed, *rest = [await task for task in reading]
    outcomes, counts, all_rejections = rest[:4], rest[4], rest[5]
    assert head.json() == {"n": 2}
    assert [item["version"] for item in history.json()["items"]] == [1]
    assert second.json() == {"n": 2}
    assert diff.json() == [{"op": "replace", "path": "/n", "value": 2}]
    assert [item["sequence"] for item in rejections.json()["items"]] == [views[3]["sequence"]]
    assert [item["id"] for item in listed.json()["items"]] == ["new", "old"]
    assert [answer.json() for answer in outcomes] == views
    assert {"namespace": api.namespace, "documents": 2, "events": 5} in counts.json()["items"]
    assert len(all_rejections.json()["items"]) == 1


async def test_a_read_whose_commit_does_not_come_is_504(api: Api, system: System) -> None:
    await api.put("other", 1)
    assert (await api.get("other", version=1)).json() == 1
    async with held_commits(system.postgres_dsn):
        written = outcome(await api.put("d", 1), 201)
        view = problem(await api.get("", timeout=0.1), 504, "timed_out")
        assert view["sequence"] == written["sequence"] > view["folded_sequence"]
        # What nothing was received about is read as it is.
        assert (await api.get("other", version=1)).json() == 1
    assert (await api.get("d")).json() == 1


async def test_a_delete_of_what_a_held_commit_deletes_publishes_nothing(api: Api, system: System) -> None:
    await api.put("d", 1)
    assert (await api.get("d", version=1)).json() == 1
    async with held_commits(system.postgres_dsn):
        assert (await api.delete("d")).status_code == 200
        again = asyncio.create_task(api.delete("d"))
        done, _ = await asyncio.wait([again], timeout=0.2)
        assert not done
    problem(await again, 404, "document_absent")
    assert await api.events() == 2


async def test_a_state_that_was_put_is_read_at_once_as_it_is_read_after_its_commit(
    api: Api, system: System
) -> None:
    await api.put("d", 0)
    path, answers = f"/v1/{api.namespace}/d", []
    for _ in range(2):
        async with held_commits(system.postgres_dsn):
            written = outcome(
                await api.put("d", {"b": [1.0, None], "a": "é"}, Refold_Occurred_At="2020-01-01T00:00:00Z")
            )
            answers.append(await api.get("d"))
            sequence = {"Refold-Min-Sequence": str(written["sequence"])}
            assert (await api.client.get(path, headers=sequence)).content == answers[-1].content
            assert (
                await api.client.get(path, headers={"If-None-Match": answers[-1].headers["etag"]})
            ).status_code == 304
            # After a change that came in another way it is no longer the head.
            line = orjson.dumps({"doc": "d", "merge": {"c": 1}})
            await api.client.post(
                f"/v1/{api.namespace}/events", content=line, headers={"Content-Type": "application/x-ndjson"}
            )
            later = asyncio.create_task(api.get("d"))
            done, _ = await asyncio.wait([later], timeout=0.1)
            assert not done
        assert (await later).json() == {"b": [1.0, None], "a": "é", "c": 1}
        answers.append(await api.get("d", version=written["version"]))
        first, second = answers[-2:]
        assert first.content == second.content
        assert _state_headers(first) == _state_headers(second)


async def test_a_loop_of_reads_and_writes_needs_no_commit(api: Api, system: System) -> None:
    await api.put("d", 0)
    async with held_commits(system.postgres_dsn):
        for number in range(1, 20):
            await api.put("d", number)
            read = await api.get("d")
            assert read.json() == number
            outcome(await api.put("d", -number, If_Match=read.headers["etag"]))
    assert (await api.get("d")).json() == -19


async def test_a_loop_of_reads_and_changes_needs_no_commit_and_reads_what_is_committed(
    api: Api, system: System
) -> None:
    changes = [
        api.patch(
            "d",
            {"op": "add", "path": "/list/-", "value": {"a": 1.0}},
            {"op": "test", "path": "/n", "value": 0},
        ),
        api.merge("d", {"n": None, "é": {"b": [1], "c": None}, "a": -0.0}),
        api.patch("d", {"op": "copy", "from": "/list/0", "path": "/copied"}),
        api.patch(
            "d", {"op": "move", "from": "/list", "path": "/moved"}, {"op": "remove", "path": "/copied/a"}
        ),
        api.patch("d", {"op": "replace", "path": "/a", "value": 12345678901234567890}),
        api.merge("d", {"é": {"b": None}}),
    ]
    await api.put("d", {"n": 0, "list": []})
    assert (await api.get("d")).json() == {"n": 0, "list": []}
    reads = []
    async with held_commits(system.postgres_dsn):
        for change in changes[:3]:
            assert (await change).status_code == 200
            reads.append(await api.get("d"))
        # Several changes between two reads.
        for change in changes[3:]:
            assert (await change).status_code == 200
        reads.append(await api.get("d"))
        await api.patch("d", {"op": "test", "path": "/n", "value": 9})
        later = asyncio.create_task(api.get("d"))
        done, _ = await asyncio.wait([later], timeout=0.1)
        assert not done
    assert (await later).content == reads[-1].content
    for version, read in zip((2, 3, 4, 7), reads, strict=True):
        committed = await api.get("d", version=version)
        assert read.content == committed.content
        expected = _state_headers(committed)
        assert {name: _state_headers(read)[name] for name in expected} == expected


async def test_strict_writes_follow_each_other_without_a_commit(api: Api, system: System) -> None:
    await api.put("d", 0)
    async with held_commits(system.postgres_dsn):
        for version in range(1, 20):
            written = outcome(await api.put("d", version, If_Match=f'"{version}"'))
            assert written["version"] == version + 1
    assert (await api.get("d")).json() == 19


async def test_sql_waits_for_a_sequence(api: Api, system: System) -> None:
    reading = await asyncpg.connect(system.postgres_dsn)
    try:
        async with held_commits(system.postgres_dsn):
            sequence = outcome(await api.put("d", 1), 201)["sequence"]
            waiting = asyncio.create_task(
                reading.execute("SELECT refold.refold_wait($1::bigint, 60)", sequence)
            )
            done, _ = await asyncio.wait([waiting], timeout=0.2)
            assert not done
        await waiting
        query = "SELECT state::text FROM refold.documents WHERE namespace = $1"
        assert await reading.fetchval(query, api.namespace) == "1"
    finally:
        await reading.close()


async def test_a_write_may_wait_for_the_commit(api: Api, system: System) -> None:
    reading = await asyncpg.connect(system.postgres_dsn)
    query = "SELECT count(*) FROM refold.documents WHERE namespace = $1"
    try:
        outcome(await api.put("d", 1, Refold_Wait="committed"), 201)
        assert await reading.fetchval(query, api.namespace) == 1
        async with held_commits(system.postgres_dsn):
            assert (await api.put("e", 1, Refold_Wait="0.1; committed")).status_code == 202
            [answer] = await api.append([{"doc": "f", "put": 1}], Refold_Wait="0.1; committed")
            assert answer["status"] == "pending"
            waiting = [
                asyncio.create_task(api.put("g", 1, Refold_Wait="60; committed")),
                asyncio.create_task(api.append([{"doc": "h", "put": 1}], Refold_Wait="60; committed")),
            ]
            done, _ = await asyncio.wait(waiting, timeout=0.2)
            assert not done
        assert (await waiting[0]).status_code == 201
        assert [line["status"] for line in await waiting[1]] == ["applied"]
        assert await reading.fetchval(query, api.namespace) == 5
    finally:
        await reading.close()


async def test_outcomes_sent_before_a_kill_are_sent_again_unchanged(
    site: Site, received: tuple[Received, Received]
) -> None:
    outcomes, changes = received
    async with log_of(site) as log, store_of(site) as store:
        async with projector(site) as process:
            await folded_to(store, 1)
            async with held_commits(site.dsn):
                for number in range(30):
                    name, body = (
                        f"d{number % 3}",
                        orjson.dumps({"merge": {"n": number}, "id": f"e{number % 20}"}),
                    )
                    await log.append(
                        Publication(
                            namespace="n", document=name, body=body, headers=(("Refold-Reply", "_INBOX.me"),)
                        )
                    )
                await until(lambda: outcomes.has(30))
                await kill(process)
                await end_held_commit(site.dsn)
        assert (await store.checkpoints())[0].read_sequence == 1
        async with projector(site):
            last = await append_all(log, [("d0", b'{"put":1}')])
            await folded_to(store, last)
        await until(lambda: outcomes.has(60))
        await until(lambda: changes.has(2 * 30 + 1 - 2 * _ineffective(outcomes)))
    by_document: dict[str, list[int]] = {}
    for body in changes.bodies.values():
        change: dict[str, Any] = orjson.loads(body)
        by_document.setdefault(change["document"], []).append(change["version"])
    for versions in by_document.values():
        assert versions == list(range(1, len(versions) + 1))


async def end_held_commit(dsn: str) -> None:
    """End the server's process that would still make the killed projector's last commit."""
    connection = await asyncpg.connect(dsn)
    try:
        held = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        await connection.execute(f"SELECT pg_terminate_backend(pid, 60000) {held}")
        assert await connection.fetchval(f"SELECT count(*) {held}") == 0
    finally:
        await connection.close()


def _ineffective(outcomes: Received) -> int:
    return sum(orjson.loads(body)["status"] in ("rejected", "duplicate") for body in outcomes.bodies.values())


def _state_headers(response):
    """Return the headers that describe the state, and not the request."""
    return {
        name: value
        for name, value in response.headers.items()
        if (name.startswith("refold-") and name != "refold-request-id") or name in {"etag", "content-type"}
    }

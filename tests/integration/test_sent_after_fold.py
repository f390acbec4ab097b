"""Outcomes and changes are sent after the fold; whoever has received one reads nothing older.

A transaction of the test's own holds the projector's commits, so that every order can be seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from refold.embedded.nats import NatsServer
from refold.log import Publication
from refold.log.jetstream import JetStreamNotices
from refold.wiring.log import connect_to
from support.http import Api, outcome, problem
from support.services import (
    Site,
    append_all,
    folded_to,
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
        paths = ["new", "new/history", "old?version=2", "old/diff?from=1&to=2", "other/rejections", ""]
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
    assert head.json() == {"n": 1}
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
    assert (await api.get("other")).json() == 1
    async with held_commits(system.postgres_dsn):
        written = outcome(await api.put("d", 1), 201)
        view = problem(await api.get("", timeout=0.1), 504, "timed_out")
        assert view["sequence"] == written["sequence"] > view["folded_sequence"]
        # What nothing was received about is read as it is.
        assert (await api.get("other")).json() == 1
    assert (await api.get("d")).json() == 1


async def test_a_delete_of_what_a_held_commit_deletes_publishes_nothing(api: Api, system: System) -> None:
    await api.put("d", 1)
    assert (await api.get("d")).json() == 1
    async with held_commits(system.postgres_dsn):
        assert (await api.delete("d")).status_code == 200
        again = asyncio.create_task(api.delete("d"))
        done, _ = await asyncio.wait([again], timeout=0.2)
        assert not done
    problem(await again, 404, "document_absent")
    assert await api.events() == 2


async def test_strict_writes_follow_each_other_without_a_commit(api: Api, system: System) -> None:
    await api.put("d", 0)
    async with held_commits(system.postgres_dsn):
        for version in range(1, 20):
            written = outcome(await api.put("d", version, If_Match=f'"{version}"'))
            assert written["version"] == version + 1
    assert (await api.get("d")).json() == 19


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


def _ineffective(outcomes: Received) -> int:
    return sum(orjson.loads(body)["status"] in ("rejected", "duplicate") for body in outcomes.bodies.values())

"""Stale events of two large documents: the outcomes do not depend on what the projector has in memory."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from refold.audit.rebuild import Listener, rebuild
from refold.audit.verify import Listener as Verifying
from refold.audit.verify import Scope, verify
from refold.core import json_text
from refold.core.document import Status
from refold.embedded.nats import NatsServer
from support.rebuilding import rebuild_parts
from support.services import (
    Site,
    append_all,
    contents,
    folded_to,
    kill,
    log_of,
    make_site,
    projector,
    store_of,
    undisturbed,
)

NAMES = ["a", "b"]
EARLIER = 850
"""Events of each document before the first stale one."""
ROUNDS = 2
EVENTS = 60
"""Stale events of each document in a round."""
IDLE_VERSIONS = 800
CACHE_BYTES = 2**20
"""Less than two of the documents take, each with the changes that are kept of it."""


@pytest.fixture
async def site(fresh_nats: NatsServer, postgres_dsn: str) -> Site:
    return await make_site(fresh_nats, postgres_dsn)


def start() -> dict[str, Any]:
    return {"text": "x" * 60_000, "items": [f"i{n}" for n in range(60)], "m": {}, "n": 0}


def operation(chance: random.Random) -> dict[str, Any]:
    """Return an operation that is possible in every version."""
    place, other = (f"/items/{chance.randrange(20)}" for _ in range(2))
    return chance.choice(
        [
            {"op": "add", "path": place, "value": chance.random()},
            {"op": "add", "path": "/items/-", "value": chance.random()},
            {"op": "replace", "path": place, "value": chance.random()},
            {"op": "remove", "path": place},
            {"op": "move", "from": place, "path": other},
            {"op": "add", "path": f"/m/k{chance.randrange(5)}", "value": chance.random()},
            {"op": "inc", "path": "/n", "inc": 1},
            {"op": "str_ins", "path": "/text", "pos": chance.randrange(50), "str": "ab"},
            {"op": "str_del", "path": "/text", "pos": chance.randrange(50), "len": 2},
        ]
    )


class Authors:
    """Sessions that edit one document: most are a few versions behind, one is idle for long."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        # What the version is at least: an event that may be rejected is not counted.
        self._version = 0

    def first(self) -> list[bytes]:
        """Return events without a base."""
        self._version = EARLIER
        increment = json_text.dumps({"patch": [{"op": "inc", "path": "/n", "inc": 1}]})
        return [json_text.dumps({"put": start()}), *[increment] * (EARLIER - 1)]

    def next(self) -> bytes:
        chance, event = self._chance, {"patch": [operation(self._chance)]}
        chosen = chance.random()
        behind = IDLE_VERSIONS if chosen < 0.05 else chance.randrange(20)
        event["base"] = max(1, self._version - behind)
        event["session"] = "idle" if chosen < 0.05 else f"s{chance.randrange(4)}"
        if chosen > 0.8:
            event["on_conflict"] = chance.choice(["reject", "first_write_wins", "custom:mine"])
        else:
            event["on_conflict"] = chance.choice(["last_write_wins", "merge"])
            self._version += 1
        return json_text.dumps(event)


async def test_a_cache_of_one_document_restarts_and_a_rebuild_do_not_change_what_stale_events_do(
    site: Site,
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    authors = {name: Authors(seed + number) for number, name in enumerate(NAMES)}
    async with log_of(site) as log, store_of(site) as store:
        last = await append_all(log, [(name, event) for name in NAMES for event in authors[name].first()])
        for _ in range(ROUNDS):
            events = [(name, authors[name].next()) for _ in range(EVENTS) for name in NAMES]
            async with projector(site, cache_bytes_max=CACHE_BYTES) as process:
                await folded_to(store, last)
                last = await append_all(log, events)
                await folded_to(store, last - EVENTS)
                await kill(process)
        async with projector(site, cache_bytes_max=CACHE_BYTES):
            await folded_to(store, last)
        found = await contents(store, NAMES)
        assert found == await contents(await undisturbed(site), NAMES)
        counts = Counter((entry.status, entry.reason) for name in NAMES for entry in found[name][1])
        assert counts[Status.merged, ""] > EVENTS // 2
        assert counts[Status.rejected, "conflict"]
        assert counts[Status.rejected, "needs_resolution"]
        assert not counts[Status.rejected, "base_too_old"]
        assert max(head.snapshot.version for head, _ in (found[name] for name in NAMES)) > IDLE_VERSIONS
    async with log_of(site, "projector") as log, store_of(site) as store:
        async with rebuild_parts(log, site.dsn) as parts:
            rebuilt = await rebuild(parts, Listener(difference=print, progress=lambda *_: None))
        assert rebuilt.is_swapped
    async with log_of(site, "projector") as log, store_of(site) as store:
        tally = await verify(log, store, Verifying(difference=print, progress=lambda *_: None), Scope())
        assert (tally.differences, tally.documents) == (0, len(NAMES) + 1)
        assert await contents(store, NAMES) == found

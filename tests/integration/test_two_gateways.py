"""Two gateways under load agree on every version; killing one loses and repeats nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import httpx
import orjson
import pytest

from refold.embedded.nats import NatsServer
from support.services import (
    Gateway,
    Site,
    append_all,
    contents,
    folded_to,
    gateway,
    kill,
    log_of,
    make_site,
    projector,
    store_of,
    undisturbed,
    until,
)

WRITERS = [f"doc-{number}" for number in range(8)]
RACED = "raced"
ROUNDS = 15
BULK = 200
AFTER_KILL = 10


@pytest.fixture
async def site(fresh_nats: NatsServer, postgres_dsn: str) -> Site:
    return await make_site(fresh_nats, postgres_dsn)


@asynccontextmanager
async def two_gateways(site: Site) -> AsyncIterator[tuple[Gateway, Gateway]]:
    """One projector, two gateways."""
    async with projector(site), gateway(site) as one, gateway(site) as other:
        yield one, other


async def _put(
    through: Gateway, name: str, state: Any, event_id: str, *about: tuple[str, str]
) -> httpx.Response:
    headers = {"Idempotency-Key": event_id, **dict(about)}
    return await through.client.put(f"/v1/n/{name}", json=state, headers=headers)


async def test_two_gateways_agree_and_killing_one_under_load_loses_and_repeats_nothing(site: Site) -> None:
    async with two_gateways(site) as (one, other), store_of(site) as store, log_of(site) as log:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_race(one, other))
            tasks.create_task(_read_own_writes(one, other))
            tasks.create_task(_read_a_bulk(one, other))
        kept = await _write_while_one_dies(one, other)
        await folded_to(store, await append_all(log, [(RACED, b'{"put":"last"}')]))
        oracle = await undisturbed(site)
        names = [*WRITERS, RACED, "own", "bulk"]
        assert await contents(store, names) == await contents(oracle, names)
        for name, event_id, view in kept:
            entry = await store.find_id("n", name, event_id)
            assert (entry.sequence, entry.version) == (_first(view)["sequence"], view["version"])


async def _race(one: Gateway, other: Gateway) -> None:
    """Both write strictly to the same version: exactly one creates the next."""
    for version in range(ROUNDS):
        answers = await asyncio.gather(
            *(
                _put(through, RACED, {"by": name}, f"race-{version}-{name}", ("If-Match", f'"{version}"'))
                for name, through in enumerate((one, other, one, other))
            )
        )
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200 if version else 201, 412, 412, 412], [answer.text for answer in answers]
        won = next(answer.json() for answer in answers if answer.status_code != 412)
        assert won["version"] == version + 1


async def _read_own_writes(one: Gateway, other: Gateway) -> None:
    """A write answered by one gateway can be read from the other by version and by sequence."""
    for number in range(ROUNDS):
        writing, reading = (one, other) if number % 2 else (other, one)
        view = (await _put(writing, "own", {"n": number}, f"own-{number}")).json()
        for bound in ("version", "sequence"):
            asked = {f"min_{bound}": view[bound], "timeout": 30}
            shown = await reading.client.get("/v1/n/own", params=asked)
            assert (shown.status_code, shown.json()) == (200, {"n": number}), shown.text


async def _read_a_bulk(one: Gateway, other: Gateway) -> None:
    """Write in bulk through one, read from the other: every outcome arrives in order and can be read."""
    lines = [orjson.dumps({"doc": "bulk", "put": number, "id": f"bulk-{number}"}) for number in range(BULK)]
    given = {"Content-Type": "application/x-ndjson", "Refold-Wait": "60"}
    answer = await one.client.post("/v1/n/events", content=b"\n".join(lines), headers=given)
    outcomes = [orjson.loads(line) for line in answer.content.splitlines()]
    assert [(view["status"], view["version"]) for view in outcomes] == [
        ("applied", version) for version in range(1, BULK + 1)
    ]
    received = {"Refold-Min-Sequence": str(outcomes[-1]["sequence"])}
    for view in outcomes[:: BULK // 10]:
        asked = {"version": view["version"]}
        shown = await other.client.get("/v1/n/bulk", params=asked, headers=received)
        assert shown.json() == view["version"] - 1
        found = await other.client.get(f"/v1/n/bulk/outcomes/{view['sequence']}", headers=received)
        assert found.json() == view


async def _write_while_one_dies(one: Gateway, other: Gateway) -> list[tuple[str, str, dict[str, Any]]]:
    """Write through both; requests that the killed one does not answer are sent to the other under the same id."""
    written: list[tuple[str, str, dict[str, Any]]] = []
    is_dead = asyncio.Event()

    async def write(name: str) -> None:
        left = AFTER_KILL
        for number in count():
            event_id, through = f"{name}-{number}", (one, other)[number % 2]
            try:
                answer = await _put(through, name, {"n": number}, event_id, ("Refold-Wait", "60"))
            except httpx.TransportError:
                assert through is one
                answer = await _put(other, name, {"n": number}, event_id, ("Refold-Wait", "60"))
            assert answer.status_code in {200, 201}, answer.text
            # Each document has one writer: a skipped or repeated version would be detected.
            assert _first(answer.json())["version"] == answer.json()["version"] == number + 1
            written.append((name, event_id, answer.json()))
            left -= is_dead.is_set()
            if not left:
                return

    async def is_in_midst() -> bool:
        return len(written) >= 5 * len(WRITERS)

    async with asyncio.TaskGroup() as tasks:
        for name in WRITERS:
            tasks.create_task(write(name))
        await until(is_in_midst)
        await kill(one.process)
        is_dead.set()
    for name, event_id, view in written[-3 * len(WRITERS) :]:
        repeated = await _put(other, name, {"n": view["version"] - 1}, event_id)
        assert repeated.json()["status"] == "duplicate"
        assert _first(repeated.json())["sequence"] == _first(view)["sequence"]
    return written


def _first(view: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = view.get("first") or view
    return first

"""Refold itself, as `refold up` runs it, driven as its users drive it. Runs in Refold's own environment.

Variants: `folded` and `stored` write and read over HTTP through the SDK, waiting for the fold's outcome or only until
the log has the event; `nats` publishes to the log with nats-py and reads the latest state by SQL.
"""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import asyncpg
import nats
from work import Change, arguments, run

from refold.client import Refold

NAMESPACE = "bench"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
LATEST = "SELECT state_json FROM refold_views.bench WHERE document = $1"
CATCH_UP_SECONDS = 300


class OverHttp:
    """The SDK; a write waits for the fold's outcome, which follows the commit of the read model."""

    def __init__(self, refold: Refold, work: Namespace) -> None:
        """Use a client."""
        self._refold = refold
        self._data = work.address

    async def append(self, document: str, version: int, changes: list[Change]) -> None:
        """Write one strictly, which does not reach the log when it is stale; write many with a base each."""
        if len(changes) == 1:
            outcome = await self._refold.patch(
                NAMESPACE, document, list(changes[0]), if_version=version, strict=False
            )
            assert outcome.status == "applied", outcome
            return
        outcomes = await self._refold.append(NAMESPACE, _lines(document, version, changes))
        assert all(outcome.status == "applied" for outcome in outcomes), outcomes

    async def load(self, document: str, version: int | None) -> Any:
        """Read the state over HTTP."""
        return (await self._refold.get(NAMESPACE, document, version=version)).state

    async def rebuild(self, _: int) -> float:
        """Run `refold rebuild`: write all versions again, compare them with the live ones, and swap."""
        command = (sys.executable, "-m", "refold", "rebuild", "--data", self._data, "--json")
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        result = json.loads((await process.communicate())[0])
        assert result["swapped"], result
        return float(result["replayed"] / result["seconds"])


class Stored:
    """The SDK; a write waits until the log has the event, and the fold checks its base."""

    loads = ()

    def __init__(self, refold: Refold) -> None:
        """Use a client."""
        self._refold = refold
        self._last: dict[str, tuple[int, int]] = {}

    async def append(self, document: str, version: int, changes: list[Change]) -> None:
        """Do not wait for the outcome."""
        if len(changes) == 1:
            outcome = await self._refold.patch(
                NAMESPACE, document, list(changes[0]), base=version, on_conflict="reject", wait_seconds=0
            )
        else:
            lines = _lines(document, version, changes)
            outcome = (await self._refold.append(NAMESPACE, lines, wait_seconds=0))[-1]
        assert outcome.sequence, outcome
        self._last[document] = outcome.sequence, version + len(changes)

    async def catch_up(self) -> None:
        """Wait until all is folded; none may have been refused."""
        await caught_up(self._refold, self._last)


class OverNats:
    """nats-py to the log, asyncpg to the read model."""

    loads = ("latest",)

    def __init__(self, refold: Refold, client: nats.NATS, postgres: asyncpg.Connection) -> None:
        """Use the three connections; the SDK's only to wait."""
        self._refold = refold
        self._client = client
        self._js = client.jetstream()
        self._postgres = postgres
        self._has_view = False
        self._last: dict[str, tuple[int, int]] = {}

    async def append(self, document: str, version: int, changes: list[Change]) -> None:
        """Publish one singly, many as an atomic batch; the log checks the expected last sequence."""
        subject = f"state.{NAMESPACE}.{document}"
        headers = {EXPECTED: str(self._last[document][0] if document in self._last else 0)}
        bodies = [json.dumps({"patch": each}).encode() for each in changes]
        if len(bodies) == 1:
            acknowledged = await self._js.publish(subject, bodies[0], headers=headers)
            self._last[document] = acknowledged.seq, version + 1
            return
        batch = {"Nats-Batch-Id": uuid4().hex}
        for at, body in enumerate(bodies[:-1], 1):
            named = batch | {"Nats-Batch-Sequence": str(at)} | (headers if at == 1 else {})
            await self._client.publish(subject, body, headers=named)
        named = batch | {"Nats-Batch-Sequence": str(len(bodies)), "Nats-Batch-Commit": "1"}
        reply = json.loads((await self._client.request(subject, bodies[-1], headers=named)).data)
        assert reply.get("count") == len(bodies), reply
        self._last[document] = reply["seq"], version + len(bodies)

    async def load(self, document: str, _: None) -> Any:
        """Read the latest state by SQL, from the view that is made to be read."""
        if not self._has_view:
            # A view needs a namespace that has had events.
            await self._postgres.execute("SELECT refold.create_view($1)", NAMESPACE)
            self._has_view = True
        return json.loads(await self._postgres.fetchval(LATEST, document))

    async def catch_up(self) -> None:
        """Wait until all is folded."""
        await caught_up(self._refold, self._last)


def _lines(document: str, version: int, changes: list[Change]) -> list[dict[str, Any]]:
    strict = {"doc": document, "on_conflict": "reject"}
    return [{**strict, "patch": each, "base": version + at} for at, each in enumerate(changes)]


async def caught_up(refold: Refold, last: dict[str, tuple[int, int]]) -> None:
    """Wait for the last event, then check that every document is at its version."""
    if not last:
        return
    document, (sequence, _) = max(last.items(), key=lambda item: item[1])
    await refold.get(NAMESPACE, document, min_sequence=sequence, timeout_seconds=CATCH_UP_SECONDS)
    for name, (_, version) in last.items():
        assert (await refold.get(NAMESPACE, name)).version == version, name
    last.clear()


@asynccontextmanager
async def connected(work: Namespace, refold: Refold, endpoints: dict[str, str]) -> AsyncIterator[Any]:
    """Return the variant's peer."""
    if work.variant == "folded":
        yield OverHttp(refold, work)
    elif work.variant == "stored":
        yield Stored(refold)
    else:
        client = await nats.connect(endpoints["nats"])
        postgres = await asyncpg.connect(endpoints["postgres"], ssl=False)
        yield OverNats(refold, client, postgres)
        await postgres.close()
        await client.close()


async def main() -> None:
    """Find the running system and do the work."""
    work = arguments()
    with open(f"{work.address}/endpoints.json", encoding="utf-8") as file:  # noqa: ASYNC230, PTH123 - once.
        endpoints = json.load(file)
    refold = Refold(endpoints["http"], timeout_seconds=CATCH_UP_SECONDS)
    async with refold, connected(work, refold, endpoints) as peer:
        await run(peer, work)


if __name__ == "__main__":
    asyncio.run(main())

"""How often a gateway's readiness probes ask the projectors, and what they find."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import orjson
import pytest

from refold.core.errors import ServiceUnavailable
from refold.log import CONTROL_SUBJECT, GATEWAY_SUBJECT
from refold.log.jetstream.client import Client
from refold.log.jetstream.protocol import message_frame
from refold.wiring import instances
from refold.wiring.instances import OwnersCheck
from refold.wiring.servers import connected

ABOUT = {"service": "projector", "version": "1"}
HALVES = [
    {**ABOUT, "instance": f"i:{shard}", "shard": shard, "stage": "working"} for shard in ("0-31", "32-63")
]


@pytest.fixture
async def projector(nats_urls: dict[str, str]) -> AsyncIterator[Client]:
    async with connected(nats_urls["projector"], "p") as client:
        yield client


@pytest.fixture
async def gateway(nats_urls: dict[str, str]) -> AsyncIterator[Client]:
    async with connected(nats_urls["gateway"], "g") as client:
        yield client


@asynccontextmanager
async def answering(client: Client, answers: list[dict[str, str]]) -> AsyncIterator[list[str]]:
    """Answer as projectors within the block; yield the subjects that were asked."""
    asked: list[str] = []

    def taking(subject: str) -> Callable[[bytes, bytes, bytes, bytes], None]:
        def take(_: bytes, reply: bytes, __: bytes, ___: bytes) -> None:
            asked.append(subject)
            for answer in answers:
                client.write(message_frame(reply, orjson.dumps(answer)))

        return take

    sids = [client.subscribe(subject, taking(subject)) for subject in (CONTROL_SUBJECT, GATEWAY_SUBJECT)]
    await client.flush()
    yield asked
    for sid in sids:
        client.unsubscribe(sid)
    await client.flush()


async def test_probes_at_once_and_within_a_second_ask_the_projectors_once(
    projector: Client, gateway: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "OWNED_SECONDS", 60.0)
    async with answering(projector, HALVES) as asked:
        check = OwnersCheck(gateway, [""])
        await asyncio.gather(*(check.check() for _ in range(100)))
        await check.check()
        assert asked == [CONTROL_SUBJECT]
        monkeypatch.setattr(instances, "OWNED_SECONDS", 0.0)
        later = OwnersCheck(gateway, [""])
        await later.check()
        await later.check()
        assert asked == [CONTROL_SUBJECT] * 3


async def test_a_lack_of_owners_is_reported_and_not_kept(
    projector: Client, gateway: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "LACKING_SECONDS", 0.02)
    check = OwnersCheck(gateway, [""])
    with pytest.raises(ServiceUnavailable, match="no projector is running"):
        await check.check()
    answers = HALVES[:1]
    async with answering(projector, answers):
        with pytest.raises(ServiceUnavailable, match="32 of 64 partitions have no projector"):
            await check.check()
        answers += HALVES[1:]
        await check.check()

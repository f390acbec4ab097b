"""The stream and its genesis: created as designed, completed after any crash, checked at every start, never changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from refold.core.errors import LogDiffers, LogHole, LogMissing, LogUnavailable
from refold.log import Replicas
from refold.log.jetstream.api import account_limit, replicas_of, request_api, stored_record, stream_info
from refold.log.jetstream.client import Client, Reply
from refold.log.jetstream.stream import CONFIGURATION, NARROW, WIDE, check_log, create_log
from support.broker import LOG_ID, Broker, running_broker

DESIGNED = {
    "name": "STATE",
    "subjects": ["state.*.*"],
    "storage": "file",
    "compression": "s2",
    "allow_direct": True,
    "allow_atomic": True,
    "deny_delete": True,
    "deny_purge": True,
    "discard": "new",
    "retention": "limits",
    "max_age": 0,
    "max_msgs": -1,
    "max_bytes": -1,
    "num_replicas": 1,
    "subject_transform": {
        "src": "state.*.*",
        "dest": "log.{{partition(64,1,2)}}.{{wildcard(1)}}.{{wildcard(2)}}",
    },
}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with running_broker(tmp_path) as broker:
        yield broker


class Crash(Exception):
    """The process died."""


class DyingClient:
    """Forwards requests, and crashes before or after the broker has handled one of them."""

    def __init__(self, client: Client, *, at: int, has_sent: bool) -> None:
        self._client = client
        self._left = at
        self._has_sent = has_sent

    async def request(self, *request: Any, **options: Any) -> Reply:
        self._left -= 1
        if self._left:
            return await self._client.request(*request, **options)
        if self._has_sent:
            await self._client.request(*request, **options)
        raise Crash


async def make_stream(client: Client, **changes: Any) -> None:
    config = {**CONFIGURATION, "subjects": WIDE, "num_replicas": 1, "max_bytes": -1, **changes}
    await request_api(client, "STREAM.CREATE.STATE", config)


async def change_stream(client: Client, **changes: Any) -> None:
    config = (await stream_info(client))["config"]
    await request_api(client, "STREAM.UPDATE.STATE", {**config, **changes})


async def publish(client: Client, *documents: str) -> None:
    for document in documents:
        await client.request(f"state.n.{document}", b"{}")


async def test_the_log_is_created_with_its_configuration(broker: Broker) -> None:
    client = await broker.connect()
    assert await create_log(client, log_id=LOG_ID) == LOG_ID
    info = await stream_info(client)
    assert {name: info["config"].get(name) for name in DESIGNED} == DESIGNED
    assert (info["state"]["first_seq"], info["state"]["last_seq"]) == (1, 1)
    genesis = await stored_record(client, seq=1)
    assert genesis is not None
    assert genesis.body.startswith(b'{"put":{"fold":2,"limits":{')
    assert genesis.body.endswith(b',"log_id":"0123456789abcdef","partitions":64}}')


async def test_an_existing_log_is_kept(broker: Broker) -> None:
    client = await broker.connect()
    await create_log(client, log_id=LOG_ID)
    await publish(client, "a")
    assert await create_log(client, log_id="another") == LOG_ID
    assert (await stream_info(client))["state"]["last_seq"] == 2


@pytest.mark.parametrize("has_sent", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 7))
async def test_an_interrupted_creation_is_completed_by_the_next_start(
    broker: Broker, at: int, *, has_sent: bool
) -> None:
    client = await broker.connect()
    dying: Any = DyingClient(client, at=at, has_sent=has_sent)
    with pytest.raises(Crash):
        await create_log(dying, log_id="first")
    made = await create_log(client, log_id="second")
    # The genesis is written by the third request.
    assert made == ("first" if at > 3 or (at == 3 and has_sent) else "second")
    assert await check_log(await broker.connect("gateway")) == made
    assert (await stream_info(client))["state"]["last_seq"] == 1


async def test_creating_a_log_takes_six_requests(broker: Broker) -> None:
    client = await broker.connect()
    dying: Any = DyingClient(client, at=7, has_sent=False)
    assert await create_log(dying, log_id=LOG_ID) == LOG_ID


async def test_concurrent_creations_return_the_same_log(broker: Broker) -> None:
    clients = [await broker.connect() for _ in range(6)]
    found = await asyncio.gather(*(create_log(each, log_id=f"log-{at}") for at, each in enumerate(clients)))
    assert len(set(found)) == 1
    assert (await stream_info(clients[0]))["state"]["last_seq"] == 1


async def test_no_event_can_be_stored_before_the_genesis(broker: Broker) -> None:
    client = await broker.connect()
    await make_stream(client, subjects=NARROW)
    headers, _ = await client.request("state.n.a", b"{}")
    assert headers.startswith(b"NATS/1.0 503")
    assert await create_log(client, log_id=LOG_ID) == LOG_ID
    await publish(client, "a")
    assert (await stream_info(client))["state"]["last_seq"] == 2


@pytest.mark.parametrize("subjects", [NARROW, WIDE], ids=["narrow", "wide"])
async def test_a_log_that_is_being_created_cannot_be_opened(broker: Broker, subjects: list[str]) -> None:
    await make_stream(await broker.connect(), subjects=subjects)
    with pytest.raises(LogUnavailable, match="still creating the log"):
        await check_log(await broker.connect("gateway"))


async def test_opening_without_a_log_raises_log_missing(broker: Broker) -> None:
    with pytest.raises(LogMissing, match="there is no log"):
        await check_log(await broker.connect("gateway"))


async def test_only_the_administrator_creates_the_log(broker: Broker) -> None:
    with pytest.raises(LogUnavailable, match="does not allow this user the request"):
        await create_log(await broker.connect("projector"), log_id=LOG_ID)


async def test_every_difference_is_listed_and_none_is_changed(broker: Broker) -> None:
    client = await broker.connect()
    await make_stream(
        client, subjects=["state.*.*", "more.*"], max_age=10**12, compression="none", deny_purge=False
    )
    before = (await stream_info(client))["config"]
    for check in (create_log(client, log_id=LOG_ID), check_log(client)):
        with pytest.raises(LogDiffers) as caught:
            await check
        assert caught.value.facts["names"] == ["compression", "deny_purge", "max_age", "subjects"]
        message = caught.value.message
        assert "max_age: expected 0, found 1000000000000" in message
        assert "compression: expected 's2', found None" in message or "found 'none'" in message
        assert "subjects: expected ['state.*.*'], found ['state.*.*', 'more.*']" in message
    assert (await stream_info(client))["config"] == before


@pytest.mark.parametrize(
    "change",
    [
        {"subject_transform": None},
        {
            "subject_transform": {
                "src": "state.*.*",
                "dest": "log.{{partition(32,1,2)}}.{{wildcard(1)}}.{{wildcard(2)}}",
            }
        },
        {"storage": "memory", "compression": "none"},
        {"retention": "interest"},
        {"discard": "old"},
        {"max_msgs": 10},
        {"max_msgs_per_subject": 1},
        {"max_msg_size": 1000},
        {"allow_atomic": False},
        {"allow_direct": False},
        {"allow_msg_ttl": True},
        {"allow_rollup_hdrs": True, "deny_purge": False},
        {"no_ack": True, "allow_atomic": False},
    ],
    ids="-".join,
)
async def test_a_stream_with_another_configuration_is_refused(broker: Broker, change: dict[str, Any]) -> None:
    client = await broker.connect()
    await make_stream(client, **change)
    with pytest.raises(LogDiffers) as caught:
        await check_log(await broker.connect("gateway"))
    assert set(change) <= set(caught.value.facts["names"])  # type: ignore[call-overload]


async def test_the_administrator_sets_the_size_of_the_log(broker: Broker) -> None:
    client = await broker.connect()
    await create_log(client, log_id=LOG_ID, bytes_max=10**6)
    assert (await stream_info(client))["config"]["max_bytes"] == 10**6
    assert await check_log(await broker.connect("gateway")) == LOG_ID
    with pytest.raises(LogDiffers, match="max_bytes: expected -1, found 1000000"):
        await create_log(client, log_id=LOG_ID)
    with pytest.raises(LogDiffers, match="num_replicas: expected 3, found 1"):
        await create_log(client, log_id=LOG_ID, bytes_max=10**6, replicas=3)


async def test_more_replicas_than_servers_are_refused(broker: Broker) -> None:
    with pytest.raises(LogUnavailable, match="does not create the log"):
        await create_log(await broker.connect(), log_id=LOG_ID, replicas=3)


async def test_a_log_that_begins_with_another_event_is_refused(broker: Broker) -> None:
    client = await broker.connect()
    await make_stream(client)
    await publish(client, "a")
    for check in (create_log(client, log_id=LOG_ID), check_log(client)):
        with pytest.raises(LogDiffers, match="sequence 1 is not a genesis"):
            await check


async def test_an_invalid_genesis_is_refused(broker: Broker) -> None:
    client = await broker.connect()
    await make_stream(client)
    await client.request("state._refold.log", b'{"put":{"log_id":"x","partitions":32}}')
    with pytest.raises(LogDiffers, match="not a genesis"):
        await check_log(client)


async def test_deleted_events_raise_a_hole_with_their_sequences(broker: Broker) -> None:
    client = await broker.connect()
    await make_stream(client, deny_delete=False, subjects=WIDE)
    await client.request("state._refold.log", b"{}")
    await publish(client, "a", "b", "c")
    for sequence in (2, 3):
        await request_api(client, "STREAM.MSG.DELETE.STATE", {"seq": sequence})
    await change_stream(client, deny_delete=True)
    with pytest.raises(LogHole) as caught:
        await check_log(client)
    assert caught.value.facts == {"sequences": "2-3", "count": 2}


async def test_a_log_without_its_beginning_raises_a_hole(broker: Broker) -> None:
    client = await broker.connect()
    await make_stream(client, deny_purge=False)
    await publish(client, "a", "b", "c")
    await request_api(client, "STREAM.PURGE.STATE", {"seq": 3})
    await change_stream(client, deny_purge=True)
    with pytest.raises(LogHole) as caught:
        await check_log(client)
    assert caught.value.facts == {"first_sequence": 3}


async def test_one_server_has_the_log_and_its_account_no_limit(broker: Broker) -> None:
    client = await broker.connect("administrator")
    await create_log(client, log_id=LOG_ID)
    found = replicas_of((await stream_info(client))["cluster"])
    assert (found.current, found.lagging, found.offline) == (1, 0, 0)
    assert found.leader == client.server_info["server_name"]
    assert await account_limit(client) is None


@pytest.mark.parametrize(
    ("cluster", "counted"),
    [
        ({}, Replicas()),
        ({"leader": "a", "replicas": [{"current": True}, {"current": True}]}, Replicas(3, 0, 0, "a")),
        ({"leader": "a", "replicas": [{"current": False}, {"current": True}]}, Replicas(2, 1, 0, "a")),
        ({"leader": "a", "replicas": [{"current": False, "offline": True}]}, Replicas(1, 0, 1, "a")),
        ({"replicas": [{"current": True}, {"current": False}]}, Replicas(1, 1, 0, "")),
    ],
)
def test_replicas_are_counted_by_their_state(cluster: dict[str, Any], counted: Replicas) -> None:
    assert replicas_of(cluster) == counted

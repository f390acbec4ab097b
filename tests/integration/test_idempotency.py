"""A repeated event changes nothing in any form, singly and in batches, on the real system."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import orjson
import pytest

from refold.embedded.nats import inbox_prefix
from refold.log.jetstream.client import Client, connect
from refold.log.jetstream.protocol import Event, batch_frames, message_frame
from support.http import JSON_PATCH, MERGE_PATCH, Api, outcome, problem
from support.system import System

WAIT_SECONDS = 20
TYPE = "order.changed"
Change = dict[str, Any]


class Author:
    """One author with its own connection to NATS, beside the gateway."""

    def __init__(self, api: Api, broker: Client) -> None:
        self.api = api
        self.broker = broker
        self.requests = 0
        self.last_sequence = 0

    async def http(self, document: str, change: Change, event_id: str, **more: str) -> dict[str, Any]:
        """Write by PUT, PATCH or DELETE; return the outcome, once its status is the first outcome's."""
        self.requests += 1
        ((kind, value),) = change.items()
        method = {"put": "PUT", "delete": "DELETE"}.get(kind, "PATCH")
        media = {"put": "application/json", "patch": JSON_PATCH, "merge": MERGE_PATCH}.get(kind)
        headers = {"Idempotency_Key": event_id, "Refold_Type": TYPE, "traceparent": self.trace(), **more}
        if media:
            headers["Content_Type"] = media
        content = orjson.dumps(value) if media else None
        response = await self.api.ask(method, document, content=content, **headers)
        if response.status_code == 409:
            refused: dict[str, Any] = problem(response, 409, "rejected")["outcome"]
            return refused
        view: dict[str, Any] = response.json()
        return outcome(response, 201 if view.get("first", view).get("created") else 200)

    async def bulk(self, document: str, change: Change, event_id: str) -> dict[str, Any]:
        """Write as a line of a bulk request."""
        line = {"doc": document, **change, "id": event_id, "type": TYPE}
        [answer] = await self.api.append([line], traceparent=self.trace())
        return answer

    async def native(self, document: str, change: Change, event_id: str) -> dict[str, Any]:
        """Publish to NATS, the id in the body."""
        return await self.publish(document, {**change, "id": event_id}, ("Refold-Type", TYPE))

    async def headed(self, document: str, change: Change, event_id: str) -> dict[str, Any]:
        """Publish to NATS, the id in a header."""
        about = (("refold-id", event_id), ("X-Attempt", uuid4().hex), ("traceparent", self.trace()))
        return await self.publish(document, {"type": TYPE, **change}, *about)

    async def cloud(self, document: str, change: Change, event_id: str) -> dict[str, Any]:
        """Publish to NATS as a structured CloudEvent, whose id is `source|id`."""
        source, _, own_id = event_id.partition("|")
        event = {"specversion": "1.0", "source": source, "id": own_id, "type": TYPE, "data": change}
        return await self.publish(document, event, ("Content-Type", "application/cloudevents+json"))

    async def binary(self, document: str, change: Change, event_id: str) -> dict[str, Any]:
        """Publish to NATS as a binary CloudEvent."""
        source, _, own_id = event_id.partition("|")
        attributes = {"specversion": "1.0", "source": source, "id": own_id, "type": TYPE}
        return await self.publish(document, change, *((f"ce-{name}", it) for name, it in attributes.items()))

    async def publish(self, document: str, event: Any, *headers: tuple[str, str]) -> dict[str, Any]:
        """Publish one message and wait for its outcome on a subject of its own."""

        def frames(reply: str) -> bytes:
            subject, lines, body = self.frame(document, event, reply, *headers)
            return message_frame(subject, body, headers=lines)

        [answered] = await self.received(1, frames)
        return answered

    def frame(self, document: str, event: Any, reply: str, *headers: tuple[str, str]) -> Event:
        """Make an event's subject, header lines and body."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in (*headers, ("Refold-Reply", reply)))
        return Event(f"state.{self.api.namespace}.{document}".encode(), lines.encode(), orjson.dumps(event))

    async def batch(self, events: list[tuple[str, Change]]) -> list[dict[str, Any]]:
        """Publish one atomic batch and wait for the outcomes of all."""
        inbox = self.broker.new_inbox().encode()

        def frames(reply: str) -> bytes:
            members = [self.frame(document, event, reply) for document, event in events]
            return batch_frames(members, uuid4().hex.encode(), first_reply=inbox, last_reply=inbox)

        return await self.received(len(events), frames)

    async def received(self, count: int, frames: Callable[[str], bytes]) -> list[dict[str, Any]]:
        """Publish what is made for a reply subject; return the outcomes that come to it, by sequence."""
        received: list[dict[str, Any]] = []
        has_all = asyncio.Event()

        def take(_: bytes, __: bytes, ___: bytes, body: bytes) -> None:
            received.append(orjson.loads(body))
            if len(received) == count:
                has_all.set()

        reply = self.broker.new_inbox()
        sid = self.broker.subscribe(reply, take)
        self.broker.write(frames(reply))
        async with asyncio.timeout(WAIT_SECONDS):
            await has_all.wait()
        self.broker.unsubscribe(sid)
        self.last_sequence = max(self.last_sequence, *(answered["sequence"] for answered in received))
        return sorted(received, key=lambda answered: answered["sequence"])

    def trace(self) -> str:
        """Make a unique trace id."""
        return f"00-{uuid4().hex}-00f067aa0ba902b7-01"

    async def agrees(self, document: str, event_id: str, first: dict[str, Any]) -> None:
        """Compare the outcome found by id with the first outcome that was answered."""
        assert (await self.api.get(f"{document}/outcomes", id=event_id)).json() == first

    async def state(self, document: str) -> Any:
        """Read the head with everything that was received; None where it is absent."""
        found = await self.api.get(document, min_sequence=self.last_sequence)
        return found.json() if found.status_code == 200 else None


WAYS = ("http", "bulk", "native", "headed", "cloud", "binary")
Way = Callable[[str, Change, str], Awaitable[dict[str, Any]]]


@pytest.fixture
async def author(api: Api, system: System) -> AsyncIterator[Author]:
    broker = await connect(system.nats.url("author"), inbox_prefix=inbox_prefix("author"))
    yield Author(api, broker)
    await broker.close()


def is_duplicate_of(answered: dict[str, Any], first: dict[str, Any]) -> bool:
    """Return whether a duplicate carries the first outcome, member by member, and its version."""
    named = {"status", "version", "sequence", "recorded_at", "created", "reason"}
    assert answered["status"] == "duplicate", answered
    assert answered["first"] == {name: value for name, value in first.items() if name in named}
    assert answered["version"] == first["version"]
    assert not {"reason", "occurred_at"} & answered.keys()
    return True


PUT: Change = {"put": {"a": 1}}
OTHER: Change = {"put": {"a": 2}}
REFUSED: Change = {"patch": [{"op": "remove", "path": "/nothing"}]}


@pytest.mark.parametrize("name", WAYS)
async def test_an_event_repeated_in_the_same_form_receives_its_first_outcome(
    author: Author, name: str
) -> None:
    send: Way = getattr(author, name)
    first = await send("d", PUT, "s|1")
    assert (first["status"], first["version"], first["created"], first["id"]) == ("applied", 1, True, "s|1")
    assert is_duplicate_of(await send("d", PUT, "s|1"), first)
    # Other content under the id, and the same id on another document.
    reused = await send("d", OTHER, "s|1")
    assert (reused["status"], reused["reason"], reused["version"]) == ("rejected", "id_reused", 1)
    assert (await send("e", OTHER, "s|1"))["status"] == "applied"
    # One that was rejected, even where it could be applied by now.
    rejected = await send("d", REFUSED, "s|2")
    assert (rejected["status"], rejected["reason"]) == ("rejected", "target_missing")
    assert (await send("d", {"merge": {"nothing": 1}}, "s|3"))["version"] == 2
    assert is_duplicate_of(await send("d", REFUSED, "s|2"), rejected)
    # The document has a newer version; then it is absent, then present again.
    assert is_duplicate_of(await send("d", PUT, "s|1"), first)
    deleted = await send("d", {"delete": True}, "s|4")
    assert (deleted["status"], deleted["version"]) == ("applied", 3)
    assert is_duplicate_of(await send("d", PUT, "s|1"), first)
    assert is_duplicate_of(await send("d", {"delete": True}, "s|4"), deleted)
    assert await author.state("d") is None
    assert (await send("d", OTHER, "s|5"))["version"] == 4
    assert is_duplicate_of(await send("d", {"delete": True}, "s|4"), deleted)
    assert await author.state("d") == {"a": 2}
    for event_id, outcome_first in (("s|1", first), ("s|2", rejected), ("s|4", deleted)):
        await author.agrees("d", event_id, outcome_first)


@pytest.mark.parametrize("change", [PUT, REFUSED, {"merge": {"b": None}}], ids=["put", "rejected", "merge"])
async def test_an_event_repeated_in_another_form_is_a_duplicate(author: Author, change: Change) -> None:
    for name in WAYS:
        event_id = f"s|{name}"
        first = await getattr(author, name)(name, change, event_id)
        assert first["status"] == ("rejected" if change is REFUSED else "applied")
        for other in WAYS:
            again = await getattr(author, other)(name, change, event_id)
            assert is_duplicate_of(again, first), other
            answered = await author.api.get(f"{name}/outcomes/{again['sequence']}")
            assert answered.json() == again
        reused = await getattr(author, other)(name, OTHER, event_id)
        assert reused["reason"] == "id_reused"
        await author.agrees(name, event_id, first)


@pytest.mark.parametrize("name", WAYS)
async def test_of_concurrent_events_under_one_id_one_is_applied(author: Author, name: str) -> None:
    send: Way = getattr(author, name)
    change = {"patch": [{"op": "add", "path": "/a", "value": 1}]}
    answered = await asyncio.gather(*(send("d", change, "s|1") for _ in range(12)))
    [first] = [view for view in answered if view["status"] == "applied"]
    assert all(is_duplicate_of(view, first) for view in answered if view is not first)
    read = await author.api.get("d", min_sequence=author.last_sequence)
    assert read.headers["refold-version"] == "1"


# Strict writes

CONDITIONS = {
    "the version": {"If_Match": '"2"'},
    "one of several versions": {"If_Match": '"2", "3", "4", "5"'},
    "any version": {"If_Match": "*"},
}


@pytest.mark.parametrize("condition", CONDITIONS.values(), ids=CONDITIONS)
async def test_a_repeated_strict_write_receives_its_first_outcome_and_not_412(
    author: Author, condition: dict[str, str]
) -> None:
    for number in (1, 2):
        await author.http("d", {"put": {"n": number}}, f"p{number}")
    before = await author.api.events()
    first = await author.http("d", PUT, "k", **condition)
    assert (first["status"], first["version"]) == ("applied", 3)
    assert is_duplicate_of(await author.http("d", PUT, "k", **condition), first)
    await author.http("d", {"merge": {"b": 1}}, "m")
    assert is_duplicate_of(await author.http("d", PUT, "k", **condition), first)
    deleted = await author.http("d", {"delete": True}, "x", If_Match='"4"')
    assert is_duplicate_of(await author.http("d", PUT, "k", **condition), first)
    for again in ({"If_Match": '"4"'}, {"If_Match": "*"}, {}):
        assert is_duplicate_of(await author.http("d", {"delete": True}, "x", **again), deleted)
    await author.http("d", OTHER, "y")
    assert is_duplicate_of(await author.http("d", PUT, "k", **condition), first)
    assert await author.state("d") == {"a": 2}
    await author.agrees("d", "k", first)
    assert await author.api.events() == before + 4, "the log stays clean"


async def test_a_repeated_creation_receives_its_first_outcome_at_any_version(
    author: Author,
) -> None:
    for number, condition in enumerate(({"If_None_Match": "*"}, {"If_Match": '"0"'})):
        name = f"d{number}"
        first = await author.http(name, PUT, "k", **condition)
        assert first["created"]
        assert is_duplicate_of(await author.http(name, PUT, "k", **condition), first)
        await author.http(name, {"delete": True}, "x")
        assert is_duplicate_of(await author.http(name, PUT, "k", **condition), first)
        assert await author.state(name) is None
        await author.http(name, OTHER, "y")
        assert is_duplicate_of(await author.http(name, PUT, "k", **condition), first)


async def test_a_repeated_rejected_strict_write_receives_its_rejection(
    author: Author,
) -> None:
    await author.http("d", PUT, "p")
    for event_id, condition in (("k", {"If_Match": '"1"'}), ("l", {"If_Match": "*"})):
        rejected = await author.http("d", REFUSED, event_id, **condition)
        assert rejected["reason"] == "target_missing"
        assert is_duplicate_of(await author.http("d", REFUSED, event_id, **condition), rejected)
    await author.http("d", {"merge": {"nothing": 1}}, "m")
    for event_id, condition in (("k", {"If_Match": '"1"'}), ("l", {"If_Match": "*"})):
        answered = await author.http("d", REFUSED, event_id, **condition)
        assert (answered["status"], answered["first"]["reason"]) == ("duplicate", "target_missing")


async def test_other_content_under_the_id_of_a_strict_write_is_not_its_duplicate(author: Author) -> None:
    """Neither if the row shows it, nor if only the log does: then both are in flight at once."""
    await author.http("d", PUT, "p")
    for round_number in range(1, 6):
        condition = {"If_Match": f'"{round_number}"', "Idempotency_Key": f"k{round_number}"}
        answers = await asyncio.gather(
            *(author.api.put("d", [round_number, content], **condition) for content in range(8))
        )
        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 7
    problem(
        await author.api.put("d", "other", If_Match='"5"', Idempotency_Key="k5"), 412, "precondition_failed"
    )
    wrong = await author.http("d", {"put": "other"}, "k5", If_Match="*")
    assert wrong["reason"] == "id_reused"


async def test_concurrent_copies_of_a_strict_write_are_one_write(author: Author) -> None:
    await author.http("d", PUT, "p")
    answered = await asyncio.gather(*(author.http("d", OTHER, "k", If_Match='"1"') for _ in range(12)))
    [first] = [view for view in answered if view["status"] == "applied"]
    assert all(is_duplicate_of(view, first) for view in answered if view is not first)
    assert (await author.api.get("d")).headers["refold-version"] == "2"


# Not waited for


async def test_a_pending_event_repeated_at_once_is_applied_once(author: Author) -> None:
    for number, condition in enumerate(({}, {"If_None_Match": "*"}, {"If_Match": '"0"'})):
        headers = {"Idempotency_Key": "k", "Refold_Wait": "0", **condition}
        sequences = []
        for _ in range(3):
            response = await author.api.put(f"d{number}", PUT["put"], **headers)
            if response.status_code == 202:
                assert response.json()["id"] == "k"
                sequences.append(response.json()["sequence"])
            else:
                sequences.append(outcome(response, 201)["sequence"])
        found = (await author.api.get(f"d{number}/outcomes", id="k")).json()
        assert (found["status"], found["sequence"], found["version"]) == ("applied", sequences[0], 1)
        again = outcome(
            await author.api.put(f"d{number}", PUT["put"], **{**headers, "Refold_Wait": "9"}), 201
        )
        assert (again["status"], again["first"]["sequence"]) == ("duplicate", sequences[0])
    pending = await author.api.append([{"doc": "e", **PUT, "id": "k"}] * 3, Refold_Wait="0")
    found = (await author.api.get("e/outcomes", id="k")).json()
    assert (found["status"], found["sequence"]) == ("applied", pending[0]["sequence"])


# Batches


async def test_a_batch_with_repeated_events_changes_each_document_once(author: Author) -> None:
    first = await author.http("d", PUT, "s|1")
    events = [
        ("d", {**PUT, "id": "s|1", "type": TYPE}),
        ("d", {"merge": {"n": 1}, "id": "new"}),
        ("e", {"merge": {"n": 1}, "id": "new"}),
        ("d", {"merge": {"n": 1}, "id": "new"}),
        ("d", {"merge": {"n": 2}, "id": "new"}),
        ("d", {**REFUSED, "id": "bad"}),
        ("d", {**REFUSED, "id": "bad"}),
        ("d", {"merge": {"n": 3}, "id": "last"}),
    ]
    lines = [{"doc": document, **event} for document, event in events]
    for number, send in enumerate((author.batch(events), author.api.append(lines), author.batch(events))):
        answered = await send
        statuses = [(view["status"], view.get("reason"), view["version"]) for view in answered]
        if number == 0:
            assert statuses == [
                ("duplicate", None, 1),
                ("applied", None, 2),
                ("applied", None, 1),
                ("duplicate", None, 2),
                ("rejected", "id_reused", 2),
                ("rejected", "target_missing", 2),
                ("duplicate", None, 2),
                ("applied", None, 3),
            ]
            assert is_duplicate_of(answered[0], first)
            assert is_duplicate_of(answered[3], answered[1])
            assert is_duplicate_of(answered[6], answered[5])
            firsts = answered
        else:
            assert [view["status"] for view in answered] == ["duplicate"] * 4 + ["rejected"] + [
                "duplicate"
            ] * 3
            assert answered[4]["reason"] == "id_reused"
            assert is_duplicate_of(answered[7], firsts[7])
    assert await author.state("d") == {"a": 1, "n": 3}
    assert await author.state("e") == {"n": 1}

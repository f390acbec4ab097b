"""The bulk route over a socket, on the real system: order, bounds, every line answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import orjson

from refold.core.fold import EVENT_BYTES_MAX
from refold.log import PAYLOAD_BYTES_MAX
from support.broker import held_batches
from support.http import Api, problem
from support.system import System


async def test_events_are_folded_and_answered_in_order(api: Api) -> None:
    events = [{"doc": f"d{number % 7}", "put": number} for number in range(3_000)]
    answers = await api.append(events)
    assert len(answers) == 3_000
    assert {answer["status"] for answer in answers} == {"applied"}
    assert [answer["document"] for answer in answers] == [event["doc"] for event in events]
    sequences = [answer["sequence"] for answer in answers]
    assert sequences == sorted(set(sequences))
    assert [answer["version"] for answer in answers] == [number // 7 + 1 for number in range(3_000)]
    assert (await api.get("d0")).json() == max(number for number in range(3_000) if number % 7 == 0)


async def test_each_kind_of_event_and_field_is_accepted(api: Api) -> None:
    answers = await api.append(
        [
            {"doc": "d", "put": {"a": 1}, "id": "one", "actor": "me", "meta": {"line": 1}},
            {"doc": "d", "patch": [{"op": "add", "path": "/b", "value": 2}], "base": 1},
            {"doc": "d", "merge": {"c": 3}, "occurred_at": "2020-01-01T00:00:00Z"},
            {"doc": "d", "put": {"a": 1}, "id": "one", "actor": "me", "meta": {"line": 1}},
            {"doc": "d", "patch": [{"op": "test", "path": "/a", "value": 9}]},
            {"doc": "d", "delete": True},
        ]
    )
    assert [answer["status"] for answer in answers] == [
        "applied",
        "applied",
        "applied",
        "duplicate",
        "rejected",
        "applied",
    ]
    assert answers[3]["first"]["version"] == 1
    assert answers[4]["reason"] == "test_failed"
    items = (await api.get("d/history")).json()["items"]
    assert [item["version"] for item in items] == [1, 2, 3, 4]
    assert (items[0]["id"], items[0]["meta"]) == ("one", {"line": 1})


async def test_without_waiting_the_answers_are_sequences(api: Api) -> None:
    events = [{"doc": "d", "put": number} for number in range(50)]
    answers = await api.append(events, Refold_Wait="0")
    assert all(answer.keys() == {"status", "sequence"} for answer in answers)
    assert {answer["status"] for answer in answers} == {"pending"}
    found = await api.get("d", min_sequence=answers[-1]["sequence"])
    assert (found.json(), found.headers["refold-version"]) == (49, "50")


async def test_an_invalid_line_is_answered_with_its_error_and_the_others_are_processed(api: Api) -> None:
    lines = [
        b'{"doc":"d","put":1}',
        b"nonsense",
        b"",
        b'{"doc":"d","put":1,"put":2}',
        b"[]",
        b'{"put":1}',
        b'{"doc":"..","put":1}',
        b'{"doc":"d","colour":1,"put":1}',
        b'{"doc":"d"}',
        b'{"doc":"d","put":"' + b"x" * EVENT_BYTES_MAX + b'"}',
        b'{"doc":"d","put":"' + b"x" * PAYLOAD_BYTES_MAX + b'"}',
        b'{"doc":"d","put":2}',
    ]
    response = await api.ask("POST", "events", content=b"\n".join(lines))
    answers = [orjson.loads(line) for line in response.content.splitlines()]
    found = [(answer.get("line"), answer["status"], answer.get("reason")) for answer in answers]
    assert found == [
        (None, "applied", None),
        (2, "refused", "bad_json"),
        (4, "refused", "duplicate_key"),
        (5, "refused", "bad_event"),
        (6, "refused", "bad_name"),
        (7, "refused", "bad_name"),
        (8, "refused", "unknown_field"),
        (9, "refused", "bad_event"),
        (10, "refused", "event_too_large"),
        (11, "refused", "event_too_large"),
        (None, "applied", None),
    ]
    refused = answers[1]
    assert refused["error"]["status"] == 400
    assert refused["detail"] == refused["error"]["detail"]
    assert str(EVENT_BYTES_MAX) in answers[8]["detail"]
    assert answers[-1]["version"] == 2
    assert await api.events() == 2


async def test_an_empty_request_has_an_empty_response(api: Api) -> None:
    assert await api.append([]) == []
    response = await api.ask("POST", "events", content=b"\n\n")
    assert (response.status_code, response.content) == (200, b"")


async def test_an_invalid_request_is_a_problem_document(api: Api) -> None:
    line = b'{"doc":"d","put":1}\n'
    refused = await api.ask("POST", "events", content=line, Content_Type="text/plain")
    problem(refused, 415, "unsupported_media_type")
    problem(await api.ask("POST", "events", content=line, Refold_Wait="x"), 422, "bad_parameter")
    typed = {"Content-Type": "application/x-ndjson"}
    post = partial(api.client.post, content=line, headers=typed)
    problem(await post("/v1/_refold/events"), 422, "reserved_namespace")
    problem(await post("/v1/a.b/events"), 422, "bad_name")
    assert await api.events() == 0


async def test_a_document_may_be_named_events(api: Api) -> None:
    assert (await api.put("events", 1)).status_code == 201
    assert (await api.get("events")).json() == 1


async def test_the_extension_operations_are_folded_and_shown_in_history(api: Api) -> None:
    operations = [
        {"op": "inc", "path": "/n", "inc": 2},
        {"op": "str_ins", "path": "/t", "pos": 1, "str": "é"},
        {"op": "str_del", "path": "/t", "pos": 2, "len": 1},
        {"op": "push", "path": "/l", "value": 3, "max": 2},
    ]
    events = [{"doc": "d", "put": {"n": 1, "t": "ab", "l": [1, 2]}}, {"doc": "d", "patch": operations}]
    assert [answer["status"] for answer in await api.append(events)] == ["applied", "applied"]
    state = {"n": 3, "t": "aé", "l": [2, 3]}
    assert (await api.get("d")).json() == state
    assert (await api.get("d", version=2)).json() == state
    shown = (await api.get("d/history", after=1)).json()["items"][0]["patch"]
    added = [{"op": "add", "path": "/l/-", "value": 3}, {"op": "remove", "path": "/l/0"}]
    assert shown == [*operations[:3], *added]
    assert [item["version"] for item in (await api.get("d/history", path="/t")).json()["items"]] == [1, 2]


async def test_ids_of_any_printable_characters_are_shown_unescaped(api: Api) -> None:
    ids = ["CSS.supports", "a/b", "é", "50% ∞"]
    answers = await api.append([{"doc": each, "put": each} for each in ids])
    assert [(answer["status"], answer["document"]) for answer in answers] == [
        ("applied", each) for each in ids
    ]
    listed = (await api.get()).json()["items"]
    assert [item["id"] for item in listed] == sorted(ids)
    assert [item["id"] for item in (await api.get(prefix="é")).json()["items"]] == ["é"]


async def test_responses_are_streamed_while_events_are_sent(api: Api) -> None:
    answered: list[dict[str, Any]] = []
    has_answer = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        for number in range(5):
            has_answer.clear()
            yield orjson.dumps({"doc": "d", "put": number}) + b"\n"
            async with asyncio.timeout(30):
                await has_answer.wait()

    reader, writer = await _begin(api)
    async for piece in body():
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        answered.append(orjson.loads(await _chunk(reader)))
        has_answer.set()
    writer.write(b"0\r\n\r\n")
    assert await _chunk(reader) == b""
    writer.close()
    assert [answer["version"] for answer in answered] == [1, 2, 3, 4, 5]


async def test_a_client_may_send_everything_before_it_reads(api: Api) -> None:
    count = 20_000
    reader, writer = await _begin(api, wait=b"0")
    for start in range(0, count, 500):
        lines = b"".join(
            orjson.dumps({"doc": f"d{number % 100}", "put": number}) + b"\n"
            for number in range(start, start + 500)
        )
        writer.write(b"%x\r\n%b\r\n" % (len(lines), lines))
        async with asyncio.timeout(60):
            await writer.drain()
    writer.write(b"0\r\n\r\n")
    answers = b""
    while chunk := await _chunk(reader):
        answers += chunk
    writer.close()
    assert len(answers.splitlines()) == count


async def test_events_of_a_disconnected_client_are_stored_in_order(api: Api) -> None:
    _, writer = await _begin(api)
    lines = b"".join(orjson.dumps({"doc": "d", "put": number}) + b"\n" for number in range(200))
    writer.write(b"%x\r\n%b\r\n" % (len(lines), lines))
    await writer.drain()
    await api.get("d", min_version=200, timeout=30)
    writer.transport.abort()
    found = await api.get("d")
    assert (found.json(), found.headers["refold-version"]) == (199, "200")
    assert (await api.put("d", "on")).json()["version"] == 201


async def test_many_bulk_requests_at_once_are_all_answered(api: Api) -> None:
    async def one(name: str) -> list[dict[str, Any]]:
        return await api.append({"doc": name, "put": number} for number in range(100))

    for answers in await asyncio.gather(*(one(f"d{number}") for number in range(24))):
        assert [answer["version"] for answer in answers] == list(range(1, 101))


async def test_batches_held_by_an_author_do_not_block_bulk_requests_or_change_their_order(
    api: Api, system: System
) -> None:
    # Runs of one document among others: appending document by document would change the order.
    events = [{"doc": f"d{number * number // 7 % 20}", "put": number} for number in range(400)]
    counts: Counter[str] = Counter()
    async with held_batches(system.nats, api.namespace):
        for _ in range(2):
            answers = await api.append(events)
            assert {answer["status"] for answer in answers} == {"applied"}
            for answer, event in zip(answers, events, strict=True):
                counts[event["doc"]] += 1
                assert (answer["document"], answer["version"]) == (event["doc"], counts[event["doc"]])
            sequences = [answer["sequence"] for answer in answers]
            assert sequences == sorted(sequences)


async def _begin(api: Api, *, wait: bytes = b"5") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a bulk request whose body is sent piece by piece, without a client library."""
    base = api.client.base_url
    reader, writer = await asyncio.open_connection(base.host, base.port)
    head = f"POST /v1/{api.namespace}/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n".encode()
    writer.write(head + b"Content-Type: application/x-ndjson\r\nRefold-Wait: " + wait + b"\r\n\r\n")
    return reader, writer


async def _chunk(reader: asyncio.StreamReader) -> bytes:
    """Read one chunk of the answer, its head before the first."""
    async with asyncio.timeout(30):
        line = await reader.readline()
        if line.startswith(b"HTTP/1.1"):
            assert b" 200 " in line
            await reader.readuntil(b"\r\n\r\n")
            line = await reader.readline()
        chunk = await reader.readexactly(int(line, 16))
        await reader.readexactly(2)
        return chunk

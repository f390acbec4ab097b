"""After a lost acknowledgement, the response is about this very event in the log, never another with its id."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest

from refold.core.errors import BatchRefused, LogFull, LogUnavailable, StoreUnavailable
from refold.core.fold import ID_WINDOW_IDS
from refold.gateway import writes
from refold.log import Publication
from refold.log.memory import MemoryLog
from support.gateway import Twin, twin

LOST = ["lost", "dropped"]


@pytest.fixture
async def gateway() -> AsyncIterator[Twin]:
    async with twin() as made:
        yield made


async def bulk(gateway: Twin, events: list[dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    """Append events of one document `d` and return the answers."""
    content = b"".join(orjson.dumps({"doc": "d", **event}) + b"\n" for event in events)
    response = await gateway.request("POST", "/v1/n/events", content=content, **options)
    assert response.status_code == 200, response.text
    return [orjson.loads(line) for line in response.content.splitlines()]


def summary(response: httpx.Response) -> tuple[int, str, int]:
    """Return an answer's status, the outcome's, and its version."""
    view = response.json()
    view = view.get("outcome", view)
    return response.status_code, view["status"], view["version"]


async def others_write(gateway: Twin, count: int) -> None:
    """Let other authors write to the same document, each event with its own id."""
    events = [
        Publication(namespace="n", document="d", body=b'{"merge":{"o":%d},"id":"o%d"}' % (number, number))
        for number in range(count)
    ]
    for start in range(0, count, 1_000):
        await MemoryLog.append_atomically(gateway.log, events[start : start + 1_000])


@asynccontextmanager
async def written_before_the_look(
    gateway: Twin, monkeypatch: pytest.MonkeyPatch, write: Callable[[], Awaitable[object]]
) -> AsyncIterator[None]:
    """Write more events when the log's end is first read."""
    asked: list[int] = []
    info = gateway.log.info

    async def filled() -> Any:
        asked.append(1)
        if len(asked) == 1:
            await write()
        return await info()

    with monkeypatch.context() as patched:
        patched.setattr(gateway.log, "info", filled)
        yield
    assert asked


@pytest.mark.parametrize("fault", LOST)
async def test_a_repeated_event_with_a_lost_acknowledgement_is_a_duplicate(gateway: Twin, fault: str) -> None:
    first = await gateway.put("/v1/n/d", 1, Idempotency_Key="k")
    gateway.log.faults = [fault]
    again = await gateway.put("/v1/n/d", 1, Idempotency_Key="k")
    assert summary(again) == (201, "duplicate", 1)
    assert again.json()["first"]["sequence"] == first.json()["sequence"]


@pytest.mark.parametrize("fault", LOST)
async def test_other_content_under_a_used_id_is_refused_despite_a_lost_acknowledgement(
    gateway: Twin, fault: str
) -> None:
    await gateway.put("/v1/n/d", 1, Idempotency_Key="k")
    gateway.log.faults = [fault]
    reused = await gateway.put("/v1/n/d", 2, Idempotency_Key="k")
    assert summary(reused) == (409, "rejected", 1)
    assert reused.json()["reason"] == "id_reused"
    gateway.log.faults = [fault]
    answers = await bulk(gateway, [{"put": 1, "id": "k"}, {"put": 3, "id": "k"}, {"merge": {"a": 1}}])
    assert [answer["status"] for answer in answers] == ["duplicate", "rejected", "applied"]
    assert answers[1]["reason"] == "id_reused"
    assert await gateway.events() == 5


@pytest.mark.parametrize("fault", LOST)
@pytest.mark.parametrize("headers", [{}, {"If_Match": '"1"'}, {"If_Match": "*"}], ids=["plain", "one", "any"])
async def test_an_event_that_left_the_dedup_window_is_still_found(
    gateway: Twin, monkeypatch: pytest.MonkeyPatch, fault: str, headers: dict[str, str]
) -> None:
    await gateway.put("/v1/n/d", {})
    # Once it can be read, only a lost acknowledgement asks for the log's end.
    assert (await gateway.request("GET", "/v1/n/d?version=1")).status_code == 200
    gateway.log.faults = [fault]
    async with written_before_the_look(
        gateway, monkeypatch, lambda: others_write(gateway, ID_WINDOW_IDS + 1)
    ):
        response = await gateway.put("/v1/n/d", {"a": 1}, **headers)
    if fault == "lost":
        assert summary(response) == (200, "applied", 2)
    elif headers == {"If_Match": '"1"'}:
        assert response.status_code == 412
    else:
        assert summary(response) == (200, "applied", ID_WINDOW_IDS + 3)
    assert await gateway.events() == ID_WINDOW_IDS + (2 if response.status_code == 412 else 3)


@pytest.mark.parametrize("fault", LOST)
async def test_a_batch_that_left_the_dedup_window_is_found_and_not_sent_twice(
    gateway: Twin, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    events = [{"patch": [{"op": "add", "path": f"/{number}", "value": 1}]} for number in range(30)]
    gateway.log.faults = [fault]
    async with written_before_the_look(
        gateway, monkeypatch, lambda: others_write(gateway, ID_WINDOW_IDS - 10)
    ):
        answers = await bulk(gateway, events)
    begin = 2 if fault == "lost" else 2 + ID_WINDOW_IDS - 10
    assert [answer["sequence"] for answer in answers] == list(range(begin, begin + 30))
    assert {answer["status"] for answer in answers} == {"applied"}
    assert await gateway.events() == ID_WINDOW_IDS + 20


async def test_a_batch_is_not_mistaken_for_an_earlier_one_with_the_same_lines(gateway: Twin) -> None:
    events = [{"merge": {"n": number}, "id": f"id{number}"} for number in range(5)]
    firsts = await bulk(gateway, events)
    # Not stored, and folded before it was sent: only later events count.
    gateway.log.faults = ["dropped"]
    again = await bulk(gateway, events)
    assert [answer["status"] for answer in again] == ["duplicate"] * 5
    assert [answer["first"]["sequence"] for answer in again] == [first["sequence"] for first in firsts]
    # A batch with the same first line but fewer lines is another one.
    gateway.log.faults = ["dropped"]
    shorter = await bulk(gateway, [events[0], *events[2:]])
    assert [answer["status"] for answer in shorter] == ["duplicate"] * 4
    assert await gateway.events() == 14


async def test_a_batch_is_not_found_by_a_last_line_of_another_request(
    gateway: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [{"merge": {"n": number}, "id": f"id{number}"} for number in range(5)]
    gateway.log.faults = ["dropped"]
    async with written_before_the_look(gateway, monkeypatch, lambda: bulk(gateway, events[-1:])):
        answers = await bulk(gateway, events)
    assert [answer["status"] for answer in answers] == ["applied"] * 4 + ["duplicate"]
    assert await gateway.events() == 6


async def test_without_the_store_the_result_is_unknown_and_the_id_is_reported(
    gateway: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable

    monkeypatch.setattr(gateway.store, "segments", away)
    for headers in ({}, {"If_None_Match": "*"}):
        gateway.log.faults = ["lost"]
        response = await gateway.put("/v1/n/d" + "e" * len(headers), 1, **headers)
        view = response.json()
        assert (response.status_code, view["code"]) == (504, "acknowledgement_lost")
        assert view["id"].startswith("made-")
        found = await gateway.request("GET", f"/v1/n/d{'e' * len(headers)}/outcomes?id={view['id']}")
        assert found.json()["status"] == "applied"


# Strict writes that are stored late, after a search did not find them


def stored_late(gateway: Twin, *, others: int = 0) -> list[Callable[[], Awaitable[None]]]:
    """Drop the first append, and store it before the second, perhaps followed by events of others."""
    sent: list[Publication] = []
    append = gateway.log.append

    async def remembered(publication: Publication) -> Any:
        sent.append(publication)
        return await append(publication)

    async def early() -> None:
        gateway.log.append = append  # type: ignore[method-assign]

    async def late() -> None:
        await MemoryLog.append_atomically(gateway.log, sent[:1])
        await others_write(gateway, others)

    gateway.log.append = remembered  # type: ignore[method-assign]
    gateway.log.faults = ["dropped"]
    return [early, late]


@pytest.mark.parametrize("others", [0, 1, ID_WINDOW_IDS + 1])
@pytest.mark.parametrize("headers", [{"If_Match": '"1"'}, {"If_Match": "*"}], ids=["one", "any"])
@pytest.mark.parametrize("key", [{}, {"Idempotency_Key": "k"}], ids=["made", "own"])
async def test_a_strict_write_stored_late_is_not_412_and_not_applied_twice(
    gateway: Twin, key: dict[str, str], headers: dict[str, str], others: int
) -> None:
    await gateway.put("/v1/n/d", {})
    gateway.log.before_append = stored_late(gateway, others=others)
    response = await gateway.put("/v1/n/d", {"a": 1}, **headers, **key)
    assert summary(response) == (200, "applied", 2)
    assert await gateway.events() == 2 + others


@pytest.mark.parametrize("key", [{}, {"Idempotency_Key": "k"}], ids=["made", "own"])
async def test_a_large_state_stored_late_is_not_written_twice(
    gateway: Twin, monkeypatch: pytest.MonkeyPatch, key: dict[str, str]
) -> None:
    sent: list[list[Publication]] = []
    append = gateway.log.append_atomically

    async def remembered(publications: list[Publication]) -> Any:
        sent.append(publications)
        return await append(publications)

    async def early() -> None:
        assert len(sent[0]) > 1

    async def late() -> None:
        await MemoryLog.append_atomically(gateway.log, sent[0])

    monkeypatch.setattr(gateway.log, "append_atomically", remembered)
    gateway.log.faults, gateway.log.before_append = ["dropped"], [early, late]
    response = await gateway.put("/v1/n/d", ["x" * 400_000] * 5, **key)
    events_count = len(sent[0])
    assert summary(response) == (201, "applied", events_count)
    assert await gateway.events() == events_count


async def test_a_strict_write_that_is_never_acknowledged_is_503(gateway: Twin) -> None:
    gateway.log.faults = ["dropped"] * 10
    response = await gateway.put("/v1/n/d", 1, If_None_Match="*")
    assert (response.status_code, response.json()["code"]) == (503, "log_unavailable")
    assert await gateway.events() == 0


# Bulk requests that are partly in the log


async def test_a_bulk_request_that_fails_after_a_stored_batch_answers_each_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("refold.gateway.bulk.BATCH_EVENTS_MAX", 2)
    async with twin(is_projecting=False) as gateway:
        # Nothing is folded, so nothing is answered, when the second batch fails.
        gateway.log.faults = [None, LogFull()]
        answers = await bulk(gateway, [{"put": n} for n in range(6)], headers={"Refold-Wait": "0.2"})
    assert [answer["status"] for answer in answers] == ["pending"] * 2 + ["refused"] * 4
    assert {answer["error"]["code"] for answer in answers[2:]} == {"log_full"}
    assert await gateway.events() == 2


async def test_lines_with_an_unknown_result_have_their_ids_and_later_ones_are_not_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("refold.gateway.bulk.BATCH_EVENTS_MAX", 2)
    monkeypatch.setattr(writes, "RECOVER_SECONDS", 0.05)
    async with twin(is_projecting=False) as gateway:
        gateway.log.faults = [None, "lost"]
        answers = await bulk(gateway, [{"put": n} for n in range(6)], headers={"Refold-Wait": "0.2"})
        codes = [answer.get("reason") for answer in answers]
        assert codes == [None] * 2 + ["acknowledgement_lost"] * 2 + ["log_unavailable"] * 2
        assert await gateway.events() == 4
        async with gateway.projector():
            for answer, version in zip(answers[2:], (3, 4, None, None), strict=True):
                found = await gateway.request("GET", f"/v1/n/d/outcomes?id={answer['id']}")
                assert found.json().get("version") == version


async def test_lines_sent_singly_while_batches_are_refused_are_applied_once(gateway: Twin) -> None:
    events = [{"doc": f"d{number}", "put": number} for number in range(6)]
    gateway.log.faults = [BatchRefused(), None, "lost", "dropped", None, "lost", "dropped", "lost"]
    answers = await bulk(gateway, events)
    assert [answer["document"] for answer in answers] == [event["doc"] for event in events]
    assert {(answer["status"], answer["version"]) for answer in answers} == {("applied", 1)}
    assert await gateway.events() == 6


async def test_lines_behind_those_acknowledged_at_the_last_attempt_are_applied_too(
    gateway: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refold.gateway.bulk.BATCH_EVENTS_MAX", 2)
    gateway.log.faults = [BatchRefused(), *["dropped"] * 4]
    answers = await bulk(gateway, [{"put": number} for number in range(4)])
    assert [answer.get("version") for answer in answers] == [1, 2, 3, 4]
    assert await gateway.events() == 4


async def test_each_line_sent_singly_to_a_full_log_is_answered(
    gateway: Twin,
) -> None:
    gateway.log.faults = [BatchRefused(), None, LogFull(), None]
    events = [{"doc": f"d{number}", "put": number} for number in range(3)]
    answers = await bulk(gateway, events)
    assert [answer["status"] for answer in answers] == ["applied", "refused", "applied"]
    assert answers[1]["error"]["code"] == "log_full"
    assert await gateway.events() == 2


async def test_lines_sent_singly_and_never_acknowledged_are_503(gateway: Twin) -> None:
    gateway.log.faults = [BatchRefused(), *["dropped"] * 6]
    events = [{"put": 1}, {"put": 2}]
    content = b"".join(orjson.dumps({"doc": "d", **event}) + b"\n" for event in events)
    response = await gateway.request("POST", "/v1/n/events", content=content)
    assert (response.status_code, response.json()["code"]) == (503, "log_unavailable")
    assert await gateway.events() == 0


async def test_an_unavailable_log_is_an_error_and_a_retry_is_applied_once(gateway: Twin) -> None:
    gateway.log.faults = [LogUnavailable()]
    assert (await gateway.put("/v1/n/d", 1, Idempotency_Key="k")).status_code == 503
    assert summary(await gateway.put("/v1/n/d", 1, Idempotency_Key="k")) == (201, "applied", 1)
    assert summary(await gateway.put("/v1/n/d", 1, Idempotency_Key="k")) == (201, "duplicate", 1)

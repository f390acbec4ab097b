"""The gateway when its ports fail: nothing is lost, nothing hangs, and the cause is reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from typing import Any

import httpx
import orjson
import pytest
from structlog.contextvars import get_contextvars, merge_contextvars
from structlog.testing import capture_logs

from refold.core.errors import LogFull, LogHole, LogUnavailable, RefoldError, StoreUnavailable
from refold.core.fold import EVENT_BYTES_MAX, RULES
from refold.gateway import ops, responses, writes
from refold.gateway.tracing import Tracing, begin_request
from support.gateway import Twin, twin

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
JSON_PATCH = {"Content-Type": "application/json-patch+json"}


@pytest.fixture
async def gateway() -> AsyncIterator[Twin]:
    async with twin() as made:
        yield made


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert response.headers["content-type"] == responses.PROBLEM, response.text
    view: dict[str, Any] = response.json()
    assert (response.status_code, view["status"], view["code"]) == (status, status, code), view
    assert view["type"].endswith(f":{code}")
    assert view["title"]
    assert view["detail"]
    return view


async def test_the_log_line_of_a_request_has_the_id_of_its_response(gateway: Twin) -> None:
    gateway.app.context = None  # type: ignore[assignment]  # So every request crashes.
    with capture_logs(processors=[merge_contextvars]) as lines:
        traced = await gateway.request(
            "GET", "/v1", headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-00"}
        )
        invalid = await gateway.request("GET", "/v1", headers={"traceparent": f"00-{TRACE}-0-00"})
        others = [await gateway.request("GET", "/v1") for _ in range(2)]
    ids = [response.headers["Refold-Request-Id"] for response in (traced, invalid, *others)]
    assert [(line["event"], line["request_id"]) for line in lines] == [
        ("request_crashed", each) for each in ids
    ]
    assert ids[0] == TRACE
    assert len(set(ids)) == 4
    assert all("trace_id" not in line for line in lines), "none of these is sampled"


def test_the_log_lines_of_a_sampled_request_have_its_trace_and_span() -> None:
    spans: Any = None  # None ends here.

    def begin() -> None:
        tracing = Tracing(spans, ratio=1, now=lambda: 0)
        request_id, trace = begin_request({"path": "/v1/acme/order-1", "headers": []}, tracing)
        assert trace is not None
        assert get_contextvars() == {
            "request_id": request_id.decode(),
            "trace_id": f"{trace.context.trace_id:032x}",
            "span_id": f"{trace.context.span_id:016x}",
        }
        assert get_contextvars()["request_id"] == get_contextvars()["trace_id"]

    Context().run(begin)


# An acknowledgement that is lost


async def test_a_stored_event_without_acknowledgement_is_found_and_not_sent_again(gateway: Twin) -> None:
    gateway.log.faults = ["lost"]
    response = await gateway.put("/v1/n/d", 1)
    assert response.status_code == 201
    assert response.json()["version"] == 1
    assert await gateway.events() == 1


async def test_an_event_that_was_not_stored_is_sent_again(gateway: Twin) -> None:
    gateway.log.faults = ["dropped", "dropped"]
    response = await gateway.put("/v1/n/d", 1)
    assert response.status_code == 201
    assert await gateway.events() == 1


async def test_a_stored_strict_write_without_acknowledgement_is_found(gateway: Twin) -> None:
    await gateway.put("/v1/n/d", 1)
    gateway.log.faults = ["lost"]
    response = await gateway.put("/v1/n/d", 2, If_Match='"1"')
    assert (response.status_code, response.json()["version"]) == (200, 2)
    gateway.log.faults = ["dropped"]
    response = await gateway.put("/v1/n/d", 3, If_Match='"2"')
    assert (response.status_code, response.json()["version"]) == (200, 3)
    assert await gateway.events() == 3


async def test_events_that_are_never_acknowledged_are_503(gateway: Twin) -> None:
    gateway.log.faults = ["dropped"] * 10
    problem(await gateway.put("/v1/n/d", 1), 503, "log_unavailable")
    assert await gateway.events() == 0


async def test_an_unknown_result_is_504_with_the_id_to_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes, "RECOVER_SECONDS", 0.05)
    async with twin(is_projecting=False) as gateway:
        gateway.log.faults = ["lost"]
        view = problem(await gateway.put("/v1/n/d", 1, Idempotency_Key="k"), 504, "acknowledgement_lost")
        assert view["id"] == "k"
        async with gateway.projector():
            found = await gateway.request("GET", "/v1/n/d/outcomes?id=k")
            assert (found.status_code, found.json()["status"]) == (200, "applied")


@pytest.mark.parametrize("error", [LogUnavailable(), LogHole(), StoreUnavailable()])
async def test_a_write_in_the_log_whose_outcome_cannot_be_read_is_pending_or_in_doubt_and_not_failed(
    gateway: Twin, error: RefoldError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of recent depth reads its history from the log, too."""

    async def fail(*_: Any, **__: Any) -> Any:
        raise error
        yield

    gateway.notices.lost = ("refold.reply",)
    monkeypatch.setattr(gateway.store, "segments", fail)
    monkeypatch.setattr(gateway.store, "entry", lambda *_, **__: anext(fail()))
    sent = await gateway.put("/v1/n/d", 1, Refold_Wait="0.1")
    assert (sent.status_code, sent.json()["status"]) == (202, "pending")
    gateway.log.faults = ["lost"]
    view = problem(await gateway.put("/v1/n/d", 2, Idempotency_Key="k"), 504, "acknowledgement_lost")
    assert view["id"] == "k"


# A log or a store that is unavailable or full


@pytest.mark.parametrize(("error", "code"), [(LogFull(), "log_full"), (LogUnavailable(), "log_unavailable")])
async def test_a_log_that_refuses_appends_is_503_and_named(gateway: Twin, error: LogFull, code: str) -> None:
    gateway.log.faults = [error]
    response = await gateway.put("/v1/n/d", 1)
    problem(response, 503, code)
    assert response.headers["retry-after"] == "1"
    assert (await gateway.put("/v1/n/d", 1)).status_code == 201


async def test_an_unavailable_store_is_503_for_reads_and_does_not_stop_writes(gateway: Twin) -> None:
    # Else the gateway answers the read from the write.
    await gateway.put("/v1/n/d", 1, Refold_Wait="committed")
    gateway.store.is_down = True
    problem(await gateway.request("GET", "/v1/n/d"), 503, "store_unavailable")
    assert (await gateway.put("/v1/n/d", 2)).status_code == 200


async def test_readiness_names_what_cannot_be_reached(gateway: Twin) -> None:
    assert (await gateway.request("GET", "/readyz")).json() == {"status": "ready"}
    gateway.log.is_down = gateway.store.is_down = True
    view = problem(await gateway.request("GET", "/readyz"), 503, "not_ready")
    assert view["unreachable"] == ["nats", "postgres"]
    assert "log_unavailable" in view["detail"]
    assert (await gateway.request("GET", "/healthz")).json() == {"status": "alive"}


async def test_readiness_is_answered_while_a_store_is_slow_to_cancel_a_query(
    gateway: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slow() -> None:
        # As asyncpg, which waits until the server has cancelled a query.
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    monkeypatch.setattr(ops, "PROBE_SECONDS", 0.01)
    gateway.app.context = replace(gateway.context, checks={"nats": gateway.log.info, "postgres": slow})
    async with asyncio.timeout(10):
        view = problem(await gateway.request("GET", "/readyz"), 503, "not_ready")
        # The gauge `refold_ready` asks so.
        assert not await ops.is_ready(gateway.app.context)
    assert (view["unreachable"], view["detail"]) == (["postgres"], "postgres: timed_out: no answer in 0.01 s")


async def test_the_status_does_not_wait_for_a_store_that_hangs(
    gateway: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "PROBE_SECONDS", 0.01)
    gateway.store.checkpoints = asyncio.Event().wait  # type: ignore[assignment]
    view = problem(await gateway.client.get("/status"), 503, "store_unavailable")
    assert "/health" in view["detail"]


async def test_an_unexpected_error_is_a_problem_document(
    gateway: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash() -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(gateway.store, "namespaces", crash)
    view = problem(await gateway.request("GET", "/v1"), 500, "internal_error")
    assert "injected" not in view["detail"]


# Slow folding and lost notices


async def test_a_write_that_is_not_folded_in_time_is_pending_and_can_be_looked_up() -> None:
    async with twin(is_projecting=False) as gateway:
        response = await gateway.put("/v1/n/d", 1, Refold_Wait="0.02")
        assert response.status_code == 202
        assert response.json() == {"status": "pending", "sequence": 2, "id": "made-1"}
        assert response.headers["location"] == "/v1/n/d/outcomes/2"
        pending = await gateway.request("GET", "/v1/n/d/outcomes/2")
        assert (pending.status_code, pending.json()) == (202, {"status": "pending", "sequence": 2})
        async with gateway.projector() as running:
            await running.committed(2)
            found = await gateway.request("GET", "/v1/n/d/outcomes/2")
            assert (found.status_code, found.json()["version"]) == (200, 1)


async def test_a_write_that_does_not_wait_requests_no_notice() -> None:
    async with twin(is_projecting=False) as gateway:
        assert (await gateway.put("/v1/n/d", 1, Refold_Wait="0")).status_code == 202
        record = await gateway.log.get(2)
        assert record is not None
        assert record.headers == b""


async def test_a_write_whose_notice_is_lost_is_looked_up(gateway: Twin) -> None:
    gateway.notices.lost = ("refold.",)
    response = await gateway.put("/v1/n/d", 1)
    assert (response.status_code, response.json()["version"]) == (201, 1)
    notified = (await gateway.put("/v1/n/d", 1)).json()
    assert notified["version"] == 2


async def test_bulk_outcomes_whose_notices_are_lost_are_looked_up(gateway: Twin) -> None:
    gateway.notices.lost = ("refold.",)
    body = b"".join(orjson.dumps({"doc": "d", "put": number}) + b"\n" for number in range(50))
    response = await gateway.request("POST", "/v1/n/events", content=body)
    outcomes = [orjson.loads(line) for line in response.content.splitlines()]
    assert [outcome["version"] for outcome in outcomes] == list(range(1, 51))


async def test_the_notice_and_the_store_have_the_same_outcome(gateway: Twin) -> None:
    first = await gateway.put(
        "/v1/n/d", {"a": 1}, Idempotency_Key="k", Refold_Occurred_At="2020-01-01T00:00:00Z"
    )
    repeated = await gateway.put(
        "/v1/n/d", {"a": 1}, Idempotency_Key="k", Refold_Occurred_At="2020-01-01T00:00:00Z"
    )
    patch = b'[{"op":"remove","path":"/b"}]'
    refused = await gateway.request("PATCH", "/v1/n/d", content=patch, headers=JSON_PATCH)
    deleted = await gateway.request("DELETE", "/v1/n/d")
    notices = [first.json(), repeated.json(), refused.json()["outcome"], deleted.json()]
    assert [notice["status"] for notice in notices] == ["applied", "duplicate", "rejected", "applied"]
    for notice in notices:
        found = await gateway.request("GET", f"/v1/n/d/outcomes/{notice['sequence']}")
        assert found.json() == notice


async def test_a_pending_strict_write_is_decided_only_by_folded_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with twin(is_projecting=False, wait_seconds=0.05) as gateway:
        monkeypatch.setattr("refold.gateway.writes.DECIDE_SECONDS", 0.05)
        await gateway.put("/v1/n/d", 1, Refold_Wait="0")
        problem(await gateway.put("/v1/n/d", 2, If_Match='"1"'), 504, "timed_out")
        assert await gateway.events() == 1
        async with gateway.projector():
            assert (await gateway.put("/v1/n/d", 2, If_Match='"1"')).status_code == 200


async def test_what_decides_a_write_is_awaited_for_no_longer_than_its_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("refold.gateway.writes.DECIDE_SECONDS", 60)
    change = {"changes": [{"doc": "d", "version": 1, "put": 2}]}
    async with twin(is_projecting=False, wait_seconds=60) as gateway, asyncio.timeout(30):
        await gateway.put("/v1/n/d", 1, Refold_Wait="0")
        short = {"Refold-Wait": "0.05", "Content-Type": "application/json"}
        problem(await gateway.put("/v1/n/d", 2, If_Match='"1"', Refold_Wait="0.05"), 504, "timed_out")
        for path, body in (("/v1/n/d/revert", {"undo": 1}), ("/v1/n/transactions", change)):
            problem(await gateway.request("POST", path, json=body, headers=short), 504, "timed_out")
        assert await gateway.events() == 1


async def test_a_delete_is_published_if_the_document_is_not_folded_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("refold.gateway.writes.DECIDE_SECONDS", 0.05)
    async with twin(is_projecting=False, wait_seconds=0.05) as gateway:
        await gateway.put("/v1/n/d", 1)
        assert (await gateway.request("DELETE", "/v1/n/d")).status_code == 202
        assert await gateway.events() == 2


async def test_a_read_whose_wait_times_out_is_504() -> None:
    async with twin(is_projecting=False) as gateway:
        await gateway.put("/v1/n/d", 1, Refold_Wait="0")
        for query in ("min_version=1", "min_sequence=2", "sequence=2"):
            problem(await gateway.request("GET", f"/v1/n/d?{query}&timeout=0.02"), 504, "timed_out")


# Strict writes under way


async def test_a_strict_write_that_is_overtaken_is_412(gateway: Twin) -> None:
    await gateway.put("/v1/n/d", 1)

    async def overtake() -> None:
        assert (await gateway.put("/v1/n/d", "other")).status_code == 200

    gateway.log.before_append = [overtake]
    view = problem(await gateway.put("/v1/n/d", 2, If_Match='"1"'), 412, "precondition_failed")
    assert view["version"] == 2
    assert await gateway.events() == 2


async def test_a_rejected_event_in_between_does_not_refuse_a_strict_write(gateway: Twin) -> None:
    await gateway.put("/v1/n/d", 1)

    async def refused() -> None:
        patch = b'[{"op":"test","path":"","value":9}]'
        answer = await gateway.request("PATCH", "/v1/n/d", content=patch, headers=JSON_PATCH)
        assert answer.status_code == 409

    gateway.log.before_append = [refused, refused]
    response = await gateway.put("/v1/n/d", 2, If_Match='"1"')
    assert (response.status_code, response.json()["version"]) == (200, 2)


async def test_a_strict_write_repeatedly_overtaken_by_rejected_events_ends(gateway: Twin) -> None:
    await gateway.put("/v1/n/d", 1)

    async def refused() -> None:
        # The rejected event's own append must not be preceded by another.
        kept, gateway.log.before_append = gateway.log.before_append, []
        patch = b'[{"op":"test","path":"","value":9}]'
        await gateway.request("PATCH", "/v1/n/d", content=patch, headers=JSON_PATCH)
        gateway.log.before_append = kept

    gateway.log.before_append = [refused] * 20
    response = await gateway.put("/v1/n/d", 2, If_Match='"1"')
    problem(response, 503, "contended")
    # The service is well: no wait makes the next try better.
    assert response.headers["retry-after"] == "0"


# A bulk request whose log fails


async def test_a_log_that_fails_at_once_fails_the_whole_bulk_request(gateway: Twin) -> None:
    gateway.log.faults = [LogFull()]
    response = await gateway.request("POST", "/v1/n/events", content=b'{"doc":"d","put":1}\n' * 3)
    problem(response, 503, "log_full")
    assert await gateway.events() == 0


async def test_after_a_failed_batch_nothing_is_appended_and_every_line_is_answered(gateway: Twin) -> None:
    gateway.log.faults = [None, LogFull()]

    async def body() -> AsyncIterator[bytes]:
        yield b'{"doc":"d","put":1}\n'
        await gateway.appended(1)
        # Until the first answer has been sent, a failure would still fail the whole request.
        for _ in range(50):
            await asyncio.sleep(0)
        yield b'{"doc":"d","put":2}\n{"doc":"d","put":3}\n'
        for _ in range(50):
            await asyncio.sleep(0)
        yield b'{"doc":"d","put":4}\n'

    headers = {"Refold-Wait": "0"}
    response = await gateway.request("POST", "/v1/n/events", content=body(), headers=headers)
    answers = [orjson.loads(line) for line in response.content.splitlines()]
    assert [answer["status"] for answer in answers] == ["pending", "refused", "refused", "refused"]
    assert [answer.get("line") for answer in answers[1:]] == [2, 3, 4]
    assert {answer["error"]["code"] for answer in answers[1:]} == {"log_full"}
    assert await gateway.events() == 1


async def test_a_batch_whose_acknowledgement_is_lost_is_in_the_log_once(gateway: Twin) -> None:
    body = b"".join(orjson.dumps({"doc": f"d{n % 3}", "put": n}) + b"\n" for n in range(30))
    for fault in ("lost", "dropped"):
        gateway.log.faults = [fault]
        before = await gateway.events()
        response = await gateway.request("POST", "/v1/n/events", content=body)
        answers = [orjson.loads(line) for line in response.content.splitlines()]
        assert {answer["status"] for answer in answers} == {"applied"}
        sequences = [answer["sequence"] for answer in answers]
        assert sequences == list(range(before + 2, before + 32))
        assert await gateway.events() == before + 30


# A log under an older fold


async def test_what_an_older_fold_does_not_have_is_rejected_with_the_reason() -> None:
    async with twin(rules=RULES[1]) as gateway:
        assert (await gateway.put("/v1/n/d", {"a": 1})).status_code == 201
        assert (await gateway.put("/v1/n/d", {"a": 2})).status_code == 200
        stale = {"Refold_Base": "1", "Refold_On_Conflict": "merge"}
        inc = b'[{"op":"inc","path":"/a","inc":1}]'
        for response, reason in (
            (await gateway.put("/v1/n/a.b", 1), "bad_name"),
            (await gateway.put("/v1/n/a%2Fb", 1), "bad_name"),
            (await gateway.request("PATCH", "/v1/n/d", content=inc, headers=JSON_PATCH), "not_in_this_fold"),
            (await gateway.put("/v1/n/d", 3, Refold_Session="s"), "not_in_this_fold"),
            (await gateway.put("/v1/n/d", 3, **stale), "strategy_unavailable"),
        ):
            assert problem(response, 409, "rejected")["reason"] == reason
        assert (await gateway.client.get("/v1/n/d")).json() == {"a": 2}


# Errors of the framework


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/docs/nothing", 404, "not_found"),
        ("GET", "/v1/n/d/nothing", 404, "not_found"),
        ("GET", "/v1/n/d/", 404, "not_found"),
        ("GET", "/v1/n/a%2Fb/c/d", 404, "not_found"),
        ("GET", "/v1/n/a%2Fb", 404, "document_absent"),
        ("GET", "/v1/n/d/history%2F", 404, "not_found"),
        ("PUT", "/v1/n/a%FFb", 422, "bad_name"),
        ("GET", "/v1/n/%C3/history", 422, "bad_name"),
        ("GET", "/v1/n/50%", 422, "bad_name"),
        ("GET", "/v1/n/50%2", 422, "bad_name"),
        ("GET", "/v1/n/d/history?limit=0", 422, "bad_parameter"),
        ("GET", "/v1/n/d/history?limit=1001", 422, "bad_parameter"),
        ("GET", "/v1/n/d/history?order=up", 422, "bad_parameter"),
        ("GET", "/v1/n/d/history?page=2", 422, "unknown_parameter"),
        ("GET", "/v1/n/d/diff?from=1", 422, "bad_parameter"),
        ("GET", "/v1/n/d/diff?from=1&to=x", 422, "bad_parameter"),
        ("GET", "/v1/n/d/outcomes", 422, "bad_parameter"),
        ("GET", "/v1/n/d/outcomes/x", 422, "bad_parameter"),
        ("GET", "/v1/n/d/outcomes/1?x=1", 422, "unknown_parameter"),
        ("GET", "/v1?x=1", 422, "unknown_parameter"),
        ("GET", "/status?x=1", 422, "unknown_parameter"),
        ("GET", "/v1/n/d?x=1", 422, "unknown_parameter"),
        ("GET", "/v1/n/d?version=1&version=2", 422, "repeated_parameter"),
        ("GET", "/v1/n/d/history?limit=1&limit=1", 422, "repeated_parameter"),
        ("GET", "/v1/n?prefix=a&prefix=b", 422, "repeated_parameter"),
        ("GET", "/v1/n/d?version=-1", 422, "bad_parameter"),
        ("GET", "/v1/n/d?version=one", 422, "bad_parameter"),
        ("GET", "/v1/n/d?at=yesterday", 422, "bad_time"),
        ("GET", "/v1/n/d?at=2024-01-01&version=1", 422, "contradictory"),
        ("GET", "/v1/n/d?clock=occurred", 422, "contradictory"),
        ("GET", "/v1/n/d?timeout=soon", 422, "bad_parameter"),
        ("PUT", "/v1/n/d?x=1", 422, "unknown_parameter"),
    ],
)
async def test_every_error_is_a_problem_document(
    gateway: Twin, method: str, path: str, status: int, code: str
) -> None:
    problem(await gateway.request(method, path), status, code)


async def test_an_unsupported_method_is_405_and_the_supported_ones_are_named(gateway: Twin) -> None:
    response = await gateway.request("POST", "/v1/n/d")
    problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == "DELETE, GET, HEAD, PATCH, PUT"
    assert (await gateway.request("POST", "/v1/n/d/history")).headers["allow"] == "GET, HEAD"


async def test_a_body_that_is_too_large_is_413_with_size_and_limit(gateway: Twin) -> None:
    large = b'"' + b"x" * EVENT_BYTES_MAX + b'"'
    headers = {"Content-Type": "application/json"}
    view = problem(
        await gateway.request("PUT", "/v1/n/d", content=large, headers=headers), 413, "event_too_large"
    )
    assert str(len(large)) in view["detail"]
    assert str(EVENT_BYTES_MAX) in view["detail"]
    # It fits alone, but not with the rest of its event.
    tight = b'"' + b"x" * (EVENT_BYTES_MAX - 2) + b'"'
    problem(await gateway.request("PUT", "/v1/n/d", content=tight, headers=headers), 413, "event_too_large")
    assert await gateway.events() == 0


async def test_requests_are_timed_by_route_and_never_by_name(gateway: Twin) -> None:
    await gateway.put("/v1/n/a-name", 1)
    await gateway.request("GET", "/v1/n/a-name")
    await gateway.request("GET", "/v1/n/a-name/history")
    await gateway.request("BREW", "/nowhere/a-name")
    text = (await gateway.request("GET", "/metrics")).text
    assert "a-name" not in text
    route = 'route="/v1/{namespace}/{document}"'
    assert f'refold_http_request_seconds_count{{method="GET",{route},status="200"}} 1.0' in text
    assert f'refold_http_request_seconds_count{{method="PUT",{route},status="201"}} 1.0' in text
    assert 'refold_http_request_seconds_count{method="other",route="none",status="404"} 1.0' in text
    assert "refold_append_seconds_count 1.0" in text


async def test_a_stopping_gateway_answers_every_request_that_waits() -> None:
    async with twin(is_projecting=False) as gateway:
        writing = asyncio.create_task(gateway.put("/v1/n/d", 1, Refold_Wait="60"))
        reading = asyncio.create_task(gateway.request("GET", "/v1/n/d?min_version=1&timeout=60"))

        async def body() -> AsyncIterator[bytes]:
            yield b'{"doc":"e","put":1}\n'
            await asyncio.Event().wait()

        headers = {"Refold-Wait": "60"}
        bulk = asyncio.create_task(gateway.request("POST", "/v1/n/events", content=body(), headers=headers))
        await gateway.appended(2)
        gateway.context.consistency.release()
        assert (await writing).status_code == 202
        problem(await reading, 504, "timed_out")
        assert (await bulk).json()["status"] == "pending"


async def test_too_many_concurrent_bulk_requests_are_503_with_a_retry_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("refold.gateway.bulk.BULK_QUEUE_SECONDS", 0.02)
    async with twin(is_projecting=False, bulk_slots=asyncio.Semaphore(1)) as gateway:
        line, long = b'{"doc":"d","put":1}\n', {"Refold-Wait": "60"}
        first = asyncio.create_task(gateway.request("POST", "/v1/n/events", content=line, headers=long))
        await gateway.appended(1)
        problem(await gateway.request("POST", "/v1/n/events", content=line), 503, "busy")
        async with gateway.projector():
            assert (await first).json()["version"] == 1
            assert (await gateway.request("POST", "/v1/n/events", content=line)).json()["version"] == 2


async def test_an_idle_bulk_request_releases_its_slot_and_takes_one_again() -> None:
    other_is_done = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b'{"doc":"d","put":1}\n{"doc"'
        await other_is_done.wait()
        yield b':"d","put":3}\n'

    async with twin(bulk_slots=asyncio.Semaphore(1)) as gateway:
        first = asyncio.create_task(gateway.request("POST", "/v1/n/events", content=body()))
        await gateway.appended(1)
        other = await gateway.request("POST", "/v1/n/events", content=b'{"doc":"d","put":2}\n')
        assert other.json()["version"] == 2
        other_is_done.set()
        assert [orjson.loads(line)["version"] for line in (await first).content.splitlines()] == [1, 3]


async def test_a_client_that_never_reads_its_answers_is_disconnected(
    gateway: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refold.gateway.bulk.BULK_STALL_SECONDS", 0.05)
    monkeypatch.setattr("refold.gateway.bulk.BULK_ANSWER_BYTES_MAX", 1_000)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/n/events",
        "raw_path": b"/v1/n/events",
        "query_string": b"",
        "headers": [(b"refold-wait", b"0"), (b"content-type", b"application/x-ndjson")],
    }

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b'{"doc":"d","put":1}\n' * 100, "more_body": True}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async with asyncio.timeout(20):
        # It returns in the middle of its answer, at which the server breaks the connection off.
        await gateway.app(scope, receive, send)
    assert (await gateway.put("/v1/n/d", 1)).status_code == 200


@pytest.mark.parametrize("text", ["1.0", "%201", "%2B1", "1e0", "01", "1_0", "-0", "", "%EF%BC%91"])
async def test_a_number_in_a_request_is_plain_digits_or_422(gateway: Twin, text: str) -> None:
    asked = [
        *((f"/d?{name}={text}", name) for name in ("version", "sequence", "min_version", "min_sequence")),
        *((f"/d/history?{name}={text}", name) for name in ("after", "limit")),
        (f"/d/diff?from={text}&to=1", "from"),
        (f"/d/diff?from=1&to={text}", "to"),
        (f"/d/rejections?after={text}", "after"),
        (f"?sequence={text}", "sequence"),
        *([(f"/d/outcomes/{text}", "sequence")] if text else []),
    ]
    for path, field in asked:
        answer = await gateway.request("GET", f"/v1/n{path}")
        view = answer.json()
        assert (answer.status_code, view["code"], view["field"]) == (422, "bad_parameter", field), path


@pytest.mark.parametrize("text", ["nan", "inf", "%201", "%2B1", "1_0", ".5", "301"])
async def test_seconds_to_wait_are_a_plain_number_or_422(gateway: Twin, text: str) -> None:
    for path in ("/v1/n/d?", "/v1/n/d/outcomes?id=x&", "/v1/n?"):
        answer = await gateway.request("GET", f"{path}timeout={text}")
        view = answer.json()
        assert (answer.status_code, view["code"], view["field"]) == (422, "bad_parameter", "timeout"), path

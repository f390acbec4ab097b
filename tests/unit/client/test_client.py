"""The client sends requests by the contract, and returns values unless something failed."""

import asyncio
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum, auto
from uuid import UUID

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from multidict import CIMultiDict, CIMultiDictProxy
from opentelemetry import trace

from refold.client import (
    Conflict,
    DocumentAbsent,
    HistoryElsewhere,
    HistorySlow,
    Outcome,
    Refold,
    Refused,
    Rejected,
    ServiceUnavailable,
    TimedOut,
    VersionUnknown,
    WriteOptions,
    sync,
    transport,
)

NOW = "2026-01-02T03:04:05.000000006Z"
SILENCE_SECONDS = 0.2
DEADLINE_SECONDS = 60.0
APPLIED = {"status": "applied", "version": 3, "sequence": 9, "recorded_at": NOW}


@dataclass
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    params: dict[str, str]
    headers: CIMultiDictProxy[str]
    raw_headers: list[tuple[bytes, bytes]]
    content: bytes


class Fault(Enum):
    """What a gateway does instead of answering."""

    cut = auto()
    cut_short = auto()
    silent = auto()


class Gateway:
    """A server that gives prepared answers and records its requests."""

    def __init__(self):
        self.url = ""
        self.asked = []
        self.answers = []
        self.framings = []
        self.was_asked = asyncio.Event()
        self.peers = []
        self.connections = []

    def answer(self, status=200, body=None, headers=None):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers.append((status, content, headers))

    def problem(self, status, code, **members):
        self.answer(status, {"type": f"urn:refold:problem:{code}", "code": code, "status": status, **members})

    async def handle(self, request):
        raw = sorted(request.raw_headers)
        self.peers.append(request.transport.get_extra_info("peername"))
        self.connections.append(request)
        self.was_asked.set()
        framing = self.framings.pop(0) if self.framings else ""
        content = b"" if framing == "early" else await request.read()
        self.asked.append(
            Asked(request.method, request.path, dict(request.query), request.headers, raw, content)
        )
        answer = self.answers.pop(0)
        if isinstance(answer, Fault):
            return await self._fail(request, answer)
        status, body, headers = answer
        if framing in ("chunked", "close"):
            return await self._framed(request, framing, body)
        return web.Response(status=status, body=body, headers=headers)

    async def _framed(self, request, framing, body):
        response = web.StreamResponse()
        if framing == "chunked":
            response.enable_chunked_encoding()
        else:
            response.force_close()
            response.headers["Connection"] = "close"
        await response.prepare(request)
        for start in range(0, len(body), 70_000):
            await response.write(body[start : start + 70_000])
        await response.write_eof()
        return response

    async def _fail(self, request, fault):
        if fault is Fault.silent:
            await asyncio.sleep(SILENCE_SECONDS)
        response = web.StreamResponse(headers={"Content-Length": "99"})
        if fault is Fault.cut_short:
            await response.prepare(request)
            await response.write(b"{")
        request.transport.abort()
        return response


@pytest.fixture
async def gateway():
    made = Gateway()
    async with RawTestServer(made.handle, skip_url_asserts=True) as server:
        made.url = str(server.make_url("/"))
        yield made


@pytest.fixture
async def refold(gateway):
    async with Refold(gateway.url, timeout_seconds=SILENCE_SECONDS / 2) as client:
        yield client


@pytest.fixture
async def unreachable(unused_tcp_port):
    async with Refold(f"http://127.0.0.1:{unused_tcp_port}/") as client:
        yield client


async def test_a_write_carries_its_options_as_headers(gateway, refold):
    gateway.answer(201, APPLIED)
    outcome = await refold.put(
        "acme",
        "order:1",
        {"b": 1, "a": "ä"},
        id="mine",
        type="order.made",
        actor="Zoë",
        occurred_at=datetime(2026, 1, 2, tzinfo=UTC),
        meta={"k": "ü"},
        if_version=2,
        wait_seconds=0,
    )
    (request,) = gateway.asked
    assert (request.method, request.path) == ("PUT", "/v1/acme/order:1")
    assert request.content == '{"a":"ä","b":1}'.encode()
    sent_headers = {name.lower(): value for name, value in request.raw_headers}
    assert sent_headers[b"idempotency-key"] == b"mine"
    assert sent_headers[b"refold-actor"] == "Zoë".encode()
    assert sent_headers[b"refold-occurred-at"] == b"2026-01-02T00:00:00+00:00"
    assert sent_headers[b"refold-meta"] == '{"k":"ü"}'.encode()
    assert sent_headers[b"if-match"] == b'"2"'
    assert sent_headers[b"refold-wait"] == b"0"
    assert outcome.is_effective
    assert (outcome.version, outcome.sequence) == (3, 9)


async def test_every_write_has_an_id_to_look_up_a_lost_response(gateway, refold):
    gateway.answer(200, APPLIED)
    gateway.answer(200, APPLIED)
    await refold.merge("acme", "d", {"a": 1})
    await refold.merge("acme", "d", {"a": 1})
    keys = [request.headers["idempotency-key"] for request in gateway.asked]
    assert all(keys)
    assert keys[0] != keys[1]


TRACE_ID, SPAN_ID = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
TRACE_PARENT = f"00-{TRACE_ID:032x}-{SPAN_ID:016x}-03"


def span(**state):
    context = trace.SpanContext(
        TRACE_ID, SPAN_ID, True, trace.TraceFlags(3), trace.TraceState([*state.items()])
    )
    return trace.use_span(trace.NonRecordingSpan(context))


async def test_requests_carry_the_context_of_the_current_span(gateway, refold):
    for _ in range(4):
        gateway.answer(body=APPLIED)
    with span(vendor="1"):
        await refold.put("acme", "a", 1)
    with span(**{f"v{number}": "x" * 200 for number in range(3)}):
        await refold.put("acme", "a", 1)
    await refold.put("acme", "a", 1)

    def write_in_a_thread():
        with span(), sync.Refold(gateway.url) as writer:
            writer.put("acme", "a", 1)

    await asyncio.to_thread(write_in_a_thread)
    sent = [(asked.headers.get("traceparent"), asked.headers.get("tracestate")) for asked in gateway.asked]
    assert sent == [(TRACE_PARENT, "vendor=1"), (TRACE_PARENT, None), (None, None), (TRACE_PARENT, None)]


def test_the_client_does_not_import_opentelemetry():
    code = "import sys, refold.client; from refold.client import transport; print(transport.trace_headers())"
    code += "; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "{}\n[]\n"


async def test_an_error_of_the_service_names_the_request_in_its_log(gateway):
    async with Refold(gateway.url, retry_seconds=0) as refold:
        for status in (500, 422):
            gateway.answer(status, {"code": "c", "detail": "it failed"}, {"Refold-Request-Id": "0a" * 16})
        with pytest.raises(ServiceUnavailable, match=f"request_id='{'0a' * 16}'"):
            await refold.get("acme", "a")
        with pytest.raises(Refused, match=r"^it failed$"):
            await refold.get("acme", "a")


async def test_a_patch_and_a_merge_patch_differ_by_media_type(gateway, refold):
    for _ in range(2):
        gateway.answer(200, APPLIED)
    await refold.patch("acme", "d", [])
    await refold.merge("acme", "d", {})
    assert [request.headers["content-type"] for request in gateway.asked] == [
        "application/json-patch+json",
        "application/merge-patch+json",
    ]


@pytest.mark.parametrize("write", ["put", "patch", "merge", "delete"])
async def test_a_misspelt_option_of_a_write_is_an_error_and_nothing_is_sent(gateway, refold, write):
    arguments = () if write == "delete" else ({},)
    for name, similar in (("if_verison", "if_version"), ("occured_at", "occurred_at")):
        with pytest.raises(TypeError, match=f"'{name}'; did you mean {similar}?"):
            await getattr(refold, write)("acme", "d", *arguments, **{name: 1})
    assert gateway.asked == []


@pytest.mark.parametrize("name", sorted(WriteOptions.__annotations__))
async def test_a_write_option_of_none_is_not_sent(gateway, refold, name):
    with pytest.raises(TypeError, match=f"{name} is None"):
        await refold.put("acme", "d", 1, **{name: None})
    assert gateway.asked == []


async def test_an_event_with_an_unknown_member_is_refused_by_its_pointer_and_nothing_is_sent(gateway, refold):
    events = [{"doc": "d", "put": 1}, {"doc": "d", "put": 2, "occured_at": NOW}]
    with pytest.raises(Refused, match="did you mean occurred_at") as refused:
        await refold.append("acme", events)
    assert (refused.value.reason, refused.value.field) == ("unknown_field", "/1/occured_at")
    assert gateway.asked == []


class Colour(Enum):
    """Equal to a JSON value, but not a JSON value."""

    red = "red"


NOT_JSON = {
    "NaN is not a JSON value": math.nan,
    "Infinity is not a JSON value": math.inf,
    "-Infinity is not a JSON value": -math.inf,
    "datetime is not a JSON value": datetime(2026, 1, 1, tzinfo=UTC),
    "date is not a JSON value": date(2026, 1, 1),
    "Decimal is not a JSON value": Decimal(1),
    "UUID is not a JSON value": UUID(int=1),
    "Colour is not a JSON value": Colour.red,
    "set is not a JSON value": {1},
    "bytes is not a JSON value": b"1",
    "Asked is not a JSON value": Asked("", "", {}, CIMultiDictProxy(CIMultiDict()), [], b""),
    "a member's name is a string (got 1)": {1: 2},
    "an integer is from -2^63 to 2^64-1 (got an integer of 71 bits)": 2**70,
    "half of a surrogate pair stands alone in a string": "\ud800",
}


@pytest.mark.parametrize(("message", "value"), NOT_JSON.items(), ids=NOT_JSON)
async def test_a_value_that_is_not_json_is_refused_by_its_pointer_and_nothing_is_sent(
    gateway, refold, message, value
):
    state = {"a/b": [None, value]}
    for write, field in (
        (refold.put("acme", "d", state), "/a~1b/1"),
        (refold.merge("acme", "d", state), "/a~1b/1"),
        (refold.patch("acme", "d", [{"op": "add", "path": "/a", "value": value}]), "/0/value"),
        (refold.put("acme", "d", 1, meta={"m": value}), "meta/m"),
        (refold.append("acme", [{"doc": "d", "put": 1}, {"doc": "d", "put": value}]), "/1/put"),
    ):
        with pytest.raises(Refused) as refused:
            await write
        assert str(refused.value) == f"{field}: {message}"
    assert gateway.asked == []


async def test_a_value_that_contains_itself_is_refused(gateway, refold):
    state = []
    state.append(state)
    with pytest.raises(Refused, match="nested more than"):
        await refold.put("acme", "d", state)
    assert gateway.asked == []


async def test_every_json_value_is_sent_unchanged(gateway, refold):
    state = {"null": None, "numbers": [1, -1.5, 2**64 - 1, -(2**63), True], "text": "ü", "tuple": (1, 2)}
    gateway.answer(201, APPLIED)
    await refold.put("acme", "d", state)
    assert json.loads(gateway.asked[0].content) == {**state, "tuple": [1, 2]}


async def test_a_bulk_event_may_have_an_aware_datetime(gateway, refold):
    gateway.answer(200, lines(APPLIED))
    await refold.append("acme", [{"doc": "d", "put": 1, "occurred_at": datetime(2026, 1, 2, tzinfo=UTC)}])
    assert json.loads(gateway.asked[0].content)["occurred_at"] == "2026-01-02T00:00:00+00:00"
    with pytest.raises(Refused, match="zone"):
        await refold.append("acme", [{"doc": "d", "put": 1, "occurred_at": datetime(2026, 1, 2)}])  # noqa: DTZ001


async def test_a_bulk_event_may_have_every_field_and_operation(gateway, refold):
    gateway.answer(200, lines(APPLIED))
    patch = [{"op": "inc", "path": "/n", "inc": 1}, {"op": "push", "path": "/l", "value": 0, "max": 9}]
    event = {"doc": "a/b.c", "patch": patch, "base": 1, "session": "s", "all_or_nothing": True, "resolves": 7}
    await refold.append("acme", [event])
    assert json.loads(gateway.asked[0].content).items() >= event.items()


async def test_a_rejection_is_a_value(gateway, refold):
    outcome = {"status": "rejected", "version": 2, "sequence": 9, "reason": "test_failed"}
    gateway.problem(409, "test_failed", detail="…", outcome=outcome)
    found = await refold.patch("acme", "d", [])
    assert (found.status, found.reason, found.is_effective) == ("rejected", "test_failed", False)


async def test_a_write_that_is_refused_before_it_is_published_is_rejected_without_an_outcome(gateway, refold):
    gateway.problem(409, "rejected", detail="the id was used", reason="id_reused")
    found = await refold.put("acme", "d", 1)
    assert (found.status, found.reason, found.detail) == ("rejected", "id_reused", "the id was used")
    with pytest.raises(Rejected, match="id_reused"):
        found.raise_for_status()


async def test_a_conflict_is_raised_unless_it_is_requested_as_a_value(gateway, refold):
    for _ in range(3):
        gateway.problem(412, "precondition_failed", detail="the document is at version 5", version=5)
    found = await refold.delete("acme", "d", if_version=4, strict=False)
    assert (found.status, found.is_effective) == ("conflict", False)
    assert "version 5" in found.detail
    for asked in ({"if_version": 4}, {"if_absent": True}):
        with pytest.raises(Conflict, match="version 5") as raised:
            await refold.delete("acme", "d", **asked)
        assert raised.value.outcome == found


async def test_a_conflict_carries_the_current_version_of_the_document(gateway, refold):
    for _ in range(2):
        gateway.problem(412, "precondition_failed", detail="the document is at version 5", version=5)
    assert (await refold.put("acme", "d", 1, if_version=4, strict=False)).version == 5
    with pytest.raises(Conflict) as raised:
        await refold.put("acme", "d", 1, if_version=4)
    assert raised.value.version == 5


async def test_a_conflict_found_by_the_fold_under_if_version_is_raised_too(gateway, refold):
    outcome = {"status": "rejected", "version": 5, "sequence": 9, "reason": "conflict"}
    gateway.problem(409, "conflict", detail="…", outcome=outcome)
    with pytest.raises(Conflict) as raised:
        await refold.put("acme", "d", 1, if_version=4)
    assert raised.value.outcome.sequence == 9


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (Outcome(status="conflict", reason="conflict"), Conflict),
        (Outcome(status="rejected", reason="test_failed"), Rejected),
        (Outcome(status="duplicate", first_status="rejected", reason="test_failed"), Rejected),
        (Outcome(status="refused", reason="bad_json", detail="bad_json"), Refused),
        (Outcome(status="failed", reason="log_full"), ServiceUnavailable),
    ],
)
def test_an_outcome_without_effect_raises_for_its_status(outcome, error):
    with pytest.raises(error, match=outcome.reason) as raised:
        outcome.raise_for_status()
    assert getattr(raised.value, "outcome", outcome) is outcome


@pytest.mark.parametrize("status", ["applied", "merged", "duplicate", "pending"])
def test_an_outcome_with_effect_is_returned_by_raise_for_status(status):
    outcome = Outcome(status=status)
    assert outcome.raise_for_status() is outcome


async def test_a_duplicate_of_a_rejected_event_is_not_effective(gateway, refold):
    gateway.answer(200, {"status": "duplicate", "version": 0, "first": {"status": "rejected"}})
    assert not (await refold.put("acme", "d", 1)).is_effective


@pytest.mark.parametrize(
    ("options", "header"),
    [
        ({}, None),
        ({"wait_seconds": 2.5}, "2.5"),
        ({"committed": True}, "committed"),
        ({"wait_seconds": 2, "committed": True}, "2; committed"),
    ],
)
async def test_a_write_may_wait_for_the_commit(gateway, refold, options, header):
    gateway.answer(200, APPLIED)
    await refold.put("acme", "d", 1, **options)
    gateway.answer(200, APPLIED)
    await refold.append("acme", [{"doc": "d", "put": 1}], **options)
    assert [asked.headers.get("refold-wait") for asked in gateway.asked] == [header, header]


async def test_reads_carry_the_highest_sequence_that_the_client_was_sent(gateway, refold):
    async def carried(sequence):
        gateway.answer(200, 1, {"Refold-Version": "1", "Refold-Sequence": str(sequence)})
        await refold.get("acme", "d")
        return gateway.asked[-1].headers.get("refold-min-sequence")

    assert await carried(4) is None
    assert await carried(3) == "4"
    gateway.answer(202, {"status": "pending", "sequence": 20})
    await refold.put("acme", "d", 1, wait_seconds=0)
    assert await carried(1) == "4", "a pending event was not folded"
    gateway.answer(200, APPLIED)
    await refold.put("acme", "d", 1)
    assert "refold-min-sequence" not in gateway.asked[-1].headers
    assert await carried(1) == "9"
    gateway.answer(
        409, {"status": 409, "code": "rejected", "outcome": {"status": "rejected", "sequence": 10}}
    )
    await refold.put("acme", "d", 1)
    gateway.answer(200, b"\n".join(json.dumps({**APPLIED, "sequence": n}).encode() for n in (12, 11)))
    await refold.append("acme", [{"doc": "d", "put": 1}] * 2)
    assert await carried(1) == "12"
    gateway.answer(200, {"items": [{"version": 1, "sequence": 15, "recorded_at": NOW, "occurred_at": NOW}]})
    assert [change.sequence async for change in refold.history("acme", "d")] == [15]
    for body in ({"items": []}, {"items": []}, {"items": []}, {"items": []}, [], APPLIED):
        gateway.answer(200, body)
    assert [each async for each in refold.list("acme")] == []
    assert [each async for each in refold.names("acme")] == []
    assert [each async for each in refold.rejections("acme", "d")] == []
    assert await refold.namespaces() == ()
    assert await refold.diff("acme", "d", 0, 1) == []
    assert (await refold.outcome("acme", "d", sequence=9)).sequence == 9
    assert {asked.headers.get("refold-min-sequence") for asked in gateway.asked[-6:]} == {"15"}


async def test_a_write_that_is_not_folded_yet_is_pending(gateway, refold):
    gateway.answer(202, {"status": "pending", "sequence": 7})
    found = await refold.put("acme", "d", 1, wait_seconds=0)
    assert (found.status, found.sequence, found.version) == ("pending", 7, None)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (404, "document_absent", DocumentAbsent),
        (404, "version_unknown", VersionUnknown),
        (501, "history_not_kept", HistoryElsewhere),
        (503, "history_slow", HistorySlow),
        (404, "path_absent", Refused),
        (413, "event_too_large", Refused),
        (422, "bad_time", Refused),
        (503, "log_unavailable", ServiceUnavailable),
        (504, "timed_out", TimedOut),
        (500, "internal_error", ServiceUnavailable),
    ],
)
async def test_a_problem_document_is_raised_as_a_refold_error(gateway, refold, status, code, error):
    gateway.problem(status, code, detail="what is wrong")
    with pytest.raises(error, match="what is wrong"):
        await refold.get("acme", "d")


async def test_a_validation_error_names_field_rule_and_shape_once(gateway, refold):
    detail = "path: must begin with / (got string of 1 character)"
    gateway.problem(422, "bad_pointer", detail=detail, field="path", shape="string of 1 character")
    with pytest.raises(Refused) as refused:
        await refold.get("acme", "d", path="a")
    assert str(refused.value) == detail
    assert (refused.value.reason, refused.value.field) == ("bad_pointer", "path")


async def test_an_error_status_without_a_problem_document_is_an_error(gateway, refold):
    gateway.answer(502, b"<html>bad gateway</html>")
    with pytest.raises(ServiceUnavailable, match="502"):
        await refold.status()


async def test_a_service_that_does_not_respond_is_reported_by_address(gateway, refold, unreachable):
    with pytest.raises(ServiceUnavailable, match=unreachable.url):
        await unreachable.status()
    gateway.answers.append(Fault.silent)
    with pytest.raises(TimedOut, match=refold.url):
        await refold.status()


@pytest.mark.parametrize(
    "url", ["http://gateway:port", "gate way", "ftp://gateway", "http://[::1", "http://"]
)
async def test_an_invalid_address_is_refused(url):
    async with Refold(url) as refold:
        with pytest.raises(Refused) as refused:
            await refold.status()
    assert refused.value.field == "url"


@pytest.mark.parametrize(("namespace", "document"), [("a/b", "d"), ("n", ""), ("n", "."), ("n", "x" * 129)])
async def test_a_name_that_breaks_the_rule_is_refused_before_anything_is_sent(
    gateway, refold, namespace, document
):
    with pytest.raises(Refused, match=r"a (name|document id) is"):
        await refold.get(namespace, document)
    assert gateway.asked == []


async def test_a_header_with_a_line_break_is_refused_before_anything_is_sent(gateway, refold):
    with pytest.raises(Refused, match="control"):
        await refold.put("n", "d", 1, actor="a\r\nX: y")
    assert gateway.asked == []


async def test_a_header_with_a_lone_surrogate_is_refused_before_anything_is_sent(gateway, refold):
    with pytest.raises(Refused, match="surrogates"):
        await refold.put("n", "d", 1, actor="\ud800")
    assert gateway.asked == []


async def test_a_time_without_a_zone_is_refused(gateway, refold):
    with pytest.raises(Refused, match="zone"):
        await refold.get("n", "d", at=datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is refused
    assert gateway.asked == []


async def test_a_read_returns_the_state_with_its_version_and_times(gateway, refold):
    headers = {"refold-version": "3", "refold-sequence": "9", "refold-recorded-at": NOW}
    gateway.answer(200, {"a": 1}, headers)
    found = await refold.get("acme", "d", at=datetime(2026, 1, 1, tzinfo=UTC), clock="occurred")
    assert gateway.asked[0].params == {"at": "2026-01-01T00:00:00+00:00", "clock": "occurred"}
    assert (found.state, found.version, found.sequence, found.recorded_at) == ({"a": 1}, 3, 9, NOW)


def item(version):
    return {"version": version, "sequence": version, "recorded_at": NOW, "occurred_at": NOW, "patch": []}


async def test_a_history_is_read_page_by_page_up_to_the_limit(gateway, refold):
    gateway.answer(200, {"items": [item(1), item(2)], "next": 2})
    gateway.answer(200, {"items": [item(3)], "next": None})
    assert [change.version async for change in refold.history("acme", "d")] == [1, 2, 3]
    assert gateway.asked[1].params["after"] == "2"
    gateway.answer(200, {"items": [item(9)], "next": 9})
    newest = [change.version async for change in refold.history("acme", "d", limit=1, is_reversed=True)]
    assert newest == [9]
    assert gateway.asked[2].params["order"] == "desc"
    assert gateway.answers == []


async def test_bulk_events_are_sent_in_one_request_and_outcomes_are_in_order(gateway, refold):
    second = {"status": "rejected", "reason": "bad_patch"}
    gateway.answer(200, json.dumps(APPLIED).encode() + b"\n" + json.dumps(second).encode() + b"\n")
    outcomes = await refold.append("acme", [{"doc": "d", "put": 1}, b'{"doc":"e","patch":7}'])
    (request,) = gateway.asked
    assert request.path == "/v1/acme/events"
    sent = [json.loads(line) for line in request.content.splitlines()]
    assert [event.pop("id") != "" for event in sent] == [True, True]
    assert sent == [{"doc": "d", "put": 1}, {"doc": "e", "patch": 7}]
    assert [outcome.status for outcome in outcomes] == ["applied", "rejected"]


# Writes that are sent again


@pytest.fixture
def pauses(monkeypatch):
    """Record the pauses between retries instead of waiting."""
    pauses = []

    async def pause(self, seconds_min=None):
        pauses.append(seconds_min)
        return len(pauses) < 6

    monkeypatch.setattr(transport.Backoff, "pause", pause)
    return pauses


WRITES = {
    "put": lambda refold, **about: refold.put("acme", "d", 1, **about),
    "patch": lambda refold, **about: refold.patch("acme", "d", [], **about),
    "merge": lambda refold, **about: refold.merge("acme", "d", {}, **about),
    "delete": lambda refold, **about: refold.delete("acme", "d", **about),
    "strict": lambda refold, **about: refold.put("acme", "d", 1, if_version=2, **about),
}


@pytest.mark.parametrize("about", [{}, {"id": "mine"}])
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
async def test_an_unanswered_write_is_retried_unchanged(gateway, refold, pauses, write, about):
    gateway.answers += [Fault.cut, Fault.cut_short, Fault.silent, Fault.cut_short, Fault.cut]
    gateway.answer(200, {**APPLIED, "status": "duplicate", "first": APPLIED})
    outcome = await write(refold, **about)
    assert (outcome.status, outcome.first_status, outcome.is_effective) == ("duplicate", "applied", True)
    assert len(pauses) == 5
    asked = [(request.method, request.content, request.raw_headers) for request in gateway.asked]
    assert asked == [asked[0]] * 6
    assert gateway.asked[0].headers["idempotency-key"] == about.get(
        "id", gateway.asked[5].headers["idempotency-key"]
    )


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "log_unavailable"), (504, "acknowledgement_lost"), (502, "bad_gateway"), (500, "internal_error")],
)
async def test_a_write_answered_by_a_server_error_is_retried(gateway, refold, pauses, status, code):
    gateway.problem(status, code, detail="not now")
    gateway.answer(201, APPLIED)
    assert (await refold.put("acme", "d", 1)).status == "applied"
    assert len(gateway.asked) == 2


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (503, "3", 3.0),
        (429, "3", 3.0),
        (503, "100000", 60.0),
        (503, "0", 0.0),
        (503, "Sat, 01 Jan 2000 00:00:00 GMT", None),
        (503, "soon", None),
        (502, "3", None),
    ],
)
async def test_the_service_says_how_long_a_write_waits_at_least(
    gateway, refold, pauses, status, header, seconds
):
    gateway.answer(status, {"code": "busy", "detail": "not now"}, {"Retry-After": header})
    gateway.answer(201, APPLIED)
    assert (await refold.put("acme", "d", 1)).status == "applied"
    assert pauses == [seconds]


async def test_a_write_that_would_wait_beyond_its_time_is_not_sent_again(gateway, refold):
    gateway.answer(503, {"code": "busy", "detail": "not now"}, {"Retry-After": "30"})
    with pytest.raises(ServiceUnavailable, match="not now") as ended:
        await refold.put("acme", "d", 1)
    assert ended.value.facts["retry_after_seconds"] == 30.0
    assert len(gateway.asked) == 1


@pytest.mark.parametrize("status", [400, 404, 413, 415, 422])
async def test_an_invalid_write_is_not_retried(gateway, refold, pauses, status):
    gateway.problem(status, "wrong", detail="what is wrong")
    with pytest.raises(Refused):
        await refold.put("acme", "d", 1)
    assert pauses == []


async def test_a_read_is_not_retried(gateway, refold, pauses):
    gateway.answers.append(Fault.cut)
    with pytest.raises(ServiceUnavailable):
        await refold.get("acme", "d")
    assert pauses == []


async def test_a_service_that_was_never_reached_is_not_retried(unreachable, pauses):
    with pytest.raises(ServiceUnavailable, match="no service answers"):
        await unreachable.put("acme", "d", 1)
    assert pauses == []


async def test_exhausted_retries_raise_the_last_failure(gateway, refold, pauses):
    for number in range(6):
        gateway.problem(503, "log_full", detail=f"full {number}")
    with pytest.raises(ServiceUnavailable, match="full 5") as ended:
        await refold.put("acme", "d", 1)
    assert ended.value.facts["id"] == gateway.asked[0].headers["idempotency-key"]


async def test_without_retries_a_write_is_sent_once(gateway):
    async with Refold(gateway.url, retry_seconds=0) as refold:
        gateway.answers += [Fault.cut, Fault.cut]
        with pytest.raises(ServiceUnavailable):
            await refold.put("acme", "d", 1)
        with pytest.raises(ServiceUnavailable):
            await refold.append("acme", [{"doc": "d", "put": 1}])
    assert len(gateway.asked) == 2


async def test_a_closed_client_sends_nothing(gateway):
    gateway.answer(200, APPLIED)
    async with Refold(gateway.url) as refold:
        await refold.put("acme", "d", 1)
    with pytest.raises(RuntimeError, match="the client is closed"):
        await refold.put("acme", "d", 1)
    with pytest.raises(RuntimeError, match="the client is closed"):
        await refold.get("acme", "d")
    with pytest.raises(RuntimeError, match="the client is closed"):
        refold.watch("acme", "d")
    assert len(gateway.asked) == 1


def test_a_closed_client_without_asyncio_stays_closed():
    with sync.Refold() as refold:
        pass
    with pytest.raises(RuntimeError, match="the client is closed"):
        refold.get("acme", "d")
    refold.close()


@pytest.mark.parametrize(
    ("field", "detail", "message"),
    [
        (
            "If-Match",
            "If-Match: not with Refold-Base or Refold-On-Conflict",
            "if_version: not with base= or on_conflict=",
        ),
        ("Refold-Wait", "Refold-Wait: seconds (got '9')", "wait_seconds: seconds (got '9')"),
        ("refold-reverts", "refold-reverts: unlike the body", "refold-reverts: unlike the body"),
    ],
)
async def test_a_refusal_names_the_arguments_instead_of_headers(gateway, refold, field, detail, message):
    gateway.problem(422, "bad_parameter", detail=detail, field=field)
    with pytest.raises(Refused) as refused:
        await refold.put("acme", "d", 1)
    assert str(refused.value) == message


async def test_a_text_option_that_is_no_text_is_an_error(refold):
    with pytest.raises(TypeError, match="actor must be a string, not int"):
        await refold.put("acme", "d", 1, actor=5)


async def test_what_is_not_a_gateway_is_named(gateway, refold):
    for status in (200, 404):
        gateway.answer(status, b"<html>", {"Content-Type": "text/html"})
        with pytest.raises(ServiceUnavailable, match=f"is not a gateway of Refold: it answered {status}"):
            await refold.get("acme", "d")

    async def greet(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"INFO {}\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1") as server:
        host, port = server.sockets[0].getsockname()
        async with Refold(f"{host}:{port}") as other:
            with pytest.raises(
                ServiceUnavailable, match="is not a gateway of Refold: no HTTP answer: b'INFO"
            ):
                await other.get("acme", "d")


async def test_a_write_is_sent_again_for_no_longer_than_it_waits(gateway, refold):
    changes = [{"doc": "d", "version": 1, "put": 2}]
    waits = {"wait_seconds": 0.01}
    for write in (
        refold.put("acme", "d", 1, **waits),
        refold.append("acme", [{"doc": "d", "put": 1}], **waits),
        refold.transact("acme", changes, **waits),
    ):
        gateway.problem(504, "timed_out", detail="not yet")
        with pytest.raises(TimedOut):
            await write
    assert len(gateway.asked) == 3
    gateway.problem(504, "timed_out", detail="not yet")
    gateway.answer(202, {"status": "pending", "sequence": 7})
    assert (await refold.put("acme", "d", 1, wait_seconds=0)).status == "pending"


async def test_retries_are_bounded_in_time_and_back_off(monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(transport.asyncio, "sleep", sleep)
    given = transport.Backoff(0.5)
    assert [await given.pause() for _ in range(4)] == [True, True, True, False]
    assert slept == [0.1, 0.2, 0.4]
    slept.clear()
    given = transport.Backoff(5.0)
    assert [await given.pause(seconds) for seconds in (1.0, 0.1, 6.0)] == [True, True, False]
    assert slept == [1.0, 0.2]


async def test_a_write_that_met_others_is_sent_again_after_a_short_random_pause_within_its_time(monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(transport.asyncio, "sleep", sleep)
    monkeypatch.setattr(transport, "random_share", lambda: 0.5)
    given = transport.Backoff(5.0)
    assert [await given.pause(seconds) for seconds in (0.0, 0.0, None, 0.0)] == [True] * 4
    assert slept == [0.01, 0.02, 0.1, 0.04]
    slept.clear()
    assert [await given.pause(0.0) for _ in range(3)] == [True] * 3
    assert slept == [0.08, 0.125, 0.125]
    assert not await transport.Backoff(0.0).pause(0.0)


def lines(*answers):
    return b"".join(json.dumps(answer).encode() + b"\n" for answer in answers)


FAILURE = {"status": "refused", "reason": "log_full", "detail": "full", "error": {"status": 503}}


async def test_only_bulk_events_after_a_failure_are_retried(gateway, refold, pauses):
    events = [{"doc": "d", "put": number} for number in range(4)]
    refusal = {"status": "refused", "reason": "bad_json", "error": {"status": 400}}
    gateway.answers.append(Fault.cut)
    gateway.answer(200, lines(APPLIED, refusal, FAILURE, FAILURE))
    gateway.answer(200, lines(APPLIED))
    gateway.answer(200, lines({**APPLIED, "status": "rejected"}))
    outcomes = await refold.append("acme", events)
    assert [outcome.status for outcome in outcomes] == ["applied", "refused", "applied", "rejected"]
    sent = [[json.loads(line) for line in request.content.splitlines()] for request in gateway.asked]
    assert [[event["put"] for event in run] for run in sent] == [[0, 1, 2, 3], [0, 1, 2, 3], [2, 3], [3]]
    assert len({event["id"] for run in sent for event in run}) == 4


async def test_events_that_exhaust_retries_have_failed_outcomes(gateway, refold, pauses):
    for _ in range(6):
        gateway.answer(200, lines(FAILURE, FAILURE))
    outcomes = await refold.append("acme", [{"doc": "d", "put": 1}, {"doc": "d", "put": 2}])
    assert [(outcome.status, outcome.reason) for outcome in outcomes] == [("failed", "log_full")] * 2


async def test_every_bulk_event_carries_an_id_in_any_form(gateway, refold):
    events = [b'{"doc":"d","put":1}', b'{"doc":"d","put":1,"id":"mine"}', b"nonsense", {"doc": "d", "id": 7}]
    gateway.answer(200, lines(APPLIED, APPLIED, FAILURE | {"error": {"status": 400}}, APPLIED))
    await refold.append("acme", events)
    first, *others = gateway.asked[0].content.splitlines()
    assert json.loads(first)["id"]
    assert others == [*events[1:3], b'{"doc":"d","id":7}']


# The HTTP of the transport


async def test_connections_are_reused_and_closed_ones_are_replaced(gateway, refold):
    for _ in range(3):
        gateway.answer(200, {"last_sequence": 1})
    await refold.status()
    await refold.status()
    first, second = gateway.peers
    assert first == second
    gateway.connections[0].transport.close()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while any(it.is_open() for it in refold._transport._connections):  # noqa: ASYNC110 - the client has no event for it
            await asyncio.sleep(0)
    await refold.status()
    assert gateway.peers[2] != first


async def test_a_response_may_be_chunked_or_end_with_the_connection(gateway, refold):
    for framing in ("chunked", "close"):
        gateway.framings.append(framing)
        gateway.answer(200, {"last_sequence": 1, "text": "x" * 300_000})
        assert (await refold.status())["last_sequence"] == 1


async def test_an_early_response_to_an_unread_body_is_returned(gateway, refold):
    gateway.framings.append("early")
    gateway.problem(413, "state_too_large", detail="too large")
    with pytest.raises(Refused, match="too large"):
        await refold.put("acme", "d", "x" * 8_000_000)


async def test_a_large_body_arrives_complete(gateway, refold):
    gateway.answer(200, APPLIED)
    await refold.put("acme", "d", "x" * 900_000)
    assert len(gateway.asked[0].content) == 900_002


async def test_an_address_may_omit_the_scheme_and_contain_a_user(gateway):
    address = gateway.url.removeprefix("http://")
    for url in (address, f"http://ada:pass%20word@{address}"):
        gateway.answer(200, {})
        async with Refold(url) as refold:
            await refold.status()
    assert gateway.asked[1].headers["authorization"] == "Basic YWRhOnBhc3Mgd29yZA=="


async def test_all_concurrent_requests_are_answered(gateway):
    for _ in range(300):
        gateway.answer(200, {})
    async with Refold(gateway.url) as refold:
        assert len(await asyncio.gather(*(refold.status() for _ in range(300)))) == 300
    assert len(set(gateway.peers)) <= transport.CONNECTIONS_MAX


async def test_a_cancelled_request_leaves_the_client_usable(gateway, refold):
    gateway.answers.append(Fault.silent)
    waiting = asyncio.create_task(refold.status())
    async with asyncio.timeout(DEADLINE_SECONDS):
        await gateway.was_asked.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gateway.answer(200, {"last_sequence": 7})
    assert (await refold.status())["last_sequence"] == 7


def test_the_synchronous_client_has_every_method_of_the_asynchronous_one():
    def methods(kind):
        return {name for name in dir(kind) if not name.startswith("_")}

    assert methods(Refold) - methods(sync.Refold) == set()


async def test_the_synchronous_client_sends_the_same_requests(gateway):
    gateway.answer(201, APPLIED)
    gateway.answer(200, {"items": [item(1), item(2)], "next": 2})
    gateway.answer(200, {"items": [item(3)], "next": None})
    gateway.problem(412, "precondition_failed", detail="the document is at version 5")

    def work():
        with sync.Refold(gateway.url) as refold:
            assert refold.put("acme", "d", 1, id="mine").version == 3
            assert [change.version for change in refold.history("acme", "d")] == [1, 2, 3]
            with pytest.raises(Conflict):
                refold.put("acme", "d", 1, if_version=4)

    await asyncio.to_thread(work)
    assert gateway.asked[0].headers["idempotency-key"] == "mine"


async def test_threads_can_share_a_synchronous_client(gateway):
    for _ in range(40):
        gateway.answer(200, {"items": [item(1)], "next": None})
    client = sync.Refold(gateway.url)

    def work():
        return [change.version for change in client.history("acme", "d")]

    assert await asyncio.gather(*(asyncio.to_thread(work) for _ in range(40))) == [[1]] * 40
    assert len(gateway.asked) == 40
    await asyncio.to_thread(client.close)


async def test_a_synchronous_client_in_a_running_event_loop_is_an_error_and_nothing_is_sent(gateway):
    client = sync.Refold(gateway.url)
    with pytest.raises(RuntimeError, match="an event loop runs in this thread: use"):
        client.put("acme", "d", 1)
    with pytest.raises(RuntimeError, match="an event loop runs in this thread"):
        next(client.history("acme", "d"))
    assert gateway.asked == []
    await asyncio.to_thread(client.close)


async def test_a_misspelt_option_of_a_synchronous_write_is_an_error(gateway):
    def work():
        with sync.Refold(gateway.url) as client:
            client.put("acme", "d", 1, if_verison=1)

    with pytest.raises(TypeError, match="if_verison"):
        await asyncio.to_thread(work)
    assert gateway.asked == []


TRANSACTED = {"status": "applied", "id": "t", "first_sequence": 9, "last_sequence": 10}


async def test_a_transaction_is_one_request_and_its_outcomes_are_in_the_order_of_the_changes(gateway, refold):
    gateway.answer(200, {**TRANSACTED, "outcomes": [APPLIED, {**APPLIED, "sequence": 10}]})
    changes = [
        {"doc": "a", "version": 2, "put": 1, "occurred_at": datetime(2026, 1, 1, tzinfo=UTC)},
        {"doc": "b", "version": 0, "delete": True},
    ]
    done = await refold.transact("acme", changes, transaction_id="t", wait_seconds=2, committed=True)
    assert (done.status, done.id, done.first_sequence, done.last_sequence) == ("applied", "t", 9, 10)
    assert [(each.version, each.sequence) for each in done.outcomes] == [(3, 9), (3, 10)]
    (asked,) = gateway.asked
    assert (asked.method, asked.path) == ("POST", "/v1/acme/transactions")
    assert (asked.headers["Idempotency-Key"], asked.headers["Refold-Wait"]) == ("t", "2; committed")
    first = json.loads(asked.content)["changes"][0]
    assert first == {"doc": "a", "version": 2, "put": 1, "occurred_at": "2026-01-01T00:00:00+00:00"}
    # A read is not behind it.
    gateway.answer(200, {"items": []})
    await refold.namespaces()
    assert gateway.asked[1].headers["Refold-Min-Sequence"] == "10"


async def test_a_refused_transaction_names_the_change(gateway, refold):
    gateway.problem(412, "precondition_failed", detail="b is at 4", doc="b", index=1, version=4)
    with pytest.raises(Conflict, match="b is at 4") as conflict:
        await refold.transact("acme", [])
    assert (conflict.value.version, conflict.value.facts) == (4, {"doc": "b", "index": 1})
    gateway.problem(409, "rejected", detail="no", doc="a", index=0, reason="test_failed")
    with pytest.raises(Rejected) as rejected:
        await refold.transact("acme", [])
    assert (rejected.value.outcome.reason, rejected.value.facts["doc"]) == ("test_failed", "a")


async def test_a_transaction_that_was_not_answered_is_sent_again_under_its_id(gateway, refold):
    gateway.answers.append(Fault.cut)
    gateway.answer(202, {**TRANSACTED, "status": "pending"})
    done = await refold.transact("acme", [{"doc": "a", "version": 0, "put": 1}])
    assert (done.status, done.outcomes) == ("pending", ())
    first, second = gateway.asked
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert first.content == second.content


@pytest.mark.parametrize(
    ("status", "text"),
    [(503, "<html>"), (404, "<html>"), (200, "{}"), (200, '{"status": "UP", "checks": []}'), (302, "")],
)
async def test_any_other_answer_than_health_is_no_answer(status: int, text: str) -> None:
    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(status=status, text=text)

    async with RawTestServer(answer) as server, Refold(str(server.make_url(""))) as refold:
        with pytest.raises(ServiceUnavailable, match=str(status)):
            await refold.health()

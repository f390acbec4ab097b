"""A trace goes from the request, or a raw author's event, through the log to the commit and the notices."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import httpx
import orjson
import pytest
from opentelemetry.sdk.trace import TracerProvider

from refold.client import Refold
from refold.embedded.postgres import PostgresServer
from refold.log.jetstream.client import Client
from refold.wiring.servers import connect_to
from support.collector import Collector, collecting, tree
from support.services import gateway, held_commits, kill, make_site, projector
from support.system import System, running_system

DEADLINE_SECONDS = 30
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
EVENT_SPANS = ("process STATE", "commit", "notify")
REQUEST = "PUT /v1/{namespace}/{document}"

FOLDED = {
    "process STATE CONSUMER": "send STATE",
    "commit CLIENT": "process STATE",
    "notify PRODUCER": "process STATE",
}
WHOLE = {f"{REQUEST} SERVER": "", "send STATE PRODUCER": REQUEST, "wait INTERNAL": REQUEST, **FOLDED}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def traced(
    collector: Collector, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    path = tmp_path_factory.mktemp("traced")
    with running_system(postgres_server, path, otlp_url=collector.url, trace_ratio=1) as running:
        yield running


async def heard(client: Client, subject: str) -> asyncio.Queue[tuple[bytes, bytes]]:
    """Subscribe; return the headers and bodies that come."""
    messages: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
    client.subscribe(subject, lambda _, __, headers, body: messages.put_nowait((headers, body)))
    await client.flush()
    return messages


def parent_in(headers: bytes) -> tuple[str, str]:
    """Return trace and span of a message's context."""
    found = re.search(rb"\r\ntraceparent: 00-(.{32})-(.{16})-(..)\r\n", b"\r\n" + headers)
    assert found is not None, headers
    assert int(found[3], 16) & 1
    return found[1].decode(), found[2].decode()


async def test_a_put_is_one_trace_with_the_parents_of_the_table(traced: System, collector: Collector) -> None:
    namespace = traced.namespace()
    author = await connect_to(traced.nats.url("author"), "test")
    changes = await heard(author, f"change.{namespace}.d")
    async with Refold(traced.url) as refold:
        with TracerProvider().get_tracer("test").start_as_current_span("a program") as program:
            written = await refold.put(namespace, "d", {"n": 1})
        again = await refold.put(namespace, "d", {"n": 2})
        update = await anext(aiter(refold.watch(namespace, "d", after=1)))
    async with asyncio.timeout(DEADLINE_SECONDS):
        (headers, _), (other_headers, _) = await changes.get(), await changes.get()
    await author.close()
    trace, process = parent_in(headers)
    caller = program.get_span_context()
    assert trace == f"{caller.trace_id:032x}"
    spans = collector.until(trace, REQUEST, "send STATE", "wait", *EVENT_SPANS)
    assert tree(spans) == {**WHOLE, f"{REQUEST} SERVER": f"{caller.span_id:016x}"}
    assert len(spans) == len(WHOLE)
    by_name = {span.name: span for span in spans}
    assert by_name["process STATE"].id == process
    assert {span.service for span in spans} == {"refold-gateway", "refold-projector"}
    sent, folded = by_name["send STATE"].attributes, by_name["process STATE"].attributes
    assert sent["refold.sequence"] == folded["refold.sequence"] == written.sequence
    assert (sent["messaging.batch.message_count"], folded["refold.outcome"]) == (1, "applied")
    request = by_name[REQUEST].attributes
    assert (request["http.response.status_code"], request["refold.outcome"]) == (201, "applied")
    assert by_name["wait"].attributes["refold.wait.how"] == "notice"
    assert all(span.began_at <= span.ended_at for span in spans)
    assert (again.version, update.version) == (2, 2)
    other, _ = parent_in(other_headers)
    others = collector.until(other, REQUEST, "send STATE", "wait", *EVENT_SPANS)
    assert tree(others) == WHOLE, "without a span of the program, the gateway begins the trace"
    about = {span.trace for span in collector.spans if span.attributes.get("refold.namespace") == namespace}
    reads = {span.trace for span in collector.spans if span.name.startswith("GET ")}
    assert about - reads == {trace, other}
    accept = {"Accept": "application/openmetrics-text"}
    async with httpx.AsyncClient(base_url=traced.url, trust_env=False, headers=accept) as http:
        shown = (await http.get("/metrics")).text
    for name in ("refold_http_request", "refold_append", "refold_outcome_wait"):
        assert re.search(rf'{name}_seconds_bucket{{.*# {{trace_id="({trace}|{other})"}}', shown), name


async def test_a_raw_event_goes_on_with_its_authors_trace(traced: System, collector: Collector) -> None:
    namespace = traced.namespace()
    author = await connect_to(traced.nats.url("author"), "test")
    changes, inbox = await heard(author, f"change.{namespace}.*"), author.new_inbox()
    outcomes = await heard(author, inbox)
    # OpenTelemetry sends flags 03: sampled, and a random id.
    context = f"traceparent: 00-{TRACE}-{SPAN}-03\r\ntracestate: vendor=1\r\nRefold-Reply: {inbox}\r\n"
    not_sampled = f"traceparent: 00-{TRACE[::-1]}-{SPAN}-02\r\n"
    for document, lines in (("a", not_sampled), ("b", context)):
        await author.request(f"state.{namespace}.{document}", b'{"put":1}', headers=lines.encode())
    async with asyncio.timeout(DEADLINE_SECONDS):
        (without, _), (change, _), (outcome, body) = (
            await changes.get(),
            await changes.get(),
            await outcomes.get(),
        )
    await author.close()
    assert b"traceparent" not in without
    assert parent_in(change) == parent_in(outcome)
    assert b"tracestate: vendor=1\r\n" in change
    assert orjson.loads(body)["status"] == "applied"
    spans = collector.until(TRACE, *EVENT_SPANS)
    assert tree(spans) == {**FOLDED, "process STATE CONSUMER": SPAN}
    assert {span.state for span in spans} == {"vendor=1"}
    assert collector.of(TRACE[::-1]) == []


async def test_the_events_of_one_request_share_its_trace_and_a_commit_of_several_links_to_them(
    traced: System, collector: Collector
) -> None:
    namespace = traced.namespace()
    lines = b"".join(b'{"doc":"d%d","put":%d}\n' % (number, number) for number in range(100))
    headers = {"Content-Type": "application/x-ndjson", "traceparent": f"00-{TRACE[1:]}0-{SPAN}-01"}
    async with httpx.AsyncClient(base_url=traced.url, trust_env=False) as client:
        answer = await client.post(f"/v1/{namespace}/events", content=lines, headers=headers)
        assert answer.text.count('"applied"') == 100
        spans = collector.until(f"{TRACE[1:]}0", "send STATE", *EVENT_SPANS * 2)
    processes = {span.id for span in spans if span.name == "process STATE"}
    root = collector.linked_to(processes)
    assert (root.name, root.parent) == ("commit", "")
    assert 2 <= len(root.links) <= 64
    (sent,) = [span for span in spans if span.name == "send STATE"]
    assert sent.attributes["messaging.batch.message_count"] == 100


@pytest.mark.slow
async def test_a_trace_survives_a_projector_that_is_killed_between_fold_and_commit(
    fresh_nats, postgres_dsn
) -> None:
    site = await make_site(fresh_nats, postgres_dsn)
    with collecting() as collector:
        settings = {"otlp_url": collector.url, "trace_ratio": 1}
        async with gateway(site, is_ready_awaited=False, **settings) as running:
            async with projector(site, **settings) as first:
                await running.client.put("/v1/n/before", json=1)
                async with held_commits(site.dsn):
                    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "Refold-Wait": "20"}
                    written = await running.client.put("/v1/n/d", json=1, headers=headers)
                    assert written.json()["status"] == "applied"
                    await kill(first)
            assert "commit" not in {span.name for span in collector.of(TRACE)}
            async with projector(site, **settings):
                spans = await asyncio.to_thread(collector.until, TRACE, REQUEST, "send STATE", *EVENT_SPANS)
    assert tree(spans) == {**WHOLE, f"{REQUEST} SERVER": SPAN}

"""What services count, compared with what was sent: every outcome, refusal and failure once, also in a crash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from refold.log.jetstream.client import connect
from refold.telemetry.metrics import NAMESPACES_MAX
from support.up import Up, until

BULK = "/v1/{namespace}/events"
DOCUMENT = "/v1/{namespace}/{document}"
FAILURES = 3
SERIES_MAX = 3_000


class Exposed:
    """The samples of one service."""

    def __init__(self, url: str) -> None:
        text = httpx.get(f"{url}/metrics", trust_env=False).text
        families = text_string_to_metric_families(text)
        self.samples = [sample for family in families for sample in family.samples]

    def by(self, name: str, *labels: str) -> Counter[Any]:
        """Sum a metric by some of its labels; by none, the key is the empty tuple."""
        found: Counter[Any] = Counter()
        for sample in self.samples:
            if sample.name == name:
                key = tuple(sample.labels[label] for label in labels)
                found[key[0] if len(key) == 1 else key] += int(sample.value)
        return found


class Watched:
    """A running system, and the statuses that its requests got, by route."""

    def __init__(self, up: Up) -> None:
        self.up = up
        self.http = httpx.Client(base_url=up.url, trust_env=False, timeout=60)
        self.statuses: Counter[tuple[str, str, str]] = Counter()

    def exposed(self, service: str) -> Exposed:
        """Read a service's metrics."""
        return Exposed(self.up.endpoints()["services"][service])

    def ask(self, method: str, path: str, *, route: str = DOCUMENT, **options: Any) -> httpx.Response:
        """Send a request and note its status."""
        response = self.http.request(method, path, **options)
        self.statuses[route, method, str(response.status_code)] += 1
        return response

    def bulk(self, namespace: str, *lines: Any, **headers: str) -> list[str]:
        """Send lines; return the statuses of their answers."""
        headers = {"Content-Type": "application/x-ndjson"} | headers
        content = b"\n".join(map(orjson.dumps, lines))
        answer = self.ask("POST", f"/v1/{namespace}/events", route=BULK, content=content, headers=headers)
        return [orjson.loads(line)["status"] for line in answer.text.splitlines()]

    def end(self) -> tuple[Exposed, Exposed]:
        """Return what projector and gateway expose once they have counted all that was sent."""
        self.ask("PUT", "/v1/orders/last", json=0, headers={"Refold-Wait": "30; committed"})
        # The lag is measured after the commit, and each exposition is made at one time.
        until(lambda: self.exposed("projector").by("refold_log_last_sequence")[()] == self.sequence())
        until(lambda: self.exposed("projector").by("refold_lag_events")[()] == 0)
        until(lambda: sum(self.requests(self.exposed("gateway")).values()) >= self.statuses.total())
        return self.exposed("projector"), self.exposed("gateway")

    def requests(self, gateway: Exposed) -> Counter[Any]:
        counted = gateway.by("refold_http_request_seconds_count", "route", "method", "status")
        return Counter({key: count for key, count in counted.items() if key[0].startswith("/v1")})

    def sequence(self) -> int:
        return int(self.http.get("/status").json()["last_sequence"])


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    up = Up.start(tmp_path / "data")
    found = Watched(up)
    yield found
    found.http.close()
    assert up.stop() == 0


async def publish(up: Up, *events: tuple[str, bytes]) -> None:
    """Publish as an author does, who may send any bytes to any namespace."""
    author = await connect(up.endpoints()["nats"])
    for subject, body in events:
        assert b'"seq"' in (await author.request(subject, body)).payload
    await author.close()


def write(watched: Watched) -> None:
    """Write single documents: 4 events, of which one is rejected, and what is refused."""
    ask = watched.ask
    assert ask("PUT", "/v1/orders/a", json={"n": 1}).status_code == 201
    assert ask("PUT", "/v1/other/a", json={"n": 1}).status_code == 201
    assert ask("PUT", "/v1/orders/a", json={"n": 2}, headers={"If-Match": '"1"'}).status_code == 200
    test = [{"op": "test", "path": "/n", "value": 9}]
    patch = {"Content-Type": "application/json-patch+json"}
    assert ask("PATCH", "/v1/orders/a", json=test, headers=patch).status_code == 409
    for condition in ({"If-Match": '"1"'}, {"If-Match": '"7"'}, {"If-None-Match": "*"}):
        assert ask("PUT", "/v1/orders/a", json=0, headers=condition).status_code == 412
    assert ask("DELETE", "/v1/orders/never").status_code == 404


def write_lines(watched: Watched) -> None:
    """Write lines: 6 events, and one that is refused."""
    missing = [{"op": "remove", "path": "/none"}]
    statuses = watched.bulk(
        "orders",
        {"doc": "b", "put": 1, "id": "one"},
        {"doc": "b", "put": 1, "id": "one"},
        {"doc": "b", "put": 2, "id": "one"},
        {"doc": "b", "put": {"n": 1}, "id": "two"},
        {"doc": "b", "patch": missing, "id": "three"},
        {"put": 1},
    )
    assert statuses == ["applied", "duplicate", "rejected", "applied", "rejected", "refused"]
    assert watched.bulk("orders", {"doc": "b", "put": 3}, **{"Refold-Wait": "0"}) == ["pending"]


def fail(watched: Watched) -> int:
    """Kill PostgreSQL while there are events to commit; read until it has failed, and until it is back.

    Return how many events were appended.
    """
    server = watched.up.child("postgres")
    events = 0
    for process in (server, *server.children(recursive=True)):
        process.send_signal(psutil.signal.SIGKILL)
    while sum(count for key, count in watched.statuses.items() if key[2] == "503") < FAILURES:
        watched.ask("GET", "/v1/orders/a")
        assert watched.bulk("orders", {"doc": "c", "put": events}, **{"Refold-Wait": "0"}) == ["pending"]
        events += 1
    until(lambda: watched.ask("GET", "/v1/orders/a").status_code == 200)
    return events


async def test_counters_equal_what_was_sent_though_postgres_was_killed(watched: Watched) -> None:
    write(watched)
    write_lines(watched)
    invalid = (("state.orders.b", b"{"), ("state._other.b", b'{"put":1}'), ("state.or%ders.b", b'{"put":1}'))
    await publish(watched.up, *invalid)
    others = [f"n{number}" for number in range(NAMESPACES_MAX + 10)]
    for namespace in others:
        assert watched.bulk(namespace, {"doc": "d", "put": 1}) == ["applied"]
    lost = fail(watched)
    projector, gateway = watched.end()
    named = NAMESPACES_MAX - len(["_refold", "orders", "other"])
    assert projector.by("refold_events_folded_total", "namespace", "outcome") == {
        ("_refold", "applied"): 1,
        ("orders", "applied"): 2 + 3 + lost + 1,
        ("orders", "rejected"): 1 + 2 + 1,
        ("orders", "duplicate"): 1,
        ("other", "applied"): 1,
        **{(namespace, "applied"): 1 for namespace in others[:named]},
        ("_other", "applied"): len(others) - named,
        ("_other", "rejected"): 2,
    }
    assert projector.by("refold_events_rejected_total", "namespace", "reason") == {
        ("orders", "test_failed"): 1,
        ("orders", "id_reused"): 1,
        ("orders", "target_missing"): 1,
        ("orders", "bad_json"): 1,
        ("_other", "reserved_namespace"): 1,
        ("_other", "bad_name"): 1,
    }
    assert watched.requests(gateway) == watched.statuses
    assert gateway.by("refold_strict_total", "result") == {"written": 1, "precondition_failed": 3}
    lines = gateway.by("refold_bulk_lines_total", "namespace", "status")
    assert {status: lines["orders", status] for _, status in lines} == {
        "applied": 2,
        "duplicate": 1,
        "rejected": 2,
        "refused": 1,
        "pending": 1 + lost,
    }
    assert sum(lines.values()) == 7 + lost + len(others)
    check_state(watched, projector, gateway)


def check_state(watched: Watched, projector: Exposed, gateway: Exposed) -> None:
    """Compare what is not counted by events: failures of the store, commits, ownership, the log, bounds."""
    assert projector.by("refold_store_errors_total", "code")["store_unavailable"] >= 1
    assert gateway.by("refold_store_errors_total", "code")["store_unavailable"] >= FAILURES
    takeovers = projector.by("refold_takeovers_total", "why")
    assert takeovers == {"first": 1, "again": takeovers["again"]}
    assert takeovers["again"] >= 1
    commits = projector.by("refold_commits_total", "kind")
    assert commits.keys() <= {"single", "copy", "sync"}
    assert commits.total() == projector.by("refold_commit_seconds_count")[()]
    stages = {"starting", "standby", "working", "waiting", "stopped"}
    assert projector.by("refold_stage", "stage") == {stage: int(stage == "working") for stage in stages}
    assert projector.by("refold_shard_owned", "shard") == {"0-63": 1}
    assert projector.by("refold_log_replicas", "state") == {"current": 1, "lagging": 0, "offline": 0}
    documents = sum(space["documents"] for space in watched.http.get("/v1").json()["items"])
    assert projector.by("refold_log_subjects")[()] >= documents
    jetstream = httpx.get(f"{watched.up.endpoints()['nats_monitor']}/jsz", trust_env=False).json()
    assert projector.by("refold_log_limit_bytes")[()] == jetstream["config"]["max_storage"]
    assert projector.by("refold_ready")[()] == 1
    until(lambda: watched.exposed("gateway").by("refold_ready")[()] == 1)
    assert max(len(projector.samples), len(gateway.samples)) < SERIES_MAX

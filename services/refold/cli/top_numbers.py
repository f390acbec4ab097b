"""The numbers of `refold top`: rates, lag and quantiles from what services have exposed. Used by `refold.cli.top`.

Pure: times are arguments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from refold.telemetry.metrics import OTHER_NAMESPACES
from refold.telemetry.metrics.samples import Sample, firing_alerts, growth, quantile_of

MINUTE_SECONDS: Final = 60.0
ROUND_SECONDS: Final = 0.95
"""Rounds are kept for a minute, at least so far apart, and the last two: at most some 65."""

QUANTILES: Final = (0.5, 0.99)
LATENCIES: Final = {
    "append": "refold_append_seconds",
    "commit": "refold_commit_seconds",
    "outcome": "refold_outcome_wait_seconds",
    "request": "refold_http_request_seconds",
    "loop delay": "refold_loop_delay_seconds",
}
"""Histograms whose quantiles are shown, of all services together; one that is not exposed has none."""

COUNTED: Final = {
    "folded": "refold_events_folded_total",
    "out": "refold_live_frames_total",
    "requests": "refold_http_request_seconds_count",
}
"""Counters whose sums over all services are shown."""

ASKED_ROUTES: Final = frozenset({"/health", "/healthz", "/metrics", "/readyz", "/status", "/v1"})
"""Routes that this command and probes ask; their requests are not counted."""

STREAM_ROUTES: Final = "/live/"
"""Routes of live streams begin so; their time is that of the connection, which is not counted either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scraped:
    """What a service exposed at a time; `started` distinguishes its processes, `pid` is known only on this machine."""

    time: float
    stage: str
    samples: tuple[Sample, ...]
    started: float | None = None
    pid: int | None = None

    def total(self, name: str) -> float | None:
        """Return the sum of a metric's values; None where it is not exposed."""
        values = [each.value for each in self.samples if each.name == name and _is_counted(each)]
        return sum(values) if values else None

    def by_label(self, name: str, label: str) -> dict[str, float]:
        """Return a metric's values, summed by one label."""
        found: dict[str, float] = {}
        for each in self.samples:
            if each.name == name and label in each.labels:
                found[each.labels[label]] = found.get(each.labels[label], 0.0) + each.value
        return found


class _Timed(Protocol):
    @property
    def time(self) -> float: ...


Round = TypeVar("Round", bound=_Timed)


def _keep(rounds: deque[Round], new: Round) -> None:
    """Add a round, and drop those that nothing needs any more."""
    if len(rounds) > 1 and rounds[-1].time - rounds[-2].time < ROUND_SECONDS:
        rounds.pop()
    rounds.append(new)
    # What was counted within a minute is counted from the round before it.
    while len(rounds) > 2 and rounds[1].time <= new.time - MINUTE_SECONDS:
        rounds.popleft()


@dataclass(slots=True)
class Service:
    """A service, its address, and what it exposed in each round in which it answered."""

    url: str
    since: float
    rounds: deque[Scraped] = field(default_factory=deque)
    is_silent: bool = False

    def add(self, now: float, scraped: Scraped | None) -> None:
        """Add what it exposed; None: it did not answer."""
        self.is_silent = scraped is None
        if scraped is not None:
            self.since = now
            _keep(self.rounds, scraped)

    def rate(self, name: str) -> float | None:
        """Return by how much a counter grew a second between the last two rounds; None where it is not known."""
        if self.is_silent or len(self.rounds) < 2:
            return None
        before, last = self.rounds[-2], self.rounds[-1]
        values = before.total(name), last.total(name)
        return None if values[1] is None else growth(values[0] or 0.0, values[1]) / (last.time - before.time)

    def grown(self, name: str, label: str) -> dict[str, float]:
        """Return by how much a counter grew since the first round that is kept, or in a younger process, by a label."""
        if self.is_silent or len(self.rounds) < 2:
            return {}
        first = self.rounds[0].by_label(name, label) if self._is_one_process else {}
        last = self.rounds[-1].by_label(name, label)
        return {value: count - first.get(value, 0.0) for value, count in last.items()}

    def buckets(self, name: str) -> dict[float, float]:
        """Return what a histogram has counted since the first round that is kept; of one round, since its start."""
        if not self.rounds:
            return {}
        last = _buckets(self.rounds[-1], name)
        is_grown = len(self.rounds) > 2 and self._is_one_process
        first = _buckets(self.rounds[0], name) if is_grown else {}
        return {bound: count - first.get(bound, 0.0) for bound, count in last.items()}

    @property
    def _is_one_process(self) -> bool:
        return self.rounds[0].started == self.rounds[-1].started


class Answer(NamedTuple):
    """What the gateway answered at a time."""

    time: float
    view: Mapping[str, Any]


@dataclass(slots=True)
class History:
    """What all services exposed, and the gateway's status and namespaces, in the last minute."""

    services: dict[str, Service] = field(default_factory=dict)
    status: deque[Answer] = field(default_factory=deque)
    namespaces: deque[Answer] = field(default_factory=lambda: deque(maxlen=2))

    def add(self, now: float, name: str, url: str, scraped: Scraped | None) -> None:
        """Add what a service exposed at an address; None: it did not answer."""
        service = self.services.setdefault(name, Service(url, now))
        service.url = url
        service.add(now, scraped)

    def add_status(self, now: float, view: Mapping[str, Any]) -> None:
        """Add the gateway's status."""
        _keep(self.status, Answer(now, view))


def numbers(history: History, now: float) -> dict[str, Any]:
    """Return everything that is shown, as JSON: times in seconds, sizes in bytes, rates a second."""
    status = history.status[-1][1] if history.status else {}
    return {
        "log": {name: status.get(name) for name in ("log_id", "fold", "last_sequence", "folded_sequence")},
        "services": [_service_view(name, each, now) for name, each in history.services.items()],
        "totals": _totals(history),
        "rates": _rates(history),
        "lag": {
            "events": status.get("lag_events"),
            "seconds": status.get("lag_seconds"),
            "age_seconds": round(now - history.status[-1][0], 1) if history.status else None,
            "last_minute_seconds": [round(float(each["lag_seconds"]), 3) for _, each in history.status],
        },
        "latencies": {name: _latency(history, metric) for name, metric in LATENCIES.items()},
        "namespaces": _namespaces(history),
        "stores": [
            {name: store.get(name) for name in ("store", "breaker", "lag_events", "problem")}
            for store in status.get("stores", ())
        ],
        "replicas": _replicas(history),
        "alerts": _firing(history),
        "subscribers": _sum_by_label(history, "refold_live_subscriptions", "mode"),
        "connections": _sum_by_label(history, "refold_live_connections", "endpoint"),
    }


def _service_view(name: str, service: Service, now: float) -> dict[str, Any]:
    last = service.rounds[-1] if service.rounds else None
    return {
        "service": name,
        "url": service.url,
        "is_silent": service.is_silent,
        "silent_seconds": round(now - service.since, 1) if service.is_silent else 0,
        "stage": last.stage if last else None,
        "pid": last.pid if last else None,
        "cpu": service.rate("process_cpu_seconds_total"),
        "memory_bytes": last.total("process_resident_memory_bytes") if last else None,
        "folded": service.rate(COUNTED["folded"]),
        "requests": service.rate(COUNTED["requests"]),
    }


def _totals(history: History) -> dict[str, float]:
    """Return what the services have counted since they started."""
    last = [each.rounds[-1] for each in history.services.values() if each.rounds]
    return {name: sum(each.total(metric) or 0.0 for each in last) for name, metric in COUNTED.items()}


def _rates(history: History) -> dict[str, float | None]:
    return {
        "in": _status_rate(history, "last_sequence"),
        "folded": _sum_of_rates(history, COUNTED["folded"]),
        "committed": _status_rate(history, "folded_sequence"),
        "out": _sum_of_rates(history, COUNTED["out"]),
        "requests": _sum_of_rates(history, COUNTED["requests"]),
    }


def _status_rate(history: History, name: str) -> float | None:
    if len(history.status) < 2:
        return None
    (before_time, before), (time, last) = history.status[-2], history.status[-1]
    return max(0.0, float(last[name] - before[name]) / (time - before_time))


def _sum_of_rates(history: History, name: str) -> float | None:
    rates = [each.rate(name) for each in history.services.values()]
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def _is_counted(sample: Sample) -> bool:
    route = sample.labels.get("route", "")
    return route not in ASKED_ROUTES and not route.startswith(STREAM_ROUTES)


def _buckets(scraped: Scraped, name: str) -> dict[float, float]:
    found: dict[float, float] = {}
    for each in scraped.samples:
        if each.name == f"{name}_bucket" and _is_counted(each):
            bound = float(each.labels["le"])
            found[bound] = found.get(bound, 0.0) + each.value
    return found


def _latency(history: History, metric: str) -> dict[str, float | None]:
    buckets: dict[float, float] = {}
    for service in history.services.values():
        for bound, count in service.buckets(metric).items():
            buckets[bound] = buckets.get(bound, 0.0) + count
    found: dict[str, float | None] = {f"p{share * 100:g}": quantile_of(share, buckets) for share in QUANTILES}
    return found | {"count": max(buckets.values(), default=0.0)}


def _namespaces(history: History) -> list[dict[str, Any]]:
    if not history.namespaces:
        return []
    time, last = history.namespaces[-1]
    before_time, before = history.namespaces[0]
    seconds = time - before_time
    conflicts = _grown(history, "refold_conflicts_total")
    rejected = _grown(history, "refold_events_rejected_total")
    return [
        {
            "namespace": name,
            "documents": each["documents"],
            "events": each["events"],
            "rate": growth(before[name]["events"] if name in before else 0, each["events"]) / seconds
            if seconds
            else None,
            "conflicts_last_minute": _of_namespace(conflicts, name),
            "rejected_last_minute": _of_namespace(rejected, name),
        }
        for name, each in last.items()
    ]


def _of_namespace(counts: Mapping[str, float], name: str) -> float | None:
    """Return a namespace's count; None where it may be among those of the others."""
    return counts.get(name, None if counts.get(OTHER_NAMESPACES) else 0.0)


def _replicas(history: History) -> dict[str, float]:
    """Return the servers that store the log, by state; each projector sees the same ones."""
    found: dict[str, float] = {}
    for last in _last_rounds(history):
        for state, servers in last.by_label("refold_log_replicas", "state").items():
            found[state] = max(found.get(state, 0.0), servers)
    return found


def _firing(history: History) -> list[dict[str, str]] | None:
    """Return the alerts that fire, pages first; None where no alert engine answers."""
    firing = firing_alerts(each for last in _last_rounds(history) for each in last.samples)
    if firing is None:
        return None
    ranked = sorted(firing, key=lambda each: (each[1] != "page", each))
    return [{"alert": alert, "severity": severity} for alert, severity in ranked]


def _last_rounds(history: History) -> list[Scraped]:
    """Return what the services that answer have exposed last."""
    return [each.rounds[-1] for each in history.services.values() if each.rounds and not each.is_silent]


def _grown(history: History, name: str) -> dict[str, float]:
    """Return by how much a counter of all services grew, by namespace."""
    found: dict[str, float] = {}
    for service in history.services.values():
        for namespace, count in service.grown(name, "namespace").items():
            found[namespace] = found.get(namespace, 0.0) + count
    return found


def _sum_by_label(history: History, name: str, label: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for last in _last_rounds(history):
        for value, count in last.by_label(name, label).items():
            found[value] = found.get(value, 0.0) + count
    return found

"""Metrics of a projector: what it folds, commits and owns, and of the log as it sees it.

Created by the projector's composition, and set by `refold.projector`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from refold.core.document import STATUSES
from refold.telemetry.metrics import BYTES, COUNTS, NAMESPACES_MAX, SECONDS, NamespaceLabels, exemplar_of

_NONE: Final = [0] * len(STATUSES)


class Rejected(Protocol):
    """A rejected event; its namespace is empty where it names no document."""

    @property
    def namespace(self) -> str: ...
    @property
    def sequence(self) -> int: ...
    @property
    def reason(self) -> str: ...


class FoldedEvents(Collector):
    """Events folded, by namespace and outcome: numbers in lists, which the fold counts in, and each scrape reads.

    A counter's own `inc` would take a tenth of the time of a fold. `counted_sequence` is how far events are counted.
    """

    def __init__(self, registry: CollectorRegistry, labels: NamespaceLabels) -> None:
        self.counted_sequence = 0
        self._labels = labels
        self._counts: dict[str, list[int]] = {}
        self._effective = 0
        self._before: dict[str, list[int]] | None = None
        registry.register(self)

    def of(self, namespace: str) -> list[int]:
        """Return where a namespace's events are counted, by status."""
        return self._counts.setdefault(self._labels.of(namespace), _NONE.copy())

    def begin(self, last_sequence: int) -> None:
        """Begin a slice: all of its events have been counted before, or none of them has."""
        is_again = last_sequence <= self.counted_sequence
        self._before = {label: counts.copy() for label, counts in self._counts.items()} if is_again else None

    def end(self, read_sequence: int) -> int:
        """End it, folded up to a sequence: return how many events took a version."""
        total = sum([applied + merged for applied, merged, _, _ in self._counts.values()])
        effective = total - self._effective
        if self._before is None:
            self.counted_sequence, self._effective = read_sequence, total
        else:
            for label, counts in self._counts.items():
                counts[:] = self._before.get(label, _NONE)
        return effective

    def collect(self) -> Iterator[Metric]:
        """Yield the counter."""
        about = "Events folded, by outcome."
        family = CounterMetricFamily("refold_events_folded", about, labels=["namespace", "outcome"])
        for label, counts in self._counts.items():
            for status, count in zip(STATUSES, counts, strict=True):
                if count:
                    family.add_metric([label, status.name], count)
        yield family


class ProjectorMetrics:
    """Metrics of a projector.

    Outcomes, rejections and conflicts of events that this process folds again, after a commit failed or the store was
    emptied, are not counted again. A commit counts once it is done.
    """

    def __init__(self, registry: CollectorRegistry, *, namespaces_max: int = NAMESPACES_MAX) -> None:
        self._labels = NamespaceLabels(namespaces_max)
        self.folded = FoldedEvents(registry, self._labels)
        counter = partial(Counter, registry=registry)
        self.events_rejected = counter(
            "refold_events_rejected_total", "Events that the fold rejected.", ["namespace", "reason"]
        )
        self.conflicts = counter(
            "refold_conflicts_total",
            "Events whose document had changed since their base, by what came of it.",
            ["namespace", "strategy", "status"],
        )
        self._add_fold(registry)
        self._add_commits(registry)
        self._add_ownership(registry)
        self._add_log(registry)

    def _add_fold(self, registry: CollectorRegistry) -> None:
        gauge = partial(Gauge, registry=registry)
        self.fold_seconds = Histogram(
            "refold_fold_seconds",
            "Time to fold one slice of at most 500 events, whose documents are in memory.",
            buckets=SECONDS,
            registry=registry,
        )
        self.lag_events = gauge("refold_lag_events", "Events of the log not committed yet.", ["shard"])
        self.lag_seconds = gauge(
            "refold_lag_seconds", "Age of the oldest event not committed yet.", ["shard"]
        )
        self.pending_events = gauge("refold_pending_events", "Events folded and not committed yet.")
        self.pending_bytes = gauge(
            "refold_pending_bytes", "Memory of the events that are folded and not committed yet."
        )

    def _add_commits(self, registry: CollectorRegistry) -> None:
        histogram = partial(Histogram, registry=registry)
        self.commit_seconds = histogram("refold_commit_seconds", "Time of one commit.", buckets=SECONDS)
        self.commit_events = histogram("refold_commit_events", "Events in one commit.", buckets=COUNTS)
        self.commit_documents = histogram(
            "refold_commit_documents", "Documents written by one commit.", buckets=COUNTS
        )
        self.commit_bytes = histogram(
            "refold_commit_bytes", "Memory of the events in one commit.", buckets=BYTES
        )
        self.commits = Counter(
            "refold_commits_total",
            "Commits: as one statement, as a transaction of several, or waiting for the disk.",
            ["kind"],
            registry=registry,
        )
        self.pages_cut = Counter(
            "refold_pages_cut_total", "Pages of history that commits have written.", registry=registry
        )
        self.state_lag_documents = Gauge(
            "refold_state_lag_documents",
            "Documents whose row has an older state than they have, when that was last looked for.",
            registry=registry,
        )

    def _add_ownership(self, registry: CollectorRegistry) -> None:
        gauge, counter = partial(Gauge, registry=registry), partial(Counter, registry=registry)
        self.stage = gauge("refold_stage", "What the projector is doing: 1 for its stage, else 0.", ["stage"])
        self.shard_owned = gauge(
            "refold_shard_owned", "Whether this projector folds its shard: 0 on standby.", ["shard"]
        )
        self.takeovers = counter(
            "refold_takeovers_total",
            "Times that this projector took its shard: at its first try, from standby, or again after an error.",
            ["why"],
        )
        self.integrity_checked = gauge(
            "refold_log_integrity_checked_timestamp_seconds",
            "When the log was last compared with the checkpoints and found equal.",
        )
        self.integrity_faults = counter(
            "refold_log_integrity_faults_total",
            "Comparisons of the log with the checkpoints that found a difference.",
        )

    def _add_log(self, registry: CollectorRegistry) -> None:
        gauge = partial(_MeasuredGauge, registry=registry)
        self.log_last_sequence = gauge("refold_log_last_sequence", "Sequence of the log's last event.")
        self.log_bytes = gauge("refold_log_bytes", "Bytes that the log takes.")
        self.log_limit_bytes = gauge(
            "refold_log_limit_bytes",
            "Bytes that the log may take: of its stream, else of its server; +Inf where neither is known.",
        )
        self.log_subjects = gauge("refold_log_subjects", "Subjects that have an event in the log.")
        self.log_replicas = Gauge(
            "refold_log_replicas", "Servers that store the log.", ["state"], registry=registry
        )
        self.log_leader_changes = Counter(
            "refold_log_leader_changes_total",
            "Times that another server was found to be the leader of the log.",
            registry=registry,
        )

    def count_rejections(self, rejections: Iterable[Rejected]) -> None:
        """Count events of a slice that were rejected, before it ends."""
        for rejected in rejections:
            if rejected.sequence > self.folded.counted_sequence:
                self.events_rejected.labels(self._labels.of(rejected.namespace), rejected.reason).inc()

    def count_commit(
        self, kind: str, seconds: float, sizes: tuple[int, int, int], pages: int, trace_id: int | None
    ) -> None:
        """Count a commit that is done; `sizes` are its events, documents and bytes, `trace_id` one of its traces."""
        self.commits.labels(kind).inc()
        self.commit_seconds.observe(seconds, None if trace_id is None else exemplar_of(trace_id))
        for histogram, size in zip(
            (self.commit_events, self.commit_documents, self.commit_bytes), sizes, strict=True
        ):
            histogram.observe(size)
        self.pages_cut.inc(pages)

    def count_conflict(self, sequence: int, namespace: str, strategy: str, status: str) -> None:
        """Count an event's conflict; all custom strategies have one label."""
        if sequence > self.folded.counted_sequence:
            labels = self._labels.of(namespace), strategy.partition(":")[0], status
            self.conflicts.labels(*labels).inc()


class _MeasuredGauge(Gauge):
    """A gauge without a sample until it is set: Prometheus would take the 0 of each start for a measurement."""

    def __init__(self, name: str, documentation: str, *, registry: CollectorRegistry) -> None:
        super().__init__(name, documentation, registry=registry)
        self.set(math.nan)

    def collect(self) -> Iterable[Metric]:
        """Yield the metric, with its sample once there is one."""
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not math.isnan(sample.value)]
            yield metric

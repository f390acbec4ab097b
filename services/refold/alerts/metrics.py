"""The metrics that rules may name, with their kinds and labels: those of the services, and the engine's own.

Used by `refold.alerts.rules`. A test compares the table with what running services expose.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Kind = Literal["gauge", "counter", "histogram"]

TARGET_LABELS: Final = ("service", "instance")
"""Every sample has them: which service was asked, and its address."""

UP: Final = "up"
NOTIFIER_UP: Final = "refold_alert_notifier_up"


class Metric(NamedTuple):
    """A metric, by the name of its samples; that of a histogram is without `_bucket`, `_sum` and `_count`."""

    kind: Kind
    labels: tuple[str, ...] = ()


METRICS: Final = {
    UP: Metric("gauge"),
    NOTIFIER_UP: Metric("gauge", ("notifier",)),
    "process_cpu_seconds_total": Metric("counter"),
    "process_max_fds": Metric("gauge"),
    "process_open_fds": Metric("gauge"),
    "process_resident_memory_bytes": Metric("gauge"),
    "process_start_time_seconds": Metric("gauge"),
    "process_virtual_memory_bytes": Metric("gauge"),
    "refold_append_seconds": Metric("histogram"),
    "refold_cache_bytes": Metric("gauge", ("cache",)),
    "refold_cache_hits_total": Metric("counter", ("cache",)),
    "refold_cache_misses_total": Metric("counter", ("cache",)),
    "refold_commit_documents": Metric("histogram"),
    "refold_commit_events": Metric("histogram"),
    "refold_commit_seconds": Metric("histogram"),
    "refold_conflicts_total": Metric("counter", ("namespace", "strategy", "status")),
    "refold_events_folded_total": Metric("counter", ("outcome",)),
    "refold_http_request_seconds": Metric("histogram", ("route", "method", "status")),
    "refold_http_requests_waiting": Metric("gauge"),
    "refold_http_requests_working": Metric("gauge"),
    "refold_lag_events": Metric("gauge", ("partition",)),
    "refold_lag_seconds": Metric("gauge", ("partition",)),
    "refold_live_audit_behind_total": Metric("counter"),
    "refold_live_audits_total": Metric("counter", ("why",)),
    "refold_live_behind_max": Metric("gauge"),
    "refold_live_bye_total": Metric("counter", ("reason",)),
    "refold_live_bytes_total": Metric("counter"),
    "refold_live_connections": Metric("gauge", ("endpoint",)),
    "refold_live_frames_total": Metric("counter"),
    "refold_live_gaps_total": Metric("counter"),
    "refold_live_merged_total": Metric("counter"),
    "refold_live_pass_seconds": Metric("histogram"),
    "refold_live_snapshots_total": Metric("counter", ("why",)),
    "refold_live_subscriptions": Metric("gauge", ("mode",)),
    "refold_store_breaker_closings_total": Metric("counter", ("store",)),
    "refold_store_breaker_openings_total": Metric("counter", ("store",)),
    "refold_store_breaker_state": Metric("gauge", ("store",)),
    "refold_store_folded_sequence": Metric("gauge", ("store",)),
    "refold_store_reads_total": Metric("counter", ("store",)),
}


def find(name: str) -> Metric | None:
    """Return a metric by the name of its samples; the count and the sum of a histogram are counters."""
    found = METRICS.get(name)
    if found is None:
        base = METRICS.get(name.removesuffix("_count").removesuffix("_sum"))
        if base is not None and base.kind == "histogram":
            return Metric("counter", base.labels)
    return found

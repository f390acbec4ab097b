"""The metrics that rules may name, with their kinds and labels: those of the services, and whether services answer.

Used by `refold.alerts.rules` and `refold.alerts.samples`.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from refold.telemetry.metrics import described_metrics

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
    **{
        each["name"]: Metric(each["type"], tuple(each["labels"]))
        for each in described_metrics()
        # The engine does not scrape itself; the state of its notifiers is added directly.
        if each["services"] != ["alerts"] or each["name"] == NOTIFIER_UP
    },
}


def find(name: str) -> Metric | None:
    """Return a metric by the name of its samples; the count and the sum of a histogram are counters."""
    found = METRICS.get(name)
    if found is None:
        base, _, part = name.rpartition("_")
        histogram = METRICS.get(base)
        if part in {"count", "sum"} and histogram is not None and histogram.kind == "histogram":
            return Metric("counter", histogram.labels)
    return found

"""What services expose, as others read it: samples, the growth of counters, quantiles of histograms.

Used by the alert engine, `/health` and `refold top`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Final, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

ALERT_STATE: Final = "refold_alert_state"
ALERT_FIRING: Final = 2
"""The alert engine's metric of each alert, and its value where the alert fires."""


class Sample(NamedTuple):
    """One exposed value."""

    name: str
    labels: Mapping[str, str]
    value: float


def parse(text: str) -> list[Sample]:
    """Return the samples of an exposition. Raises `ValueError` for text that is none."""
    families = text_string_to_metric_families(text)
    try:
        return [
            Sample(sample.name, sample.labels, sample.value)
            for family in families
            for sample in family.samples
        ]
    except LookupError as error:
        raise ValueError("a line is no sample") from error


def firing_alerts(samples: Iterable[Sample]) -> set[tuple[str, str]] | None:
    """Return the names and severities of the alerts that fire; None where the samples are not an alert engine's."""
    states = [sample for sample in samples if sample.name == ALERT_STATE]
    firing = {
        (each.labels["alert"], each.labels["severity"]) for each in states if each.value == ALERT_FIRING
    }
    return firing if states else None


def growth(before: float, now: float) -> float:
    """Return by how much a counter grew; one that went down has started again from 0, with its process."""
    return now - before if now >= before else now


def quantile_of(quantile: float, buckets: Mapping[float, float]) -> float | None:
    """Return a quantile of cumulative buckets by upper bound, as Prometheus does; None if they are empty."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return None
    rank, lower, below = quantile * total, 0.0, 0.0
    for bound in bounds:
        count = buckets[bound]
        if count >= rank:
            # The last bucket has no upper bound: its lower one is all that is known.
            is_open = bound == inf
            return lower if is_open else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return lower

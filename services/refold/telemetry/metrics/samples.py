"""What services expose, as others read it: samples, the growth of counters, quantiles of histograms.

Used by the alert engine, `/health` and `refold top`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families


class Sample(NamedTuple):
    """One exposed value."""

    name: str
    labels: Mapping[str, str]
    value: float


def parse(text: str) -> list[Sample]:
    """Return the samples of an exposition. Raises `ValueError` for text that is none."""
    families = text_string_to_metric_families(text)
    return [
        Sample(sample.name, sample.labels, sample.value) for family in families for sample in family.samples
    ]


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

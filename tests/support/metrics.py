"""What services expose at /metrics, compared with `schemas/metrics.json`. For tests that run a system anyway."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from support.contracts import contract

SEVERAL_STORES = ("refold_store_breaker_", "refold_store_folded_sequence", "refold_store_reads_total")
"""Metrics that a system with one store lacks."""


def check_metrics(services: Mapping[str, str], *, missing: Collection[str] = ()) -> None:
    """Compare each service's metrics with the contract, in both directions.

    `services` are URLs by the name of the process. `missing` are prefixes of metrics that this system lacks.
    """
    for process, url in services.items():
        service = process.partition("-")[0]
        expected = {
            each["name"]: each
            for each in contract("metrics.json")["metrics"]
            if service in each["services"] and not each["name"].startswith(tuple(missing))
        }
        exposed = _exposed(url)
        assert sorted(exposed) == sorted(expected), process
        for name, (kind, about, labels) in exposed.items():
            described = expected[name]
            assert (kind, about) == (described["type"], described["help"]), name
            assert labels <= set(described["labels"]), name


def _exposed(url: str) -> dict[str, tuple[str, str, set[Any]]]:
    """Return type, help and labels by the name of the samples; a label that has no value yet is not seen."""
    found = {}
    for family in text_string_to_metric_families(httpx.get(f"{url}/metrics", trust_env=False).text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = family.type, family.documentation, labels
    return found

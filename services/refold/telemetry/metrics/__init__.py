"""Prometheus metrics of the services: base units, bounded labels (never a document's name).

Each service creates its own in a registry of its own. `metrics.json` describes them; tests check that it is complete.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Final

import orjson
from prometheus_client import disable_created_metrics

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COUNTS: Final = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000)
BYTES: Final = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)
"""Buckets of histograms."""

NAMESPACES_MAX: Final = 50
"""Namespaces that one process names in labels, the first that it meets."""

OTHER_NAMESPACES: Final = "_other"
"""The label of the others, and of events that name no document; no namespace has this name."""

# When each counter began: as many series again, which no rule or panel reads.
disable_created_metrics()  # type: ignore[no-untyped-call]


@cache
def described_metrics() -> tuple[dict[str, Any], ...]:
    """Return what `metrics.json` says of each metric: name, type, unit, labels, services and help."""
    content = orjson.loads(files("refold.telemetry").joinpath("metrics.json").read_bytes())
    return tuple(content["metrics"])


def exemplar_of(trace_id: int) -> dict[str, str]:
    """Return what marks a measurement as one of a trace."""
    return {"trace_id": f"{trace_id:032x}"}


class NamespaceLabels:
    """The labels of namespaces: their names for the first ones, and one label for all others."""

    def __init__(self, names_max: int = NAMESPACES_MAX) -> None:
        self._names_max = names_max
        self._names: set[str] = set()

    def of(self, namespace: str) -> str:
        """Return a namespace's label; that of an empty name is the label of the others."""
        if namespace in self._names:
            return namespace
        if not namespace or len(self._names) >= self._names_max:
            return OTHER_NAMESPACES
        self._names.add(namespace)
        return namespace

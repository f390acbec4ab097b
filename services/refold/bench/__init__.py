"""The measurements behind `refold bench`, of a running or a temporary system, and the figures that they add.

`tests/bench/` in the repository measures more: rebuild, memory, growth, and what the hardware and the servers do alone.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import psutil

from refold import __version__

COLUMNS: Final = ("figure", "min", "median", "max", "unit")


@dataclass(slots=True)
class Figures:
    """Samples of each figure, one a round, in the order in which the figures were first added."""

    samples: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def add(self, name: str, value: float, unit: str) -> None:
        """Add one sample."""
        self.samples.setdefault((name, unit), []).append(value)

    def add_latency(self, name: str, milliseconds: Iterable[float]) -> None:
        """Add the percentiles of one round, each as a figure."""
        for percentile, value in percentiles(sorted(milliseconds)).items():
            self.add(f"{name}, {percentile}", value, "ms")

    def add_requests(self, name: str, milliseconds: Sequence[float], seconds: float, unit: str) -> None:
        """Add the rate and the latency of one round."""
        self.add(name, len(milliseconds) / seconds, unit)
        self.add_latency(name, milliseconds)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the cells of `COLUMNS`, one row a figure."""
        return [
            (name, *map(number, _spread(samples).values()), unit)
            for (name, unit), samples in self.samples.items()
        ]

    def plain(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """Return the report for programs: parameters, machine and every sample."""
        figures = [
            {"name": name, "unit": unit, **_spread(samples), "samples": samples}
            for (name, unit), samples in self.samples.items()
        ]
        return {"parameters": parameters, "machine": machine(), "figures": figures}


def _spread(samples: Sequence[float]) -> dict[str, float]:
    return {"min": min(samples), "median": median(samples), "max": max(samples)}


def machine() -> dict[str, Any]:
    """Describe the machine and the versions that were measured."""
    return {
        "refold": __version__,
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def percentiles(ordered: Sequence[float]) -> dict[str, float]:
    """Return p50, p99, p99.9 and the maximum of sorted values, by nearest rank."""
    last = len(ordered) - 1
    ranks = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
    return {name: ordered[min(last, int(share * len(ordered)))] for name, share in ranks.items()}


def number(value: float) -> str:
    """Format a number: three digits if it is small, whole if it is large."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3g}"

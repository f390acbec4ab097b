"""The dashboards in infra/grafana as Grafana reads them: their panels, and the expressions as Grafana would send them.

For the tests of dashboards, and for the command that draws them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from support.sources import ROOT

FOLDER = ROOT / "infra" / "grafana"
_METRIC = re.compile(r"\b([a-zA-Z_:][\w:]*)\{")
_PART = re.compile(r"_(bucket|sum|count)$")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel of a dashboard; `queries` are expressions with their legends."""

    dashboard: str
    row: str
    title: str
    kind: str
    queries: list[tuple[str, str]]
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """What a failure calls it."""
        return f"{self.dashboard} / {self.title}"

    @property
    def defaults(self) -> dict[str, Any]:
        """Its unit, thresholds, and texts of values."""
        found: dict[str, Any] = self.content["fieldConfig"]["defaults"]
        return found


def panels(name: str = "*") -> Iterator[Panel]:
    """Yield the panels of one dashboard, or of all."""
    for path in sorted(FOLDER.glob(f"{name}.json")):
        dashboard = orjson.loads(path.read_bytes())
        row = ""
        for content in dashboard["panels"]:
            if content["type"] == "row":
                row = content["title"]
                continue
            yield Panel(
                dashboard=dashboard["title"],
                row=row,
                title=content["title"],
                kind=content["type"],
                queries=[(target["expr"], target["legendFormat"]) for target in content["targets"]],
                content=content,
            )


def substituted(expression: str, *, window: str, rate_interval: str) -> str:
    """Replace the variables as Grafana does where everything is chosen."""
    values = {"__rate_interval": rate_interval, "window": window}
    return re.sub(r"\$(\w+)", lambda found: values.get(found[1], ".*"), expression)


def metrics_of(expression: str) -> set[str]:
    """Return the metrics of an expression as schemas/metrics.json names them, of histograms without their parts."""
    return {name if name == "ALERTS" else _PART.sub("", name) for name in _METRIC.findall(expression)}

"""The report of a measurement: figures with samples, goals and ground, as table rows and as JSON.

Made by the measurements, shown by the command and by `bench.plot`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Final, Literal

from refold.bench.figures import number, percentiles

COLUMNS: Final = ("figure", "durability", "goal", "min", "median", "max", "unit")
NO_DISK: Final = "none"

Durability = Literal["fsync", "os", "none"]
"""The durability of what was measured; `none` if nothing is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound for the median: a goal, not a test."""

    value: float
    is_upper: bool = False

    def is_met(self, value: float) -> bool:
        """Return whether a value meets it."""
        return value <= self.value if self.is_upper else value >= self.value

    def __str__(self) -> str:
        """Format it with its direction."""
        return f"{'≤' if self.is_upper else '≥'} {number(self.value)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One thing measured, a sample a round.

    `ground` names the figure of the same report that bounds this one; a ground itself has `is_ground`. Of figures
    taken at several sizes, `axis` says what grew and `at` how large it was.
    """

    name: str
    unit: str
    samples: tuple[float, ...]
    durability: Durability
    goal: Goal | None = None
    ground: str = ""
    is_ground: bool = False
    axis: str = ""
    at: int = 0

    @property
    def median(self) -> float:
        """The median sample."""
        return median(self.samples)

    def row(self) -> tuple[str, ...]:
        """Return the cells of `COLUMNS`."""
        name = f"  ground: {self.name}" if self.is_ground else self.name
        name += f", {self.at:,} {self.axis}" if self.axis else ""
        goal = "" if self.goal is None else f"{self.goal} {'✓' if self.goal.is_met(self.median) else '✗'}"
        spread = (min(self.samples), self.median, max(self.samples))
        return (name, self.durability, goal, *map(number, spread), self.unit)

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values."""
        goal = self.goal
        plain: dict[str, Any] = {
            "name": self.name,
            "unit": self.unit,
            "durability": self.durability,
            "min": min(self.samples),
            "median": self.median,
            "max": max(self.samples),
            "samples": list(self.samples),
            "is_ground": self.is_ground,
        }
        if goal is not None:
            bound = "at_most" if goal.is_upper else "at_least"
            plain["goal"] = {bound: goal.value, "is_met": goal.is_met(self.median)}
        if self.ground:
            plain["ground"] = self.ground
        if self.axis:
            plain |= {"axis": self.axis, "at": self.at}
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All figures of one run of one measurement, its parameters and its machine."""

    command: str
    durability: str
    parameters: Mapping[str, Any]
    machine: Mapping[str, Any]
    figures: Sequence[Figure] = field(default_factory=tuple)

    def rows(self) -> list[tuple[str, ...]]:
        """Return the table's rows."""
        return [figure.row() for figure in self.figures]

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "command": self.command,
            "durability": self.durability,
            "parameters": dict(self.parameters),
            "machine": dict(self.machine),
            "figures": [figure.plain() for figure in self.figures],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What a figure is, before there are samples of it."""

    unit: str
    durability: Durability
    goal: Goal | None = None
    ground: str = ""
    is_ground: bool = False


class Samples:
    """Collects the samples of figures over rounds, in the order of their first sample."""

    def __init__(self) -> None:
        """Start without samples."""
        self._measures: dict[tuple[str, str, int], Measure] = {}
        self._samples: dict[tuple[str, str, int], list[float]] = {}

    def add(self, name: str, value: float, measure: Measure, *, axis: str = "", at: int = 0) -> None:
        """Add one sample."""
        key = (name, axis, at)
        self._measures.setdefault(key, measure)
        self._samples.setdefault(key, []).append(value)

    def add_latency(
        self,
        name: str,
        milliseconds: Iterable[float],
        measure: Measure,
        goals: Mapping[str, Goal] | None = None,
        *,
        axis: str = "",
        at: int = 0,
    ) -> None:
        """Add one round of a latency: its percentiles are separate figures, each with its own goal."""
        for percentile, value in percentiles(sorted(milliseconds)).items():
            own = replace(measure, unit="ms", goal=(goals or {}).get(percentile))
            self.add(f"{name}, {percentile}", value, own, axis=axis, at=at)

    def figures(self) -> tuple[Figure, ...]:
        """Return the figures in the order in which they were added."""
        return tuple(
            Figure(
                name=name,
                unit=measure.unit,
                samples=tuple(self._samples[name, axis, at]),
                durability=measure.durability,
                goal=measure.goal,
                ground=measure.ground,
                is_ground=measure.is_ground,
                axis=axis,
                at=at,
            )
            for (name, axis, at), measure in self._measures.items()
        )

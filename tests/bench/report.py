"""The report of a measurement: figures with samples, goals and ground, as table rows and as JSON.

Made by the measurements, shown by the command and by `bench.plot`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any, Final, Literal

from bench.calibration import UNIT_NAME, is_slow, unit_microseconds
from bench.usage import microseconds_each
from refold.bench import number, percentiles

COLUMNS: Final = ("figure", "durability", "goal", "min", "median", "max", "unit", "in units")
NO_DISK: Final = "none"

Durability = Literal["fsync", "os", "none"]
"""The durability of what was measured; `none` if nothing is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound for the median, or for the sample of each round: a goal, not a test.

    `slow` is the bound on the slower machine of the goals, if it has one of its own.
    """

    value: float
    is_upper: bool = False
    slow: float | None = None
    is_each: bool = False

    def on(self, unit: float | None) -> Goal:
        """Return the goal of a machine, by its calibration unit."""
        is_other = unit is not None and self.slow is not None and is_slow(unit)
        return replace(self, value=self.slow if is_other else self.value, slow=None)

    def is_met(self, samples: Sequence[float]) -> bool:
        """Return whether the samples of a figure meet it."""
        compared = samples if self.is_each else (median(samples),)
        return all(value <= self.value if self.is_upper else value >= self.value for value in compared)

    def __str__(self) -> str:
        """Format it with its direction."""
        return f"{'each ' if self.is_each else ''}{'≤' if self.is_upper else '≥'} {number(self.value)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One thing measured, a sample a round.

    `ground` names the figure of the same report that bounds this one; a ground itself has `is_ground`. Of figures
    taken at several sizes, `axis` says what grew and `at` how large it was. Processor time has `in_units` as well: the
    same samples, each divided by the calibration unit of its round.
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
    in_units: tuple[float, ...] = ()

    @property
    def label(self) -> str:
        """The name, with the size at which it was measured."""
        return f"{self.name}, {self.at:,} {self.axis}" if self.axis else self.name

    @property
    def median(self) -> float:
        """The median sample."""
        return median(self.samples)

    def row(self) -> tuple[str, ...]:
        """Return the cells of `COLUMNS`."""
        name = f"  ground: {self.label}" if self.is_ground else self.label
        goal = "" if self.goal is None else f"{self.goal} {'✓' if self.goal.is_met(self.samples) else '✗'}"
        spread = (min(self.samples), self.median, max(self.samples))
        units = number(median(self.in_units)) if self.in_units else ""
        return (name, self.durability, goal, *map(number, spread), self.unit, units)

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
            plain["goal"] = {bound: goal.value, "is_each": goal.is_each, "is_met": goal.is_met(self.samples)}
        if self.ground:
            plain["ground"] = self.ground
        if self.axis:
            plain |= {"axis": self.axis, "at": self.at}
        if self.in_units:
            plain["in_units"] = {"median": median(self.in_units), "samples": list(self.in_units)}
        return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All figures of one run of one measurement, its parameters and its machine."""

    command: str
    durability: str
    parameters: Mapping[str, Any]
    machine: Mapping[str, Any]
    figures: Sequence[Figure] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        """Refuse two figures with one label: a reader could not tell them apart."""
        labels = Counter((figure.label, figure.unit) for figure in self.figures)
        if twice := [label for (label, _), count in labels.items() if count > 1]:
            raise ValueError(f"figures with one label: {', '.join(twice)}")

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


def suffix_of(documents_kind: str) -> str:
    """Return what distinguishes the figures of documents of a kind from those of the usual ones."""
    return "" if documents_kind == "random" else f", {documents_kind} documents"


class Samples:
    """Collects the samples of figures over rounds, in the order of their first sample.

    `suffix` is appended to every name: what distinguishes this run from others in one table.
    """

    def __init__(self, suffix: str = "", measure_unit: Callable[[], float] = unit_microseconds) -> None:
        """Start without samples."""
        self._suffix = suffix
        self._measure_unit = measure_unit
        self._measures: dict[tuple[str, str, int], Measure] = {}
        self._samples: dict[tuple[str, str, int], list[float]] = {}
        self._in_units: dict[tuple[str, str, int], list[float]] = {}

    def calibrate(self) -> None:
        """Measure the calibration unit, at the start of a round."""
        unit = Measure(unit="µs", durability=NO_DISK, is_ground=True)
        self.add(UNIT_NAME, self._measure_unit(), unit)

    def add(self, name: str, value: float, measure: Measure, *, axis: str = "", at: int = 0) -> None:
        """Add one sample. Raises `ValueError` if the name is that of another measure."""
        key = (name, axis, at)
        if self._measures.setdefault(key, measure) != measure:
            raise ValueError(f"two measures are named {name}")
        self._samples.setdefault(key, []).append(value)

    def add_cpu(
        self,
        name: str,
        used: Mapping[str, float],
        count: int,
        measure: Measure,
        *,
        client: tuple[str, float] | None = None,
        axis: str = "",
        at: int = 0,
    ) -> None:
        """Add one round's processor time: seconds of each group of processes, divided among `count` events or reads.

        The sum leaves out the load's `client`; the measure's goal is that of the sum.
        """
        each = microseconds_each(used, count)
        client_each = microseconds_each(dict([client]) if client else {}, count)
        rows = {
            **each,
            "all but the client" if client else "all processes": sum(each.values()),
            **client_each,
        }
        if UNIT_NAME not in {key[0] for key in self._samples}:
            self.calibrate()
        unit = self._samples[UNIT_NAME, "", 0][-1]
        for who, value in rows.items():
            key = (f"{name}, CPU of {who}", axis, at)
            own = measure if who.startswith("all ") else replace(measure, goal=None)
            self.add(key[0], value, own, axis=axis, at=at)
            self._in_units.setdefault(key, []).append(value / unit)

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
        """Add one round of a latency: its percentiles are separate figures, each with its own goal and ground."""
        for percentile, value in percentiles(sorted(milliseconds)).items():
            ground = measure.ground and f"{measure.ground}, {percentile}"
            own = replace(measure, unit="ms", goal=(goals or {}).get(percentile), ground=ground)
            self.add(f"{name}, {percentile}", value, own, axis=axis, at=at)

    def figures(self) -> tuple[Figure, ...]:
        """Return the figures in the order in which they were added, with the goals of this machine."""
        units = self._samples.get((UNIT_NAME, "", 0))
        unit = median(units) if units else None
        return tuple(self._figure(key, measure, unit) for key, measure in self._measures.items())

    def _figure(self, key: tuple[str, str, int], measure: Measure, unit: float | None) -> Figure:
        name, axis, at = key
        return Figure(
            name=name + self._suffix,
            unit=measure.unit,
            samples=tuple(self._samples[key]),
            durability=measure.durability,
            goal=measure.goal and measure.goal.on(unit),
            ground=measure.ground and measure.ground + self._suffix,
            is_ground=measure.is_ground,
            axis=axis,
            at=at,
            in_units=tuple(self._in_units.get(key, ())),
        )

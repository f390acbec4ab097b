"""Keep what services have exposed, as far as rules need it, and evaluate rules over it.

Used by `refold.alerts.engine`. Times are arguments. A counter may start again from 0 at any time, with its process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Final, NamedTuple

from refold.alerts import Labels, labels_of
from refold.alerts.metrics import NOTIFIER_UP, UP, find
from refold.alerts.rules import Rule
from refold.telemetry.metrics.samples import Sample, growth, quantile_of

SERIES_MAX: Final = 20_000
"""Series that are kept; the values of more are not evaluated, and counted in `Samples.dropped`."""

POINTS_MAX: Final = 100
"""Points of a counter within a window of rules; 20,000 series of 92 points each took 204 MB.

They are spaced by a hundredth of the window: a rate or share is over up to this much more than the window.
"""

START_SECONDS: Final = 30.0
"""A target that has never answered is starting, and not down, for so long after it was asked first."""


class Target(NamedTuple):
    """One instance of a service, and the address at which it is asked, `http://HOST:PORT`."""

    service: str
    url: str

    @property
    def instance(self) -> str:
        """The address without its scheme."""
        return self.url.partition("://")[2]


class _Need(NamedTuple):
    """What rules need of a metric: its counts within a window, or, with a window of 0, the values exposed last."""

    name: str
    window: float


@dataclass(slots=True)
class _Series:
    target: Target
    labels: Labels
    last: float
    """The value that was exposed last."""
    points: deque[tuple[float, float]] = field(default_factory=deque)
    """Times with the value; of a counter, what was counted since the first of them, whatever its process did."""

    def add(self, now: float, value: float, spacing: float) -> None:
        """Add a point. It replaces the last one where that is closer than `spacing` to the one before it."""
        if len(self.points) > 1 and self.points[-1][0] - self.points[-2][0] < spacing:
            self.points.pop()
        self.points.append((now, value))


class Samples:
    """The series of all targets that rules evaluate, as far back as their windows reach."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._series: dict[_Need, dict[Labels, _Series]] = {}
        self._answered: dict[Target, float] = {}
        """When a target last answered."""
        self._silent: set[Target] = set()
        """Targets that did not answer when they were asked last."""
        self._awaited: dict[Target, float] = {}
        """When a target was asked first; before everything, once it has answered."""
        self.dropped = 0
        self.change_rules(rules)

    def change_rules(self, rules: Sequence[Rule]) -> None:
        """Keep what these rules need."""
        self._series = {need: self._series.get(need, {}) for rule in rules for need in _needs_of(rule)}
        self._needs: dict[str, list[_Need]] = {}
        for need in self._series:
            self._needs.setdefault(need.name, []).append(need)
        # Counters that were not kept until now have not counted from 0 since then.
        self._answered.clear()

    @property
    def answering(self) -> int:
        """Targets that answered when they were asked last."""
        return len(self._answered.keys() - self._silent)

    def add(self, now: float, target: Target, samples: Iterable[Sample] | None) -> None:
        """Add what a target has exposed; None: it has not answered."""
        own = {"service": target.service, "instance": target.instance}
        if samples is not None:
            self._awaited[target] = -inf
        elif now - self._awaited.setdefault(target, now) < START_SECONDS:
            return
        self._put(now, target, Sample(UP, own, float(samples is not None)), born=None)
        if samples is None:
            self._silent.add(target)
            return
        born = None if target in self._silent else self._answered.get(target)
        for sample in samples:
            if sample.name in self._needs:
                self._put(now, target, sample._replace(labels={**sample.labels, **own}), born=born)
        self._answered[target] = now
        self._silent.discard(target)

    def add_notifier(self, now: float, name: str, *, is_up: bool) -> None:
        """Add whether a notifier could deliver."""
        self._put(
            now, Target("alerts", name), Sample(NOTIFIER_UP, {"notifier": name}, float(is_up)), born=None
        )

    def forget(self, now: float) -> None:
        """Forget what no rule reaches any more."""
        for need, series in self._series.items():
            since = now - need.window
            for labels, one in list(series.items()):
                # One point before the window is what its increase is counted from.
                while len(one.points) > 1 and one.points[1][0] <= since:
                    one.points.popleft()
                if one.points[-1][0] < since:
                    del series[labels]
        reach = max((need.window for need in self._series), default=0.0)
        self._answered = {target: time for target, time in self._answered.items() if time >= now - reach}

    def evaluate(self, rule: Rule, now: float) -> dict[Labels, float]:
        """Return the rule's value for each combination of its `by` labels; none where there is no sample."""
        if rule.take in ("value", "age"):
            return self._worst(rule, now)
        if rule.take == "sum":
            return self._sums(rule, self._present(rule, rule.metric, now))
        if rule.take == "quantile":
            return self._quantiles(rule, now)
        if rule.take == "rate":
            return self._sums(rule, self._rates(rule.metric, rule, now))
        divisor = rule.model_copy(update={"labels": rule.of_labels})
        name = rule.of or rule.metric
        if (metric := find(name)) is not None and metric.kind == "gauge":
            above = self._sums(rule, self._present(rule, rule.metric, now))
            below = self._sums(divisor, self._present(rule, name, now))
        else:
            above = self._sums(rule, self._increases(rule.metric, rule, now))
            below = self._sums(divisor, self._increases(name, rule, now))
        return {labels: above.get(labels, 0.0) / total for labels, total in below.items() if total}

    def _put(self, now: float, target: Target, sample: Sample, *, born: float | None) -> None:
        """Add a value; `born`: the target has been asked before, so a new series has counted from 0 since then."""
        if not isfinite(sample.value):
            return
        labels = labels_of(sample.labels)
        for need in self._needs.get(sample.name, ()):
            series = self._series[need]
            one = series.get(labels)
            if one is None:
                if sum(map(len, self._series.values())) >= SERIES_MAX:
                    self.dropped += 1
                    continue
                one = series[labels] = _Series(target, labels, sample.value)
                if born is not None and need.window:
                    one.points.append((born, 0.0))
                value = sample.value
            elif need.window:
                value = one.points[-1][1] + growth(one.last, sample.value)
            else:
                value = sample.value
            one.last = sample.value
            one.add(now, value, need.window / POINTS_MAX)

    def _present(self, rule: Rule, name: str, now: float) -> Iterator[tuple[Labels, float]]:
        for one in self._series[_need_of(rule, name)].values():
            if one.points[-1][0] == now:
                yield one.labels, one.last

    def _increases(self, name: str, rule: Rule, now: float) -> Iterator[tuple[Labels, float]]:
        for labels, increase, _ in self._grown(name, rule, now):
            yield labels, increase

    def _rates(self, name: str, rule: Rule, now: float) -> Iterator[tuple[Labels, float]]:
        for labels, increase, seconds in self._grown(name, rule, now):
            yield labels, increase / seconds

    def _grown(self, name: str, rule: Rule, now: float) -> Iterator[tuple[Labels, float, float]]:
        """Yield by how much each counter has grown within the window, and in how many seconds."""
        since = now - rule.window_seconds
        for one in self._series[_need_of(rule, name)].values():
            if one.target in self._silent or len(one.points) < 2:
                continue
            first = one.points[0]
            for point in one.points:
                if point[0] > since:
                    break
                first = point
            last = one.points[-1]
            if last[0] > first[0]:
                yield one.labels, last[1] - first[1], last[0] - first[0]

    def _worst(self, rule: Rule, now: float) -> dict[Labels, float]:
        worst = max if rule.above is not None else min
        found: dict[Labels, float] = {}
        for labels, exposed in self._present(rule, rule.metric, now):
            # A time of 0: it has not happened yet.
            if rule.admits(labels) and (rule.take == "value" or exposed > 0):
                value = now - exposed if rule.take == "age" else exposed
                group = _group(rule, labels)
                found[group] = worst(found.get(group, value), value)
        return found

    def _sums(self, rule: Rule, values: Iterable[tuple[Labels, float]]) -> dict[Labels, float]:
        found: dict[Labels, float] = {}
        for labels, value in values:
            if rule.admits(labels):
                group = _group(rule, labels)
                found[group] = found.get(group, 0.0) + value
        return found

    def _quantiles(self, rule: Rule, now: float) -> dict[Labels, float]:
        buckets: dict[Labels, dict[float, float]] = {}
        for labels, increase, _ in self._grown(f"{rule.metric}_bucket", rule, now):
            if rule.admits(labels):
                counts = buckets.setdefault(_group(rule, labels), {})
                bound = float(dict(labels)["le"])
                counts[bound] = counts.get(bound, 0.0) + increase
        found = {group: quantile_of(rule.quantile, counts) for group, counts in buckets.items()}
        return {group: value for group, value in found.items() if value is not None}


def _is_counted(name: str) -> bool:
    metric = find(name)
    return metric is None or metric.kind == "counter"


def _needs_of(rule: Rule) -> Iterator[_Need]:
    """Yield what a rule needs; the names of buckets are in no table."""
    yield _need_of(rule, f"{rule.metric}_bucket" if rule.take == "quantile" else rule.metric)
    if rule.of is not None:
        yield _need_of(rule, rule.of)


def _need_of(rule: Rule, name: str) -> _Need:
    is_grown = rule.take in ("rate", "quantile", "ratio") and _is_counted(name)
    return _Need(name, rule.window_seconds if is_grown else 0.0)


def _group(rule: Rule, labels: Labels) -> Labels:
    return tuple((name, value) for name, value in labels if name in rule.by)

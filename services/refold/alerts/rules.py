"""Read alerts.toml: the rules, the silences and the notifiers. A fault is refused with its line and key.

Used by `refold.wiring.alerts`, the evaluator and the state machine.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import datetime
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from refold.alerts import Labels, Name, Severity, Table
from refold.alerts.metrics import METRICS, TARGET_LABELS, Kind, find
from refold.alerts.notifiers import Log
from refold.alerts.notifiers.documents import Documents
from refold.alerts.notifiers.email import Email
from refold.alerts.notifiers.slack import Slack
from refold.alerts.notifiers.webhook import Webhook
from refold.core.errors import Refused

REPEAT_SECONDS: Final = 4 * 3_600.0
GROUP_SECONDS: Final = 10.0
INTERVAL_SECONDS: Final = 5.0
WINDOW_SECONDS_MAX: Final = 3_600.0
RULES_MAX: Final = 200

NOTIFIERS_MAX: Final = 20

Take = Literal["value", "sum", "age", "rate", "quantile", "ratio"]
TAKEN_OF: Final[Mapping[Take, tuple[Kind, ...]]] = {
    "value": ("gauge", "counter"),
    "sum": ("gauge",),
    "age": ("gauge",),
    "rate": ("counter",),
    "quantile": ("histogram",),
    "ratio": ("gauge", "counter"),
}
"""What can be taken of which kinds of metrics. The value of a counter is what its process has counted."""

TIMES: Final = ("_timestamp_seconds", "_time_seconds")
"""The ends of names of metrics whose value is a time, in unix seconds."""

FILES: Final = ("url_file", "secret_file", "password_file")
"""Keys of notifiers that name the file of a secret."""

FAULTS: Final = {
    "missing": "is missing",
    "extra_forbidden": "there is no such key",
    "tuple_type": 'must be a list, such as ["a"], or of tables, [[…]]',
    "too_short": "must not be empty",
    "too_long": "has more than {max_length} entries",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "string_type": "must be a text",
    "string_pattern_mismatch": "must match {pattern}",
    "union_tag_not_found": "is missing; it is webhook, slack, email, log or documents",
    "union_tag_invalid": "must be one of {expected_tags}",
}
"""Messages by pydantic's types of faults; those of other types are its own."""

_NUMBER_FORMAT: Final = re.compile(r",?(\.\d\d?)?[efg%]?")

Patterns = Annotated[str | tuple[str, ...], Field(union_mode="left_to_right")]
Notifier = Annotated[Webhook | Slack | Email | Log | Documents, Field(discriminator="kind")]


class Rule(Table):
    """When an alert fires, and what it says."""

    name: Name
    metric: str
    labels: Mapping[str, Patterns] = Field(default_factory=dict)
    """Only the series with these labels: patterns with `*`, and those after `!` must not match."""
    take: Take = "value"
    of: str | None = None
    """`ratio`: the metric to divide by; by default all series of `metric` whatever their `labels`."""
    of_labels: Mapping[str, Patterns] = Field(default_factory=dict)
    """`ratio`: only the series with these labels are divided by."""
    among: Mapping[str, Patterns] = Field(default_factory=dict)
    """Only the series with these labels, on both sides of a `ratio`."""
    quantile: float = Field(0.99, gt=0, lt=1)
    by: tuple[str, ...] = ("instance",)
    """One alert for each combination of these labels: the worst `value` or `age`, the sum of everything else."""
    window_seconds: float = Field(60.0, ge=1, le=WINDOW_SECONDS_MAX)
    above: float | None = None
    below: float | None = None
    clear: float | None = None
    """An alert that fires resolves only beyond this."""
    missing: float | None = None
    """`value` and `sum`: what counts for a combination of `by` whose series have vanished, for up to 7 days."""
    for_seconds: float = Field(0.0, ge=0, le=86_400)
    severity: Severity
    summary: str = Field(min_length=1, max_length=500)
    runbook: str = Field("", max_length=500)
    inhibited_by: tuple[str, ...] = ()
    """Not notified while an alert of these names fires whose labels do not differ from this one's."""

    @field_validator("metric", "of")
    @classmethod
    def _known_metric(cls, name: str | None) -> str | None:
        if name is not None and find(name) is None:
            raise ValueError(f"there is no metric {name}{_nearest(name, METRICS)}")
        return name

    @field_validator("labels", "among", "by")
    @classmethod
    def _known_labels(cls, labels: Iterable[str], info: ValidationInfo) -> Iterable[str]:
        _refuse_unknown_labels(info.data.get("metric", ""), labels)
        if info.field_name != "labels":
            _refuse_unknown_labels(info.data.get("of") or "", labels)
        return labels

    @field_validator("take")
    @classmethod
    def _possible(cls, take: Take, info: ValidationInfo) -> Take:
        name = info.data.get("metric", "")
        known, kinds = find(name), TAKEN_OF[take]
        if known is not None and take == "age" and not name.endswith(TIMES):
            raise ValueError(f"`age` is taken of a metric that ends in {' or '.join(TIMES)}, not of {name}")
        if known is not None and known.kind not in kinds:
            hint = "; its _count is a counter" if known.kind == "histogram" else ""
            raise ValueError(f"`{take}` is taken of a {' or '.join(kinds)}, not of a {known.kind}{hint}")
        return take

    @field_validator("of")
    @classmethod
    def _same_kind(cls, of: str | None, info: ValidationInfo) -> str | None:
        metric, divisor = find(info.data.get("metric", "")), find(of or "")
        if of is not None and info.data.get("take") != "ratio":
            raise ValueError('is only for take = "ratio"')
        if metric and divisor and metric.kind != divisor.kind:
            raise ValueError(f"must be a {metric.kind} as the metric is, not a {divisor.kind}")
        return of

    @field_validator("of_labels", "among")
    @classmethod
    def _of_a_ratio(cls, labels: Mapping[str, Patterns], info: ValidationInfo) -> Mapping[str, Patterns]:
        if labels and info.data.get("take") != "ratio":
            raise ValueError('is only for take = "ratio"')
        if info.field_name == "of_labels":
            _refuse_unknown_labels(info.data.get("of") or info.data.get("metric", ""), labels)
        return labels

    @field_validator("missing")
    @classmethod
    def _of_a_gauge(cls, missing: float | None, info: ValidationInfo) -> float | None:
        if missing is not None and info.data.get("take") not in ("value", "sum"):
            raise ValueError('is only for take = "value" and "sum"')
        return missing

    @field_validator("below")
    @classmethod
    def _one_threshold(cls, below: float | None, info: ValidationInfo) -> float | None:
        if below is None and info.data.get("above", 0) is None:
            raise ValueError("is missing, and so is `above`: give one of them")
        if below is not None and info.data.get("above") is not None:
            raise ValueError("give either `above` or `below`")
        return below

    @field_validator("clear")
    @classmethod
    def _on_the_good_side(cls, clear: float | None, info: ValidationInfo) -> float | None:
        above, below = info.data.get("above"), info.data.get("below")
        if clear is not None and (
            (above is not None and clear > above) or (below is not None and clear < below)
        ):
            raise ValueError("must be on the side of the threshold where the alert does not fire")
        return clear

    @field_validator("summary")
    @classmethod
    def _known_fields(cls, summary: str, info: ValidationInfo) -> str:
        names = {*info.data.get("by", ()), "value"}
        try:
            fields = [
                (name, form, how) for _, name, form, how in Formatter().parse(summary) if name is not None
            ]
        except ValueError as error:
            raise ValueError(f"is no text with {{fields}}: {error}") from error
        for name, form, conversion in fields:
            if name not in names:
                raise ValueError(f"has the field {{{name}}}; there are {', '.join(sorted(names))}")
            if conversion or (form and (name != "value" or not _NUMBER_FORMAT.fullmatch(form))):
                raise ValueError(f"formats {{{name}}}; only `value` has formats, such as {{value:.1f}}")
        return summary

    def is_met(self, value: float, *, is_firing: bool) -> bool:
        """Return whether the condition holds; for an alert that fires, `clear` is its threshold."""
        threshold = self.clear if is_firing and self.clear is not None else None
        if self.above is not None:
            return value > (self.above if threshold is None else threshold)
        assert self.below is not None
        return value < (self.below if threshold is None else threshold)

    def admits(self, labels: Labels) -> bool:
        """Return whether a series has the labels that the rule asks for."""
        values = dict(labels)
        wanted = (*self.labels.items(), *self.among.items())
        return all(matches(values.get(label, ""), patterns) for label, patterns in wanted)

    def describe(self, labels: Labels, value: float) -> str:
        """Return the summary with its fields."""
        return self.summary.format_map({**dict.fromkeys(self.by, ""), **dict(labels), "value": _Value(value)})


class _Value(float):
    """A value in a summary: of four digits where it has no format."""

    def __format__(self, form: str) -> str:
        return super().__format__(form or ".4g")


class Silence(Table):
    """Until when no notification of an alert, or of any, is sent."""

    alert: str = "*"
    labels: Mapping[str, Patterns] = Field(default_factory=dict)
    until: datetime
    reason: str = ""

    @field_validator("until")
    @classmethod
    def _with_zone(cls, until: datetime) -> datetime:
        if until.tzinfo is None:
            raise ValueError("must have a time zone, such as 2026-12-01T08:00:00Z")
        return until

    def covers(self, alert: str, labels: Labels, now: float) -> bool:
        """Return whether an alert is silenced now."""
        values = dict(labels)
        return (
            now < self.until.timestamp()
            and matches(alert, self.alert)
            and all(matches(values.get(label, ""), patterns) for label, patterns in self.labels.items())
        )


class Rules(Table):
    """What alerts.toml says."""

    interval_seconds: float = Field(INTERVAL_SECONDS, ge=0.1, le=60)
    group_seconds: float = Field(GROUP_SECONDS, ge=0, le=600)
    repeat_seconds: float = Field(REPEAT_SECONDS, ge=60, le=7 * 86_400)
    alert: tuple[Rule, ...] = Field((), max_length=RULES_MAX)
    silence: tuple[Silence, ...] = Field((), max_length=RULES_MAX)
    notifier: tuple[Notifier, ...] = Field((), max_length=NOTIFIERS_MAX)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.alert:
            raise _Misplaced(("alert",), "is missing: a file without rules alerts of nothing")
        names = [rule.name for rule in self.alert]
        for kind, all_names in (("alert", names), ("notifier", [each.name for each in self.notifier])):
            for number, name in enumerate(all_names):
                if name in all_names[:number]:
                    raise _Misplaced((kind, number, "name"), f"there are two of the name {name}")
        for number, rule in enumerate(self.alert):
            if rule.window_seconds < self.interval_seconds:
                fault = f"must be at least `interval_seconds`, {self.interval_seconds:g}"
                raise _Misplaced(("alert", number, "window_seconds"), fault)
            others = [name for name in names if name != rule.name]
            for name in rule.inhibited_by:
                if name not in others:
                    fault = f"there is no other alert {name}{_nearest(name, others)}"
                    raise _Misplaced(("alert", number, "inhibited_by"), fault)
        for number, silence in enumerate(self.silence):
            self._check_silence(number, silence)
        return self

    def _check_silence(self, number: int, silence: Silence) -> None:
        """Raise `_Misplaced` for a silence that covers no alert of these rules."""
        covered = [rule for rule in self.alert if matches(rule.name, silence.alert)]
        if not covered:
            near = _nearest(silence.alert, [rule.name for rule in self.alert])
            raise _Misplaced(("silence", number, "alert"), f"there is no alert {silence.alert}{near}")
        for label in silence.labels:
            if not any(label in rule.by for rule in covered):
                fault = f"no alert {silence.alert} has the label {label} in its `by`"
                raise _Misplaced(("silence", number, "labels"), fault)


class _Misplaced(Exception):
    """A fault that concerns several tables, with its place."""

    def __init__(self, place: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.place = place


def matches(text: str, patterns: str | tuple[str, ...]) -> bool:
    """Return whether no pattern after `!` matches and, where there are others, one of them does."""
    given = (patterns,) if isinstance(patterns, str) else patterns
    wanted = [pattern for pattern in given if not pattern.startswith("!")]
    refused = (pattern[1:] for pattern in given if pattern.startswith("!"))
    if any(fnmatchcase(text, pattern) for pattern in refused):
        return False
    return not wanted or any(fnmatchcase(text, pattern) for pattern in wanted)


def load_rules(path: Path) -> Rules:
    """Read the file. Raises `Refused`, whose field is its name, the line and the key."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise Refused("bad_setting", f"cannot be read: {error}", field=str(path)) from error
    return read_rules(text, str(path))


def read_rules(text: str, name: str) -> Rules:
    """Read the text of a file of this name. Raises `Refused`."""
    try:
        return Rules.model_validate(_with_files(tomllib.loads(text)))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise Refused("bad_alerts", str(error), field=name) from error
    except _Misplaced as error:
        raise Refused("bad_alerts", str(error), field=_where(text, name, error.place)) from error
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        if fault["type"] in FAULTS:
            message = FAULTS[fault["type"]].format_map(fault.get("ctx", {}))
        else:
            message = re.sub(r"^\w+ should ", "must ", fault["msg"].removeprefix("Value error, "))
        place = (*fault["loc"], "kind") if fault["type"].startswith("union_tag") else fault["loc"]
        raise Refused("bad_alerts", message, field=_where(text, name, place)) from error


def _with_files(tables: dict[str, Any]) -> dict[str, Any]:
    """Replace `url_file`, `secret_file` and `password_file` of notifiers by what the files contain."""
    notifiers = tables.get("notifier")
    for number, table in enumerate(notifiers if isinstance(notifiers, list) else ()):
        for key in FILES if isinstance(table, dict) else ():
            if key not in table:
                continue
            place, plain = ("notifier", number, key), key.removesuffix("_file")
            if plain in table:
                raise _Misplaced(place, f"give either `{plain}` or `{key}`")
            try:
                table[plain] = Path(str(table.pop(key))).read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                raise _Misplaced(place, f"cannot be read: {error}") from error
    return tables


def _refuse_unknown_labels(metric: str, labels: Iterable[str]) -> None:
    """Raise `ValueError` for a label that a metric does not have; an unknown metric has been refused before."""
    known = find(metric)
    if known is None:
        return
    names = (*known.labels, *TARGET_LABELS)
    for label in labels:
        if label not in names:
            raise ValueError(f"{metric} has no label {label}{_nearest(label, names)}")


def _where(text: str, name: str, place: tuple[str | int, ...]) -> str:
    """Return `alerts.toml line 12, key metric`: the line of a key, or of its table where the key is missing."""
    lines, first, last = text.splitlines(), 0, None
    keys = [part for part in place if isinstance(part, str)]
    if len(place) > 1 and isinstance(place[1], int):
        table = keys.pop(0)
        heads = [at for at, line in enumerate(lines) if re.match(r"\s*\[\[", line)]
        own = [at for at in heads if re.match(rf"\s*\[\[\s*[\"']?{table}[\"']?\s*\]\]", lines[at])]
        if place[1] >= len(own):
            # It is an inline table: `alert = [{ … }]`.
            return f"{name}, {table} {place[1] + 1}, key {keys[-1] if keys else table}"
        first = own[place[1]]
        last = next((at for at in heads if at > first), None)
    for key in reversed(keys):
        for number, line in enumerate(lines[first:last], first + 1):
            if re.match(rf"\s*\[?[\"']?{re.escape(key)}[\"']?\s*[=\]]", line):
                return f"{name} line {number}, key {key}"
    return f"{name} line {first + 1}, key {keys[-1] if keys else place[0]}"


def _nearest(name: str, known: Iterable[str]) -> str:
    similar = get_close_matches(name, list(known), n=1)
    return f"; did you mean {similar[0]}?" if similar else ""

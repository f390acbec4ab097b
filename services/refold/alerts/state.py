"""The state machine of alerts: what fires, which notifications are sent, and when. Pure: the time is an argument.

Used by `refold.alerts.engine`, which hands it the values of rules and stores what it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from refold.alerts import Labels, Notice, Notification, Severity, digest_of
from refold.alerts.rules import Rule, Rules
from refold.alerts.samples import START_SECONDS

PENDING: Final = "pending"
FIRING: Final = "firing"
RESOLVED: Final = "resolved"
FLAPPING: Final = "flapping"

FLAPPING_CHANGES: Final = 4
FLAPPING_SECONDS: Final = 600.0
"""So many changes within this time are notified once, as flapping; then not until it was steady for as long."""

HOLD_SECONDS: Final = 60.0
"""An alert that fires resolves without a value only after this and its window: a service that does not answer is
another alert."""

ALERTS_MAX: Final = 2_000
"""Alerts that are followed at a time; more are not, and counted in `Machine.dropped`."""

MISSING_SECONDS_MAX: Final = 7 * 86_400.0
"""A rule's `missing` counts for a group whose series have vanished for so long; then the group is forgotten."""

SEEN_SECONDS: Final = 3_600.0
"""When a group was last seen is known this exactly: the state is written whenever it changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """One alert: a rule and the labels of its group. There is none while it is inactive and has no past."""

    rule: str
    labels: Labels
    state: str
    since: float
    """When it began to be pending or to fire, or when it resolved."""
    starts: float
    ended: float = 0.0
    """When it last resolved: it may be pending again before that is notified."""
    value: float
    seen: float
    """When its rule last had a value."""
    notified: str = ""
    """The last notification: firing, resolved, flapping, or nothing."""
    notified_at: float = 0.0
    count: int = 0
    """Notifications so far."""
    changes: tuple[float, ...] = ()
    """When it last began to fire or resolved, within `FLAPPING_SECONDS`."""
    is_flapping: bool = False
    severity: Severity = "page"
    summary: str = ""
    runbook: str = ""
    """What the last notification said while it fired: its end says the same, also if the rule is gone."""


class Machine:
    """All alerts of the rules. `observe` values, then `take_due` the notifications."""

    def __init__(self, rules: Rules, now: float, saved: Mapping[str, Any] | None = None) -> None:
        """Continue from what `saved` had returned; alerts of rules that are gone are resolved."""
        self._began = now
        self._alerts: dict[tuple[str, Labels], Alert] = {}
        self._opened: dict[str, float] = dict((saved or {}).get("opened", {}))
        """When the first news of a group came that are not notified yet."""
        self._seen: dict[str, dict[Labels, float]] = {}
        """When the groups of rules with `missing` last had a value."""
        for name, labels, time in (saved or {}).get("seen", ()):
            self._seen.setdefault(name, {})[tuple((key, value) for key, value in labels)] = time
        for stored in (saved or {}).get("alerts", ()):
            labels = tuple((name, value) for name, value in stored["labels"])
            changes = tuple(stored["changes"])
            alert = Alert(**{**stored, "labels": labels, "changes": changes})
            self._alerts[alert.rule, labels] = alert
        self.dropped = 0
        self.change_rules(rules, now)

    def change_rules(self, rules: Rules, now: float) -> None:
        """Continue with other rules; alerts of rules that are gone are resolved."""
        self._settings = rules
        self._rules = {rule.name: rule for rule in rules.alert}
        for key, alert in self._alerts.items():
            if alert.rule not in self._rules:
                since = alert.since if alert.state == RESOLVED else now
                ended = now if alert.state == FIRING else alert.ended
                self._alerts[key] = replace(
                    alert, state=RESOLVED, since=since, ended=ended, changes=(), is_flapping=False
                )
        self._seen = {
            name: self._seen_by(rule) for name, rule in self._rules.items() if rule.missing is not None
        }

    def _seen_by(self, rule: Rule) -> dict[Labels, float]:
        """Return the groups of a rule that are known; a rule that has got other `by` labels has none."""
        names, seen = sorted(rule.by), self._seen.get(rule.name, {})
        return {labels: time for labels, time in seen.items() if [name for name, _ in labels] == names}

    @property
    def alerts(self) -> Sequence[Alert]:
        """Every alert that is not inactive."""
        return tuple(self._alerts.values())

    def saved(self) -> dict[str, Any]:
        """Return what a restart continues from."""
        seen = [(name, labels, time) for name, each in self._seen.items() for labels, time in each.items()]
        alerts = [asdict(alert) for alert in self._alerts.values()]
        return {"alerts": alerts, "opened": self._opened, "seen": seen}

    def observe(self, now: float, values: Mapping[str, Mapping[Labels, float]]) -> None:
        """Advance every alert by the values of the rules, by rule and labels."""
        for key, alert in list(self._alerts.items()):
            if alert.rule not in self._rules:
                self._put(key, alert)
        for name, rule in self._rules.items():
            found = self._with_missing(rule, values.get(name, {}), now)
            known = [labels for rule_name, labels in self._alerts if rule_name == name]
            for labels in {*found, *known}:
                self._advance(rule, labels, found.get(labels), now)

    def take_due(self, now: float) -> list[Notification]:
        """Return the notifications that are due, which count as sent."""
        news: dict[str, list[tuple[Alert, str]]] = {}
        for alert in self._alerts.values():
            if notified := self._news(alert, now):
                news.setdefault(alert.rule, []).append((alert, notified))
        self._opened = {name: self._opened.get(name, now) for name in news}
        due = [name for name, since in self._opened.items() if now - since >= self._settings.group_seconds]
        for name in due:
            del self._opened[name]
        return [self._notification(name, news[name], now) for name in due]

    def _with_missing(self, rule: Rule, found: Mapping[Labels, float], now: float) -> Mapping[Labels, float]:
        """Return the values of a rule, with `missing` for the groups that had one before."""
        if rule.missing is None:
            return found
        seen = self._seen[rule.name]
        for labels in found:
            is_new = labels not in seen
            if (is_new and len(seen) < ALERTS_MAX) or (not is_new and now - seen[labels] >= SEEN_SECONDS):
                seen[labels] = now
        for labels in [labels for labels, time in seen.items() if now - time >= MISSING_SECONDS_MAX]:
            del seen[labels]
        # The first answers are awaited.
        is_started = now - self._began >= START_SECONDS
        return {**dict.fromkeys(seen, rule.missing), **found} if is_started else found

    def _advance(self, rule: Rule, labels: Labels, value: float | None, now: float) -> None:
        alert = self._alerts.get((rule.name, labels))
        is_firing = alert is not None and alert.state == FIRING
        if value is None and alert is not None and is_firing and now < self._held_until(alert, rule):
            return
        is_met = value is not None and rule.is_met(value, is_firing=is_firing)
        if alert is None:
            if value is None or not is_met:
                return
            if len(self._alerts) >= ALERTS_MAX:
                self.dropped += 1
                return
            alert = Alert(
                rule=rule.name, labels=labels, state=RESOLVED, since=now, starts=now, value=value, seen=now
            )
        # Whether it flaps is judged by the changes before this one.
        changed = _changed(_flapping(alert, now), rule, now, is_met=is_met)
        if value is not None:
            changed = replace(changed, seen=now, value=value if is_met else alert.value)
        self._put((rule.name, labels), _flapping(changed, now))

    def _put(self, key: tuple[str, Labels], alert: Alert) -> None:
        if _is_forgotten(alert):
            self._alerts.pop(key, None)
        else:
            self._alerts[key] = alert

    def _held_until(self, alert: Alert, rule: Rule) -> float:
        return max(alert.seen, self._began) + HOLD_SECONDS + rule.window_seconds

    def _news(self, alert: Alert, now: float) -> str:
        """Return what notifiers do not know yet; nothing if they know all."""
        is_firing = alert.state == FIRING
        if alert.notified in (FIRING, FLAPPING) and not is_firing and not alert.is_flapping:
            return RESOLVED
        is_repeated = is_firing and now - alert.notified_at >= self._settings.repeat_seconds
        if alert.is_flapping:
            notified = "" if alert.notified == FLAPPING else FLAPPING
        else:
            notified = FIRING if is_firing and (alert.notified != FIRING or is_repeated) else ""
        return "" if notified and self._is_muted(alert, now) else notified

    def _is_muted(self, alert: Alert, now: float) -> bool:
        if any(silence.covers(alert.rule, alert.labels, now) for silence in self._settings.silence):
            return True
        names = self._rules[alert.rule].inhibited_by
        return any(
            other.rule in names and other.state == FIRING and not _differ(alert.labels, other.labels)
            for other in self._alerts.values()
        )

    def _notification(self, group: str, news: Sequence[tuple[Alert, str]], now: float) -> Notification:
        notices = []
        for alert, notified in news:
            changed = replace(alert, notified=notified, notified_at=now, count=alert.count + 1)
            if notified != RESOLVED:
                rule = self._rules[alert.rule]
                summary = rule.describe(alert.labels, alert.value)
                changed = replace(changed, severity=rule.severity, summary=summary, runbook=rule.runbook)
            self._alerts[alert.rule, alert.labels] = changed
            notices.append(_notice(changed))
        counts = [
            (notice.fingerprint, alert.count + 1, notified)
            for notice, (alert, notified) in zip(notices, news, strict=True)
        ]
        # What was notified before and when: the same in a run that repeats this one from the same state.
        key = digest_of(group, *counts, *(alert.since for alert, _ in news))
        return Notification(key=key, group=group, notices=tuple(notices))


def _notice(alert: Alert) -> Notice:
    is_firing = alert.state == FIRING
    return Notice(
        alert=alert.rule,
        labels=dict(alert.labels),
        severity=alert.severity,
        status=FIRING if is_firing else RESOLVED,
        is_flapping=alert.is_flapping,
        starts=alert.starts,
        ends=0.0 if is_firing else alert.ended,
        value=alert.value,
        summary=alert.summary,
        runbook=alert.runbook,
    )


def _changed(alert: Alert, rule: Rule, now: float, *, is_met: bool) -> Alert:
    """Return the alert after one evaluation."""
    if not is_met:
        if alert.state == FIRING:
            return replace(alert, state=RESOLVED, since=now, ended=now, changes=(*alert.changes, now))
        return replace(alert, state=RESOLVED) if alert.state == PENDING else alert
    if alert.state == RESOLVED:
        alert = replace(alert, state=PENDING, since=now)
    if alert.state == PENDING and now - alert.since >= rule.for_seconds:
        return replace(alert, state=FIRING, since=now, starts=now, changes=(*alert.changes, now))
    return alert


def _flapping(alert: Alert, now: float) -> Alert:
    """Return the alert with the changes that still count, and whether it flaps."""
    recent = tuple(time for time in alert.changes if now - time < FLAPPING_SECONDS)[-FLAPPING_CHANGES:]
    is_flapping = len(recent) >= FLAPPING_CHANGES or (alert.is_flapping and bool(recent))
    return replace(alert, changes=recent, is_flapping=is_flapping)


def _is_forgotten(alert: Alert) -> bool:
    return alert.state == RESOLVED and alert.notified not in (FIRING, FLAPPING) and not alert.changes


def _differ(labels: Labels, others: Labels) -> bool:
    """Return whether two alerts have a label in common whose values differ."""
    known = dict(others)
    return any(known.get(name, value) != value for name, value in labels)

"""The alert engine: rules over metrics, one state machine, and notifiers. Used by `refold.wiring.alerts`.

`rules` reads alerts.toml, `metrics` lists the metrics that rules may name, `samples` evaluates the rules, `state`
decides which notifications are sent, `notifiers` send them, `delivery` queues and repeats, `storage` keeps states and
notifications across restarts, `engine` runs it all. `samples` and `state` are pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
"""The name of a rule or of a notifier."""

Severity = Literal["page", "ticket"]
Labels = tuple[tuple[str, str], ...]
"""Labels by name, in the order of their names."""


class Table(BaseModel):
    """A table of alerts.toml."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True, allow_inf_nan=False
    )


def labels_of(values: Mapping[str, str]) -> Labels:
    """Return labels in the order of their names."""
    return tuple(sorted(values.items()))


def digest_of(*parts: object) -> str:
    """Return a digest of 16 bytes as hexadecimal digits."""
    return hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What one alert has become. Times are unix seconds; `ends` is 0 while it fires."""

    alert: str
    labels: Mapping[str, str]
    severity: Severity
    status: str
    """`firing` or `resolved`."""
    is_flapping: bool
    """It changes often: no notification is sent until it has been steady."""
    starts: float
    ends: float
    value: float
    summary: str
    runbook: str

    @property
    def fingerprint(self) -> str:
        """The alert's identity: its name and labels."""
        return digest_of(self.alert, labels_of(self.labels))


@dataclass(frozen=True, slots=True, kw_only=True)
class Notification:
    """What a notifier sends at once: the alerts of one group, or a digest of several groups."""

    key: str
    """The same whenever this is sent again: receivers drop what they have had."""
    group: str
    notices: tuple[Notice, ...]

    @property
    def status(self) -> str:
        """`firing` if any of the alerts fires, else `resolved`."""
        return "firing" if any(notice.status == "firing" for notice in self.notices) else "resolved"

    @property
    def title(self) -> str:
        """One line that says what has happened."""
        first = self.notices[0]
        more = f" and {len(self.notices) - 1} more" if len(self.notices) > 1 else ""
        flapping = " (flapping)" if first.is_flapping else ""
        return f"[{self.status.upper()}] {first.alert}{flapping}: {first.summary}{more}"

    def only(self, severities: Sequence[Severity], notifier: str) -> Notification | None:
        """Return what a notifier sends of it: of its severities, and not that it is down itself."""
        notices = tuple(
            notice
            for notice in self.notices
            if notice.severity in severities and notice.labels.get("notifier") != notifier
        )
        return replace(self, notices=notices) if notices else None

    def to_json(self) -> dict[str, Any]:
        """Return it as it is stored."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Return what was stored."""
        notices = tuple(Notice(**notice) for notice in stored["notices"])
        return cls(key=stored["key"], group=stored["group"], notices=notices)

"""POST to an incoming webhook of Slack, or of what takes its format: one message of blocks for each notification.

Used by `refold.alerts.rules`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from refold.alerts import Notice, Notification
from refold.alerts.notifiers import Sender
from refold.alerts.notifiers.webhook import Url, deliver, time_text
from refold.core import json_text

SHOWN_MAX: Final = 20
"""Alerts that a message shows; Slack takes 50 blocks."""

_TEXT_MAX: Final = 2_900
_SYMBOLS: Final = {"firing": ":red_circle:", "resolved": ":large_green_circle:"}


class Slack(Sender):
    """POST messages; the address is a secret and never logged."""

    kind: Literal["slack"]
    url: Url
    allow_private: bool = False
    """Allow a host with private addresses."""

    async def send(self, notification: Notification, *, now: float) -> None:
        """Deliver it once. Raises `NotDelivered`."""
        body = json_text.dumps(message_of(notification))
        await deliver(self.url, {}, body, notification, now=now, allows_private=self.allow_private)


def message_of(notification: Notification) -> dict[str, Any]:
    """Return the message: a text for Slack's own notifications, and a block for each alert."""
    shown = notification.notices[:SHOWN_MAX]
    blocks = [_section(_text_of(notice)) for notice in shown]
    if (hidden := len(notification.notices) - len(shown)) > 0:
        blocks.append(_section(f"and {hidden} more"))
    return {"text": _escaped(notification.title), "blocks": blocks}


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text[:_TEXT_MAX]}}


def _text_of(notice: Notice) -> str:
    state = f"{notice.status}, flapping" if notice.is_flapping else notice.status
    labels = ", ".join(f"{name}={value}" for name, value in notice.labels.items())
    lines = [
        f"{_SYMBOLS[notice.status]} *{notice.alert}* ({state}, {notice.severity})",
        _escaped(notice.summary),
        f"{_escaped(labels)} since {time_text(notice.starts)}",
        _escaped(notice.runbook),
    ]
    return "\n".join(line for line in lines if line)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")

"""What sends notifications: webhook, Slack, email, log. Each is a table of alerts.toml that can send.

This module has what they share, and `log`. Used by `refold.alerts.rules` and `refold.alerts.delivery`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Final, Literal

from pydantic import Field

from refold.alerts import Name, Notification, Severity, Table
from refold.core.errors import ServiceUnavailable
from refold.telemetry.logging import get_logger

SEND_SECONDS: Final = 10.0
"""One attempt may take so long."""


class NotDelivered(ServiceUnavailable, code="not_delivered"):
    """The notifier could not deliver."""

    def __init__(
        self,
        message: str,
        *,
        is_final: bool = False,
        is_unexpected: bool = False,
        retry_seconds: float = 0.0,
    ) -> None:
        """`is_final`: another attempt would end in the same way; `retry_seconds`: the receiver asked to wait."""
        super().__init__(message)
        self.is_final = is_final
        self.is_unexpected = is_unexpected
        """It is none that the notifier knows: the notification itself may be the cause."""
        self.retry_seconds = retry_seconds


class Sender(Table):
    """A notifier: its name, and the severities that it sends."""

    is_follower: ClassVar[bool] = False
    """It records what has happened and alerts no person: it is sent every notification, one by one and without a limit
    of attempts unless its errors are unexpected, and that it cannot deliver is not an alert."""
    tested: ClassVar[str] = "sent"
    """What `refold alerts test` has done with its notification."""

    name: Name
    severities: tuple[Severity, ...] = Field(("page", "ticket"), min_length=1)

    @abstractmethod
    async def send(self, notification: Notification, *, now: float) -> None:
        """Deliver it once. Raises `NotDelivered`."""

    async def attempt(self, notification: Notification, *, now: float) -> None:
        """Send it; an error that `send` does not expect is a failed attempt too. Raises `NotDelivered`."""
        try:
            await self.send(notification, now=now)
        except NotDelivered:
            raise
        except Exception as error:
            # One notifier must not end the engine and the others. The text may hold a secret, such as the URL.
            raise NotDelivered(f"unexpected {type(error).__name__}", is_unexpected=True) from error


class Log(Sender):
    """Write each notice as a line of the service's log."""

    tested: ClassVar[str] = "written to standard error"

    kind: Literal["log"]

    async def send(self, notification: Notification, *, now: float) -> None:  # noqa: ARG002 - as the others.
        """Write one line for each alert, at the level that every `--log-level` includes."""
        for notice in notification.notices:
            get_logger().error(
                "alert",
                alert=notice.alert,
                status=notice.status,
                severity=notice.severity,
                is_flapping=notice.is_flapping,
                labels=dict(notice.labels),
                value=notice.value,
                summary=notice.summary if notice.status == "firing" else f"over: {notice.summary}",
                runbook=notice.runbook,
                notification=notification.key,
            )

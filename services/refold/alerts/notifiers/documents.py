"""Write what alerts have become to documents of Refold itself, so that their life cycle is history.

Used by `refold.alerts.rules`. The engine's own file stays authoritative: documents follow when the gateway answers.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final, Literal

from pydantic import Field, field_validator

from refold.alerts import Notice, Notification
from refold.alerts.notifiers import SEND_SECONDS, NotDelivered, Sender
from refold.alerts.notifiers.webhook import time_text
from refold.client import Refold
from refold.core import json_text
from refold.core.errors import RefoldError, ServiceUnavailable, TimedOut
from refold.telemetry.http import Response, address_of, get

ACTOR: Final = "refold-alerts"


class Documents(Sender):
    """Merge each notice into the document of its alert, at the time at which it fired or resolved."""

    is_follower: ClassVar[bool] = True

    kind: Literal["documents"]
    url: str | None = Field(None, pattern=r"^https?://[^/\s,@?#]+$")
    """The gateway; by default the first one among the targets."""
    namespace: str = Field("alerts", pattern=r"^[A-Za-z0-9_-]{1,64}$")

    @field_validator("url")
    @classmethod
    def _reachable(cls, url: str | None) -> str | None:
        if url is not None:
            address_of(url)
        return url

    async def send(self, notification: Notification, *, now: float) -> None:  # noqa: ARG002 - as the others.
        """Append the events, without waiting until they are folded. Raises `NotDelivered`.

        A gateway that does not reach the log is sent nothing: its errors would count as those of its clients.
        """
        if self.url is None:
            raise NotDelivered("has no `url`; the engine takes that of the first gateway", is_final=True)
        try:
            ready = await get(f"{self.url}/readyz", seconds=SEND_SECONDS)
        except OSError as error:
            raise NotDelivered(f"the gateway cannot be reached: {error}") from error
        if not _reaches_log(ready):
            raise NotDelivered(f"the gateway does not reach the log: /readyz answered {ready.status}")
        try:
            async with Refold(self.url, timeout_seconds=SEND_SECONDS, retry_seconds=0) as refold:
                for notice in notification.notices:
                    await refold.merge(
                        self.namespace,
                        document_of(notice),
                        content_of(notice),
                        id=notification.key,
                        type=f"alert.{notice.status}",
                        actor=ACTOR,
                        occurred_at=time_text(notice.ends or notice.starts),
                        wait_seconds=0,
                    )
        except (ServiceUnavailable, TimedOut) as error:
            raise NotDelivered(str(error)) from error
        except RefoldError as error:
            raise NotDelivered(str(error), is_final=True) from error


def _reaches_log(ready: Response) -> bool:
    """Return what `/readyz` says; a projector that is stopped does not hinder writes."""
    unreachable = json_text.object_in(ready.body).get("unreachable")
    return ready.status == 200 or (isinstance(unreachable, list) and "nats" not in unreachable)


def document_of(notice: Notice) -> str:
    """Return the name of an alert's document."""
    return f"{notice.alert}-{notice.fingerprint[:16]}"


def content_of(notice: Notice) -> dict[str, Any]:
    """Return the merge patch of a notice. It keeps other fields; it clears `acknowledged` once resolved."""
    content: dict[str, Any] = {
        "alert": notice.alert,
        "labels": dict(notice.labels),
        "severity": notice.severity,
        "status": notice.status,
        "flapping": notice.is_flapping,
        "starts": time_text(notice.starts),
        "ends": time_text(notice.ends) if notice.ends else None,
        "value": notice.value,
        "summary": notice.summary,
        "runbook": notice.runbook,
    }
    return content if notice.status == "firing" else {**content, "acknowledged": None}

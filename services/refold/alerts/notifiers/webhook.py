"""POST to a webhook, with the payload of Alertmanager (version 4), so that its receivers work.

Used by `refold.alerts.rules`; Slack's notifier sends in the same way.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

from refold.alerts import Notice, Notification
from refold.alerts.notifiers import SEND_SECONDS, NotDelivered, Sender
from refold.core import json_text
from refold.core.timestamp import parse_retry_after
from refold.telemetry.http import LOOPBACK_HOSTS, AddressRefused, address_of, post


def _secure_url(url: SecretStr) -> SecretStr:
    text = url.get_secret_value()
    if not re.fullmatch("[!-~]+", text):
        raise ValueError("must have neither spaces nor characters beyond ASCII; encode them (%20)")
    parts = urlsplit(text)
    is_loopback = parts.hostname in LOOPBACK_HOSTS
    if (
        not parts.hostname
        or parts.scheme not in ("https", "http")
        or (parts.scheme == "http" and not is_loopback)
    ):
        raise ValueError("must begin with https://; http:// only for 127.0.0.1, ::1 or localhost")
    if parts.username is not None:
        raise ValueError("must have no user and password before its host; use `secret`")
    address_of(text)
    return url


Url = Annotated[SecretStr, AfterValidator(_secure_url)]


class Webhook(Sender):
    """POST notifications as Alertmanager does, signed where there is a `secret`."""

    kind: Literal["webhook"]
    url: Url
    secret: SecretStr | None = None
    """Key of the signature: HMAC-SHA256 over the header `Refold-Time`, a full stop, and the body."""
    allow_private: bool = False
    """Allow a host with private addresses."""

    async def send(self, notification: Notification, *, now: float) -> None:
        """Deliver it once. Raises `NotDelivered`."""
        body = json_text.dumps(payload_of(notification, self.name))
        headers = {"Refold-Time": str(int(now))}
        if self.secret is not None:
            headers["Refold-Signature"] = sign(self.secret.get_secret_value(), int(now), body)
        await deliver(self.url, headers, body, notification, now=now, allows_private=self.allow_private)


def sign(secret: str, time: int, body: bytes) -> str:
    """Return the signature of a body that is sent at a time."""
    digest = hmac.new(secret.encode(), f"{time}.".encode() + body, hashlib.sha256)
    return f"v1={digest.hexdigest()}"


def payload_of(notification: Notification, receiver: str) -> dict[str, Any]:
    """Return the payload of Alertmanager's webhook, version 4."""
    alerts = [_alert_of(notice) for notice in notification.notices]
    return {
        "version": "4",
        "groupKey": f'{{}}:{{alertname="{notification.group}"}}',
        "truncatedAlerts": 0,
        "status": notification.status,
        "receiver": receiver,
        "groupLabels": {"alertname": notification.group},
        "commonLabels": _common([alert["labels"] for alert in alerts]),
        "commonAnnotations": _common([alert["annotations"] for alert in alerts]),
        "externalURL": "",
        "alerts": alerts,
    }


def _alert_of(notice: Notice) -> dict[str, Any]:
    annotations = {"summary": notice.summary, "value": f"{notice.value:.6g}"}
    if notice.runbook:
        annotations["runbook_url"] = notice.runbook
    if notice.is_flapping:
        annotations["flapping"] = "true"
    return {
        "status": notice.status,
        "labels": {"alertname": notice.alert, "severity": notice.severity, **notice.labels},
        "annotations": annotations,
        "startsAt": time_text(notice.starts),
        # As Alertmanager's own, which is Go's zero time.
        "endsAt": time_text(notice.ends) if notice.ends else "0001-01-01T00:00:00Z",
        "generatorURL": "",
        "fingerprint": notice.fingerprint[:16],
    }


def time_text(seconds: float) -> str:
    """Return a time as RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _common(values: list[dict[str, str]]) -> dict[str, str]:
    first, *others = values
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in others)}


async def deliver(
    url: SecretStr,
    headers: Mapping[str, str],
    body: bytes,
    notification: Notification,
    *,
    now: float,
    allows_private: bool,
) -> None:
    """POST JSON with the notification's `Idempotency-Key`. Raises `NotDelivered`, which never shows the path."""
    host = urlsplit(url.get_secret_value()).hostname
    sent = {"Content-Type": "application/json", "Idempotency-Key": notification.key, **headers}
    try:
        response = await post(
            url.get_secret_value(), sent, body, seconds=SEND_SECONDS, allows_private=allows_private
        )
    except AddressRefused as error:
        raise NotDelivered(str(error), is_final=True) from error
    except TimeoutError as error:
        raise NotDelivered(f"{host} did not answer within {SEND_SECONDS:.0f} s") from error
    except OSError as error:
        raise NotDelivered(f"{host} cannot be reached: {error}") from error
    if 200 <= response.status < 300:
        return
    is_final = response.status not in (408, 425, 429) and response.status < 500
    wait = parse_retry_after(response.headers.get("retry-after", ""), now=now)
    raise NotDelivered(f"{host} answered {response.status}", is_final=is_final, retry_seconds=wait)

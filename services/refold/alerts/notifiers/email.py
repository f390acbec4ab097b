"""Send mails by SMTP: one for each notification, those of one incident in one thread.

Used by `refold.alerts.rules`. smtplib blocks, so it runs in a thread.
"""

from __future__ import annotations

import asyncio
import smtplib
import ssl
from datetime import UTC, datetime
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator

from refold.alerts import Notice, Notification, digest_of
from refold.alerts.notifiers import SEND_SECONDS, NotDelivered, Sender
from refold.alerts.notifiers.webhook import time_text
from refold.telemetry.http import LOOPBACK_HOSTS, valid_host

Address = Annotated[str, Field(pattern=r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+$", max_length=254)]


class Email(Sender):
    """Send mails through a server with STARTTLS."""

    kind: Literal["email"]
    host: Annotated[str, AfterValidator(valid_host)]
    port: int = Field(587, ge=1, le=65_535)
    sender: Address
    to: tuple[Address, ...] = Field(min_length=1, max_length=50)
    user: str | None = None
    password: SecretStr | None = None
    starttls: bool = True
    """May be false for a server on the loopback."""

    @field_validator("password")
    @classmethod
    def _with_user(cls, password: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if (info.data.get("user") is None) != (password is None):
            raise ValueError("give both `user` and `password`, or none")
        return password

    @field_validator("starttls")
    @classmethod
    def _encrypted(cls, starttls: bool, info: ValidationInfo) -> bool:
        if not starttls and info.data.get("host") not in LOOPBACK_HOSTS:
            raise ValueError("may be false only for a server on 127.0.0.1, ::1 or localhost")
        return starttls

    async def send(self, notification: Notification, *, now: float) -> None:
        """Deliver it once. Raises `NotDelivered`."""
        message = self.message_of(notification, now=now)
        try:
            await asyncio.to_thread(self._send, message)
        except smtplib.SMTPResponseException as error:
            reason = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else ""
            is_final = 500 <= error.smtp_code < 600
            raise NotDelivered(f"{self.host}: {error.smtp_code} {reason}", is_final=is_final) from error
        except smtplib.SMTPRecipientsRefused as error:
            codes = {code for code, _ in error.recipients.values()}
            raise NotDelivered(
                f"{self.host} takes no recipient: {sorted(codes)}", is_final=min(codes) >= 500
            ) from error
        except (smtplib.SMTPNotSupportedError, ssl.SSLCertVerificationError, UnicodeError) as error:
            raise NotDelivered(f"{self.host}: {error}", is_final=True) from error
        except (smtplib.SMTPException, OSError) as error:
            raise NotDelivered(f"{self.host}: {error}") from error

    def message_of(self, notification: Notification, *, now: float) -> EmailMessage:
        """Return the mail; what follows on an incident's first mail refers to it."""
        message = EmailMessage()
        message["From"] = self.sender
        message["To"] = ", ".join(self.to)
        message["Subject"] = " ".join(notification.title.split())[:200]
        message["Date"] = format_datetime(datetime.fromtimestamp(now, UTC))
        domain = self.sender.rpartition("@")[2]
        first = notification.notices[0]
        incident = f"<{digest_of(first.fingerprint, first.starts)}@{domain}>"
        message["Message-ID"] = f"<{notification.key}@{domain}>"
        message["References"] = message["In-Reply-To"] = incident
        message["Idempotency-Key"] = notification.key
        message["Auto-Submitted"] = "auto-generated"
        message.set_content("\n\n".join(_text_of(notice) for notice in notification.notices) + "\n")
        return message

    def _send(self, message: EmailMessage) -> None:
        with smtplib.SMTP(self.host, self.port, timeout=SEND_SECONDS) as server:
            if self.starttls:
                server.starttls(context=ssl.create_default_context())
            if self.user is not None and self.password is not None:
                server.login(self.user, self.password.get_secret_value())
            server.send_message(message)


def _text_of(notice: Notice) -> str:
    labels = ", ".join(f"{name}={value}" for name, value in notice.labels.items())
    lines = [
        f"{notice.alert}: {notice.status}{', flapping' if notice.is_flapping else ''} ({notice.severity})",
        notice.summary,
        f"labels: {labels}",
        f"since: {time_text(notice.starts)}" + (f" until {time_text(notice.ends)}" if notice.ends else ""),
        f"value: {notice.value:.6g}",
        f"runbook: {notice.runbook}" if notice.runbook else "",
    ]
    return "\n".join(line for line in lines if line)

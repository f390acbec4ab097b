"""What notifications of alerts are sent to: webhooks, and a mail server. They keep what they have taken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from email import message_from_bytes
from email.message import Message
from typing import Any

from aiohttp import web
from aiohttp.test_utils import RawTestServer
from aiosmtpd.controller import Controller

from support.system import free_port


class Hook:
    """A webhook: the bodies that were posted to it, with their paths and idempotency keys."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Listen on the loopback; yield the URL."""
        async with RawTestServer(self._take) as server:
            yield str(server.make_url("/"))

    async def _take(self, request: web.BaseRequest) -> web.Response:
        self.bodies.append(await request.json())
        self.paths.append(request.path)
        self.keys.append(request.headers.get("Idempotency-Key", ""))
        return web.Response()

    def statuses(self) -> list[str]:
        """Return what each body says, in the format of Alertmanager or of Slack."""
        return [
            body.get("status") or ("firing" if "red" in body["blocks"][0]["text"]["text"] else "resolved")
            for body in self.bodies
        ]


class Mailbox:
    """A mail server: the mails that it has taken."""

    def __init__(self) -> None:
        self.mails: list[Message] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - the library's name.
        self.mails.append(message_from_bytes(envelope.content))
        return "250 OK"

    @contextmanager
    def running(self) -> Iterator[int]:
        """Listen on the loopback; yield the port."""
        port = free_port()
        controller = Controller(self, hostname="127.0.0.1", port=port)
        controller.start()
        try:
            yield port
        finally:
            controller.stop()

    def statuses(self) -> list[str]:
        """Return what each subject says."""
        return [mail["Subject"].split("]")[0].strip("[").lower() for mail in self.mails]

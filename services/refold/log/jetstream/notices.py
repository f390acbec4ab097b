"""Core NATS messages at most once, on a connection of their own or the log's.

Used by whoever tells of outcomes and changes, or waits for them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from refold.core.errors import Refused
from refold.core.limits import LOG_CONNECT_SECONDS, PAYLOAD_BYTES_MAX
from refold.log.jetstream.client import DEFAULT_INBOX_PREFIX, BrokerClient, connect
from refold.log.jetstream.frames import message_frame

_TOGETHER_BYTES: Final = 256 * 1024
_SUBJECT: Final = re.compile(r"[!-~]+", re.ASCII)

_log = structlog.get_logger()


class JetStreamNotices:
    """Messages of one connection; what is sent while it is broken is lost."""

    def __init__(self, client: BrokerClient) -> None:
        """Use a connection that stands."""
        self._client = client
        self._frames: list[bytes] = []
        self._unwritten_bytes = 0

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        inbox_prefix: str = DEFAULT_INBOX_PREFIX,
        name: str = "refold-notices",
        connect_seconds: float = LOG_CONNECT_SECONDS,
    ) -> JetStreamNotices:
        """Connect. Raises `LogUnavailable`."""
        client = await connect(
            url,
            user=user,
            password=password,
            inbox_prefix=inbox_prefix,
            name=name,
            connect_seconds=connect_seconds,
        )
        return cls(client)

    async def send(self, subject: str, body: bytes) -> None:
        """Send one message; it is lost where the connection is broken. Raises `Refused` for what would break it."""
        await self.send_all([(subject, body)])

    async def send_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send messages in their order, as `send` does: what stands behind one that is refused is not sent."""
        for subject, body in messages:
            frame = _frame(subject, body)
            if not self._frames:
                asyncio.get_running_loop().call_soon(self._write)
            self._frames.append(frame)
            self._unwritten_bytes += len(frame)
            if self._unwritten_bytes > _TOGETHER_BYTES:
                self._write()
                await self._client.until_sent()

    async def flush(self) -> None:
        """Wait until the broker has what was sent. Raises `LogUnavailable`: it may be lost."""
        self._write()
        await self._client.until_taken()

    async def listen(self, subject: str, handle: Callable[[str, bytes], None]) -> Callable[[], None]:
        """Call `handle(subject, body)` for each message until the returned function is called."""

        def take(subject: bytes, _: bytes, __: bytes, body: bytes) -> None:
            try:
                handle(subject.decode(errors="replace"), body)
            except Exception:  # noqa: BLE001 - whoever listens must not end the connection of all others.
                _log.exception("notice_mishandled", subject=repr(subject[:128]))

        sid = self._client.subscribe_raw(subject, take)
        return lambda: self._client.unsubscribe_raw(sid)

    async def close(self) -> None:
        """Send what is unsent, then let go of the connection."""
        self._write()
        await self._client.close()

    def _write(self) -> None:
        """Write in one go what was sent in this turn of the loop: a system call for each would cost more."""
        frames, self._frames, self._unwritten_bytes = self._frames, [], 0
        if frames:
            self._client.write_if_connected(b"".join(frames))


def _frame(subject: str, body: bytes) -> bytes:
    if not _SUBJECT.fullmatch(subject):
        raise Refused("bad_subject", "a subject is printable ASCII without spaces", field="subject")
    if len(body) > PAYLOAD_BYTES_MAX:
        raise Refused("notice_too_large", f"at most {PAYLOAD_BYTES_MAX} bytes", shape=f"{len(body)} bytes")
    return message_frame(subject.encode(), body)

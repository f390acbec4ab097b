"""The NATS wire protocol: commands written as bytes, and a parser for what the server sends.

Used by the other modules of this package. Subjects, headers and payloads stay bytes: any client can publish any bytes
as a subject. "Header lines" are the lines of a message's header block without `NATS/1.0` and the empty line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

MessageHandler: TypeAlias = Callable[[bytes, bytes, bytes, bytes], None]
"""Called with a message's subject, reply subject, header block and payload. An exception ends the connection."""

BulkHandler: TypeAlias = Callable[[bytes, int], int]
"""Called with a buffer and the position where a message of its subscription begins. It handles the whole messages
that follow each other in the form that it expects, and returns the position where it stopped."""

HEADERS_START: Final = b"NATS/1.0\r\n"
HEADERS_END: Final = b"\r\n\r\n"

LINE_BYTES_MAX: Final = 256 * 1024
"""A line of the protocol; the longest is the server's INFO."""


class ProtocolError(Exception):
    """The server sent bytes that are not the NATS protocol."""


class Subscription(NamedTuple):
    """What to do with the messages of one subscription; `handle_bulk` is offered them first."""

    subject: bytes
    handle: MessageHandler
    handle_bulk: BulkHandler | None
    queue: bytes = b""
    """Of all that subscribe with this name, one receives each message; empty: every one does."""

    def frame(self, sid: bytes) -> bytes:
        """Write the command that subscribes."""
        return b"SUB %b %b %b\r\n" % (self.subject, self.queue, sid)


class Event(NamedTuple):
    """An event ready to publish; `headers` are all its header lines except those of a batch."""

    subject: bytes
    headers: bytes
    body: bytes


class Parser:
    """Split the bytes of one socket into messages and operations, and keep an incomplete rest."""

    def __init__(
        self, subscriptions: dict[bytes, Subscription], take_operation: Callable[[bytes, bytes], None]
    ) -> None:
        """Hand messages to `subscriptions` (by subscription id), all other lines to `take_operation`."""
        self._subscriptions = subscriptions
        self._take_operation = take_operation
        self._parts: list[bytes] = []
        self._held_bytes = 0
        self._needed_bytes = 0
        self._is_stopped = False

    def stop(self) -> None:
        """Ignore the rest of the current buffer and whatever follows."""
        self._is_stopped = True
        self._parts.clear()

    def feed(self, data: bytes) -> None:
        """Parse one socket read. Raises `ProtocolError`."""
        if self._is_stopped:
            return
        self._parts.append(data)
        self._held_bytes += len(data)
        if self._held_bytes < self._needed_bytes:
            return
        buffer = b"".join(self._parts) if len(self._parts) > 1 else data
        try:
            rest, self._needed_bytes = self._scan(buffer)
        except (ValueError, IndexError) as error:
            raise ProtocolError("not the NATS protocol") from error
        if len(rest) > LINE_BYTES_MAX and not self._needed_bytes:
            raise ProtocolError(f"a line of more than {LINE_BYTES_MAX} bytes")
        self._parts, self._held_bytes = [rest], len(rest)

    def _scan(self, buffer: bytes) -> tuple[bytes, int]:
        """Hand on what is complete; return the rest, and how many bytes the next message needs if that is known."""
        find, length, subscriptions = buffer.find, len(buffer), self._subscriptions
        position = 0
        while (end := find(b"\r\n", position)) >= 0:
            words = buffer[position:end].split(b" ")
            if words[0] not in {b"MSG", b"HMSG"}:
                self._take_operation(words[0], buffer[position + len(words[0]) + 1 : end])
                position = end + 2
                if self._is_stopped:
                    break
                continue
            subject, sid, reply, headers_size, size = _message_words(words)
            # None: the unsubscription has not reached the server yet.
            subscription = subscriptions.get(sid)
            if subscription is not None and subscription.handle_bulk is not None:
                after = subscription.handle_bulk(buffer, position)
                if after > position:
                    position = after
                    continue
            payload, stop = end + 2 + int(headers_size), end + 2 + int(size)
            if stop + 2 > length:
                return buffer[position:], stop + 2 - position
            position = stop + 2
            if subscription is not None:
                subscription.handle(subject, reply, buffer[end + 2 : payload], buffer[payload:stop])
        return buffer[position:], 0


def _message_words(words: list[bytes]) -> list[bytes]:
    """Return subject, subscription id, reply, size of the headers and whole size; reply and headers are optional."""
    if words[0] == b"MSG":
        words = [*words[:-1], b"0", words[-1]]
    if len(words) == 5:
        words = [*words[:3], b"", *words[3:]]
    return words[1:]


def message_frame(subject: bytes, body: bytes, *, headers: bytes = b"", reply: bytes = b"") -> bytes:
    """Write the command that publishes one message."""
    if not headers:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(body), body)
    block_size = len(HEADERS_START) + len(headers) + 2
    command = b"HPUB %b %b %d %d\r\n%b" % (subject, reply, block_size, block_size + len(body), HEADERS_START)
    return b"".join((command, headers, b"\r\n", body, b"\r\n"))


def batch_frames(events: Sequence[Event], batch_id: bytes, *, first_reply: bytes, last_reply: bytes) -> bytes:
    """Write an atomic batch; the broker replies for its first event and, once all are stored, for its last."""
    own = b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: " % batch_id
    own_size = len(HEADERS_START) + len(own) + len(HEADERS_END)
    frames = []
    # One format operation per event: a batch has up to a thousand of them.
    for number, (subject, headers, body) in enumerate(events[:-1], 1):
        reply = first_reply if number == 1 else b""
        digits = b"%d" % number
        block_size = own_size + len(headers) + len(digits)
        frames.append(
            b"HPUB %b %b %d %d\r\nNATS/1.0\r\n%b%b%b\r\n\r\n%b\r\n"
            % (subject, reply, block_size, block_size + len(body), headers, own, digits, body)
        )
    subject, headers, body = events[-1]
    headers += b"%b%d\r\nNats-Batch-Commit: 1\r\n" % (own, len(events))
    frames.append(message_frame(subject, body, headers=headers, reply=last_reply))
    return b"".join(frames)


def header_lines(block: bytes) -> bytes:
    """Return the header lines of a header block; a block of another form is returned whole."""
    if block.startswith(HEADERS_START) and block.endswith(HEADERS_END):
        return block[len(HEADERS_START) : -2]
    return block

"""Commands and events as bytes on the broker's wire, and what is stored read back.

Used by the other modules of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

HEADERS_BEGIN: Final = b"NATS/1.0\r\n"
HEADERS_END: Final = b"\r\n\r\n"


class Event(NamedTuple):
    """One event ready to be sent: where to, all its header lines but a batch's, the body."""

    subject: bytes
    lines: bytes
    body: bytes


def message_frame(subject: bytes, body: bytes, *, lines: bytes = b"", reply: bytes = b"") -> bytes:
    """Write one message."""
    if not lines:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject, reply, len(body), body)
    block = len(HEADERS_BEGIN) + len(lines) + 2
    head = b"HPUB %b %b %d %d\r\n%b" % (subject, reply, block, block + len(body), HEADERS_BEGIN)
    return b"".join((head, lines, b"\r\n", body, b"\r\n"))


def batch_frames(events: Sequence[Event], batch: bytes, *, begun: bytes, committed: bytes) -> bytes:
    """Write an atomic batch; the broker replies to `begun` for its first event and to `committed` for all."""
    own = b"Nats-Batch-Id: %b\r\nNats-Batch-Sequence: " % batch
    beside = len(HEADERS_BEGIN) + len(own) + len(HEADERS_END)
    frames = []
    # Formatted in one go: a batch has a thousand of them.
    for number, (subject, lines, body) in enumerate(events[:-1], 1):
        reply = begun if number == 1 else b""
        told = b"%d" % number
        block = beside + len(lines) + len(told)
        frames.append(
            b"HPUB %b %b %d %d\r\nNATS/1.0\r\n%b%b%b\r\n\r\n%b\r\n"
            % (subject, reply, block, block + len(body), lines, own, told, body)
        )
    subject, lines, body = events[-1]
    lines += b"%b%d\r\nNats-Batch-Commit: 1\r\n" % (own, len(events))
    frames.append(message_frame(subject, body, lines=lines, reply=committed))
    return b"".join(frames)


def stored_lines(block: bytes) -> bytes:
    """Cut the lines out of a stored header block; a block of another form stays whole."""
    if block.startswith(HEADERS_BEGIN) and block.endswith(HEADERS_END):
        return block[len(HEADERS_BEGIN) : -2]
    return block

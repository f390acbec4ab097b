"""What the broker says to a publish: stored at a sequence, or refused, and what a refusal means.

Used by the other modules of this package.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from refold.core.errors import LogError, LogFull, LogUnavailable

_STALE: Final = {10071, 10164}
_FULL: Final = {10002, 10023, 10028, 10047}
_STORE_FAILED: Final = 10077
_BATCH_REFUSED: Final = {10176, 10199, 10210}
"""Incomplete (begun too long ago, or a member refused), too large, too many of them in flight."""
_NO_RESPONDERS: Final = 503


class PubAck(NamedTuple):
    """`sequence` of what was stored last, or 0 and the broker's error."""

    sequence: int
    code: int = 0
    description: str = ""

    @property
    def is_stale(self) -> bool:
        """Tell whether a strict event's expectation did not hold."""
        return self.code in _STALE

    @property
    def is_batch_refused(self) -> bool:
        """Tell whether it was the batch that the broker did not take, not its events."""
        return self.code in _BATCH_REFUSED

    def error(self) -> LogError:
        """Make the error that tells an author why nothing was stored."""
        is_full = self.code in _FULL or (self.code == _STORE_FAILED and _speaks_of_room(self.description))
        kind = LogFull if is_full else LogUnavailable
        return kind(f"the broker did not store the event: {self.description}", broker_code=self.code)


def read_pub_ack(headers: bytes, payload: bytes) -> PubAck | None:
    """Read the broker's reply to a publish; None for an empty one, which says only that a batch has begun."""
    if headers.startswith(b"NATS/1.0 503"):
        return PubAck(0, _NO_RESPONDERS, "no stream takes it: JetStream is not up, or there is no log")
    if not payload:
        return None
    answer = orjson.loads(payload)
    error = answer.get("error")
    if error is not None:
        return PubAck(0, error.get("err_code", 0) or error.get("code", 0), error.get("description", ""))
    return PubAck(answer["seq"])


def _speaks_of_room(description: str) -> bool:
    return any(words in description for words in ("maximum", "space", "insufficient"))

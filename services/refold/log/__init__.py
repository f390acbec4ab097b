"""The EventLog port: append, ordered bulk read with its live tail, and what the log says of itself.

Adapters: `refold.log.jetstream` (the real one) and `refold.log.memory` (the reference twin).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from refold.core.record import Record

PROGRESS_SUBJECT: Final = "refold.progress"
"""The projector tells how far it has come: after each commit, and each second as a sign of life."""

CONTROL_SUBJECT: Final = "refold.control.projector"
"""Asked there, the projector answers what it is doing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One event to append.

    `headers` are names and values in order, without CR or LF. `expected_last_sequence` makes it strict: the
    log takes it only while the document's last event has that sequence (0 = it has none).
    """

    namespace: str
    document: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    expected_last_sequence: int | None = None


class Appended(NamedTuple):
    """The log has the event, durably, at this sequence."""

    sequence: int


class Stale(NamedTuple):
    """A strict append was refused: the document's last event is no longer the expected one. Nothing was stored."""


class Unknown(NamedTuple):
    """No acknowledgement came: the log may have the event or not. Its outcome tells."""

    why: str


Acknowledgement = Appended | Stale | Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class LogInfo:
    """What the log's leader says of it. `time` is the broker's clock now, in nanoseconds."""

    log_id: str
    first_sequence: int
    last_sequence: int
    time: int
    size_bytes: int


class EventLog(Protocol):
    """One log of events in one total order.

    Errors: `LogUnavailable`, `LogFull`, `LogHole`, `LogDiffers`.
    """

    async def info(self) -> LogInfo:
        """Ask the leader for the log's ends and clock."""

    async def append(self, publication: Publication) -> Acknowledgement:
        """Append one event; waiting appends are grouped into atomic batches by the adapter.

        Raises `Refused` (`event_too_large`, `headers_too_large`, `bad_name`, `bad_header`) before anything is
        sent, `LogFull`, `LogUnavailable` (surely not stored).
        """

    async def append_atomically(self, publications: list[Publication]) -> list[Appended] | Stale | Unknown:
        """Append all next to each other, or none. At most `BATCH_EVENTS_MAX`, and `ATOMIC_BYTES_MAX` of bodies.

        Raises as `append` does, and `Refused` `batch_too_large`; `bad_batch` where a document's second event is
        strict; `BatchRefused` while the log takes no batches, although it may take single events: those appended
        behind it are not held back then.
        """

    def read(self, after_sequence: int) -> AsyncGenerator[list[Record], None]:
        """Yield every event after a sequence, in order and without a gap, then go on with the live tail.

        A run is whatever has arrived; it never passes the leader's last sequence. Ends only by `aclose`.
        Raises `LogHole` where the log lacks a sequence. A lost connection is taken up where it broke.
        """

    async def get(self, sequence: int) -> Record | None:
        """Return one event by its sequence, from the leader."""

    async def last_of(self, namespace: str, document: str) -> Record | None:
        """Return a document's last event, from the leader."""

    async def close(self) -> None:
        """Send what waits, then let go of the connection."""


class Notices(Protocol):
    """Core messages at most once: outcomes to their authors, changes and progress to subscribers."""

    async def send(self, subject: str, body: bytes) -> None:
        """Send one message; it may be lost."""

    async def send_all(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send subjects and bodies in their order; each may be lost."""

    async def flush(self) -> None:
        """Wait until the broker has what was sent."""

    async def listen(self, subject: str, handle: Callable[[str, bytes], None]) -> Callable[[], None]:
        """Call `handle(subject, body)` for each message until the returned function is called."""

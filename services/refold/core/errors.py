"""The whole tree of errors. Anyone may import it; a code is stable, a message is for people.

RefoldError
├── Refused                 the input breaks a rule: names the field, the rule and the value's shape
├── DocumentAbsent          there is no such document then
├── VersionUnknown          the document has no such version
├── LogError
│   ├── LogUnavailable      the broker cannot be reached or does not answer
│   │   └── BatchRefused    it takes no atomic batch at present
│   ├── LogFull             the stream or its disk has no room
│   ├── LogMissing          the broker has no log: none is created where there may have been one
│   ├── LogDiffers          the stream is not the one that this system made: lists the differences
│   ├── LogHole             sequences are missing or another event stands at one
│   └── FoldUnknown         the log asks for a fold that this program does not have
├── StoreError
│   ├── StoreUnavailable    Postgres cannot be reached or does not answer
│   ├── ProjectionBehind    the projection has not folded enough of the log yet
│   ├── StoreFull           Postgres has no room
│   ├── StoreDiffers        the database belongs to another log or to a newer program
│   ├── StoreDamaged        a table is missing, or rows of it are missing or cannot be read
│   └── FenceLost           another projector owns the shard
├── ServiceUnavailable      a running system cannot be reached over HTTP
├── TimedOut                what was waited for did not come in time
└── EmbeddedError
    ├── DataFolderInUse     another process holds the lock file
    ├── PortTaken           a port that was asked for is not free
    └── ChildFailed         a server could not be started, or ended

A conflict, a rejection and a duplicate are values (`refold.core.fold`), not errors.
"""

from __future__ import annotations

from typing import ClassVar


class RefoldError(Exception):
    """Refold failed."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str | None = None, **facts: object) -> None:
        """Keep the facts as attributes; without a message, the class's docstring is the message."""
        self.message = message or (type(self).__doc__ or "").strip()
        self.facts = facts
        super().__init__(self.message)

    def __str__(self) -> str:
        """Say the message, then the facts."""
        told = ", ".join(f"{name}={value!r}" for name, value in self.facts.items())
        return f"{self.message} ({told})" if told else self.message


class Refused(RefoldError):
    """The input breaks a rule."""

    code = "refused"

    def __init__(self, reason: str, message: str, *, field: str = "", shape: str = "") -> None:
        """`reason` is the stable code; `field` a path into the input; `shape` what stands there."""
        super().__init__(message)
        self.reason = reason
        self.field = field
        self.shape = shape

    def __str__(self) -> str:
        """Name the field, the rule and the shape."""
        where = f"{self.field}: " if self.field else ""
        got = f" (got {self.shape})" if self.shape else ""
        return f"{where}{self.message}{got}"


class DocumentAbsent(RefoldError):
    """The document is absent."""

    code = "document_absent"


class VersionUnknown(RefoldError):
    """The document has no such version."""

    code = "version_unknown"


class LogError(RefoldError):
    """The log failed."""

    code = "log_error"


class LogUnavailable(LogError):
    """The broker cannot be reached or does not answer."""

    code = "log_unavailable"


class BatchRefused(LogUnavailable):
    """The broker takes no atomic batch at present; nothing was stored. The same events one by one may be taken."""

    code = "batch_refused"


class LogFull(LogError):
    """The log has no room: its stream or its disk is full."""

    code = "log_full"


class LogMissing(LogError):
    """The broker has no log."""

    code = "log_missing"


class LogDiffers(LogError):
    """The stream is not the log that this system made."""

    code = "log_differs"


class LogHole(LogError):
    """The log lacks events that it once had."""

    code = "log_hole"


class FoldUnknown(LogError):
    """The log asks for a fold that this program does not know."""

    code = "fold_unknown"


class StoreError(RefoldError):
    """The store failed."""

    code = "store_error"


class StoreUnavailable(StoreError):
    """Postgres cannot be reached or does not answer."""

    code = "store_unavailable"


class ProjectionBehind(StoreError):
    """The projection has not folded enough of the log yet."""

    code = "projection_behind"


class StoreFull(StoreError):
    """Postgres has no room."""

    code = "store_full"


class StoreDiffers(StoreError):
    """The database belongs to another log or to a newer program."""

    code = "store_differs"


class StoreDamaged(StoreError):
    """A table of the projection is missing, or rows of it are missing or cannot be read."""

    code = "store_damaged"

    def __init__(
        self, what: str = "a table of the projection is missing or damaged", **facts: object
    ) -> None:
        """Say what is damaged; the message also names the command that mends it."""
        mend = "`refold rebuild --from-nothing` makes the projection anew from the log"
        super().__init__(f"{what}; {mend}", **facts)
        self.what = what


class FenceLost(StoreError):
    """Another projector has moved the checkpoints on: this one no longer owns the shard."""

    code = "fence_lost"


class ServiceUnavailable(RefoldError):
    """The service could not be reached."""

    code = "service_unavailable"


class TimedOut(RefoldError):
    """What was waited for did not come in time."""

    code = "timed_out"


class EmbeddedError(RefoldError):
    """The embedded system failed."""

    code = "embedded_error"


class DataFolderInUse(EmbeddedError):
    """Another process uses this data folder."""

    code = "data_folder_in_use"


class PortTaken(EmbeddedError):
    """The port is taken."""

    code = "port_taken"


class ChildFailed(EmbeddedError):
    """A server that Refold started has failed."""

    code = "child_failed"

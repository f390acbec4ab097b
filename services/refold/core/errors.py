"""The tree of errors. A code is stable, a message is for people.

A conflict, a rejection and a duplicate are values (`refold.core.fold`), not errors. An error that is raised without a
message has its class's docstring as message.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar


class RefoldError(Exception):
    """Refold failed."""

    code: ClassVar[str] = "error"

    def __init_subclass__(cls, *, code: str | None = None) -> None:
        """Set the class's code; without one it has its parent's."""
        cls.code = code or cls.code

    def __init__(self, message: str | None = None, **facts: object) -> None:
        self.message = message or (type(self).__doc__ or "").strip()
        self.facts = facts
        super().__init__(self.message)

    def __str__(self) -> str:
        facts = ", ".join(f"{name}={value!r}" for name, value in self.facts.items())
        return f"{self.message} ({facts})" if facts else self.message


class Refused(RefoldError, code="refused"):
    """The input breaks a rule."""

    def __init__(self, reason: str, message: str, *, field: str = "", shape: str = "") -> None:
        """`reason` is the stable code; `field` a path into the input; `shape` what was found there."""
        super().__init__(message)
        self.reason = reason
        self.field = field
        self.shape = shape
        self.conflict: dict[str, Any] | None = None
        """What came of resolving a stale event that is rejected."""

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        got = f" (got {self.shape})" if self.shape else ""
        return f"{where}{self.message}{got}"


class DocumentAbsent(RefoldError, code="document_absent"):
    """The document is absent."""


class VersionUnknown(RefoldError, code="version_unknown"):
    """The document has no such version."""


class LogError(RefoldError, code="log_error"):
    """The log failed."""


class LogUnavailable(LogError, code="log_unavailable"):
    """The broker cannot be reached or does not answer."""


class BatchRefused(LogUnavailable, code="batch_refused"):
    """The broker takes no atomic batch at present; nothing was stored. The same events one by one may be taken."""


class LogFull(LogError, code="log_full"):
    """The log has no room: its stream or its disk is full."""


class LogMissing(LogError, code="log_missing"):
    """The broker has no log."""


class LogDiffers(LogError, code="log_differs"):
    """The stream is not the log that this system made."""


class LogHole(LogError, code="log_hole"):
    """The log lacks events that it once had."""


class FoldUnknown(LogError, code="fold_unknown"):
    """The log asks for a fold that this program does not know."""


class StoreError(RefoldError, code="store_error"):
    """The store failed."""


class StoreUnavailable(StoreError, code="store_unavailable"):
    """The store cannot be reached or does not answer."""


class ProjectionBehind(StoreError, code="projection_behind"):
    """The projection has not folded enough of the log yet."""


class StoreBehind(StoreError, code="store_behind"):
    """No store that answers has folded yet what this read needs."""


class StoreFull(StoreError, code="store_full"):
    """The store has no room."""


class StoreDiffers(StoreError, code="store_differs"):
    """The store belongs to another log, or was made by a newer program."""


class HistoryElsewhere(StoreError, code="history_not_kept"):
    """The store does not keep what is asked for: it is older than what a store of recent depth has."""


class HistorySlow(StoreError, code="history_slow"):
    """The history is too long to be replayed from the log for one request."""


class StoreOutdated(StoreDiffers, code="store_outdated"):
    """The projection was made by an older program, in a format that is not converted."""

    def __init__(self, **facts: object) -> None:
        """The message names the command that replaces it."""
        repair = "`refold rebuild` rebuilds it from the log, compares both and swaps them"
        super().__init__(f"the projection has the format of an older program; {repair}", **facts)


class StoreUnreadable(StoreError):
    """Stored content cannot be read; the log has all that it was made from."""

    joint: ClassVar[str] = "; "

    def __init__(
        self,
        what: str | None = None,
        *,
        repair: str = "`refold rebuild --from-nothing` rebuilds the projection from the log",
        **facts: object,
    ) -> None:
        """`what` cannot be read; the message also has `repair`, which names the command for this store."""
        self.what = what or (type(self).__doc__ or "").strip(" .")
        super().__init__(f"{self.what}{self.joint}{repair}", **facts)


class StoreDamaged(StoreUnreadable, code="store_damaged"):
    """A table of the projection is missing, or rows of it are missing or cannot be read."""


class KeyUnknown(StoreUnreadable, code="key_unknown"):
    """The keyring lacks a key that stored values need."""

    joint = ". If the key is lost, "


class KeyWrong(StoreUnreadable, code="key_wrong"):
    """A key of the keyring is not the one that stored values are encrypted with."""

    joint = ". If the key is lost, "


class KeyExhausted(StoreError, code="key_exhausted"):
    """A key has encrypted so many values that another should be used: `refold keys add`."""


class KeyNeeded(StoreError, code="key_needed"):
    """A key cannot be retired: values need it."""


class FenceLost(StoreError, code="fence_lost"):
    """Another projector has moved the checkpoints on: this one no longer owns the shard."""


class ServiceUnavailable(RefoldError, code="service_unavailable"):
    """The service could not be reached."""


class TimedOut(RefoldError, code="timed_out"):
    """What was waited for did not come in time."""

    # For deadlines of a caller, and of its search by `where`: a store that does not answer is `StoreUnavailable`.


class EmbeddedError(RefoldError, code="embedded_error"):
    """The embedded system failed."""


class DataFolderInUse(EmbeddedError, code="data_folder_in_use"):
    """Another process uses this data folder."""


class LogKeyWrong(EmbeddedError, code="log_key_wrong"):
    """The key is not the one that the log is encrypted with."""


class PortTaken(EmbeddedError, code="port_taken"):
    """The port is taken."""


class ChildFailed(EmbeddedError, code="child_failed"):
    """A server that Refold started has failed."""


@contextmanager
def raising_first() -> Iterator[None]:
    """Raise the first error of a task group as it is; the group cancelled the other tasks because of it."""
    try:
        yield
    except ExceptionGroup as group:
        raise group.exceptions[0] from group


def error_for_waiter(error: BaseException) -> Exception:
    """Make one waiter's error of that of a batched read: an instance raised twice would collect both tracebacks."""
    if isinstance(error, RefoldError):
        message = error.what if isinstance(error, StoreUnreadable) else error.message
        made: Exception = type(error)(message, **error.facts)
    elif isinstance(error, Exception):
        made = RuntimeError(f"a read failed: {error!r}")
    else:
        made = StoreUnavailable("the store was closed while a read waited")
    made.__cause__ = error
    return made

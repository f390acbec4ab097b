"""Exit codes and messages of errors: 0 done, 1 refused, rejected or not found, 2 wrong usage, 3 no service reached.

Used by `refold.cli` alone. A read over HTTP answers an unknown name with an empty list; it may be mistyped, so the
commands check what exists.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, NoReturn

from refold.core.errors import (
    DocumentAbsent,
    EmbeddedError,
    LogUnavailable,
    RefoldError,
    Refused,
    ServiceUnavailable,
    StoreUnavailable,
    TimedOut,
    VersionUnknown,
)

if TYPE_CHECKING:
    from refold.cli.options import Target
    from refold.client import Change, Refold

REFUSED: Final = 1
USAGE: Final = 2
UNREACHED: Final = 3
INTERRUPTED: Final = 130

_UNREACHED: Final = (ServiceUnavailable, TimedOut, LogUnavailable, StoreUnavailable)
_USAGE_REASONS: Final = frozenset({"bad_setting", "bad_usage", "bad_url", "bad_time", "bad_name"})


@contextmanager
def exiting_clearly() -> Iterator[None]:
    """Turn an error into one line on stderr and its exit code."""
    try:
        yield
    except RefoldError as error:
        complain(error)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # The reader of our output is gone; Python must not flush into the closed pipe again.
        sys.stdout = None
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def complain(error: RefoldError) -> None:
    """Print an error as one line, without secrets."""
    from refold.telemetry import redacted_text

    code = error.reason if isinstance(error, Refused) else error.code
    sys.stderr.write(f"refold: {code}: {redacted_text(str(error))}{_hint(error)}\n")


def exit_code(error: RefoldError) -> int:
    if isinstance(error, _UNREACHED):
        return UNREACHED
    if isinstance(error, Refused) and error.reason in _USAGE_REASONS:
        return USAGE
    return REFUSED


def _hint(error: RefoldError) -> str:
    if isinstance(error, ServiceUnavailable) and "missing" not in error.facts:
        return "; is it running (`refold up`), is --url right?"
    if isinstance(error, EmbeddedError) and error.code == "port_taken":
        return "; choose another (--http HOST:PORT, --nats-port N, --postgres-port N; 0 = any free one)"
    return ""


async def check_namespace(refold: Refold, namespace: str) -> None:
    """Raise `Refused` where there is no such namespace."""
    from refold.client import find_namespace

    find_namespace(await refold.namespaces(), namespace)


async def check_document(refold: Refold, target: Target) -> None:
    """Raise `Refused` where the document has neither versions nor rejections."""
    if await find_change(refold, target):
        return
    with suppress(DocumentAbsent):
        async for _ in refold.rejections(*target, limit=1):
            return
    await check_namespace(refold, target.namespace)
    raise Refused("document_unknown", f"namespace {target.namespace} has no document {target.document}")


async def explain(
    refold: Refold,
    target: Target,
    error: DocumentAbsent | VersionUnknown,
    *,
    version: int | None = None,
    at: str | None = None,
    clock: str = "recorded",
) -> NoReturn:
    """Raise the error again, with the document's head and what would find it."""
    await check_document(refold, target)
    name = str(target)
    first, head = await find_change(refold, target), await find_change(refold, target, is_newest=True)
    if first is None or head is None:
        raise DocumentAbsent(f"{name} has no version: all its events were rejected") from error
    if isinstance(error, VersionUnknown):
        raise VersionUnknown(f"{name} has no version {version}; {_head_text(head)}") from error
    if at is None:
        when = "was deleted" if version is None else f"is absent at version {version}"
        raise DocumentAbsent(f"{name} {when}; {_head_text(head)}") from error
    raise DocumentAbsent(
        f"{name} is absent at {at}; {_first_text(first, at, clock) or _head_text(head)}"
    ) from error


def _first_text(first: Change, at: str, clock: str) -> str:
    """Return when the first version was made, if that was after the requested time."""
    from refold.core.timestamp import parse_time

    asked, recorded, occurred = parse_time(at), parse_time(first.recorded_at), parse_time(first.occurred_at)
    if clock == "occurred":
        return f"its first version occurred at {first.occurred_at}" if asked < occurred else ""
    if asked >= recorded:
        return ""
    hint = f"; it occurred at {first.occurred_at}: try --clock occurred" if occurred <= asked else ""
    return f"its first version was recorded at {first.recorded_at}{hint}"


def _head_text(head: Change) -> str:
    return f"its head is version {head.version}, recorded at {head.recorded_at}"


async def find_change(refold: Refold, target: Target, *, is_newest: bool = False) -> Change | None:
    """Return a document's first or newest change; None if it has none."""
    with suppress(DocumentAbsent):
        return await anext(refold.history(*target, limit=1, is_reversed=is_newest), None)
    return None

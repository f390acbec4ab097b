"""Exit codes and messages of errors: 0 done, 1 refused, rejected or not found, 2 wrong usage, 3 no service reached.

Used by `refold.cli` alone. A name may be mistyped, so the commands check whether there is such a namespace where the
service finds nothing in it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

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
    from refold.client import Refold

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
    if isinstance(error, DocumentAbsent) and "clock=occurred" in error.message:
        return " (--clock occurred)"
    return ""


async def check_namespace(refold: Refold, namespace: str) -> None:
    """Raise `Refused` where there is no such namespace."""
    from refold.client import find_namespace

    find_namespace(await refold.namespaces(), namespace)


@asynccontextmanager
async def naming_namespace(refold: Refold, namespace: str) -> AsyncIterator[None]:
    """Raise `Refused` where a document is not found because there is no such namespace."""
    try:
        yield
    except (DocumentAbsent, VersionUnknown):
        await check_namespace(refold, namespace)
        raise

"""What the command line exits with: 0 done, 1 refused or not found, 2 wrong usage, 3 no service reached.

Used by `refold.cli` alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from refold.core.errors import (
    EmbeddedError,
    LogUnavailable,
    RefoldError,
    Refused,
    ServiceUnavailable,
    StoreUnavailable,
    TimedOut,
)

REFUSED: Final = 1
USAGE: Final = 2
UNREACHED: Final = 3
INTERRUPTED: Final = 130

_UNREACHED: Final = (ServiceUnavailable, TimedOut, LogUnavailable, StoreUnavailable)
_USAGE_REASONS: Final = frozenset({"bad_setting", "bad_usage", "bad_url"})


@contextmanager
def exiting_clearly() -> Iterator[None]:
    """Turn an error into its line and its exit code."""
    try:
        yield
    except RefoldError as error:
        complain(error)
        sys.exit(exit_code(error))
    except BrokenPipeError:
        # Whoever read our output has had enough; Python must not flush into the closed pipe again.
        sys.stdout = None
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def complain(error: RefoldError) -> None:
    """Say what went wrong, in one line, with no secret in it."""
    from refold.telemetry import redacted_text

    code = error.reason if isinstance(error, Refused) else error.code
    told = redacted_text(str(error))
    hint = _hint(error)
    sys.stderr.write(f"refold: {code}: {told}{hint}\n")


def exit_code(error: RefoldError) -> int:
    """Choose the exit code."""
    if isinstance(error, _UNREACHED):
        return UNREACHED
    if isinstance(error, Refused) and error.reason in _USAGE_REASONS:
        return USAGE
    return REFUSED


def _hint(error: RefoldError) -> str:
    if isinstance(error, ServiceUnavailable) and "missing" not in error.facts:
        return "; is it running (`refold up`), is --url right?"
    if isinstance(error, EmbeddedError) and error.code == "port_taken":
        return "; choose another (--http HOST:PORT, --nats-port N; 0 = any free one)"
    return ""

"""Exit codes and messages of errors: 0 done, 1 refused, rejected or not found, 2 wrong usage, 3 service not reached.

Used by `refold.cli` alone. Where the client's messages name its arguments, the commands' name their options. A name may
be mistyped, so the commands check whether there is such a namespace where the service finds nothing in it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
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
_USAGE_REASONS: Final = frozenset(
    {
        *("bad_setting", "bad_usage", "bad_url", "bad_time", "bad_name"),
        # JSON in an argument or in the file that it names.
        *("bad_json", "duplicate_key", "lone_surrogate", "number_out_of_range"),
    }
)
_NOT_THERE: Final = frozenset({"path_absent", "sequence_in_future", "time_in_future"})
"""The value of the option is right; there is nothing yet that it names."""

_ARGUMENT: Final = re.compile(r"\b([a-z_]+)=(\w*)")
"""How the client writes its arguments in a message: `base=`, or with a value."""


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


@contextmanager
def naming_options(options: Mapping[str, str]) -> Iterator[None]:
    """Name a command's options in errors, by the names of the client's arguments."""

    def option_of(found: re.Match[str]) -> str:
        name, value = found.groups()
        if value == "False" and f"no_{name}" in options:
            return options[f"no_{name}"]
        return f"{options[name]} {value}".rstrip() if name in options else found[0]

    try:
        yield
    except RefoldError as error:
        error.message = _ARGUMENT.sub(option_of, error.message)
        if isinstance(error, Refused):
            error.field = options.get(error.field, error.field)
        raise


def complain(error: RefoldError) -> None:
    """Print an error as one line, without secrets."""
    from refold.telemetry import redacted_text

    code = error.reason if isinstance(error, Refused) else error.code
    sys.stderr.write(f"refold: {code}: {redacted_text(str(error))}{_hint(error)}\n")


def exit_code(error: RefoldError) -> int:
    if isinstance(error, _UNREACHED):
        return UNREACHED
    if not isinstance(error, Refused):
        return REFUSED
    is_of_option = error.field.startswith("--") and error.reason not in _NOT_THERE
    return USAGE if is_of_option or error.reason in _USAGE_REASONS else REFUSED


def _hint(error: RefoldError) -> str:
    if isinstance(error, ServiceUnavailable) and error.message.startswith("no service answers"):
        return "; is it running (`refold up`), is --url right?"
    if isinstance(error, EmbeddedError) and error.code == "port_taken":
        return "; choose another (--http HOST:PORT, --nats-port N, --postgres-port N; 0 = any free one)"
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

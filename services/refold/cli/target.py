"""What commands over a running system share: the document named, the service asked, JSON given as an argument.

Used by the command modules alone.
"""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple, TypeVar

import typer

from refold.core.errors import Refused

if TYPE_CHECKING:
    from refold.client import Refold

T = TypeVar("T")
_OPENINGS: Final = frozenset('{["')
_SCALARS: Final = frozenset({"true", "false", "null"})
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


class Target(NamedTuple):
    """A document: `NAMESPACE/DOCUMENT`."""

    namespace: str
    document: str


def read_target(text: str) -> Target:
    """Take `NAMESPACE/DOCUMENT` apart; whether the names are good is the service's rule."""
    namespace, slash, document = text.partition("/")
    if not (slash and namespace and document):
        raise typer.BadParameter("must be NAMESPACE/DOCUMENT, such as acme/order-1")
    return Target(namespace, document)


DocumentArgument = Annotated[
    Target, typer.Argument(parser=read_target, metavar="NS/DOC", help="Namespace and document.")
]
NamespaceArgument = Annotated[str, typer.Argument(metavar="NS", help="Namespace.")]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The gateway: else REFOLD_URL, else ./.refold's endpoints file, else http://127.0.0.1:8080.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def ask(url: str | None, work: Callable[[Refold], Awaitable[T]]) -> T:
    """Do something with a client of the running system."""
    import asyncio

    from refold.client import Refold
    from refold.wiring.endpoints import gateway_url

    async def run() -> T:
        async with Refold(gateway_url(url)) as refold:
            return await work(refold)

    async def run_interruptibly() -> T:
        working = asyncio.ensure_future(run())
        if sys.platform != "win32":
            # The kernel may give the signal to a thread that hangs in a pipe: this way it wakes the loop all the same.
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, working.cancel)
        try:
            return await working
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    return asyncio.run(run_interruptibly())


def read_json(argument: str, field: str) -> Any:
    """Read JSON from a file, from stdin (`-`), or from the argument itself."""
    from refold.core import canonical

    try:
        return canonical.loads(_bytes_of(argument))
    except Refused as refused:
        raise Refused(refused.reason, refused.message, field=field, shape=refused.shape) from None


def _bytes_of(argument: str) -> bytes:
    if argument == "-":
        return sys.stdin.buffer.read()
    is_inline = argument.lstrip()[:1] in _OPENINGS or argument in _SCALARS or _NUMBER.fullmatch(argument)
    return argument.encode() if is_inline else _read(Path(argument.removeprefix("@")))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise Refused("bad_usage", f"neither JSON nor a file: {error}", field=repr(str(path)[:80])) from error

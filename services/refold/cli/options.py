"""Options that commands share, each declared once; where the system is; documents, times and JSON as arguments.

Used by the command modules. A parameter whose type is a dataclass becomes the options in it (`make_command`).
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NamedTuple, get_type_hints

import typer

from refold.cli import PlainCommand
from refold.cli.errors import naming_options
from refold.core.errors import Refused
from refold.embedded import DEFAULT_DATA, no_system, read_endpoints

if TYPE_CHECKING:
    from refold.client import Refold

DEFAULT_URL: Final = "http://127.0.0.1:8080"
_OPENINGS: Final = frozenset('{["')
_SCALARS: Final = frozenset({"true", "false", "null"})
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_LOCAL_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}[ T]\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?", re.ASCII)


class Target(NamedTuple):
    """A document: `NAMESPACE/DOCUMENT`."""

    namespace: str
    document: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.document}"


def read_target(text: str) -> Target:
    """Split `NAMESPACE/DOCUMENT`; the service checks the names."""
    namespace, slash, document = text.partition("/")
    if not (slash and namespace and document):
        hint = f"; `refold list {namespace}` prints the documents" if namespace and not slash else ""
        raise typer.BadParameter(f"must be NAMESPACE/DOCUMENT, such as acme/order-1{hint}")
    return Target(namespace, document)


def read_time(text: str) -> str:
    """Return a time as RFC 3339; one without a zone is local, which a note on stderr says."""
    import time

    from refold.core.timestamp import format_time, parse_time

    if _LOCAL_TIME.fullmatch(text):
        from datetime import datetime

        utc = format_time(parse_time(datetime.fromisoformat(text).astimezone().isoformat()))
        sys.stderr.write(f"note: {text} is local time, {utc[:19]}Z; write {text}Z for UTC\n")
        return utc
    return format_time(parse_time(text, "time", now=time.time_ns()))


DocumentArgument = Annotated[
    Target, typer.Argument(parser=read_target, metavar="NS/DOC", help="Namespace and document.")
]
NamespaceArgument = Annotated[str, typer.Argument(metavar="NS", help="Namespace.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="REFOLD_URL",
        metavar="URL",
        help=f"Gateway of the system; by default of the one on ./.refold, else {DEFAULT_URL}.",
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option("--data", envvar="REFOLD_DATA", metavar="DIR", help="Data folder of a running `refold up`."),
]
AtOption = Annotated[
    str | None,
    typer.Option(
        "--at",
        parser=read_time,
        metavar="TIME",
        help="As of this time: RFC 3339, 2026-11-29, '2026-11-29 10:00', now, -5m, '5m ago', unix seconds.",
    ),
]
ClockOption = Annotated[
    Literal["recorded", "occurred"],
    typer.Option("--clock", help="Whose times --at means: the log's, or the author's."),
]
PathOption = Annotated[
    str | None, typer.Option("--path", metavar="/JSON/POINTER", help="Only this part of the document.")
]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, help="Print at most this many.")]


@dataclass(frozen=True, kw_only=True)
class Output:
    """How a result is printed."""

    json: JsonOption = False
    output: Annotated[
        Literal["text", "json"], typer.Option("--output", "-o", help="Print text, or JSON for programs.")
    ] = "text"

    @property
    def is_json(self) -> bool:
        """Whether a program reads the result."""
        return self.json or self.output == "json"


@dataclass(frozen=True, kw_only=True)
class System:
    """Where the running system is: its gateway, or its data folder."""

    url: UrlOption = None
    data: DataOption = None
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print each request to stderr.")] = False

    def gateway_url(self) -> str:
        """Return the gateway's address. Raises `ServiceUnavailable` if no system runs on the data folder."""
        if self.url:
            return self.url
        endpoints = self.endpoints()
        if self.data is not None and not endpoints:
            raise no_system(self.data)
        return str(endpoints.get("http") or DEFAULT_URL)

    def endpoints(self) -> dict[str, Any]:
        """Return the addresses that the data folder's `refold up` wrote; none if it does not run."""
        return read_endpoints(self.data or DEFAULT_DATA)

    def client(self, **options: float) -> Refold:
        """Return a client of the system, to be used in an `async with` block; `options` are those of `Refold`."""
        from refold.client import Refold

        trace = partial(typer.echo, err=True) if self.verbose else None
        return Refold(self.gateway_url(), trace=trace, **options)


def make_command(function: Callable[..., Any]) -> Callable[..., None]:
    """Make a command of a function: a parameter whose type is a dataclass becomes the options in it.

    The function's own options come first in its help. An asynchronous function runs until it ends or is interrupted.
    """
    hints = get_type_hints(function, include_extras=True)
    own: list[inspect.Parameter] = []
    shared: list[inspect.Parameter] = []
    groups: dict[str, tuple[Callable[..., Any], list[str]]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        kind = hints[name]
        if not (isinstance(kind, type) and is_dataclass(kind)):
            own.append(_option(name, parameter.default, kind))
            continue
        options = get_type_hints(kind, include_extras=True)
        shared += [_option(field.name, field.default, options[field.name]) for field in fields(kind)]
        groups[name] = (kind, list(options))

    @wraps(function)
    def run(context: typer.Context, **given: Any) -> None:
        if "url" in given and _is_given(context, "data") and not _is_given(context, "url"):
            # --data precedes REFOLD_URL.
            given["url"] = None
        for name, (kind, names) in groups.items():
            given[name] = kind(**{option: given.pop(option) for option in names})
        with naming_options(_options_of(context)):
            if inspect.iscoroutinefunction(function):
                _run_interruptibly(function, given)
            else:
                function(**given)

    parameters = [_option("context", inspect.Parameter.empty, typer.Context), *own, *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def add_command(group: typer.Typer, function: Callable[..., Any], name: str = "") -> None:
    """Add a command to a group, by default under the function's own name."""
    group.command(name or function.__name__, cls=PlainCommand)(make_command(function))


def _options_of(context: typer.Context) -> dict[str, str]:
    """Return a command's options by the names of their parameters, and by their own as words: `no_merge`."""
    options: dict[str, str] = {}
    for parameter in context.command.params:
        if parameter.param_type_name == "option":
            words = (text.strip("-").replace("-", "_") for text in parameter.opts)
            options |= dict.fromkeys((str(parameter.name), *words), parameter.opts[0])
    return options


def _option(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _run_interruptibly(function: Callable[..., Any], given: dict[str, Any]) -> None:
    import asyncio
    import signal

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        # The kernel may give the signal to a thread that waits in a pipe; this wakes the loop all the same.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
        await function(**given)

    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def read_json(argument: str, field: str) -> Any:
    """Read JSON from a file, from stdin (`-`), or from the argument itself."""
    from refold.core import json_text

    try:
        return json_text.loads(_bytes_of(argument))
    except Refused as refused:
        raise Refused(refused.reason, refused.message, field=field, shape=refused.shape) from None


def read_json_lines(argument: str, field: str) -> list[Any]:
    """Read JSON lines as `read_json` reads one value; a text that is one value is the only line."""
    from refold.core import json_text

    data = _bytes_of(argument)
    values: list[Any] = []
    try:
        return [json_text.loads(data)]
    except Refused as refused:
        error = refused
    for line in filter(bytes.strip, data.splitlines()):
        try:
            values.append(json_text.loads(line))
        except Refused as refused:
            # Without a line that is one, it is a single value.
            error, field = (refused, f"{field} line {len(values) + 1}") if values else (error, field)
            raise Refused(error.reason, error.message, field=field, shape=error.shape) from None
    return values


def _bytes_of(argument: str) -> bytes:
    if argument == "-":
        return sys.stdin.buffer.read()
    if not argument:
        raise Refused("bad_usage", "is empty; give a file, - for stdin, or the JSON itself")
    if argument.lstrip()[:1] in _OPENINGS or argument in _SCALARS or _NUMBER.fullmatch(argument):
        return argument.encode()
    path = argument.removeprefix("@")
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise Refused("bad_usage", f"neither JSON nor a file: {error}", field=repr(path[:80])) from error

"""The `refold` command: all subcommands by name, each loaded when it is used, so that each of them starts quickly.

`refold --help` needs the summaries only. The console script and `python -m refold` start at `main`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

import typer
from typer._click.exceptions import UsageError
from typer.core import TyperCommand, TyperGroup

from refold.core.errors import Refused

MARKUP: Final = "markdown"


class Entry(NamedTuple):
    """A command's module, the panel that `--help` shows it in, and its summary: the first line of its docstring."""

    module: str
    panel: str
    summary: str


COMMANDS: Final = {
    "up": Entry("serve", "Run", "Run the whole system on this machine, with nothing to install."),
    "projector": Entry("serve", "Run", "Run one projector: it reads the log and folds it into its store."),
    "gateway": Entry("serve", "Run", "Run one gateway: HTTP in front of NATS and the stores."),
    "resolver": Entry("serve", "Run", "Run the resolvers of a Python module: they decide on conflicts."),
    "alerts": Entry("alerts", "Run", "Run the alert engine: rules over metrics, and notifiers."),
    "demo": Entry("serve", "Run", "Record this machine's vital signs and look back at them."),
    "put": Entry("write", "Write", "Write a document's whole state."),
    "patch": Entry("write", "Write", "Apply a JSON Patch (RFC 6902), all or nothing."),
    "merge": Entry("write", "Write", "Apply a merge patch (RFC 7396): members set to null are removed."),
    "delete": Entry("write", "Write", "Delete a document; its history stays."),
    "transact": Entry("write", "Write", "Change several documents, all or none."),
    "restore": Entry("write", "Write", "Write an old state as a new version."),
    "revert": Entry("write", "Write", "Bring back the state at a version, whatever was written meanwhile."),
    "undo": Entry("write", "Write", "Undo what one version did, and keep what others did since."),
    "edit": Entry("write", "Write", "Edit a document in your editor."),
    "import": Entry("transfer", "Write", "Import a history from a file of JSON lines."),
    "get": Entry("read", "Read", "Print a document, as it is or as it was."),
    "history": Entry("read", "Read", "Print a document's changes, oldest first."),
    "watch": Entry("watch", "Read", "Print a document's changes as they come, or a namespace's."),
    "diff": Entry("read", "Read", "Print what changed between two versions."),
    "blame": Entry("read", "Read", "Print which version last wrote each value of a document."),
    "list": Entry("read", "Read", "Print a namespace's documents by id, as they are or as they were."),
    "rejections": Entry(
        "read", "Read", "Print rejected events of a document, a namespace or all, newest first."
    ),
    "conflicts": Entry(
        "read", "Read", "Print a document's conflicts and how each was resolved, oldest first."
    ),
    "export": Entry("transfer", "Read", "Export a namespace as JSON lines, all as of one moment."),
    "status": Entry("operate", "Operate", "Print the system's state, addresses and lag."),
    "top": Entry(
        "top",
        "Operate",
        "Show what a running system is doing, once a second: services, rates, lag, latencies.",
    ),
    "usage": Entry("usage", "Operate", "Print what was written in a namespace, counted exactly."),
    "logs": Entry(
        "logs", "Operate", "Print the log lines of the system on a data folder, of all its parts by time."
    ),
    "profile": Entry(
        "profile", "Operate", "Profile a running service: what its event loop works on, sampled every 2 ms."
    ),
    "config": Entry("operate", "Operate", "Print the settings that a service started here would use."),
    "psql": Entry(
        "operate", "Operate", "Run psql on the database of the system that runs on the data folder."
    ),
    "verify": Entry("audit", "Operate", "Replay the log and compare the whole projection with it."),
    "rebuild": Entry(
        "audit", "Operate", "Rebuild the projection from the log beside the live one, and swap both."
    ),
    "keys": Entry("keys", "Operate", "Print and change the keys that stores are encrypted with."),
    "store": Entry(
        "store", "Operate", "Print the state of each store, compare two of them, and train dictionaries."
    ),
    "log": Entry("operate", "Operate", "Create the log."),
    "settings": Entry(
        "operate", "Operate", "Print a namespace's settings, or set them for all later events."
    ),
    "fold": Entry(
        "operate",
        "Operate",
        "Move the log to a newer fold: the rules by which later events are folded. There is no way back.",
    ),
    "bench": Entry("operate", "Operate", "Load a temporary or a running system and print what it did."),
}


PASSES_OPTIONS_ON: Final = frozenset({"psql"})
"""Commands whose unknown options are arguments of the program that they start."""


METAVARS: Final = {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH", bool: ""}
"""What help shows for an option that has no name for its value; an option without a value shows nothing."""


def _show_no_type(ctx: Any) -> None:  # noqa: ARG001 - typer's signature
    return None


class PlainTypes:
    """Converts the parameters of a command or group without pydantic, where that is simple.

    typer converts even a string through pydantic, whose import takes longer than most commands (measured: 0.25 s of
    CPU of 0.35 s). The attribute is private; typer is pinned exactly.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            kind, info = parameter.type_descriptor.annotation, parameter.type_descriptor.parameter_info
            is_checked_path = kind is Path and (info.exists or not info.dir_okay)
            if parameter.nargs == 1 and not parameter.multiple and not is_checked_path:
                parameter._runtime_param = PlainType(kind, info)  # noqa: SLF001
            if parameter.param_type_name == "argument":
                # Beside its name, its type says nothing.
                parameter.display_type_rich = _show_no_type
            elif parameter.metavar is None and kind in METAVARS:
                parameter.metavar = METAVARS[kind]
        return parameters


class PlainCommand(PlainTypes, TyperCommand):
    """A command whose parameters are converted without pydantic."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the arguments of the usage line; typer sets required ones in braces."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; a version without its option gets a hint."""
        versions = [arg for arg in args if arg.isdecimal()]
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            has_version = any(parameter.name == "version" for parameter in self.params)
            if has_version and versions and "extra argument" in error.message:
                error.message += f"; a version is given as --version {versions[-1]}"
            raise


class LazyGroup(PlainTypes, TyperGroup):
    """A group that knows its commands by summary and loads the one that is used."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, entry in COMMANDS.items():
            self.add_command(TyperCommand(name, help=entry.summary, rich_help_panel=entry.panel))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Replace the stub by the command."""
        name, stub, rest = super().resolve_command(ctx, args)
        return name, load(name) if name and stub else None, rest


def load(name: str) -> Any:
    """Return a command that can be run."""
    from refold.cli.options import make_command

    module = vars(import_module(f"refold.cli.{COMMANDS[name].module}"))
    # `import_` and `list_`: the others' names are neither keywords nor builtins.
    function = module.get(f"{name}_") or module[name]
    if isinstance(function, typer.Typer):
        return typer.main.get_group(function)
    holder = typer.Typer(add_completion=False, rich_markup_mode=MARKUP, context_settings=_HELP)
    settings = {**_HELP, "ignore_unknown_options": name in PASSES_OPTIONS_ON}
    holder.command(name, cls=PlainCommand, context_settings=settings)(make_command(function))
    return typer.main.get_command(holder)


class PlainType(NamedTuple):
    """Conversion of one parameter's text."""

    kind: Any
    info: Any

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value. Raises `BadParameter` for text that is none."""
        if value is None or isinstance(value, bool):
            return value
        try:
            return self._convert(value)
        except Refused as error:
            if param.param_type_name == "option":
                error.field = param.opts[0]
            raise
        except ValueError as error:
            raise typer.BadParameter(str(error), ctx=ctx, param=param) from error

    def _convert(self, value: Any) -> Any:
        if self.info.parser is not None:
            return self.info.parser(value)
        if get_origin(self.kind) is Literal:
            if value not in get_args(self.kind):
                raise ValueError(f"{value!r} is not one of {', '.join(map(repr, get_args(self.kind)))}")
            return value
        try:
            converted = None if self.kind is bool else self.kind(value)
        except ValueError:
            converted = None
        if converted is None:
            raise ValueError(f"{value!r} is not a valid {self.kind.__name__}")
        if self.info.min is not None and converted < self.info.min:
            raise ValueError(f"{value} is below the minimum, {self.info.min}")
        if self.info.max is not None and converted > self.info.max:
            raise ValueError(f"{value} is above the maximum, {self.info.max}")
        return converted


_HELP: Final = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="refold",
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=MARKUP,
    context_settings=_HELP,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        from importlib.metadata import version

        typer.echo(f"refold {version('refold')}")
        raise typer.Exit


@app.callback()
def refold(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Shared JSON documents as the fold of an immutable log: every version is kept, any time can be read again.

    Start with `refold demo` or `refold up`. `refold --install-completion` adds completion to your shell.

    Exit codes: 0 done · 1 refused, rejected or not found · 2 wrong usage · 3 the service was not reached, or
    cannot answer now.
    """


def main() -> None:
    """Run the command line. An error of Refold's tree becomes one line on stderr and an exit code."""
    from refold.cli.errors import exiting_clearly

    with exiting_clearly():
        app()

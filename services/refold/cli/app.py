"""The whole command line, put together from the command modules. Used by `refold.cli.main` alone."""

from __future__ import annotations

from typing import Annotated

import typer

from refold.cli import bench, bring, demo, log, operate, prove, read, serve, take, write

app = typer.Typer(
    name="refold",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
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
    """Shared JSON documents as the fold of an immutable log: every version kept, any time readable again.

    Begin with `refold demo`, or with `refold up`.
    """


for _module in (serve, demo, write, bring, read, take, operate, prove, log, bench):
    _module.register(app)

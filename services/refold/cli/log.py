"""The command `refold log create`. Registered by `refold.cli.app`."""

from __future__ import annotations

from typing import Annotated

import typer

from refold.cli.prove import PANEL, DataOption
from refold.cli.target import JsonOption

log = typer.Typer(name="log", no_args_is_help=True, help="The log itself.")


@log.command()
def create(
    has_lost_the_log: Annotated[
        bool,
        typer.Option(
            "--i-have-lost-the-log",
            help="Begin a new log although there has been one: what is left of the lost one is kept.",
        ),
    ] = False,
    data: DataOption = None,
    is_json: JsonOption = False,
) -> None:
    """Create the log where there is none; where there has been one, only if it is lost for good.

    Works on a data folder on which `refold up` does not run (--data), else by REFOLD_NATS_ADMIN_URL and
    REFOLD_POSTGRES_URL.
    """
    import asyncio

    from refold.cli.show import console, json_line
    from refold.wiring.lost_log import create_log

    created = asyncio.run(create_log(data, has_lost_the_log=has_lost_the_log))
    if is_json:
        json_line({"log_id": created.log_id, "kept": list(created.kept)})
        return
    console().print(f"log {created.log_id}")
    for kept in created.kept:
        console().print(f"kept of the lost log: {kept}", soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(log, rich_help_panel=PANEL)

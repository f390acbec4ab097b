"""Commands that tell how things are: status, config. Registered by `refold.cli.app`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from refold.cli.target import JsonOption, UrlOption, ask

if TYPE_CHECKING:
    from collections.abc import Iterable

    from refold.client import Namespace, Refold

PANEL = "Operate"


def status(url: UrlOption = None, is_json: JsonOption = False) -> None:
    """Print how the system is, and how far the fold is behind."""
    from refold.cli.show import json_line

    async def work(refold: Refold) -> tuple[dict[str, Any], tuple[Namespace, ...]]:
        return await refold.status(), await refold.namespaces()

    told, namespaces = ask(url, work)
    if is_json:
        json_line(told)
        return
    _print_status(told, namespaces)


def config(is_json: JsonOption = False) -> None:
    """Print the settings in force and where each comes from."""
    from refold.cli.show import console, json_array, print_table
    from refold.wiring.settings import described, load, unknown_variables

    rows = described(load())
    if is_json:
        json_array([dict(zip(("setting", "value", "from", "description"), row, strict=True)) for row in rows])
        return
    print_table(("setting", "value", "from", "what it is"), rows)
    for name in unknown_variables():
        console(is_error=True).print(f"[yellow]{name} is no setting: misspelt?[/]")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (status, config):
        app.command(rich_help_panel=PANEL)(command)


def _print_status(told: dict[str, Any], namespaces: Iterable[Namespace]) -> None:
    from refold.cli.show import console, print_table

    colour = "yellow" if told["lag_events"] else "green"
    out = console()
    out.print(f"log     {told['log_id']}, fold {told['fold']}, {told['last_sequence']:,} events")
    out.print(
        f"folded  {told['folded_sequence']:,}, [{colour}]behind by {told['lag_events']:,} events"
        f" ({told['lag_seconds']:.3f} s)[/]"
    )
    out.print("with    " + ", ".join(f"{name} {version}" for name, version in told["versions"].items()))
    rows = [(it.name, f"{it.documents:,}", f"{it.events:,}") for it in namespaces]
    print_table(("namespace", "documents", "events"), rows)

"""The command that brings a history in: import. Registered by `refold.cli.app`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from refold.cli.target import JsonOption, NamespaceArgument, UrlOption, ask

if TYPE_CHECKING:
    from rich.progress import Progress

    from refold.client.importing import Listener, Tally
    from refold.core.errors import Refused

PANEL = "Write"
COMPLAINTS_MAX: Final = 1_000
"""Lines refused that are named one by one; the rest is only counted."""


def import_history(
    namespace: NamespaceArgument,
    file: Annotated[
        Path,
        typer.Argument(
            exists=True, dir_okay=False, readable=True, metavar="FILE.jsonl", help="Plain, .zst or .gz."
        ),
    ],
    url: UrlOption = None,
    is_json: JsonOption = False,
) -> None:
    """Bring in a history from a file; run again, it goes on where it stopped."""
    from refold.cli.failure import INTERRUPTED, REFUSED
    from refold.cli.progress import working
    from refold.cli.show import console, json_line
    from refold.client.importing import import_file

    begun = time.monotonic()
    try:
        with working() as progress:
            listener = _listener(progress, file)
            tally = ask(url, lambda refold: import_file(refold, namespace, file, listener))
    except KeyboardInterrupt:
        console(is_error=True).print("stopped; run the same again and it goes on from here")
        raise typer.Exit(INTERRUPTED) from None
    seconds = time.monotonic() - begun
    if is_json:
        json_line(_facts(tally, seconds))
    else:
        console().print(_summary(tally, seconds))
    if tally.refused:
        raise typer.Exit(REFUSED)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import", rich_help_panel=PANEL)(import_history)


def _listener(progress: Progress, file: Path) -> Listener:
    from refold.cli.show import printable
    from refold.client.importing import Listener

    task = progress.add_task("", total=None)
    complaints = 0

    def refused(number: int, why: Refused) -> None:
        nonlocal complaints
        complaints += 1
        if complaints <= COMPLAINTS_MAX:
            _tell(progress, printable(f"{file}:{number}: {why.reason}: {why}"))
        if complaints == COMPLAINTS_MAX:
            _tell(progress, "more are refused; from here on they are only counted")

    def advanced(tally: Tally) -> None:
        said = f"{tally.lines:,} lines, {tally.events:,} events"
        progress.update(task, completed=tally.read_bytes, total=tally.size_bytes, description=said)

    def waiting(error: Exception) -> None:
        _tell(progress, printable(f"waiting: {error}"))

    return Listener(refused=refused, progress=advanced, waiting=waiting)


def _tell(progress: Progress, line: str) -> None:
    from rich.text import Text

    progress.console.print(Text(line), soft_wrap=True)


def _facts(tally: Tally, seconds: float) -> dict[str, int | float]:
    return {
        "lines": tally.lines,
        "events": tally.events,
        "unchanged": tally.unchanged,
        "present": tally.present,
        "refused": tally.refused,
        "seconds": round(seconds, 3),
    }


def _summary(tally: Tally, seconds: float) -> str:
    parts = [f"[bold]{tally.lines:,}[/] lines", f"[bold]{tally.events:,}[/] events"]
    parts += [f"{tally.unchanged:,} unchanged"]
    parts += [f"{tally.present:,} already there"] if tally.present else []
    parts += [f"[red]{tally.refused:,} refused[/]"] if tally.refused else []
    rate = tally.events / seconds if seconds else 0.0
    return f"{', '.join(parts)} in {seconds:.1f} s ({rate:,.0f} events/s)"

"""The command that takes a namespace out: export. Registered by `refold.cli.app`."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refold.cli.target import JsonOption, NamespaceArgument, UrlOption, ask

if TYPE_CHECKING:
    from rich.progress import Progress

    from refold.client import Refold
    from refold.client.exporting import Listener, Tally, Target

PANEL = "Read"


def export_namespace(
    namespace: NamespaceArgument,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="As it was then: RFC 3339, a date, or unix seconds."),
    ] = None,
    is_history: Annotated[
        bool, typer.Option("--history", help="Every version of every document, those deleted since too.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, metavar="FILE", help="A file, packed by its name (.zst, .gz); else stdout."
        ),
    ] = None,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace FILE if it exists.")] = False,
    url: UrlOption = None,
    is_json: JsonOption = False,
) -> None:
    """Write a namespace as JSON lines that `import` takes back, all of one moment."""
    from refold.cli.failure import INTERRUPTED
    from refold.cli.show import console

    begun = time.monotonic()
    try:
        with _progress(has_lines=out is None) as progress:
            listener = _listener(progress)

            async def work(refold: Refold) -> Tally:
                from refold.client.exporting import export

                async with _target(out, is_forced=is_forced) as target:
                    return await export(
                        refold, namespace, target.write, listener, at=at, is_history=is_history
                    )

            tally = ask(url, work)
    except KeyboardInterrupt:
        console(is_error=True).print("stopped; what was written is not the whole")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # Whoever read it has had enough: here, for click would call it a failure.
        raise typer.Exit from None
    _tell(tally, time.monotonic() - begun, is_json=is_json)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export", rich_help_panel=PANEL)(export_namespace)


@asynccontextmanager
async def _target(out: Path | None, *, is_forced: bool) -> AsyncIterator[Target]:
    from refold.client.exporting import Target, target_file

    if out is not None:
        async with target_file(out, is_replaced=is_forced) as target:
            yield target
        return
    # Past Python's own buffer: nothing is left in it when the reader is gone.
    stream: Any = sys.stdout.buffer
    with closing(Target(getattr(stream, "raw", stream), "stdout")) as target:
        yield target


def _progress(*, has_lines: bool) -> Progress:
    from refold.cli.progress import working

    progress = working()
    # The lines themselves would run through it.
    progress.disable |= has_lines and sys.stdout.isatty()
    return progress


def _listener(progress: Progress) -> Listener:
    from rich.text import Text

    from refold.cli.show import printable
    from refold.client.exporting import Listener

    task = progress.add_task("", total=None)

    def advanced(tally: Tally) -> None:
        progress.update(
            task, completed=tally.lines, total=tally.expected_lines or None, description=_counts(tally)
        )

    def waiting(error: Exception) -> None:
        progress.console.print(Text(printable(f"waiting: {error}")), soft_wrap=True)

    return Listener(progress=advanced, waiting=waiting)


def _tell(tally: Tally, seconds: float, *, is_json: bool) -> None:
    """Say on stderr what was written: stdout is the lines'."""
    from refold.cli.show import console
    from refold.core import canonical

    told = {
        "documents": tally.documents,
        "lines": tally.lines,
        "bytes": tally.bytes,
        "sequence": tally.sequence,
        "seconds": round(seconds, 3),
    }
    if is_json:
        sys.stderr.write(canonical.dumps(told).decode() + "\n")
        return
    rate = f"{tally.lines / seconds:,.0f} lines/s, {tally.bytes / 1e6 / seconds:,.1f} MB/s"
    console(is_error=True).print(
        f"{_counts(tally)} as of sequence {tally.sequence} in {seconds:.1f} s ({rate})"
    )


def _counts(tally: Tally) -> str:
    return f"{tally.lines:,} lines of {tally.documents:,} documents, {tally.bytes / 1e6:,.1f} MB"

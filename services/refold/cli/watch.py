"""The command that follows documents and namespaces: watch. Loaded by `refold.cli`."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from refold.cli.options import Output, PathOption, System
from refold.cli.output import change_summary, json_line, note, printable, say, short_json, short_time

if TYPE_CHECKING:
    from refold.client import DocumentUpdate, NamespaceUpdate, WatchOptions


async def watch(
    target: Annotated[str, typer.Argument(metavar="NS[/DOC]", help="A document, or a namespace.")],
    system: System,
    output: Output,
    path: PathOption = None,
    depth: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Only changes at most so many levels below the path."),
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="Only documents whose ids have this prefix.")] = None,
    after: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="N",
            help="Begin after this version; of a namespace, after this sequence of the log.",
        ),
    ] = None,
    interval: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="At most one line in this time.")
    ] = None,
    mode: Annotated[
        Literal["patch", "values", "heads", "changes"] | None,
        typer.Option("--mode", help="Of a document: patch or values. Of a namespace: heads or changes."),
    ] = None,
    event_type: Annotated[
        str | None,
        typer.Option("--type", help="Of a namespace: only changes of this type, or as in 'order.*'."),
    ] = None,
    is_unmerged: Annotated[bool, typer.Option("--no-merge", help="A line for each version.")] = False,
) -> None:
    """Print a document's changes as they come, or a namespace's.

    The first line of a document is its state. After a lost connection, what was missed is printed. In a --path, *
    matches any member or element. Ctrl-C ends it.
    """
    namespace, _, document = target.partition("/")
    given = {
        "path": path,
        "depth": depth,
        "prefix": prefix,
        "after": after,
        "interval": interval,
        "mode": mode,
        "type": event_type,
        "merge": False if is_unmerged else None,
    }
    options: WatchOptions = {name: value for name, value in given.items() if value is not None}  # type: ignore[assignment]
    note(f"following {target}; Ctrl-C ends it")
    with suppress(asyncio.CancelledError):
        async with system.client() as refold:
            async for update in refold.watch(namespace, document or None, **options):
                _print(update, is_json=output.is_json)


def _print(update: DocumentUpdate | NamespaceUpdate, *, is_json: bool) -> None:
    """Print an update in one line, at once."""
    from refold.client import DocumentUpdate, as_json

    if is_json:
        json_line(as_json(update))
        sys.stdout.flush()
        return
    if isinstance(update, DocumentUpdate):
        name, summary = str(update.version), _document_summary(update)
    else:
        name, summary = f"{update.document}  {update.version}", change_summary(update.patch or [])
    parts = (name, short_time(update.recorded_at), update.actor, update.type, summary)
    say(printable("  ".join(filter(None, parts))))


def _document_summary(update: DocumentUpdate) -> str:
    """Return what changed, of the first update the state."""
    if update.patch:
        several = f" ({update.merged} changes)" if update.merged > 1 else ""
        return change_summary(update.patch) + several
    if update.values or update.gone:
        changed = [f"{pointer} {short_json(value)}" for pointer, value in update.values.items()]
        return ", ".join(changed + [f"{pointer} is gone" for pointer in update.gone])
    return "(absent)" if update.is_absent else short_json(update.state)

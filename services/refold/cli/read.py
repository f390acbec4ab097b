"""Commands that read: get, history, diff, blame, list, rejections, conflicts. Loaded by `refold.cli`."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from refold.cli.errors import check_namespace, naming_namespace
from refold.cli.options import (
    AtOption,
    ClockOption,
    DocumentArgument,
    LimitOption,
    NamespaceArgument,
    Output,
    PathOption,
    System,
    Target,
    read_time,
)
from refold.cli.output import (
    indented_json,
    json_array,
    json_document,
    json_line,
    note,
    print_changes,
    print_items,
    printable,
    resolution_summary,
    say,
    short_json,
    short_time,
)
from refold.core.errors import DocumentAbsent

if TYPE_CHECKING:
    from refold.client import Change, RecordedConflict, Refold

ITEMS = 50
OTHERS_SHOWN = 3
ABSENT = "(absent)"
DIFF_STYLES = {"+": "green", "-": "red", "@": "cyan"}
VersionOption = Annotated[int | None, typer.Option("--version", min=0, help="As of this version.")]


async def get(
    target: DocumentArgument,
    system: System,
    output: Output,
    version: VersionOption = None,
    at: AtOption = None,
    clock: ClockOption = "recorded",
    path: PathOption = None,
) -> None:
    """Print a document, as it is or as it was."""
    if version is not None and at is not None:
        raise typer.BadParameter("--version and --at: give only one of them")
    async with system.client() as refold, naming_namespace(refold, target.namespace):
        found = await refold.get(*target, version=version, at=at, clock=clock, path=path)
    if output.is_json:
        json_line(found.state)
    else:
        json_document(found.state)
        note(f"version {found.version}, recorded {found.recorded_at}")


async def history(
    target: DocumentArgument,
    system: System,
    output: Output,
    limit: LimitOption = ITEMS,
    after: Annotated[int | None, typer.Option(min=0, help="Continue after this version.")] = None,
    is_reversed: Annotated[bool, typer.Option("--reverse", "-r", help="Newest first.")] = False,
    path: PathOption = None,
    actor: Annotated[str | None, typer.Option(help="Only changes by this author.")] = None,
    event_type: Annotated[str | None, typer.Option("--type", help="Only changes of this type.")] = None,
    since: Annotated[
        str | None,
        typer.Option(parser=read_time, metavar="TIME", help="Only changes recorded then or later."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(parser=read_time, metavar="TIME", help="Only changes recorded then or before."),
    ] = None,
) -> None:
    """Print a document's changes, oldest first."""
    is_filtered = bool(actor or event_type or since or until)
    changes: list[Change] = []
    async with system.client() as refold, naming_namespace(refold, target.namespace):
        async for change in refold.history(
            *target,
            after=after,
            limit=None if is_filtered else limit + 1,
            path=path,
            is_reversed=is_reversed,
        ):
            is_early = since is not None and change.recorded_at < since
            is_late = until is not None and change.recorded_at > until
            is_named = actor in (None, change.actor) and event_type in (None, change.type)
            if is_named and not is_early and not is_late:
                changes.append(change)
            # Recorded times only grow: beyond the wanted ones there are no more.
            if len(changes) > limit or (is_early if is_reversed else is_late):
                break
    print_changes(changes[:limit], is_json=output.is_json)
    if len(changes) > limit:
        say(f"{limit} shown; more: --after {changes[limit - 1].version}", "dim", is_error=True)


async def diff(
    target: DocumentArgument,
    from_version: Annotated[int, typer.Argument(metavar="FROM", min=0, help="The version to compare from.")],
    system: System,
    output: Output,
    to_version: Annotated[
        int | None,
        typer.Argument(metavar="TO", min=0, help="The version to compare to; by default the newest."),
    ] = None,
) -> None:
    """Print what changed between two versions.

    On a terminal as lines of both states; when piped as a JSON Patch (RFC 6902).
    """
    async with system.client() as refold, naming_namespace(refold, target.namespace):
        to = to_version if to_version is not None else await head_version(refold, target)
        patch = await refold.diff(*target, from_version, to)
        if output.is_json:
            json_line(patch)
        elif sys.stdout.isatty():
            _print_lines_diff(*[await _state_text(refold, target, it) for it in (from_version, to)])
        else:
            json_array(patch)


async def blame(
    target: DocumentArgument,
    system: System,
    output: Output,
    path: Annotated[
        str, typer.Argument(metavar="/POINTER", help="Only this part of the document; by default all.")
    ] = "",
    version: VersionOption = None,
    limit: LimitOption = ITEMS,
) -> None:
    """Print which version last wrote each value of a document."""
    async with system.client() as refold, naming_namespace(refold, target.namespace):
        found = refold.blame(*target, path=path, version=version, limit=limit + 1)
        leaves = [leaf async for leaf in found]
    columns = {
        "pointer": lambda it: it.path,
        "version": lambda it: "earlier" if it.version is None else it.version,
        "recorded": lambda it: short_time(it.recorded_at),
        "actor": lambda it: it.actor,
        "value": lambda it: short_json(it.value),
    }
    print_items(leaves[:limit], columns, is_json=output.is_json)
    if len(leaves) > limit:
        say(f"{limit} shown; more: --limit {2 * limit}, or a /POINTER", "dim", is_error=True)


async def list_(
    namespace: NamespaceArgument,
    system: System,
    output: Output,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="Print at most this many; by default all.")
    ] = None,
    prefix: Annotated[str | None, typer.Option(help="Only ids with this prefix.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="JSONPATH", help="Only states for which it is true: '$.total > 10'")
    ] = None,
    at: AtOption = None,
    clock: ClockOption = "recorded",
    sequence: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="As of this sequence of the log.")
    ] = None,
) -> None:
    """Print a namespace's documents by id, as they are or as they were."""
    if sum(given is not None for given in (where, at, sequence)) > 1:
        raise typer.BadParameter("--where, --at and --sequence: give only one of them")
    async with system.client() as refold:
        found = refold.list(
            namespace, prefix=prefix, where=where, at=at, clock=clock, sequence=sequence, limit=limit
        )
        documents = [document async for document in found]
        if not documents:
            await check_namespace(refold, namespace)
    columns = {
        "document": lambda it: it.id,
        "version": lambda it: it.version,
        "recorded": lambda it: short_time(it.recorded_at),
        "state": lambda it: short_json(it.state),
    }
    print_items(documents, columns, is_json=output.is_json)


async def rejections(
    system: System,
    output: Output,
    target: Annotated[
        str | None, typer.Argument(metavar="NS[/DOC]", help="A document or a namespace; by default all.")
    ] = None,
    limit: LimitOption = ITEMS,
) -> None:
    """Print rejected events of a document, a namespace or all, newest first."""
    namespace, _, document = (target or "").partition("/")
    names = (namespace or None, document or None)
    async with system.client() as refold, naming_namespace(refold, namespace):
        found = [rejection async for rejection in refold.rejections(*names, limit=limit + 1)]
        if not found and namespace:
            await check_namespace(refold, namespace)
    columns = {
        "sequence": lambda it: it.sequence,
        "recorded": lambda it: short_time(it.recorded_at),
        "document": lambda it: "" if document else "/".join(filter(None, (it.namespace, it.document))),
        "reason": lambda it: it.reason,
        "actor": lambda it: it.about.get("actor"),
        "detail": lambda it: it.detail,
    }
    print_items(found[:limit], columns, is_json=output.is_json)
    if len(found) > limit:
        say(f"{limit} shown; more: --limit {2 * limit}", "dim", is_error=True)


async def conflicts(
    target: DocumentArgument,
    system: System,
    output: Output,
    is_open: Annotated[
        bool, typer.Option("--open", help="Only those that wait for a resolver's decision.")
    ] = False,
    after: Annotated[int | None, typer.Option(min=0, help="Continue after this sequence.")] = None,
    is_reversed: Annotated[bool, typer.Option("--reverse", help="Newest first.")] = False,
    limit: LimitOption = ITEMS,
) -> None:
    """Print a document's conflicts and how each was resolved, oldest first.

    OTHERS are the versions that an event was in conflict with, with their authors.
    """
    async with system.client() as refold, naming_namespace(refold, target.namespace):
        listed = refold.conflicts(
            *target, is_open=is_open, after=after, limit=limit + 1, is_reversed=is_reversed
        )
        found = [each async for each in listed]
    columns = {
        "sequence": lambda it: it.sequence,
        "version": lambda it: it.version,
        "recorded": lambda it: short_time(it.recorded_at),
        "strategy": lambda it: it.strategy,
        "status": lambda it: "open" if it.is_open else it.reason or it.status,
        "actor": lambda it: it.actor,
        "others": _others,
        "result": lambda it: resolution_summary(it) or ("" if it.is_open else it.detail),
        "change": lambda it: short_json(it.event),
    }
    print_items(found[:limit], columns, is_json=output.is_json)
    if len(found) > limit:
        say(f"{limit} shown; more: --after {found[limit - 1].sequence}", "dim", is_error=True)


def _others(conflict: RecordedConflict) -> str:
    """Return the versions that it was in conflict with: `3 by ada, 4 by bob`."""
    named = [f"{it['version']} by {it['actor'] or '?'}" for it in conflict.others[:OTHERS_SHOWN]]
    more = len(conflict.others) - len(named)
    return ", ".join(named) + (f" (+{more} more)" if more else "")


async def head_version(refold: Refold, target: Target) -> int:
    """Return a document's newest version; 0 if it never existed."""
    with suppress(DocumentAbsent):
        async for newest in refold.history(*target, limit=1, is_reversed=True):
            return newest.version
    return 0


async def _state_text(refold: Refold, target: Target, version: int) -> str:
    try:
        return indented_json((await refold.get(*target, version=version)).state)
    except DocumentAbsent:
        return ABSENT


def _print_lines_diff(before: str, after: str) -> None:
    """Print the lines of two texts that differ, with their surroundings."""
    from difflib import unified_diff

    for line in list(unified_diff(before.splitlines(), after.splitlines(), lineterm=""))[2:]:
        say(printable(line), DIFF_STYLES.get(line[0], ""))

"""Commands that read: get, history, diff, list, rejections. Loaded by `refold.cli.app`."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from refold.cli.errors import check_document, check_namespace, explain
from refold.cli.options import (
    AtOption,
    ClockOption,
    DocumentArgument,
    LimitOption,
    NamespaceArgument,
    Output,
    System,
    Target,
    expanded,
    read_time,
)
from refold.core.errors import DocumentAbsent, VersionUnknown

if TYPE_CHECKING:
    from refold.client import Change, Document, Patch, Refold, Rejection

ITEMS = 50
ABSENT = "(absent)"
VersionOption = Annotated[int | None, typer.Option("--version", min=0, help="As of this version.")]
PathOption = Annotated[
    str | None, typer.Option("--path", metavar="/JSON/POINTER", help="Only this part of the document.")
]


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Which changes of a history are wanted."""

    actor: str | None
    type: str | None
    since: str
    until: str | None

    @property
    def is_empty(self) -> bool:
        """Whether every change is wanted."""
        return not (self.actor or self.type or self.since or self.until)

    async def take(self, changes: AsyncIterator[Change], limit: int, *, is_reversed: bool) -> list[Change]:
        """Return the first wanted changes; stop where recorded times show that no more can follow."""
        found: list[Change] = []
        async for change in changes:
            is_late = self.until is not None and change.recorded_at > self.until
            is_early = change.recorded_at < self.since
            is_named = self.actor in (None, change.actor) and self.type in (None, change.type)
            if is_named and not is_early and not is_late:
                found.append(change)
            if len(found) == limit or (is_early if is_reversed else is_late):
                break
        return found


@expanded
def get(
    target: DocumentArgument,
    system: System,
    output: Output,
    version: VersionOption = None,
    at: AtOption = None,
    clock: ClockOption = "recorded",
    path: PathOption = None,
) -> None:
    """Print a document, as it is or as it was."""
    from refold.cli.output import json_document, json_line, note

    if version is not None and at is not None:
        raise typer.BadParameter("--version and --at: give one of them")

    async def work(refold: Refold) -> Document:
        try:
            return await refold.get(*target, version=version, at=at, clock=clock, path=path)
        except (DocumentAbsent, VersionUnknown) as error:
            await explain(refold, target, error, version=version, at=at, clock=clock)

    found = system.ask(work)
    if output.is_json:
        json_line(found.state)
        return
    json_document(found.state)
    note(f"version {found.version}, recorded {found.recorded_at}")


@expanded
def history(
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
    from refold.cli.output import change_summary, json_array, note, print_table, short_time
    from refold.client import as_json

    wanted = Filter(actor=actor, type=event_type, since=since or "", until=until)

    async def work(refold: Refold) -> list[Change]:
        changes = refold.history(
            *target, after=after, limit=limit if wanted.is_empty else None, path=path, is_reversed=is_reversed
        )
        found: list[Change] = []
        with suppress(DocumentAbsent):
            found = await wanted.take(changes, limit, is_reversed=is_reversed)
        if not found:
            await check_document(refold, target)
        return found

    changes = system.ask(work)
    if output.is_json:
        json_array([as_json(change) for change in changes])
        return
    rows = [
        (str(it.version), short_time(it.occurred_at), it.actor, it.type, change_summary(it.patch))
        for it in changes
    ]
    print_table(("version", "occurred", "actor", "type", "change"), rows)
    if len(changes) == limit:
        note(f"{limit} shown; more: --after {changes[-1].version}")


@expanded
def diff(
    target: DocumentArgument,
    from_version: Annotated[int, typer.Argument(metavar="FROM", min=0)],
    system: System,
    output: Output,
    to_version: Annotated[
        int | None, typer.Argument(metavar="[TO]", min=0, help="By default the newest version.")
    ] = None,
) -> None:
    """Print what changed between two versions.

    On a terminal as lines of both states; when piped as a JSON Patch (RFC 6902).
    """
    from refold.cli.output import json_array, json_line

    is_for_people = sys.stdout.isatty() and not output.is_json

    async def work(refold: Refold) -> tuple[Patch, list[str]]:
        to = to_version if to_version is not None else await head_version(refold, target)
        try:
            patch = await refold.diff(*target, from_version, to)
        except (DocumentAbsent, VersionUnknown) as error:
            await explain(refold, target, error, version=max(from_version, to))
        states = [await _state_text(refold, target, it) for it in (from_version, to)] if is_for_people else []
        return patch, states

    patch, states = system.ask(work)
    if states:
        _print_lines_diff(*states)
    elif output.is_json:
        json_line(patch)
    else:
        json_array(patch)


@expanded
def list_documents(
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
    from refold.cli.output import json_array, print_table, short_json, short_time
    from refold.client import as_json

    if sum(given is not None for given in (where, at, sequence)) > 1:
        raise typer.BadParameter("--where, --at and --sequence: give one of them")

    async def work(refold: Refold) -> list[Document]:
        found = refold.list(
            namespace, prefix=prefix, where=where, at=at, clock=clock, sequence=sequence, limit=limit
        )
        documents = [document async for document in found]
        if not documents:
            await check_namespace(refold, namespace)
        return documents

    documents = system.ask(work)
    if output.is_json:
        json_array([as_json(document) for document in documents])
        return
    rows = [(it.id, str(it.version), short_time(it.recorded_at), short_json(it.state)) for it in documents]
    print_table(("document", "version", "recorded", "state"), rows)


@expanded
def rejections(
    system: System,
    output: Output,
    target: Annotated[
        str | None, typer.Argument(metavar="[NS[/DOC]]", help="A document or a namespace; by default all.")
    ] = None,
    limit: LimitOption = ITEMS,
) -> None:
    """Print rejected events of a document, a namespace or all, newest first."""
    from refold.cli.output import json_array, print_table, short_time
    from refold.client import as_json

    namespace, _, document = (target or "").partition("/")

    async def work(refold: Refold) -> list[Rejection]:
        found: list[Rejection] = []
        with suppress(DocumentAbsent):
            names = (namespace or None, document or None)
            found = [rejection async for rejection in refold.rejections(*names, limit=limit)]
        if not found and document:
            await check_document(refold, Target(namespace, document))
        elif not found and namespace:
            await check_namespace(refold, namespace)
        return found

    found = system.ask(work)
    if output.is_json:
        json_array([as_json(rejection) for rejection in found])
        return
    rows = [
        (
            str(it.sequence),
            short_time(it.recorded_at),
            "" if document else "/".join(filter(None, (it.namespace, it.document))),
            it.reason,
            it.about.get("actor"),
            it.detail,
        )
        for it in found
    ]
    print_table(("sequence", "recorded", "document", "reason", "actor", "detail"), rows)


async def head_version(refold: Refold, target: Target) -> int:
    """Return a document's newest version; 0 if it never existed."""
    with suppress(DocumentAbsent):
        async for change in refold.history(*target, limit=1, is_reversed=True):
            return change.version
    return 0


async def _state_text(refold: Refold, target: Target, version: int) -> str:
    from refold.cli.output import json_text

    try:
        return json_text((await refold.get(*target, version=version)).state)
    except DocumentAbsent:
        return ABSENT


def _print_lines_diff(before: str, after: str) -> None:
    """Print the lines of two texts that differ, with their surroundings."""
    from difflib import unified_diff

    from refold.cli.output import printable, say

    styles = {"+": "green", "-": "red", "@": "cyan"}
    for line in list(unified_diff(before.splitlines(), after.splitlines(), lineterm=""))[2:]:
        say(printable(line), styles.get(line[0], ""))


COMMANDS = {
    "get": get,
    "history": history,
    "diff": diff,
    "list": list_documents,
    "rejections": rejections,
}

"""Commands that read: get, history, diff, list, rejections. Registered by `refold.cli.app`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from refold.cli.missing import check_document, check_namespace, explain
from refold.cli.target import DocumentArgument, JsonOption, NamespaceArgument, UrlOption, ask
from refold.core.errors import DocumentAbsent, VersionUnknown

if TYPE_CHECKING:
    from refold.client import Document, Refold
    from refold.client.values import Patch

PANEL = "Read"
HISTORY_ITEMS = 50

PathOption = Annotated[
    str | None, typer.Option("--path", metavar="/JSON/POINTER", help="Only this place of the document.")
]
AtOption = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="As it was then: RFC 3339, a date, or unix seconds."),
]
ClockOption = Annotated[
    Literal["recorded", "occurred"],
    typer.Option("--clock", help="Whose time --at is: the log's, or the author's."),
]
Limit = Annotated[int, typer.Option(min=1, help="At most so many.")]


def get(
    target: DocumentArgument,
    version: Annotated[int | None, typer.Option(min=0, help="As it was at this version.")] = None,
    at: AtOption = None,
    clock: ClockOption = "recorded",
    path: PathOption = None,
    url: UrlOption = None,
    is_json: JsonOption = False,
) -> None:
    """Print a document, as it is or as it was."""
    from refold.cli.show import console, json_document, json_line

    if version is not None and at is not None:
        raise typer.BadParameter("--version and --at: one of them")

    async def work(refold: Refold) -> Document:
        try:
            return await refold.get(*target, version=version, at=at, clock=clock, path=path)
        except (DocumentAbsent, VersionUnknown) as error:
            await explain(refold, target, error, version=version, at=at, clock=clock)

    found = ask(url, work)
    if is_json:
        json_line(found.state)
        return
    json_document(found.state)
    told = console(is_error=True)
    if told.is_terminal:
        told.print(f"[dim]version {found.version}, recorded {found.recorded_at}[/]")


def history(
    target: DocumentArgument,
    after: Annotated[
        int | None, typer.Option(min=0, help="Go on behind this version, in the order asked.")
    ] = None,
    limit: Limit = HISTORY_ITEMS,
    path: PathOption = None,
    is_reversed: Annotated[bool, typer.Option("--reverse", help="Newest first.")] = False,
    url: UrlOption = None,
    is_json: JsonOption = False,
) -> None:
    """Print a document's changes, one a line."""
    from refold.cli.show import change_summary, console, json_array, print_table, short_time
    from refold.client.values import as_json

    async def work(refold: Refold) -> list[Any]:
        changes = refold.history(*target, after=after, limit=limit, path=path, is_reversed=is_reversed)
        found = [change async for change in changes]
        if not found:
            await check_document(refold, target)
        return found

    changes = ask(url, work)
    if is_json:
        json_array([as_json(change) for change in changes])
        return
    rows = [
        (str(it.version), short_time(it.occurred_at), it.actor, it.type, change_summary(it.patch))
        for it in changes
    ]
    print_table(("version", "occurred", "actor", "type", "change"), rows)
    if len(changes) == limit:
        console(is_error=True).print(f"[dim]{limit} shown; more: --after {changes[-1].version}[/]")


def diff(
    target: DocumentArgument,
    from_version: Annotated[int, typer.Argument(metavar="FROM", min=0)],
    to_version: Annotated[int, typer.Argument(metavar="TO", min=0)],
    url: UrlOption = None,
    is_json: JsonOption = False,
) -> None:
    """Print the JSON Patch from one version to another."""
    from refold.cli.show import json_array, json_line

    async def work(refold: Refold) -> Patch:
        try:
            return await refold.diff(*target, from_version, to_version)
        except VersionUnknown as error:
            await explain(refold, target, error, version=max(from_version, to_version))

    patch = ask(url, work)
    if is_json:
        json_line(patch)
    else:
        json_array(patch)


def list_documents(
    namespace: NamespaceArgument,
    prefix: Annotated[str | None, typer.Option(help="Only ids that begin so.")] = None,
    where: Annotated[
        str | None, typer.Option(metavar="JSONPATH", help="Only states for which it is true: $.total > 10")
    ] = None,
    at: AtOption = None,
    clock: ClockOption = "recorded",
    sequence: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="As it was at this sequence of the log.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many; else all.")] = None,
    url: UrlOption = None,
    is_json: JsonOption = False,
) -> None:
    """Print a namespace's documents, by id, as they are or as they were."""
    from refold.cli.show import json_array, print_table, short_json, short_time
    from refold.client.values import as_json

    if sum(given is not None for given in (where, at, sequence)) > 1:
        raise typer.BadParameter("--where, --at and --sequence: one of them")

    async def work(refold: Refold) -> list[Any]:
        found = refold.list(
            namespace, prefix=prefix, where=where, at=at, clock=clock, sequence=sequence, limit=limit
        )
        documents = [document async for document in found]
        if not documents:
            await check_namespace(refold, namespace)
        return documents

    documents = ask(url, work)
    if is_json:
        json_array([as_json(document) for document in documents])
        return
    rows = [(it.id, str(it.version), short_time(it.recorded_at), short_json(it.state)) for it in documents]
    print_table(("document", "version", "recorded", "state"), rows)


def rejections(
    target: DocumentArgument,
    limit: Limit = HISTORY_ITEMS,
    url: UrlOption = None,
    is_json: JsonOption = False,
) -> None:
    """Print what the fold refused for a document."""
    from refold.cli.show import json_array, print_table, short_time
    from refold.client.values import as_json

    async def work(refold: Refold) -> list[Any]:
        found = [rejection async for rejection in refold.rejections(*target, limit=limit)]
        if not found:
            await check_document(refold, target)
        return found

    found = ask(url, work)
    if is_json:
        json_array([as_json(rejection) for rejection in found])
        return
    rows = [
        (str(it.sequence), short_time(it.recorded_at), it.reason, it.about.get("actor"), it.detail)
        for it in found
    ]
    print_table(("sequence", "recorded", "reason", "actor", "detail"), rows)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, command in (
        ("get", get),
        ("history", history),
        ("diff", diff),
        ("list", list_documents),
        ("rejections", rejections),
    ):
        app.command(name, rich_help_panel=PANEL)(command)

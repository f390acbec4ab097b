"""Commands that write: put, patch, merge, delete, transact, restore, revert, undo, edit. Loaded by `refold.cli`."""

from __future__ import annotations

import asyncio
import shlex
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from refold.cli.errors import naming_namespace
from refold.cli.options import (
    AtOption,
    ClockOption,
    DocumentArgument,
    Output,
    System,
    read_json,
    read_json_lines,
    read_time,
)
from refold.cli.output import indented_json, print_outcome, print_transaction, say
from refold.cli.read import VersionOption, head_version
from refold.core.errors import DocumentAbsent, Refused

if TYPE_CHECKING:
    from refold.client import WriteOptions

ValueArgument = Annotated[
    str, typer.Argument(metavar="JSON", help="A file, - for stdin, or the JSON itself.")
]

NumberArgument = Annotated[int, typer.Argument(metavar="VERSION", min=1, help="A version of the document.")]


@dataclass(frozen=True, kw_only=True)
class Event:
    """The options of every event."""

    if_version: Annotated[
        int | None,
        typer.Option(min=0, help="Write only if the document is at this version; 0 = never existed."),
    ] = None
    resolves: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="SEQUENCE", help="The conflict that this event decides, by its sequence."
        ),
    ] = None
    id: Annotated[
        str | None, typer.Option(help="The event's id: an event that is sent twice counts once.")
    ] = None
    type: Annotated[str | None, typer.Option(help="A name for what happened: order.paid")] = None
    actor: Annotated[str | None, typer.Option(help="The author.")] = None
    occurred_at: Annotated[
        str | None, typer.Option(parser=read_time, metavar="TIME", help="When it happened; by default now.")
    ] = None
    meta: Annotated[
        str | None, typer.Option(metavar="JSON", help="An object that is kept with the event.")
    ] = None
    wait_seconds: Annotated[
        float | None,
        typer.Option("--wait", min=0, metavar="SECONDS", help="How long to wait for the outcome."),
    ] = None
    committed: Annotated[
        bool, typer.Option("--committed", help="Wait until SQL can read the outcome, too.")
    ] = False

    def options(self, **others: Any) -> WriteOptions:
        """Return the client's options."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if self.meta is not None:
            given["meta"] = read_json(self.meta, "meta")
        # The outcome is printed, so that a conflict is a value here.
        return cast("WriteOptions", {"strict": False} | others | given)


@dataclass(frozen=True, kw_only=True)
class ResolvedEvent(Event):
    """The options of an event that is resolved against what came after its base."""

    on_conflict: Annotated[
        str | None,
        typer.Option(
            metavar="STRATEGY",
            help="What to do if the document has changed since the base: reject, first_write_wins, last_write_wins, "
            "merge or custom:NAME.",
        ),
    ] = None
    all_or_nothing: Annotated[
        bool | None,
        typer.Option("--all-or-nothing", help="Reject the whole event rather than drop an operation."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class BasedEvent(ResolvedEvent):
    """The options of an event whose author names its base."""

    base: Annotated[int | None, typer.Option(min=0, help="The version that the change was made from.")] = None
    session: Annotated[
        str | None, typer.Option(help="Your session: its events may be in flight together.")
    ] = None


async def put(
    target: DocumentArgument, state: ValueArgument, event: BasedEvent, system: System, output: Output
) -> None:
    """Write a document's whole state."""
    value, options = read_json(state, "state"), event.options()
    async with system.client() as refold:
        print_outcome(await refold.put(*target, value, **options), is_json=output.is_json)


async def patch(
    target: DocumentArgument, operations: ValueArgument, event: BasedEvent, system: System, output: Output
) -> None:
    """Apply a JSON Patch (RFC 6902), all or nothing.

    It may also have the operations inc, str_ins, str_del and push: [{"op": "inc", "path": "/n", "inc": 1}]
    """
    value, options = read_json(operations, "patch"), event.options()
    async with system.client() as refold:
        print_outcome(await refold.patch(*target, value, **options), is_json=output.is_json)


async def merge(
    target: DocumentArgument, value: ValueArgument, event: BasedEvent, system: System, output: Output
) -> None:
    """Apply a merge patch (RFC 7396): members set to null are removed."""
    merged, options = read_json(value, "merge"), event.options()
    async with system.client() as refold:
        print_outcome(await refold.merge(*target, merged, **options), is_json=output.is_json)


async def delete(target: DocumentArgument, event: BasedEvent, system: System, output: Output) -> None:
    """Delete a document; its history stays."""
    async with system.client() as refold, naming_namespace(refold, target.namespace):
        outcome = await refold.delete(*target, **event.options())
    print_outcome(outcome, is_json=output.is_json)


async def transact(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Changes as JSON or as JSON lines; - for stdin, or the JSON itself."
        ),
    ],
    system: System,
    output: Output,
    transaction_id: Annotated[
        str | None, typer.Option("--id", help="The transaction's id: one that is sent twice counts once.")
    ] = None,
    wait_seconds: Annotated[
        float | None,
        typer.Option("--wait", min=0, metavar="SECONDS", help="How long to wait for the outcomes."),
    ] = None,
    committed: Annotated[
        bool, typer.Option("--committed", help="Wait until SQL can read the outcomes, too.")
    ] = False,
) -> None:
    """Change several documents, all or none.

    FILE has a change for each document: {"doc": "acme/order-1", "version": 3, "patch": [...]}, or merge, put, delete,
    with the version at which the document was read (0: it never existed), and any of type, actor, occurred_at, meta.
    They are a list, {"id": ..., "changes": [...]}, or a line each; all in one namespace.
    """
    given_id, changes = read_changes(file)
    namespace = namespace_of(changes)
    async with system.client() as refold:
        done = await refold.transact(
            namespace,
            changes,
            transaction_id=transaction_id or given_id,
            wait_seconds=wait_seconds,
            committed=committed,
        )
    print_transaction(done, [f"{namespace}/{change['doc']}" for change in changes], is_json=output.is_json)


def read_changes(argument: str) -> tuple[str | None, list[dict[str, Any]]]:
    """Read a transaction's id, where it is given, and its changes. Raises `Refused` where they are none."""
    values = read_json_lines(argument, "changes")
    given_id, changes = None, values
    if len(values) == 1 and isinstance(values[0], list):
        changes = values[0]
    elif len(values) == 1 and isinstance(values[0], dict) and isinstance(values[0].get("changes"), list):
        given_id, changes = values[0].get("id"), values[0]["changes"]
    for number, change in enumerate(changes):
        if not isinstance(change, dict) or "/" not in str(change.get("doc")):
            rule = 'a change is an object with a document: {"doc": "acme/order-1", "version": N, ...}'
            raise Refused("bad_usage", rule, field=f"changes/{number}")
    return given_id, changes


def namespace_of(changes: list[dict[str, Any]]) -> str:
    """Take the namespace, which is the same in all, out of the documents' names."""
    names = [str(change["doc"]).partition("/")[::2] for change in changes]
    namespaces = {namespace for namespace, _ in names}
    if len(namespaces) != 1:
        found = ", ".join(sorted(namespaces)) or "none"
        raise Refused(
            "bad_usage", "a transaction is within one namespace", field="changes", shape=found[:200]
        )
    for change, (_, document) in zip(changes, names, strict=True):
        change["doc"] = document
    return namespaces.pop()


async def restore(
    target: DocumentArgument,
    event: Event,
    system: System,
    output: Output,
    version: VersionOption = None,
    at: AtOption = None,
    clock: ClockOption = "recorded",
) -> None:
    """Write an old state as a new version.

    If VERSION is a delete, the document is deleted. Nothing is written if the document changes meanwhile;
    `refold revert` writes all the same.
    """
    if (version is None) == (at is None):
        count = "one" if version is None else "only one"
        raise typer.BadParameter(f"--version or --at: give {count} of them")
    async with system.client() as refold, naming_namespace(refold, target.namespace):
        head = await head_version(refold, target)
        if not version:
            version = (await refold.get(*target, version=version, at=at, clock=clock)).version
        outcome = await refold.revert(*target, version, **event.options(if_version=head))
    print_outcome(outcome, is_json=output.is_json)


async def revert(
    target: DocumentArgument, version: NumberArgument, event: BasedEvent, system: System, output: Output
) -> None:
    """Bring back the state at a version, whatever was written meanwhile.

    As `refold restore --version`, which writes nothing if the document changes meanwhile, and also goes back to a time.
    """
    async with system.client() as refold, naming_namespace(refold, target.namespace):
        outcome = await refold.revert(*target, version, **event.options())
    print_outcome(outcome, is_json=output.is_json)


async def undo(
    target: DocumentArgument, version: NumberArgument, event: ResolvedEvent, system: System, output: Output
) -> None:
    """Undo what one version did, and keep what others did since.

    --on-conflict says what happens where they changed the same. An undo is a version, too: undo it to do the change
    again.
    """
    async with system.client() as refold, naming_namespace(refold, target.namespace):
        outcome = await refold.undo(*target, version, **event.options())
    print_outcome(outcome, is_json=output.is_json)


async def edit(
    target: DocumentArgument,
    event: Event,
    system: System,
    output: Output,
    editor: Annotated[str, typer.Option(envvar=["VISUAL", "EDITOR"], help="The editor's command.")] = "vi",
) -> None:
    """Edit a document in your editor.

    An absent document starts as {}. Nothing is written if the document changes meanwhile; the edited text is kept.
    """
    from refold.core.json_text import identical
    from refold.core.stream import token_of

    async with system.client() as refold:
        try:
            found = await refold.get(*target)
            version, state = found.version, found.state
        except DocumentAbsent:
            version, state = await head_version(refold, target), {}
        path = Path(tempfile.mkdtemp(prefix="refold-")) / f"{token_of(target.document)[:64]}.json"
        text = f"{indented_json(state)}\n".encode()
        path.write_bytes(text)
        is_done = False
        try:
            await _run_editor(editor, path)
            edited = read_json(f"@{path}", "state")
            if identical(edited, state):
                is_done = True
                say("no change", is_error=True)
                return
            outcome = await refold.put(*target, edited, **event.options(if_version=version))
            is_done = outcome.is_effective
        finally:
            if not is_done and path.exists() and path.read_bytes() != text:
                say(f"the edited text is kept: {path}", is_error=True)
            else:
                _remove(path)
    print_outcome(outcome, is_json=output.is_json)


async def _run_editor(editor: str, path: Path) -> None:
    try:
        process = await asyncio.create_subprocess_exec(*shlex.split(editor), str(path))
    except OSError as error:
        raise Refused("editor_failed", f"cannot be started: {error.strerror}", field=editor) from error
    if code := await process.wait():
        raise Refused("editor_failed", f"ended with exit code {code}", field=editor)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.parent.rmdir()

"""Commands about the stores of a system: store status, store compare, store train. Loaded by `refold.cli`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from refold.cli.audit import Report, reach_servers
from refold.cli.errors import REFUSED
from refold.cli.options import DataOption, Output, add_command
from refold.cli.output import json_line, print_table, say, working

if TYPE_CHECKING:
    from refold.audit import Difference

TRAINED: Final = ("documents", "held_out", "plain_bytes", "bytes_without", "bytes_with")
COLUMNS: Final = ("name", "kind", "depth", "sequence", "lag", "server", "encoding", "problem")


def status(output: Output, data: DataOption = None) -> None:
    """Print of each store its depth, how far it has folded the log, and how its values are written.

    The lag is in events against the end of the log. A store that cannot be read is listed with the problem.
    """
    from refold.wiring.audit import read_stores_status

    stores = asyncio.run(read_stores_status(reach_servers(data, lambda _: [])))
    if output.is_json:
        json_line(stores)
    else:
        print_table(COLUMNS, [[store.get(column, "") for column in COLUMNS] for store in stores])


def compare(
    output: Output,
    first: Annotated[str, typer.Argument(metavar="FIRST", help="A store: postgres, files, redis, redis-2.")],
    second: Annotated[str, typer.Argument(metavar="SECOND", help="The store to compare with it.")],
    data: DataOption = None,
) -> None:
    """Compare two stores of one log: every document and version that both keep.

    A difference is exit code 1. What was folded in only one of them so far is left out; what a store of recent depth
    does not keep is counted.
    """
    from refold.audit.stores import Listener
    from refold.wiring.audit import run_compare
    from refold.wiring.service import run_folding
    from refold.wiring.stores import store_named, store_urls

    settings = reach_servers(data, lambda it: [store_named(store_urls(it), name) for name in (first, second)])
    with working() as progress:
        report = Report(progress, is_json=output.is_json)
        listener = Listener(
            difference=lambda it: report.add(_line(it, first, second), _plain(it, first, second)),
            progress=lambda it: report.advance(
                f"{it.documents:,} documents", it.documents, it.documents_total
            ),
        )
        compared = run_folding(run_compare(settings, (first, second), listener))
    if output.is_json:
        names = (
            "sequence",
            "documents",
            "entries",
            "snapshots",
            "rejections",
            "not_kept",
            "differences",
            "has_counts",
        )
        report.print_json({**{name: getattr(compared, name) for name in names}, "found": report.found})
    else:
        result = f"{compared.differences:,} differences" if compared.differences else "equal"
        counts = (
            f"{compared.documents:,} documents, {compared.entries:,} events, {compared.not_kept:,} not kept"
        )
        text = f"{result}: {counts}, up to sequence {compared.sequence:,}, in {report.pace(compared.entries)}"
        say(text, "red" if compared.differences else "green")
        if not compared.has_counts:
            say("The counts by namespace were not compared: the stores are at different sequences.")
    if compared.differences:
        raise typer.Exit(REFUSED)


def train(
    output: Output,
    namespace: Annotated[
        str, typer.Argument(metavar="NAMESPACE", help="Documents that have much in common.")
    ],
    store: Annotated[
        str | None,
        typer.Option(
            "--store", metavar="NAME", help="The store: files, redis, redis-2; by default the first of these."
        ),
    ] = None,
    data: DataOption = None,
) -> None:
    """Train a dictionary by which a namespace's small values are compressed together.

    It is made of current states, chosen at random, and judged by others; one that saves too little is refused. What is
    stored stays as it is: the projector writes by the dictionary from its next commit on, a rebuild writes all.
    """
    from refold.wiring.audit import run_train
    from refold.wiring.stores import dictionary_store

    settings = reach_servers(data, lambda it: [dictionary_store(it, store)])
    trained_in, number, trained = asyncio.run(run_train(settings, namespace, name=store))
    facts = {name: getattr(trained, name) for name in TRAINED}
    if output.is_json:
        where = {"namespace": namespace, "store": trained_in, "dictionary": number}
        json_line({**where, "bytes": len(trained.content), **facts})
        return
    made = f"{len(trained.content):,} bytes of {trained.documents:,} documents"
    say(f"Dictionary {number} of {trained_in}: {made}", "green")
    sizes = [trained.plain_bytes, trained.bytes_without, trained.bytes_with]
    plain, without, by_it = (size / trained.held_out for size in sizes)
    saved = 1 - trained.bytes_with / trained.bytes_without
    say(
        f"{trained.held_out:,} others: {plain:,.0f} bytes a document, stored {without:,.0f} without it and "
        f"{by_it:,.0f} by it, {saved:.0%} less"
    )


def _line(difference: Difference, first: str, second: str) -> str:
    where = "/".join(filter(None, (difference.namespace, difference.document)))
    at = "" if difference.sequence is None else f" at sequence {difference.sequence}"
    values = f"{first} {difference.expected}, {second} {difference.found}"
    return f"{where}{at}: {difference.part} {difference.field}: {values}"


def _plain(difference: Difference, first: str, second: str) -> dict[str, Any]:
    facts = difference._asdict()
    values = {first: facts.pop("expected"), second: facts.pop("found")}
    return {**facts, **values}


store = typer.Typer(name="store", no_args_is_help=True)
store.callback(help="Print the state of each store, compare two of them, and train dictionaries.")(
    lambda: None
)
for command in (status, compare, train):
    add_command(store, command)

"""Commands about the stores of a system: store status, store compare. Loaded by `refold.cli`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from refold.cli.audit import Report, reach_servers
from refold.cli.errors import REFUSED
from refold.cli.options import DataOption, Output, make_command
from refold.cli.output import json_line, print_table, say, working

if TYPE_CHECKING:
    from refold.audit import Difference

COLUMNS: Final = ("name", "kind", "depth", "sequence", "lag", "server", "encoding", "problem")


def status(output: Output, data: DataOption = None) -> None:
    """Print of each store its depth, how far it has folded the log, and how its values are written.

    The lag is in events against the end of the log. A store that cannot be read is listed with the problem.
    """
    from refold.wiring.audit import read_stores_status

    stores = asyncio.run(read_stores_status(reach_servers(data, has_stores=False)))
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

    settings = reach_servers(data)
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
        names = ("sequence", "documents", "entries", "snapshots", "not_kept", "differences", "has_counts")
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
store.callback(help="Print the state of each store, and compare two of them.")(lambda: None)
store.command("status")(make_command(status))
store.command("compare")(make_command(compare))

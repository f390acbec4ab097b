"""Commands about the keys that stores are encrypted with: keys add, use, status, reencrypt, retire.

Loaded by `refold.cli`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refold.cli.audit import Report, reach_servers
from refold.cli.options import DataOption, Output, add_command
from refold.cli.output import json_line, print_table, say, working

if TYPE_CHECKING:
    from refold.store.layers.keyring import Keys

KeyArgument = Annotated[int, typer.Argument(metavar="KEY", min=1, help="The number of a key.")]


def add(
    output: Output,
    is_unused: Annotated[
        bool,
        typer.Option(
            "--unused",
            help="Keep the present key in use, until every machine has the file and `use` is called.",
        ),
    ] = False,
    data: DataOption = None,
) -> None:
    """Add a random key to the file that REFOLD_KEYS names, or make the file.

    Services use it within a second, unless `use` has chosen another one than the newest. No file is made where the
    stores of the running system need keys that are not there: restore it.
    """
    from refold.wiring.keys import add_key, refuse_first_key
    from refold.wiring.settings import load

    settings = load(data=data)
    asyncio.run(refuse_first_key(settings))
    keys = add_key(settings, is_used=not is_unused)
    if output.is_json:
        json_line({"key": keys.newest, "used": keys.used})
    elif keys.used == keys.newest:
        say(f"key {keys.newest} is added and used")
    else:
        say(f"key {keys.newest} is added; key {keys.used} is used until `refold keys use {keys.newest}`")


def use(output: Output, key: KeyArgument) -> None:
    """Encrypt new values with a key, within a second.

    A key that is added later is used by itself only where the newest was used before.
    """
    from refold.wiring.keys import use_key
    from refold.wiring.settings import load

    _say_keys(use_key(load(), key), output)


def status(output: Output, data: DataOption = None) -> None:
    """Print the numbers of the keys, and of each store how many values each of them encrypts.

    The values are counted, by their first bytes. Without a key's number they are not encrypted.
    """
    from refold.wiring.keys import read_status

    found = asyncio.run(read_status(reach_servers(data, lambda _: [])))
    if output.is_json:
        json_line(found)
        return
    used = "none: nothing is encrypted" if found["used"] is None else found["used"]
    say(f"keys {', '.join(map(str, found['keys']))}; used: {used}")
    print_table(("store", "part", "key", "values", "problem"), _rows(found["stores"]))


def _rows(stores: list[dict[str, Any]]) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for store in stores:
        rows += [[store["name"], it["part"], it["key"] or "none", it["values"], ""] for it in store["values"]]
        if "problem" in store:
            rows.append([store["name"], "", "", "", store["problem"]])
    return rows


def reencrypt(
    output: Output,
    store: Annotated[
        str | None, typer.Option("--store", metavar="NAME", help="Only this store; by default all.")
    ] = None,
    rate: Annotated[
        float,
        typer.Option("--rate", metavar="N", min=1.0, help="Values that are written in a second, at most."),
    ] = 2_000.0,
    data: DataOption = None,
) -> None:
    """Rewrite all values that are not encrypted with the used key, while the system runs.

    In a store from before REFOLD_KEYS was set, these are all; with REFOLD_ENCRYPT=none, all are decrypted. It may be
    interrupted and started again.
    """
    from refold.wiring.keys import reencrypt as rewrite

    settings = reach_servers(data)
    with working() as progress:
        report = Report(progress, is_json=output.is_json)
        written = asyncio.run(
            rewrite(
                settings,
                store,
                rate,
                lambda name, done, total: report.advance(
                    f"{name}: {done:,} of {total:,} values", done, total
                ),
            )
        )
    if output.is_json:
        report.print_json({"written": written})
    for name, values in {} if output.is_json else written.items():
        say(f"{name}: {values:,} values rewritten")


def retire(output: Output, key: KeyArgument, data: DataOption = None) -> None:
    """Remove a key from the file, if no value of any store needs it: all are counted. Backups may still need it."""
    from refold.wiring.keys import retire_key

    _say_keys(asyncio.run(retire_key(reach_servers(data), key)), output)


def _say_keys(keys: Keys, output: Output) -> None:
    numbers = sorted(keys.keys)
    if output.is_json:
        json_line({"keys": numbers, "used": keys.used})
    else:
        say(f"keys {', '.join(map(str, numbers))}; used: {keys.used}")


keys = typer.Typer(name="keys", no_args_is_help=True)
keys.callback(help="Print and change the keys that stores are encrypted with.")(lambda: None)
for command in (add, use, status, reencrypt, retire):
    add_command(keys, command)

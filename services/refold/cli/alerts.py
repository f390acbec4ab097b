"""Commands about alerts: `refold alerts` runs the engine, `refold alerts test` tries the notifiers.

Loaded by `refold.cli`.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import wraps
from typing import Annotated, Any

import typer

from refold.cli.options import Output, add_command, make_command
from refold.cli.output import json_line, say
from refold.cli.serve import flags
from refold.core.errors import Refused

Flags = flags("alerts", "alerts_targets", "data", "probe", "log_level")
TestFlags = flags("alerts", "alerts_targets", "data")


def engine(settings: Flags) -> None:  # type: ignore[valid-type]
    """Run the alert engine: rules over metrics, and notifiers.

    It asks the services of `--alerts-targets`, or of the system on the data folder, and keeps its state in
    `alerts.sqlite` in that folder. `refold up --alerts FILE` runs it as a part of the system.
    """
    from refold.wiring.alerts import run
    from refold.wiring.service import start

    start("alerts", run, **asdict(settings))


def send_test(
    output: Output,
    settings: TestFlags,  # type: ignore[valid-type]
    notifiers: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Notifiers of the file; by default all.")
    ] = None,
) -> None:
    """Send a test notification through notifiers, once and without the queue. A document is then resolved.

    Without `--alerts`, those of the system that runs on the data folder.
    """
    from refold.wiring.alerts import try_notifiers
    from refold.wiring.settings import load

    found = asyncio.run(try_notifiers(load(**asdict(settings)), notifiers or []))
    if output.is_json:
        json_line({name: tried.error or None for name, tried in found.items()})
    else:
        for name, tried in found.items():
            say(f"{name}: {tried.error or tried.done}", "red" if tried.error else "green")
    if any(tried.error for tried in found.values()):
        raise typer.Exit(1)


run_engine = make_command(engine)


@wraps(run_engine)
def unless_command(context: typer.Context, **given: Any) -> None:
    """Run the engine where no command of the group is called. Refuse its options before the name of a command."""
    if context.invoked_subcommand is None:
        run_engine(context, **given)
        return
    for name in given:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            rule = f"is an option of the engine here; give it after `{context.invoked_subcommand}`"
            raise Refused("bad_usage", rule, field=f"--{name.replace('_', '-')}")


alerts = typer.Typer(name="alerts")
alerts.callback(invoke_without_command=True)(unless_command)
add_command(alerts, send_test, "test")

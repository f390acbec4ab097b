"""The command that profiles a running service: profile. Loaded by `refold.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from refold.cli.options import DataOption
from refold.cli.output import say


async def profile(
    service: Annotated[Literal["gateway", "projector"], typer.Argument(help="The service.")],
    instance: Annotated[
        str | None,
        typer.Option("--instance", metavar="HOST:PID", help="The one of several; by default any of them."),
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, max=60, help="Duration of the profile.")
    ] = 10.0,
    shape: Annotated[
        Literal["text", "speedscope"],
        typer.Option("--format", help="A tree as text, or JSON for https://www.speedscope.app."),
    ] = "text",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the profile to a file.")
    ] = None,
    data: DataOption = None,
) -> None:
    """Profile a running service: where its CPU time goes, sampled every 2 ms.

    The service must run with REFOLD_PROFILING=on. It needs the administrator's rights: on the data folder of
    `refold up`, or by REFOLD_NATS_ADMIN_URL.
    """
    from refold.wiring.profiling import ask_for_profile

    facts, text = await ask_for_profile(data, service, instance, seconds=seconds, shape=shape)
    if out is not None:
        out.write_text(text)
    else:
        say(text)
    made = f"{facts['seconds']:.1f} s, {facts['cpu_seconds']:.1f} s of CPU, {facts['samples']:,} samples"
    say(
        f"{service} {facts['instance']}: {made}; overhead {facts['overhead']:.0%} while it ran", is_error=True
    )

"""The command that profiles a running service: profile. Loaded by `refold.cli`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from refold.cli.options import DataOption
from refold.cli.output import say
from refold.core.errors import Refused

if TYPE_CHECKING:
    from refold.telemetry.profiling import Format


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
    is_memory: Annotated[
        bool,
        typer.Option("--memory", help="Of memory: a file of memray, for --out."),
    ] = False,
    data: DataOption = None,
) -> None:
    """Profile a running service: what its event loop works on, sampled every 2 ms; or with --memory, what is allocated.

    Shares are those of the samples in which the event loop works: those in which it waits are left out, and counted.

    The service must run with REFOLD_PROFILING=on. It needs the administrator's rights: on the data folder of
    `refold up`, or by REFOLD_NATS_ADMIN_URL. A profile of memory doubles the service's CPU time while it runs; the
    service needs the extra `refold[profile]`, and `memray flamegraph FILE` shows it.
    """
    from refold.wiring.profiling import ask_for_profile

    if is_memory and out is None:
        raise Refused("bad_usage", "name a file for the profile, since it is no text", field="--out")
    if out is not None and (out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK)):
        raise Refused("bad_usage", "must be a file that can be written", field="--out", shape=str(out))
    kind: Format = "memray" if is_memory else shape
    facts, profile = await ask_for_profile(data, service, instance, seconds=seconds, shape=kind)
    if out is not None:
        out.write_bytes(profile)
    else:
        say(profile.decode())
    counted = f"{facts['samples']:,} allocations"
    if not is_memory:
        counted = f"{facts['samples']:,} samples, the loop waiting in {facts['waiting']:.1%} of them"
    made = f"{facts['seconds']:.1f} s, {facts['cpu_seconds']:.1f} s of CPU, {counted}"
    say(
        f"{service} {facts['instance']}: {made}; overhead {facts['overhead']:.0%} while it ran", is_error=True
    )

"""A system that is watched: metrics, traces, logs, health, alerts, usage and a profile, while it is loaded and broken.

`python examples/06_monitoring_observability/main.py` starts a system in a temporary folder, with Prometheus and
Alertmanager where they are installed, and ends them. It needs the extra `refold[otel]`.
"""

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import load
import monitoring
import psutil
import traces
from receivers import Received, receiving

from refold import System, temporary_system
from refold.client import Refold

ALERT = "NoOwner"
ENGINE_START_SECONDS = 30.0
"""So long after its start, Refold's alert engine does not report what may still be starting."""
WAIT_SECONDS = 50.0
"""How long a client waits for an outcome or a state, also where this machine is slow."""


async def main() -> None:
    """Start everything, and play the scenes."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="refold-example-")))
        received = stack.enter_context(receiving())
        system = await stack.enter_async_context(
            temporary_system(
                durability="os",
                alerts=alerts_file(folder, received.url),
                otlp_url=received.url,
                trace_ratio=0,
                usage=True,
                profiling=True,
                log_level="info",
                wait_seconds=WAIT_SECONDS,
            )
        )
        started_at = time.monotonic()
        # As `export` in a shell: the commands find the system by it.
        os.environ["REFOLD_DATA"] = str(system.data)
        senders = ["refold"]
        if monitoring.are_installed():
            await stack.enter_async_context(monitoring.running(system.services, received.url, folder))
            senders = ["alertmanager", "refold"]
            print(f"\n▸ Prometheus reads {', '.join(sorted(system.services))}")
        else:
            print("\n▸ Prometheus and Alertmanager are not both installed: Refold's own engine alerts alone")
        await load.send(system)
        await traces.follow_a_write(system.http, received)
        sequence = await kill_projector(system)
        await until_counted(system, sequence)
        await look_closer(system)
        await asyncio.sleep(started_at + ENGINE_START_SECONDS - time.monotonic())
        await stop_projector(system, received, senders)


def alerts_file(folder: Path, hook: str) -> Path:
    """Write the rules of `infra/`, evaluated every second, and one more notifier."""
    rules = (monitoring.INFRA / "alerts.toml").read_text()
    notifier = f'[[notifier]]\nname = "hook"\nkind = "webhook"\nurl = "{hook}/refold"\n'
    file = folder / "alerts.toml"
    file.write_text(f"interval_seconds = 1\ngroup_seconds = 1\n{rules}\n{notifier}")
    return file


async def kill_projector(system: System) -> int:
    """Kill the projector; its log says where the next one continued. Return the sequence of the last write."""
    print("\n▸ Logs: kill -9 of the projector, which is started again")
    for projector in projectors():
        projector.kill()
    async with Refold(system.http) as refold:
        # The outcome comes from the next projector.
        outcome = await refold.put("shop", "after", {"total": 1})
    print(f"  a write meanwhile: {outcome.status} at version {outcome.version}")
    await command("logs --service projector --event projector_working")
    await command("logs --service projector --event projector_working --json", lines_max=1)
    return outcome.sequence or 0


async def until_counted(system: System, sequence: int) -> None:
    """Wait until the usage service has counted the events up to a sequence."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (await load.metrics_of(system.services["usage"]))["refold_usage_sequence"] < sequence:
            pass


async def look_closer(system: System) -> None:
    """Look at the system while it is loaded."""
    print("\n▸ Usage, top and a profile, while one client writes batches")
    await command("usage show shop --by actor")
    has_ended = asyncio.Event()

    async def write(refold: Refold) -> None:
        while not has_ended.is_set():
            await refold.append("imported", [{"doc": f"d{n}", "put": {"n": n}} for n in range(500)])

    async with Refold(system.http) as refold, asyncio.TaskGroup() as group:
        group.create_task(write(refold))
        await command("top --once")
        profile = await command("profile projector --seconds 2", lines_max=9)
        print(f"    {profile.splitlines()[-1]}")
        has_ended.set()


async def stop_projector(system: System, received: Received, senders: Sequence[str]) -> None:
    """Stop the projector until it is reported, and let it continue; each alert fires once, and is resolved once."""
    print("\n▸ Alerts: the projector is stopped (SIGSTOP), so that nothing is folded")
    # On a slow machine, the projector that was killed may have been reported, too.
    await received.until(lambda: all(received.last_status(ALERT, sender) != "firing" for sender in senders))
    received.notifications.clear()
    stopped_at = time.monotonic()
    async with Refold(system.http) as refold:
        async with stopped_projector():
            outcome = await refold.put("shop", "late", {"total": 2}, wait_seconds=0.2)
            print(f"  a write is accepted: {outcome.status}, it is in the log at {outcome.sequence}")
            await until_notified(received, "firing", senders)
            await until_in_health(refold)
            alive, ready = [await asyncio.to_thread(probe, system.http, it) for it in ("/healthz", "/readyz")]
            print(f"  the gateway is alive (GET /healthz: {alive}), and not ready (GET /readyz: {ready})")
            assert (alive, ready) == (200, 503)
            await command("status --checks", status=1)
        sequence = outcome.sequence
        found = await refold.get("shop", "late", min_sequence=sequence, timeout_seconds=WAIT_SECONDS)
        seconds = time.monotonic() - stopped_at
        print(f"  it continues after {seconds:.0f} s (SIGCONT): {found.state} is there")
    await until_notified(received, "resolved", senders)
    for sender in senders:
        reported = received.reports(ALERT, sender)
        for each in reported:
            seconds = each.came_at - stopped_at
            print(f"  {seconds:5.0f} s  {sender:12} {each.status:8} {each.alert}: {each.summary}")
        assert [each.status for each in reported] == ["firing", "resolved"]
    await command("logs --service alerts --event alert")


async def until_notified(received: Received, status: str, senders: Sequence[str]) -> None:
    """Wait until each sender has reported the alert."""
    await received.until(lambda: all(received.last_status(ALERT, sender) == status for sender in senders))


async def until_in_health(refold: Refold) -> None:
    """Wait until `/health` names the alert: the engine's metrics may be a second old."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            [firing] = (await refold.health())["checks"]["alerts:firing"]
            if ALERT in firing.get("output", ""):
                return


def probe(url: str, path: str) -> int:
    """Return the status of the answer of a probe."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


@asynccontextmanager
async def stopped_projector() -> AsyncIterator[None]:
    """Stop the projector for the block. The system replaces one that does not answer for 30 s: that is stopped, too."""

    async def keep_stopped() -> None:
        while True:
            for projector in projectors():
                # One that is being replaced may have just ended.
                with suppress(psutil.NoSuchProcess):
                    projector.suspend()
            await asyncio.sleep(0.1)

    stopping = asyncio.create_task(keep_stopped())
    try:
        yield
    finally:
        stopping.cancel()
        for projector in projectors():
            projector.resume()


def projectors() -> list[psutil.Process]:
    """Return the processes that are projectors; all parts of the system are children of this process."""
    return [
        process
        for process in psutil.process_iter(["ppid", "cmdline"])
        if process.info["ppid"] == os.getpid() and "projector" in (process.info["cmdline"] or [])
    ]


async def command(line: str, *, status: int = 0, lines_max: int = 100) -> str:
    """Run a command of `refold`, as one would in a terminal; print its first lines, and check its exit code."""
    print(f"  $ refold {line}")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "refold", *line.split()), stdout=PIPE, stderr=STDOUT
    )
    output = (await process.communicate())[0].decode()
    lines = output.splitlines()
    for text in [*lines[:lines_max], *(["…"] if len(lines) > lines_max else [])]:
        print(f"    {text}")
    assert process.returncode == status, (line, process.returncode, output)
    return output


asyncio.run(main())

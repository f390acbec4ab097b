"""A system that is watched: metrics, traces, logs, health, alerts, usage and a profile, while it is loaded and broken.

`python examples/06_monitoring_observability/main.py` starts a system in a temporary folder, with Prometheus and
Alertmanager where they are installed, and ends them. It needs the extra `refold[otel]`.
"""

import asyncio
import os
import signal
import time
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import load
import monitoring
import traces
from receivers import Notification, Received, receiving
from show import command, say
from system import process_of, service_urls

from refold.alerts.samples import START_SECONDS as ENGINE_START_SECONDS
from refold.client import Refold
from refold.wiring.system import System, temporary_system

ALERT = "NoOwner"
ALERT_SECONDS = 60.0
START_SECONDS = 30.0
PROFILED_SECONDS = 2


async def main() -> None:
    """Start everything, and play the scenes."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="refold-example-")))
        received = stack.enter_context(receiving())
        system = await stack.enter_async_context(
            temporary_system(
                "example",
                lambda _: None,
                durability="os",
                alerts=alerts_file(folder, received.url),
                otlp_url=received.url,
                trace_ratio=0,
                usage=True,
                profiling=True,
                log_level="info",
            )
        )
        os.environ["REFOLD_DATA"] = str(system.data)
        started_at = time.monotonic()
        prometheus = None
        if monitoring.are_installed():
            prometheus = await stack.enter_async_context(
                monitoring.running(service_urls(system), received.url, folder)
            )
            await prometheus.until(f"count(up == 1) == {len(service_urls(system))}")
            say(f"Prometheus reads {', '.join(sorted(service_urls(system)))}")
        else:
            say("Prometheus and Alertmanager are not both installed: Refold's own engine alerts alone")
        await load.send(system)
        await traces.follow_a_write(system.http, received)
        await kill_projector(system)
        await look_closer(system)
        # Refold's engine does not report in its first seconds what may still be starting.
        await asyncio.sleep(max(0.0, started_at + ENGINE_START_SECONDS - time.monotonic()))
        await stop_projector(system, prometheus, received)


def alerts_file(folder: Path, hook: str) -> Path:
    """Write the rules of `infra/`, asked for every second, with a notifier more."""
    rules = (monitoring.INFRA / "alerts.toml").read_text()
    notifier = f'[[notifier]]\nname = "hook"\nkind = "webhook"\nurl = "{hook}/refold"\n'
    file = folder / "alerts.toml"
    file.write_text(f"interval_seconds = 1\ngroup_seconds = 1\n{rules}\n{notifier}")
    return file


async def kill_projector(system: System) -> None:
    """Kill the projector; its log says what the next one did."""
    say("Logs: kill -9 of the projector, which is started again")
    process_of("projector").kill()
    async with Refold(system.http) as refold:
        # Its outcome comes from the next projector.
        outcome = await refold.put("shop", "after", {"total": 1}, wait_seconds=START_SECONDS)
    say("", f"a write meanwhile: {outcome.status} at version {outcome.version}")
    await command("logs --service projector --event projector_working")
    await command("logs --service projector --event projector_working --json", lines_max=1)


async def look_closer(system: System) -> None:
    """Print what people look at, while the system is loaded."""
    say("Usage, top and a profile, while one client writes batches")
    await command("usage show shop --by actor")
    has_ended = asyncio.Event()

    async def write(refold: Refold) -> None:
        while not has_ended.is_set():
            await refold.append("imported", [{"doc": f"d{n}", "put": {"n": n}} for n in range(500)])

    async with Refold(system.http) as refold, asyncio.TaskGroup() as group:
        group.create_task(write(refold))
        await command("top --once")
        profile = await command(f"profile projector --seconds {PROFILED_SECONDS}", lines_max=9)
        say("", f"  {profile.splitlines()[-1]}")
        has_ended.set()
    assert "ShardLoop" in profile


async def stop_projector(
    system: System, prometheus: monitoring.Prometheus | None, received: Received
) -> None:
    """Stop the projector until it is reported, and let it go on; each alert fires once, and is over once."""
    say("Alerts: the projector is stopped (SIGSTOP), so that nothing is folded")
    senders = {"refold"} | ({"alertmanager"} if prometheus else set())
    projector, stopped_at = process_of("projector"), time.monotonic()
    projector.send_signal(signal.SIGSTOP)
    async with Refold(system.http) as refold:
        outcome = await refold.put("shop", "late", {"total": 2}, wait_seconds=0.2)
        say("", f"a write is accepted: {outcome.status}, it is in the log at {outcome.sequence}")
        await until_notified(received, "firing", senders)
        await until_in_health(refold)
        await command("status --checks", status=1)
        projector.send_signal(signal.SIGCONT)
        found = await refold.get("shop", "late", min_sequence=outcome.sequence, timeout_seconds=START_SECONDS)
        say("", f"it goes on after {time.monotonic() - stopped_at:.0f} s (SIGCONT): {found.state} is there")
    await until_notified(received, "resolved", senders)
    for sender in sorted(senders):
        reported = of_alert(received, sender)
        for each in reported:
            say(
                "",
                f"{each.came_at - stopped_at:5.0f} s  {sender:12} {each.status:8} {each.alert}: {each.summary}",
            )
        assert [each.status for each in reported] == ["firing", "resolved"]
    await command("logs --service alerts --event alert")


async def until_notified(received: Received, status: str, senders: set[str]) -> None:
    """Wait until each sender has reported the alert."""

    def has_come(sender: str) -> bool:
        return any(each.status == status for each in of_alert(received, sender))

    async with asyncio.timeout(ALERT_SECONDS):
        while not all(map(has_come, senders)):  # noqa: ASYNC110 - a thread notes it.
            await asyncio.sleep(0.1)


async def until_in_health(refold: Refold) -> None:
    """Wait until `/health` names the alert: the engine's metrics may be a second old."""
    async with asyncio.timeout(ALERT_SECONDS):
        while True:
            [firing] = (await refold.health())["checks"]["alerts:firing"]
            if ALERT in firing.get("output", ""):
                return


def of_alert(received: Received, sender: str) -> list[Notification]:
    """Return what a sender has reported of the alert."""
    return [each for each in received.notifications if (each.sender, each.alert) == (sender, ALERT)]


asyncio.run(main())

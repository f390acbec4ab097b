"""The alert engine's service: rules, storage, targets, probes and metrics. Run by `refold alerts` and `refold up`.

Shutdown order: the probes stop, then the engine; what is not delivered yet is in its file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry

from refold.alerts import Notice, Notification, digest_of
from refold.alerts.engine import Engine
from refold.alerts.notifiers import NotDelivered, Sender
from refold.alerts.notifiers.documents import Documents
from refold.alerts.rules import Rules, load_rules
from refold.alerts.samples import Target
from refold.alerts.storage import Storage
from refold.core.errors import Refused, ServiceUnavailable
from refold.embedded import no_system, read_endpoints, running_setting
from refold.gateway.responses import Response, json_response
from refold.telemetry.logging import configure
from refold.wiring.probes import not_ready, serve_probes
from refold.wiring.service import Listener, stop_on_signals, working
from refold.wiring.settings import Settings, parts_of

FILE: Final = "alerts.sqlite"
"""The engine's state, in the data folder."""

ROUNDS_AWAITED: Final = 5
"""An engine is not ready when it has ended no round for so many intervals."""


async def run(settings: Settings) -> None:
    """Run until SIGINT or SIGTERM. Raises `Refused` for rules that are wrong, or whose file another engine uses."""
    path = rules_path(settings)
    targets, stop = _targets(settings), stop_on_signals()
    rules = with_gateway(load_rules(path), targets())
    storage = Storage(settings.data / FILE)
    try:
        engine = Engine(rules, storage, targets, changed_rules=changes_of(path))
        registry = CollectorRegistry()
        registry.register(engine)
        listener = Listener.choose(settings.probe)
        async with working(engine.run(), stop, name="alerts"):
            await serve_probes(registry, listener, stop=stop, readiness=lambda: readiness(engine))
    finally:
        storage.close()


def readiness(engine: Engine) -> Response:
    """Return the answer of `/readyz`."""
    if engine.silent_seconds > ROUNDS_AWAITED * engine.interval_seconds:
        return not_ready(f"no round of the rules has ended for {engine.silent_seconds:.0f} s")
    return json_response({"status": "ready"})


def rules_path(settings: Settings) -> Path:
    """Return the file of the rules. Raises `Refused` where none is set."""
    if settings.alerts is None:
        rule = "must be set to a file of rules, such as infra/alerts.toml"
        raise Refused("bad_setting", rule, field="REFOLD_ALERTS", shape="nothing")
    return settings.alerts


def with_gateway(rules: Rules, targets: Sequence[Target]) -> Rules:
    """Return rules whose `documents` are written through the first gateway. Raises `Refused` where there is none."""
    url = next((target.url for target in targets if target.service == "gateway"), None)
    lacking = [sender for sender in rules.notifier if isinstance(sender, Documents) and sender.url is None]
    if lacking and url is None:
        rule = "needs `url`: no gateway is among the targets"
        raise Refused("bad_alerts", rule, field=f"notifier {lacking[0].name}")
    notifiers = (
        sender.model_copy(update={"url": url}) if sender in lacking else sender for sender in rules.notifier
    )
    return rules.model_copy(update={"notifier": tuple(notifiers)})


class Tried(NamedTuple):
    """What came of a test of a notifier: what was done with the notification, or what went wrong."""

    done: str
    error: str


async def try_notifiers(settings: Settings, names: Sequence[str]) -> dict[str, Tried]:
    """Send a test notification through these notifiers, or all: of the file, else of the running system."""
    configure("error", service="refold")
    rules = load_rules(settings.alerts or _running_rules(settings))
    with suppress(ServiceUnavailable):
        rules = with_gateway(rules, _targets(settings)())
    known = {sender.name: sender for sender in rules.notifier}
    for name in names:
        if name not in known:
            rule = f"there is no such notifier; there are: {', '.join(known) or 'none'}"
            raise Refused("bad_usage", rule, field=name)
    return {name: await _try(known[name], time.time()) for name in dict.fromkeys(names) or known}


def _running_rules(settings: Settings) -> Path:
    """Return the file that the system of the data folder was started with. Raises `Refused` where there is none."""
    with suppress(ServiceUnavailable):
        if running := running_setting(settings.data, "alerts"):
            return Path(running)
    return rules_path(settings)


async def _try(sender: Sender, now: float) -> Tried:
    # Without the second, the document would stay `firing`.
    statuses = ("firing", "resolved") if sender.is_follower else ("firing",)
    try:
        for status in statuses:
            await sender.attempt(_test_notification(sender.name, status, now), now=now)
    except NotDelivered as error:
        return Tried("", str(error))
    return Tried(sender.tested, "")


def _test_notification(notifier: str, status: str, now: float) -> Notification:
    notice = Notice(
        alert="RefoldTest",
        labels={"notifier": notifier},
        severity="ticket",
        status=status,
        is_flapping=False,
        starts=now,
        ends=0.0 if status == "firing" else now,
        value=1.0,
        summary="this is a test of the notifier; nothing is wrong",
        runbook="",
    )
    return Notification(key=digest_of("test", notifier, status, now), group="RefoldTest", notices=(notice,))


def _targets(settings: Settings) -> Callable[[], Sequence[Target]]:
    """Return what finds the targets: those that are set, or the system of the data folder as it runs now."""
    if settings.alerts_targets is not None:
        pairs = (part.partition("=") for part in parts_of(settings.alerts_targets))
        fixed = tuple(Target(service, url) for service, _, url in pairs)
        return lambda: fixed
    known: tuple[Target, ...] = ()

    def find() -> Sequence[Target]:
        nonlocal known
        endpoints = read_endpoints(settings.data)
        urls = {**endpoints.get("services", {}), "nats": endpoints.get("nats_monitor")}
        found = tuple(Target(name, url) for name, url in urls.items() if url and name != "alerts")
        # The folder of a system that has ended names no services; those that it had are down.
        known = found or known
        return known

    if not find():
        raise no_system(settings.data)
    return find


def changes_of(path: Path) -> Callable[[], Rules | None]:
    """Return what reads the rules again when their file has changed, and then was the same twice: it is whole."""

    def state() -> tuple[int, int, int]:
        found = path.stat()
        return found.st_mtime_ns, found.st_ino, found.st_size

    read = seen = state()

    def changed() -> Rules | None:
        nonlocal read, seen
        try:
            before, seen = seen, state()
        except OSError:
            # It is being replaced, or was removed: the rules stay.
            return None
        if seen == read or seen != before:
            return None
        read = seen
        return load_rules(path)

    return changed

"""Run the rules: ask all targets, evaluate, and deliver the notifications that are due. One engine a process.

Used by `refold.wiring.alerts`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from random import SystemRandom
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from refold.alerts.delivery import Delivery
from refold.alerts.rules import Rules
from refold.alerts.samples import SERIES_MAX, Samples, Target
from refold.alerts.state import ALERTS_MAX, FIRING, PENDING, Machine
from refold.alerts.storage import Storage
from refold.core.errors import Refused
from refold.telemetry.http import get
from refold.telemetry.logging import get_logger
from refold.telemetry.metrics.samples import ALERT_FIRING, ALERT_STATE, Sample, parse

ANSWER_SECONDS_MAX: Final = 4.0
"""A target that has not answered within this, or within the interval, is down."""

WITHOUT_METRICS: Final = {"nats": "/healthz"}
"""Services without metrics of this format, and where they say that they are well."""


class Engine(Collector):
    """The engine; as a collector, it exposes the state of its alerts."""

    def __init__(
        self,
        rules: Rules,
        storage: Storage,
        targets: Callable[[], Sequence[Target]],
        *,
        changed_rules: Callable[[], Rules | None] = lambda: None,
    ) -> None:
        """`targets` and `changed_rules` are called before each round; the latter returns None without a change."""
        self._began, self._mono = time.time(), time.monotonic()
        self._round_ended = self._mono
        self._rules, self._storage = rules, storage
        self._targets, self._changed_rules = targets, changed_rules
        self._samples = Samples(rules.alert)
        self.machine = Machine(rules, self._now(), storage.read_state())
        self._dropped, self._is_incomplete = 0, False
        random = SystemRandom().random
        self._deliveries = {
            sender.name: Delivery(sender, storage, clock=time.time, timer=time.monotonic, random=random)
            for sender in rules.notifier
        }

    @property
    def interval_seconds(self) -> float:
        """How often a round begins."""
        return self._rules.interval_seconds

    @property
    def silent_seconds(self) -> float:
        """How long ago the last round ended, or the engine began."""
        return time.monotonic() - self._round_ended

    async def run(self) -> None:
        """Run until cancelled."""
        outbox = self._storage.read_outbox()
        unknown = [each.number for each in outbox if each.notifier not in self._deliveries]
        self._storage.remove(unknown)
        async with asyncio.TaskGroup() as tasks:
            for name, delivery in self._deliveries.items():
                delivery.add(each for each in outbox if each.notifier == name)
                tasks.create_task(delivery.run(), name=f"notifier {name}")
            tasks.create_task(self._repeat(), name="alerts")

    def collect(self) -> Iterator[Metric]:
        """Yield the state of each alert, and whether each notifier could deliver."""
        about = "Alerts: 1 pending, 2 firing."
        state = GaugeMetricFamily(ALERT_STATE, about, labels=["alert", "severity"])
        severities = {rule.name: rule.severity for rule in self._rules.alert}
        worst = dict.fromkeys(severities, 0)
        for alert in self.machine.alerts:
            if alert.rule in worst:
                number = {PENDING: 1, FIRING: ALERT_FIRING}.get(alert.state, 0)
                worst[alert.rule] = max(worst[alert.rule], number)
        for name, number in worst.items():
            state.add_metric([name, severities[name]], number)
        up = GaugeMetricFamily(
            "refold_alert_notifier_up",
            "Whether a notifier's last attempt has delivered.",
            labels=["notifier"],
        )
        waiting = GaugeMetricFamily(
            "refold_alert_notifier_waiting", "Notifications not delivered yet.", labels=["notifier"]
        )
        for name, delivery in self._deliveries.items():
            up.add_metric([name], float(delivery.is_up))
            waiting.add_metric([name], delivery.waiting)
        about = "Services that answered when they were asked last."
        answering = GaugeMetricFamily("refold_alert_targets_answering", about, value=self._samples.answering)
        yield from (state, up, waiting, answering, *self._counters())

    def _counters(self) -> Iterator[Metric]:
        about = "Notifications that a notifier has delivered, or given up."
        ended = CounterMetricFamily("refold_alert_notifications", about, labels=["notifier", "result"])
        for name, delivery in self._deliveries.items():
            ended.add_metric([name, "delivered"], delivery.delivered)
            ended.add_metric([name, "lost"], delivery.lost)
        about = "Exposed values and alerts that were left out, because there were too many series or alerts."
        dropped = CounterMetricFamily("refold_alert_dropped", about, labels=["what"])
        dropped.add_metric(["value"], self._samples.dropped)
        dropped.add_metric(["alert"], self.machine.dropped)
        yield from (ended, dropped)

    async def _repeat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            self._change_rules()
            await self._round()
            self._report_dropped()
            self._round_ended = time.monotonic()
            await asyncio.sleep(max(0.0, started + self._rules.interval_seconds - loop.time()))

    async def _round(self) -> None:
        """Ask, evaluate, and hand over the notifications."""
        targets = self._targets()
        seconds = min(self._rules.interval_seconds, ANSWER_SECONDS_MAX)
        answers = await asyncio.gather(*(scrape(target, seconds) for target in targets))
        now = self._now()
        for target, answer in zip(targets, answers, strict=True):
            self._samples.add(now, target, answer)
        for name, delivery in self._deliveries.items():
            if not delivery.sender.is_follower:
                self._samples.add_notifier(now, name, is_up=delivery.is_up)
        self._samples.forget(now)
        self.machine.observe(
            now, {rule.name: self._samples.evaluate(rule, now) for rule in self._rules.alert}
        )
        self._notify(now)

    def _notify(self, now: float) -> None:
        due = self.machine.take_due(now)
        notified = [
            (sender.name, part)
            for notification in due
            for sender in self._rules.notifier
            if (part := notification.only(sender.severities, sender.name)) is not None
        ]
        for waiting in self._storage.write(self.machine.saved(), notified):
            self._deliveries[waiting.notifier].add([waiting])

    def _report_dropped(self) -> None:
        """Log that something was left out, once until a round is complete again."""
        dropped = self._samples.dropped + self.machine.dropped
        was_incomplete, self._is_incomplete = self._is_incomplete, dropped > self._dropped
        self._dropped = dropped
        if self._is_incomplete and not was_incomplete:
            get_logger().error("alerts_incomplete", series_max=SERIES_MAX, alerts_max=ALERTS_MAX)

    def _change_rules(self) -> None:
        try:
            changed = self._changed_rules()
        except Refused as error:
            get_logger().error("alert_rules_refused", error=str(error))
            return
        if changed is not None:
            # Notifiers have queues: theirs change with a restart.
            self._rules = changed.model_copy(update={"notifier": self._rules.notifier})
            self._samples.change_rules(self._rules.alert)
            self.machine.change_rules(self._rules, self._now())
            get_logger().info("alert_rules_changed", alerts=len(changed.alert), silences=len(changed.silence))

    def _now(self) -> float:
        """Return unix seconds that continue by the monotonic clock: the wall clock may step."""
        return self._began + time.monotonic() - self._mono


async def scrape(target: Target, seconds: float) -> list[Sample] | None:
    """Return what a target exposes; None if it does not answer, or not with metrics."""
    path = WITHOUT_METRICS.get(target.service, "/metrics")
    try:
        answer = await get(f"{target.url}{path}", seconds=seconds)
        if answer.status != 200:
            raise ValueError(f"{path} answered {answer.status}")
        return parse(answer.body.decode()) if path == "/metrics" else []
    except (OSError, ValueError) as error:
        get_logger().debug("target_silent", target=target.service, url=target.url, error=str(error))
        return None

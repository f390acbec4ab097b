"""The rules of Prometheus and the configuration of Alertmanager: their own tools accept them, and they say what
alerts.toml says. Without the tools a test is skipped; in CI it fails."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from contextlib import AsyncExitStack

import pytest
import yaml

from refold.alerts.metrics import METRICS
from refold.alerts.rules import load_rules
from refold.embedded.nats import NatsServer
from support.prometheus import program, running_alertmanager, running_prometheus
from support.receivers import Hook
from support.services import gateway, make_site, projector
from support.sources import ROOT
from support.system import free_port
from support.up import until

INFRA = ROOT / "infra"
ALERTMANAGER = INFRA / "alertmanager" / "alertmanager.yml"
RULES_FILE = INFRA / "prometheus" / "rules" / "refold.yml"
TESTS = sorted((INFRA / "prometheus" / "tests").glob("*.yml"))
RULES = [rule for group in yaml.safe_load(RULES_FILE.read_text())["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
ENGINE = {rule.name: rule for rule in load_rules(INFRA / "alerts.toml").alert if rule.name != "NotifierDown"}

_EXPECTED = re.compile(r'ALERTS\{alertname="(\w+)",alertstate="firing"')


def run(name, *arguments):
    done = subprocess.run([program(name), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_accepts_the_configuration_and_the_rules():
    run("promtool", "check", "config", INFRA / "prometheus" / "prometheus.yml")
    run("promtool", "check", "rules", RULES_FILE)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_every_rule_does_what_its_promtool_test_says(path):
    run("promtool", "test", "rules", path)


def test_every_rule_has_a_promtool_test_in_which_it_fires_and_resolves():
    asked, fired = set(), set()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            checks = test["promql_expr_test"]
            asked |= {word for check in checks for word in re.findall(r"[\w:]+", check["expr"])}
            fires = [bool(_EXPECTED.findall(str(check["exp_samples"]))) for check in checks]
            assert not fires[-1], f"{test['name']}: does not resolve"
            assert not any(fires) or [] in [each["exp_samples"] for each in checks[: fires.index(True)]]
            fired |= set(_EXPECTED.findall(str(checks)))
    assert fired == set(ALERTS)
    assert asked >= RECORDED


def test_rules_use_metrics_that_exist():
    for rule in RULES:
        for name in re.findall(r"\b(?:refold|process)_\w+(?![\w:])|[\w]+:[\w:]+", rule["expr"]):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            assert name in RECORDED or name in METRICS or METRICS[base].kind == "histogram", rule


def test_the_alerts_are_those_of_the_built_in_engine():
    def threshold(expression):
        sign, number = re.search(r"([<>]) ([\d.]+)\s*$", expression).groups()
        return sign, float(number)

    def seconds(duration):
        number, unit = re.fullmatch(r"(\d+)([sm])", duration).groups()
        return int(number) * (60 if unit == "m" else 1)

    prometheus = {
        name: (
            *threshold(rule["expr"]),
            seconds(rule.get("for", "0s")),
            rule["labels"]["severity"],
            rule["annotations"]["runbook_url"],
        )
        for name, rule in ALERTS.items()
    }
    engine = {
        name: (
            *(("<", rule.below) if rule.above is None else (">", rule.above)),
            rule.for_seconds,
            rule.severity,
            rule.runbook,
        )
        for name, rule in ENGINE.items()
    }
    assert prometheus == engine


def test_every_alert_says_what_it_means():
    for rule in ALERTS.values():
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}


def test_alertmanager_accepts_its_configuration_and_routes_by_severity():
    run("amtool", "check-config", ALERTMANAGER)
    for severity in ("page", "ticket"):
        routed = run(
            "amtool", "config", "routes", "test", f"--config.file={ALERTMANAGER}", f"severity={severity}"
        )
        assert routed.split() == [severity]


def test_alertmanager_inhibits_what_the_built_in_engine_does():
    def names(matchers):
        (pattern,) = (re.fullmatch(r'alertname=~?"([\w|]+)"', each).group(1) for each in matchers)
        return pattern.split("|")

    rules = yaml.safe_load(ALERTMANAGER.read_text())["inhibit_rules"]
    pairs = {
        (source, target)
        for rule in rules
        for source in names(rule["source_matchers"])
        for target in names(rule["target_matchers"])
    }
    assert pairs == {(source, name) for name, rule in ENGINE.items() for source in rule.inhibited_by}


def faster(url, targets):
    """Return both configurations with these targets and receivers, the intervals in seconds instead of minutes."""
    prometheus = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text())
    prometheus["global"] = dict.fromkeys(prometheus["global"], "1s")
    prometheus["rule_files"] = [str(RULES_FILE)]
    for group in prometheus["scrape_configs"][0]["static_configs"]:
        group["targets"] = [targets[group["labels"]["service"]]]
    alertmanager = yaml.safe_load(ALERTMANAGER.read_text())
    alertmanager["route"]["group_interval"] = "5s"
    for receiver in alertmanager["receivers"]:
        receiver["webhook_configs"][0]["url"] = f"{url}{receiver['name']}"
    return prometheus, alertmanager


@pytest.mark.slow
async def test_a_stopped_projector_is_reported_through_alertmanager_once_and_resolved(
    tmp_path, fresh_nats: NatsServer, postgres_dsn: str
):
    hook = Hook()

    def notified(status):
        return [
            (path, body["groupLabels"])
            for path, body in zip(hook.paths, hook.bodies, strict=True)
            if body["status"] == status
        ]

    async with AsyncExitStack() as stack:
        site = await make_site(fresh_nats, postgres_dsn)
        probe = f"127.0.0.1:{free_port()}"
        running = await stack.enter_async_context(gateway(site, is_ready_awaited=False))
        targets = {"gateway": running.client.base_url.netloc.decode(), "projector": probe}
        prometheus, alertmanager = faster(await stack.enter_async_context(hook.running()), targets)
        address = stack.enter_context(running_alertmanager(tmp_path / "alertmanager", alertmanager))
        prometheus["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [address]
        async with projector(site, probe=probe):
            server = stack.enter_context(running_prometheus(tmp_path / "prometheus", prometheus))
            owned = "sum by (service, shard) (refold_shard_owned)"
            await asyncio.to_thread(until, lambda: [it["value"][1] for it in server.query(owned)] == ["1"])
            assert not hook.bodies
        stopped = time.monotonic()
        await asyncio.to_thread(until, lambda: notified("firing"), seconds=300)
        print(f"NoOwner after {time.monotonic() - stopped:.1f} s")
        async with projector(site, probe=probe):
            started = time.monotonic()
            await asyncio.to_thread(until, lambda: notified("resolved"), seconds=300)
            print(f"resolved after {time.monotonic() - started:.1f} s")
    expected = [("/page", {"job": "refold", "alertname": "NoOwner", "shard": "0-63"})]
    assert (notified("firing"), notified("resolved")) == (expected, expected)

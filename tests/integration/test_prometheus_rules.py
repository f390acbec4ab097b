"""The rules of Prometheus and the configuration of Alertmanager: their own tools accept them, and they say what
alerts.toml says. Without the tools a test is skipped; in CI it fails."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

from refold.alerts.metrics import METRICS
from refold.alerts.rules import load_rules
from support.prometheus import program
from support.sources import ROOT

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

"""`refold alerts test`, and the faults of a file that end a start before anything runs."""

from __future__ import annotations

import asyncio
import json

import pytest
from typer.testing import CliRunner

from refold.cli import app
from refold.core.errors import Refused, ServiceUnavailable
from refold.embedded import write_endpoints
from refold.wiring import alerts, system
from refold.wiring.settings import described, load
from support.system import free_port

RULE = '[[alert]]\nname = "Down"\nmetric = "up"\nbelow = 1\nseverity = "page"\nsummary = "it is down"\n'
LOG = '[[notifier]]\nname = "log"\nkind = "log"\n'
WEBHOOK = '[[notifier]]\nname = "ops"\nkind = "webhook"\n'


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "alerts.toml"
    path.write_text(f'{RULE}{LOG}{WEBHOOK}url = "http://127.0.0.1:{free_port()}/"\n')
    return path


def test_each_notifier_is_tried(rules):
    found = CliRunner().invoke(app, ["alerts", "test", "--alerts", str(rules)])
    assert found.exit_code == 1
    assert found.stdout.startswith("log: written to standard error\nops: 127.0.0.1 cannot be reached")
    found = CliRunner().invoke(app, ["alerts", "test", "log", "log", "--alerts", str(rules), "--json"])
    assert (found.exit_code, found.stdout) == (0, '{"log":null}\n')
    (line,) = map(json.loads, found.stderr.splitlines())
    assert (line["event"], line["alert"]) == ("alert", "RefoldTest")
    found = CliRunner().invoke(app, ["alerts", "test", "sms", "--alerts", str(rules)])
    assert "there is no such notifier; there are: log, ops" in str(found.exception)


def test_without_a_file_the_notifiers_of_the_running_system_are_tried(rules, tmp_path):
    write_endpoints(tmp_path, {"services": {}}, described(load(alerts=rules)))
    found = CliRunner().invoke(app, ["alerts", "test", "log", "--data", str(tmp_path)])
    assert (found.exit_code, found.stdout) == (0, "log: written to standard error\n")


def test_options_before_the_command_are_refused(rules):
    found = CliRunner().invoke(app, ["alerts", "--alerts", str(rules), "test", "log"])
    assert "--alerts: is an option of the engine here; give it after `test`" in str(found.exception)


def test_a_fault_of_the_file_ends_the_start_of_a_system(rules, tmp_path):
    rules.write_text(f"{LOG}\n{WEBHOOK}{RULE}")
    settings = load(data=tmp_path / "data", alerts=rules)
    with pytest.raises(Refused, match=r"alerts.toml line 5, key url: is missing"):
        asyncio.run(system.up(settings, say=print))
    assert not settings.data.exists()


def test_the_engine_needs_rules_and_somewhere_to_look(rules, tmp_path):
    with pytest.raises(Refused, match="REFOLD_ALERTS: must be set to a file of rules"):
        asyncio.run(alerts.run(load()))
    with pytest.raises(ServiceUnavailable, match="no system runs on"):
        asyncio.run(alerts.run(load(data=tmp_path, alerts=rules)))
    with pytest.raises(Refused, match="--alerts-targets: must be services with their addresses"):
        load(alerts_targets="127.0.0.1:8080")

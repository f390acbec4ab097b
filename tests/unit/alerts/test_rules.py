"""alerts.toml: what is shipped can be read, and a fault is refused with its line and key."""

from __future__ import annotations

import re

import pytest

from refold.alerts.rules import load_rules, matches, read_rules
from refold.core.errors import Refused
from support.sources import ROOT

RULE = """\
[[alert]]
name = "Lag"
metric = "refold_lag_seconds"
above = 5
severity = "page"
summary = "{value} s"
"""

MAIL = """\
[[notifier]]
name = "a"
kind = "email"
host = "x.org"
sender = "a@x.org"
to = ["b@x.org"]
starttls = false
"""


def test_the_shipped_rules_can_be_read_and_their_runbooks_exist():
    rules = load_rules(ROOT / "infra" / "alerts.toml")
    assert {rule.name for rule in rules.alert} >= {"RefoldDown", "ProjectorStopped", "LagSeconds"}
    for rule in rules.alert:
        file, _, anchor = rule.runbook.partition("#")
        assert file.startswith("infra/runbooks/")
        headings = re.findall(r"^## (\w+)$", (ROOT / file).read_text(), re.MULTILINE)
        assert anchor in [each.lower() for each in headings]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            RULE.replace("lag_seconds", "lag_secs"),
            "line 3, key metric: there is no metric .* refold_lag_seconds?",
        ),
        (
            RULE + 'labels = { document = "a" }',
            "line 7, key labels: refold_lag_seconds has no label document",
        ),
        (RULE + 'by = ["shards"]', "line 7, key by: .* did you mean shard?"),
        (RULE + 'take = "rate"', "line 7, key take: `rate` is taken of a counter, not of a gauge"),
        (RULE + "below = 1", "line 7, key below: give either `above` or `below`"),
        (RULE + 'take = "age"', "line 7, key take: .* ends in _timestamp_seconds or .*, not of"),
        (RULE + 'of_labels = { shard = "1" }', "line 7, key of_labels: is only for take = .ratio"),
        (
            RULE + 'take = "ratio"\nof = "refold_log_bytes"\nof_labels = { shard = "1" }',
            "line 9, key of_labels: refold_log_bytes has no label shard",
        ),
        (RULE + 'take = "ratio"\nmissing = 0', "line 8, key missing: is only for take = .value. and .sum"),
        (RULE + "clear = 6", "line 7, key clear: must be on the side"),
        (RULE + "for_second = 6", "line 7, key for_second: there is no such key"),
        (RULE + 'severity = "high"', "overwrite"),
        (RULE + RULE, "line 8, key name: there are two of the name Lag"),
        (RULE + RULE.replace('"Lag"', '"Other"').replace("above = 5", ""), "line 7, key below: give either"),
        (RULE + 'inhibited_by = ["Lg"]', "line 7, key inhibited_by: there is no alert Lg; did you mean Lag?"),
        (RULE.replace("{value}", "{value.real}"), "line 6, key summary: has the field {value.real}"),
        (RULE.replace('severity = "page"\n', ""), "line 1, key severity: Field required"),
        ('[[notifier]]\nname = "a"\nkind = "sms"', "line 1, key notifier: "),
        (
            '[[notifier]]\nname = "a"\nkind = "webhook"\nurl = "http://x.org/"',
            "line 4, key url: must begin with https",
        ),
        (
            '[[notifier]]\nname = "a"\nkind = "slack"\nurl = "https://u:p@x.org/"',
            "line 4, key url: must have no user",
        ),
        (
            MAIL,
            "only for a server on",
        ),
        ("[[silence]]\nuntil = 2026-12-01T08:00:00", "line 2, key until: must have a time zone"),
        ("repeat_seconds = 1", "line 1, key repeat_seconds: "),
    ],
)
def test_a_fault_is_refused_with_its_line_and_key(text, fault):
    with pytest.raises(Refused, match=fault) as refused:
        read_rules(text, "alerts.toml")
    assert str(refused.value).startswith("alerts.toml")


def test_no_error_shows_a_secret():
    text = '[[notifier]]\nname = "a"\nkind = "slack"\nurl = "http://hooks.example.org/T0/s3cret"'
    with pytest.raises(Refused) as refused:
        read_rules(text, "alerts.toml")
    assert "s3cret" not in str(refused.value)
    assert "s3cret" not in repr(read_rules(text.replace("http:", "https:"), "alerts.toml"))


def test_patterns_select_and_exclude():
    assert matches("/v1/{namespace}", ("/v1/*", "!*/live"))
    assert not matches("/v1/{namespace}/live", ("/v1/*", "!*/live"))
    assert matches("200", "!5*")
    assert not matches("503", "!5*")

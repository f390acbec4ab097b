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

HOOK = '[[notifier]]\nname = "a"\nkind = "webhook"\n'

DOCUMENTS = '[[notifier]]\nname = "a"\nkind = "documents"\nurl = "{}"'

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
        (
            RULE.replace("refold_lag_seconds", "refold_commit_seconds_sum_count") + 'take = "rate"',
            "line 3, key metric: there is no metric",
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
        (RULE + RULE.replace('"Lag"', '"Other"').replace("above = 5", ""), "line 7, key below: is missing"),
        (
            RULE.replace("Lag", "Lg") + RULE + 'inhibited_by = ["Log"]',
            "line 13, key inhibited_by: there is no other alert Log; did you mean Lg?",
        ),
        (RULE + 'inhibited_by = ["Lag"]', "line 7, key inhibited_by: there is no other alert Lag"),
        (RULE.replace("{value}", "{value.real}"), "line 6, key summary: has the field {value.real}"),
        (RULE.replace("{value}", "{value!z}"), "line 6, key summary: formats {value}"),
        (RULE.replace("{value}", "{value:{foo}}"), "line 6, key summary: formats {value}"),
        (RULE.replace("{value}", "{value:999999999f}"), "line 6, key summary: formats {value}"),
        (RULE.replace("{value}", "{instance:.1f}"), "line 6, key summary: formats {instance}"),
        (RULE.replace('severity = "page"\n', ""), "line 1, key severity: is missing"),
        (RULE + 'by = "instance"', "line 7, key by: must be a list, such as"),
        (RULE + "among = { shard = '1' }", "line 7, key among: is only for take"),
        (
            RULE.replace("lag_seconds", "log_replicas")
            + 'take = "ratio"\nof = "refold_ready"\nby = ["state"]',
            "line 9, key by: refold_ready has no label state",
        ),
        (RULE.replace("= 5", "= nan"), "line 4, key above: must be a finite number"),
        (
            "interval_seconds = 60\n" + RULE + "window_seconds = 5",
            "line 8, key window_seconds: must be at least",
        ),
        (
            RULE + "[[silence]]\nalert = 'X*'\nuntil = 2100-01-01T00:00:00Z",
            "line 8, key alert: there is no alert X",
        ),
        (
            RULE + "[[silence]]\nlabels = {shard = '1'}\nuntil = 2100-01-01T00:00:00Z",
            "line 8, key labels: no alert . has the label shard",
        ),
        ("", "line 1, key alert: is missing"),
        ("[alert]\nname = 'A'", "line 1, key alert: must be a list"),
        (
            RULE.replace("[[alert]]", "  [[ alert ]]") + "for_second = 1",
            "line 7, key for_second: there is no such key",
        ),
        ("alert = [{ name = 'A', x = 1 }]", "alerts.toml, alert 1, key metric: is missing"),
        ('[[notifier]]\nname = "a"\nkind = "sms"', "line 3, key kind: must be one of 'webhook'"),
        ('[[notifier]]\nname = "a"', "line 1, key kind: is missing; it is webhook"),
        (
            '[[notifier]]\nname = "a"\nkind = "log"\nseverities = []',
            "line 4, key severities: must not be empty",
        ),
        (HOOK + 'url = "https://x.org/a b"', "line 4, key url: must have neither spaces"),
        (HOOK + 'url = "https://x.org:99999/"', "line 4, key url: the port must be from"),
        (HOOK + 'url = "https://hooks..x.org/"', "line 4, key url: the host must have labels of"),
        (HOOK + 'url_file = "/nonexistent/x"', "line 4, key url_file: cannot be read"),
        (HOOK + 'url = "https://x.org/"\nurl_file = "/x"', "line 5, key url_file: give either `url` or"),
        (
            '[[notifier]]\nname = "a"\nkind = "webhook"\nurl = "http://x.org/"',
            "line 4, key url: must begin with https",
        ),
        (
            '[[notifier]]\nname = "a"\nkind = "slack"\nurl = "https://u:p@x.org/"',
            "line 4, key url: must have no user",
        ),
        (DOCUMENTS.format("http://gateway:99999"), "line 4, key url: the port must be from 1 to 65535"),
        (DOCUMENTS.format("http://gateway:one"), "line 4, key url: the port must be from 1 to 65535"),
        (DOCUMENTS.format("http://[::1"), "line 4, key url: "),
        (DOCUMENTS.format("http://a..b"), "line 4, key url: the host must have labels of"),
        (MAIL.replace('host = "x.org"', 'host = ".x.org"'), "line 4, key host: the host must have labels"),
        (
            MAIL,
            "line 7, key starttls: may be false only for a server on",
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
    assert "s3cret" not in repr(read_rules(RULE + text.replace("http:", "https:"), "alerts.toml"))


def test_a_summary_may_format_the_value():
    (rule,) = read_rules(RULE.replace("{value}", "{instance}: {value} {value:.1f} {value:.0%}"), "a").alert
    assert rule.describe((("instance", "a:1"),), 0.123456) == "a:1: 0.1235 0.1 12% s"


def test_a_secret_is_read_from_its_file(tmp_path):
    (tmp_path / "url").write_text("https://hooks.example.org/T0/s3cret\n")
    (hook,) = read_rules(f"{RULE}{HOOK}url_file = '{tmp_path}/url'", "alerts.toml").notifier
    assert hook.url.get_secret_value().endswith("/s3cret")


def test_patterns_select_and_exclude():
    assert matches("/v1/{namespace}", ("/v1/*", "!*/live"))
    assert not matches("/v1/{namespace}/live", ("/v1/*", "!*/live"))
    assert matches("200", "!5*")
    assert not matches("503", "!5*")

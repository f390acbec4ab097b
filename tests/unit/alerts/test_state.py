"""The state machine: when an alert fires, what is notified of it, and how often at most."""

from __future__ import annotations

import json
from itertools import cycle, islice

from hypothesis import given, settings
from hypothesis import strategies as st

from refold.alerts.rules import read_rules
from refold.alerts.samples import START_SECONDS
from refold.alerts.state import FLAPPING_CHANGES, FLAPPING_SECONDS, HOLD_SECONDS, Machine

DOWN = (("instance", "a:1"),)
ELSEWHERE = (("instance", "b:1"),)
RULE = '[[alert]]\nname = "{}"\nmetric = "refold_lag_seconds"\nabove = 5\nseverity = "page"\nsummary = "s"\n'


def machine_of(*rules, head="group_seconds = 0", saved=None, now=0.0):
    return Machine(read_rules("\n".join([head, *rules]), "alerts.toml"), now, saved)


class Told:
    """A machine whose rule `Lag` gets a value at each step, and what it has notified: status and, if so, flapping."""

    def __init__(self, *lines, head="group_seconds = 0"):
        self.machine = machine_of(RULE.format("Lag"), *lines, head=head)
        self.said = []

    def at(self, now, value, labels=DOWN, **others):
        values = {"Lag": {} if value is None else {labels: value}}
        self.machine.observe(now, values | others)
        for notification in self.machine.take_due(now):
            self.said += [
                f"{notice.alert} {notice.status}{' flapping' * notice.is_flapping}"
                for notice in notification.notices
            ]
        return self.said


def test_it_fires_after_its_time_once_and_resolves_once():
    notified = Told("for_seconds = 60")
    for now, value in ((0, 9), (59, 9)):
        assert notified.at(now, value) == []
    for now, value in ((60, 9), (300, 9)):
        assert notified.at(now, value) == ["Lag firing"]
    for now, value in ((301, 1), (400, 1)):
        assert notified.at(now, value) == ["Lag firing", "Lag resolved"]
    assert notified.at(1_000, 1)
    assert not notified.machine.alerts


def test_an_alert_that_is_pending_again_ended_when_it_resolved():
    machine = machine_of(RULE.format("Lag"), "for_seconds = 30", head="group_seconds = 10")
    notices = []
    for now, value in ((0, 9), (30, 9), (40, 9), (100, 1), (105, 9), (110, 9)):
        machine.observe(now, {"Lag": {DOWN: value}})
        notices += [notice for each in machine.take_due(now) for notice in each.notices]
    assert [(each.status, each.starts, each.ends) for each in notices] == [
        ("firing", 30, 0),
        ("resolved", 30, 100),
    ]


def test_what_is_pending_begins_anew_after_a_good_value():
    notified = Told("for_seconds = 60")
    for now, value in ((0, 9), (50, 1), (60, 9), (110, 9)):
        assert notified.at(now, value) == []


def test_clear_is_the_threshold_of_an_alert_that_fires():
    notified = Told("clear = 2")
    for now, value in ((0, 9), (5, 4), (10, 3), (15, 1)):
        notified.at(now, value)
    assert notified.said == ["Lag firing", "Lag resolved"]


def test_a_firing_alert_is_told_again_every_four_hours():
    notified = Told()
    for hour in range(10):
        notified.at(hour * 3_600, 9)
    assert notified.said == ["Lag firing"] * 3


def test_without_values_it_resolves_only_after_a_while():
    notified = Told("window_seconds = 10")
    notified.at(0, 9)
    assert notified.at(9 + HOLD_SECONDS, None) == ["Lag firing"]
    assert notified.at(11 + HOLD_SECONDS, None) == ["Lag firing", "Lag resolved"]


def test_what_has_vanished_counts_as_missing_for_seven_days_over_restarts():
    owned = RULE.format("Lag").replace("above = 5", "below = 1\nmissing = 0\nfor_seconds = 15")
    other = (("instance", "b:1"),)

    def state_at(machine, now, **values):
        machine.observe(now, {"Lag": values.get("found", {})})
        return {dict(alert.labels)["instance"]: alert.state for alert in machine.alerts}

    first = machine_of(owned)
    assert state_at(first, 0, found={DOWN: 1, other: 1}) == {}
    assert state_at(first, 3_600, found={DOWN: 1}) == {"b:1": "pending"}
    second = machine_of(owned, saved=json.loads(json.dumps(first.saved())), now=4_000)
    # Services are starting with it.
    assert state_at(second, 4_000 + START_SECONDS - 1) == {}
    assert state_at(second, 4_100) == {"a:1": "pending", "b:1": "pending"}
    assert state_at(second, 4_115) == {"a:1": "firing", "b:1": "firing"}
    assert state_at(second, 10_000, found={other: 1})["a:1"] == "firing"
    assert state_at(second, 7 * 86_400, found={other: 1})["a:1"] == "firing"
    assert state_at(second, 3_600 + 7 * 86_400, found={other: 1}).get("a:1") != "firing"
    third = machine_of(owned + 'by = ["service"]\n', saved=second.saved(), now=8 * 86_400)
    assert third.saved()["seen"] == []


def test_what_fires_is_resolved_when_its_rule_is_removed_also_while_it_is_stopped():
    only_other = RULE.format("Other")
    for is_restarted in (False, True):
        notified = Told(only_other)
        for number in range(3 if is_restarted else 4):
            # Four changes: it flaps, which is not notified yet.
            notified.machine.observe(number, {"Lag": {DOWN: 9.0 if number % 2 == 0 else 1.0}})
            if number == 0:
                (fired,) = notified.machine.take_due(0)
        if is_restarted:
            notified.machine = machine_of(
                only_other, saved=json.loads(json.dumps(notified.machine.saved())), now=10
            )
        else:
            notified.machine.change_rules(read_rules("group_seconds = 0\n" + only_other, "alerts.toml"), 10)
        notified.machine.observe(10, {})
        ((notice,),) = [each.notices for each in notified.machine.take_due(10)]
        assert (notice.alert, notice.status, notice.is_flapping) == ("Lag", "resolved", False)
        assert (notice.severity, notice.summary) == (fired.notices[0].severity, fired.notices[0].summary)
        notified.machine.observe(15, {})
        assert not notified.machine.alerts
        assert not notified.machine.take_due(15)


def test_alerts_of_a_group_are_told_together():
    machine = machine_of(RULE.format("Lag"), head="group_seconds = 10")
    machine.observe(0, {"Lag": {DOWN: 9.0}})
    assert not machine.take_due(0)
    machine.observe(9, {"Lag": {DOWN: 9.0, ELSEWHERE: 9.0}})
    assert not machine.take_due(9)
    (notification,) = machine.take_due(10)
    assert [notice.labels["instance"] for notice in notification.notices] == ["a:1", "b:1"]


def test_what_resolves_within_its_group_time_is_not_told():
    notified = Told(head="group_seconds = 10")
    for now, value in ((0, 9), (5, 1), (20, 1)):
        assert notified.at(now, value) == []


def test_it_is_inhibited_by_an_alert_of_the_same_instance():
    notified = Told('inhibited_by = ["Down"]', RULE.format("Down"))
    assert notified.at(0, 9, Down={DOWN: 9.0}) == ["Down firing"]
    assert notified.at(5, 9, ELSEWHERE, Down={DOWN: 9.0}) == ["Down firing", "Lag firing"]
    notified.at(10, 9, Down={DOWN: 1.0})
    assert sorted(notified.said[2:]) == ["Down resolved", "Lag firing"]


def test_a_silence_ends():
    notified = Told("[[silence]]\nalert = 'L*'\nlabels = { instance = 'a:*' }\nuntil = 1970-01-01T00:01:00Z")
    assert notified.at(0, 9) == []
    assert notified.at(59, 9) == []
    assert notified.at(60, 9) == ["Lag firing"]


def test_flapping_is_told_once_and_the_end_when_it_is_steady():
    notified = Told()
    for number in range(20):
        notified.at(number * 10, 9 if number % 2 == 0 else 1)
    assert notified.said == ["Lag firing", "Lag resolved", "Lag firing", "Lag resolved flapping"]
    notified.at(190 + FLAPPING_SECONDS - 1, 1)
    assert len(notified.said) == FLAPPING_CHANGES
    assert notified.at(190 + FLAPPING_SECONDS, 1)[FLAPPING_CHANGES:] == ["Lag resolved"]


@settings(max_examples=10)
@given(
    gaps=st.lists(st.floats(0, FLAPPING_SECONDS / FLAPPING_CHANGES), min_size=1, max_size=20),
    group_seconds=st.sampled_from([0, 10]),
)
def test_a_thousand_flaps_are_at_most_twelve_notifications(gaps, group_seconds):
    notified = Told(head=f"group_seconds = {group_seconds}")
    now = 0.0
    for number, gap in enumerate(islice(cycle(gaps), 1_000)):
        now += gap
        notified.at(now, 1 if number % 2 else 9)
    notified.at(now + 2 * FLAPPING_SECONDS, 9)
    notified.at(now + 4 * FLAPPING_SECONDS, 9)
    assert len(notified.said) <= 12
    assert notified.said[-1] == "Lag firing"


@given(
    values=st.lists(st.sampled_from([1.0, 9.0, None]), max_size=60),
    cut=st.integers(0, 60),
    step=st.integers(1, 90),
)
def test_a_restart_changes_nothing_of_what_is_told(values, cut, step):
    rule = (RULE.format("Lag"), "for_seconds = 5")
    through, restarted = machine_of(*rule), machine_of(*rule)
    for number, value in enumerate(values):
        now = float(number * step)
        found = {"Lag": {} if value is None else {DOWN: value}}
        if number == cut:
            saved = json.loads(json.dumps(restarted.saved()))
            # A start without values holds what fires for a while; as if it had been there all the time.
            restarted = machine_of(*rule, saved=saved)
        for machine in (through, restarted):
            machine.observe(now, found)
        assert through.take_due(now) == restarted.take_due(now)

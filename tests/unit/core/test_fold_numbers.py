"""A fold number selects rules and limits; the log sets it for every shard."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refold.core import json_text
from refold.core.document import Document
from refold.core.errors import FoldUnknown
from refold.core.fold import RULES, genesis, genesis_rules, read_genesis, rules_of
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.stream import partition_of
from support.events import START, record
from support.fold2 import FOLD_2, MOVE_ON, inc

LOG, FOLD = ("_refold", "log"), ("_refold", "fold")


class Log:
    """One log, folded by a shard of every partition, or of some."""

    def __init__(self, checkpoints=None):
        self.shard = FoldState(first_checkpoints("log-1") if checkpoints is None else checkpoints)
        self.documents = {}

    def publish(self, event, to=("n", "d"), at=None):
        """Fold an event; None where its partition is another shard's."""
        sequence = self.shard.read_sequence + 1
        taken = record(event, sequence=sequence, time=at, namespace=to[0], document=to[1])
        where = self.shard.route(taken.subject)
        if not self.shard.has(where.partition):
            return self.shard.skip(taken, where)
        new = Document(namespace=to[0], document=to[1], partition=where.partition)
        return self.shard.fold(taken, where, self.documents.setdefault(to, new)).entry

    def state(self, to=("n", "d")):
        return json_text.dumps(self.documents[to].state)


def is_foreign(checkpoint):
    return checkpoint.partition not in {partition_of(b"_refold", name) for name in (b"log", b"fold")}


@pytest.fixture
def foreign():
    """A shard of all but the system's partition."""
    return Log([checkpoint for checkpoint in first_checkpoints("log-1") if is_foreign(checkpoint)])


def test_a_fold_number_selects_its_rules_and_an_unknown_one_is_an_error():
    assert (rules_of(1), rules_of(2)) == (RULES[1], FOLD_2)
    with pytest.raises(FoldUnknown) as unknown:
        rules_of(3, 7)
    assert unknown.value.facts == {"fold": 3, "known": 2, "sequence": 7}


def test_a_log_created_under_an_older_number_continues_under_it():
    first = record(genesis("log-1", RULES[1]), namespace=LOG[0], document=LOG[1])
    assert read_genesis(first) == "log-1"
    log = Log()
    log.publish(genesis("log-1", RULES[1]), LOG)
    log.publish({"put": {"n": 1}})
    assert log.publish(inc()).reason == "not_in_this_fold"
    assert {checkpoint.fold for checkpoint in log.shard.checkpoints()} == {1}


def test_a_genesis_is_checked_by_the_rules_of_its_own_number():
    first = record(genesis("log-2", FOLD_2), namespace=LOG[0], document=LOG[1])
    assert (genesis_rules(first), read_genesis(first)) == (FOLD_2, "log-2")
    log = Log()
    assert log.publish(genesis("log-2", FOLD_2), LOG).status.is_effective
    log.publish({"put": {"n": 1}})
    assert log.publish(inc()).status.is_effective
    assert (log.state(), log.shard.fold_number) == (b'{"n":2}', 2)


def test_a_system_event_changes_the_number_for_later_events():
    log = Log()
    log.publish(genesis("log-1", RULES[1]), LOG)
    log.publish({"put": {"n": 1}})
    assert log.publish(inc()).reason == "not_in_this_fold"
    log.publish(MOVE_ON, FOLD)
    outcome = log.publish(inc())
    assert (outcome.effect, log.state()) == (None, b'{"n":2}')


def test_limits_are_those_of_the_number_in_force(monkeypatch):
    monkeypatch.setitem(RULES, 2, replace(FOLD_2, limits=replace(FOLD_2.limits, operations=20_000)))
    log = Log()
    log.publish({"put": {}})
    long = {"patch": [{"op": "test", "path": "", "value": {}}] * 10_001}
    assert log.publish(long).reason == "too_many_operations"
    log.publish(MOVE_ON, FOLD)
    assert log.publish(long).status.is_effective


def test_a_shard_without_the_system_partition_follows_the_number(foreign):
    foreign.publish(genesis("log-1", RULES[1]), LOG)
    foreign.publish({"put": {"n": 1}})
    assert foreign.publish(inc()).reason == "not_in_this_fold"
    assert foreign.publish(MOVE_ON, FOLD) is None
    assert foreign.publish(inc()).status.is_effective
    assert {checkpoint.fold for checkpoint in foreign.shard.checkpoints()} == {2}


def test_a_shard_without_the_system_partition_reads_the_number_of_the_genesis(foreign):
    foreign.publish(genesis("log-2", FOLD_2), LOG)
    foreign.publish({"put": {"n": 1}})
    assert foreign.publish(inc()).status.is_effective


REJECTED = [
    {"put": {"fold": 1}},
    {"put": {"fold": 2}, "base": 3},
    {"put": {"fold": 2}, "occurred_at": "2099-01-01T00:00:00Z"},
    b"garbage",
]


@pytest.mark.parametrize("event", REJECTED)
def test_a_rejected_system_event_changes_the_number_of_no_shard(foreign, event):
    whole = Log()
    for log in (whole, foreign):
        log.publish(genesis("log-1", RULES[1]), LOG)
        log.publish(event, FOLD)
        assert log.shard.fold_number == 1


def test_a_retry_of_a_rejected_system_event_is_a_duplicate_in_every_shard(foreign):
    whole = Log()
    early = {"put": {"fold": 2}, "id": "x", "occurred_at": "2023-11-15T00:00:00Z"}
    for log in (whole, foreign):
        log.publish(genesis("log-1", RULES[1]), LOG, START)
        log.publish(early, FOLD, START)
        log.publish(early, FOLD, START + 10**15)
        assert log.shard.fold_number == 1
    assert whole.documents[FOLD].version == 0


def test_an_unknown_number_stops_every_shard_at_the_next_event(foreign):
    for log in (Log(), foreign):
        log.publish(genesis("log-1", RULES[1]), LOG)
        log.publish({"put": {"fold": 3}}, FOLD)
        for to in (("n", "d"), LOG, FOLD):
            with pytest.raises(FoldUnknown) as unknown:
                log.publish({"put": 1}, to)
            assert unknown.value.facts == {"fold": 3, "known": 2, "sequence": 3}
        assert log.shard.read_sequence == 2


def test_a_genesis_of_an_unknown_number_is_not_folded(foreign):
    genesis_3 = {"put": {**genesis("log-3", FOLD_2)["put"], "fold": 3}}
    for log in (Log(), foreign):
        with pytest.raises(FoldUnknown):
            log.publish(genesis_3, LOG)
        assert log.shard.read_sequence == 0


def test_a_shard_continues_under_the_number_of_its_checkpoints():
    log = Log()
    log.publish({"put": {"n": 1}})
    log.publish(MOVE_ON, FOLD)
    resumed = Log(log.shard.checkpoints())
    resumed.documents = log.documents
    assert resumed.publish(inc()).status.is_effective

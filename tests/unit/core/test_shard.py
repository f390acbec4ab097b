"""The fold over the whole log: clock, fold number, chains and checkpoints, record by record."""

from __future__ import annotations

import pytest

from refold.core.document import Document, Status
from refold.core.errors import FoldUnknown, LogHole
from refold.core.fold import NEWEST, genesis
from refold.core.fold_state import SUBJECTS_CACHED_MAX, FoldState, first_checkpoints
from refold.core.stream import PARTITIONS, Record, chain_link, chain_seed, partition_of
from support.events import SECOND, START, body_of, lines, record, subject_of


class Log:
    """Folds what is published to it, as a projector would."""

    def __init__(self, checkpoints=None):
        self.shard = FoldState(first_checkpoints("log-1") if checkpoints is None else checkpoints)
        self.documents = {}

    def publish(self, event, *headers, to=("n", "d"), at=None):
        return self.take(
            record(
                event,
                *headers,
                sequence=self.shard.read_sequence + 1,
                time=at,
                namespace=to[0],
                document=to[1],
            )
        )

    def skip(self, event, to=("n", "d"), at=None):
        sequence = self.shard.read_sequence + 1
        passed = record(event, sequence=sequence, time=at, namespace=to[0], document=to[1])
        self.shard.skip(passed, self.shard.route(passed.subject))

    def take(self, taken):
        where = self.shard.route(taken.subject)
        if where.reason:
            return self.shard.reject(taken, where)
        key = where[1:3]
        if key not in self.documents:
            self.documents[key] = Document(namespace=key[0], document=key[1], partition=where.partition)
        return self.shard.fold(taken, where, self.documents[key])

    def checkpoint(self, namespace="n", document="d"):
        partition = partition_of(namespace.encode(), document.encode())
        return next(found for found in self.shard.checkpoints() if found.partition == partition)


@pytest.fixture
def log():
    return Log()


def test_a_log_starts_with_64_seeded_checkpoints_under_fold_1():
    checkpoints = first_checkpoints("log-1")
    assert [checkpoint.partition for checkpoint in checkpoints] == list(range(PARTITIONS)) == list(range(64))
    for checkpoint in checkpoints:
        assert checkpoint.chain == checkpoint.chain_before == chain_seed("log-1", checkpoint.partition)
        assert (checkpoint.fold, checkpoint.read_sequence, checkpoint.last_sequence) == (1, 0, 0)
        assert checkpoint.counts == [0, 0, 0, 0]


def test_every_checkpoint_advances_with_the_whole_log(log):
    for document in ("a", "b", "a"):
        log.publish({"put": 1}, to=("n", document), at=START + 5)
    for checkpoint in log.shard.checkpoints():
        assert (checkpoint.read_sequence, checkpoint.recorded_at) == (3, START + 5)
    lasts = {checkpoint.partition: checkpoint.last_sequence for checkpoint in log.shard.checkpoints()}
    assert lasts.pop(partition_of(b"n", b"a")) == 3
    assert lasts.pop(partition_of(b"n", b"b")) == 2
    assert set(lasts.values()) == {0}


def test_each_partition_has_a_chain_and_an_entry_its_previous_link(log):
    first = log.publish({"put": 1}).entry
    log.publish({"put": 1}, to=("other", "document"))
    log.publish({"put": 2}, ("Nats-Msg-Id", "x"), ("A", "1"))
    records = [record({"put": 1}), record({"put": 2}, ("A", "1"), sequence=3)]
    after_first = chain_link(chain_seed("log-1", 15), records[0])
    assert first.sequence == 1
    assert log.checkpoint().chain_before == after_first
    assert log.checkpoint().chain == chain_link(after_first, records[1])


def test_outcomes_are_counted_by_partition(log):
    for event in [
        {"put": 1, "id": "x"},
        {"put": 1, "id": "x"},
        {"put": 2, "id": "x"},
        {"merge": {}},
        b"garbage",
    ]:
        log.publish(event)
    assert log.checkpoint().counts == [2, 0, 2, 1]


def test_returned_checkpoints_do_not_change(log):
    log.publish({"put": 1})
    handed_out = log.checkpoint()
    log.publish({"put": 1})
    assert (handed_out.read_sequence, handed_out.counts) == (1, [1, 0, 0, 0])


def test_recorded_time_never_decreases_across_the_log(log):
    times = [START, START - SECOND, START + 1, START - 1, START + 1]
    steps = [log.publish({"put": n}, to=("n", f"d{n}"), at=time) for n, time in enumerate(times)]
    recorded = [START, START, START + 1, START + 1, START + 1]
    assert [step.entry.recorded_at for step in steps] == recorded
    assert [step.entry.time for step in steps] == times
    assert [step.entry.occurred_at for step in steps] == recorded


def test_foreign_and_unroutable_records_advance_the_clock():
    foreign, mine = partition_of(b"n", b"a"), partition_of(b"n", b"d")
    log = Log([checkpoint for checkpoint in first_checkpoints("log-1") if checkpoint.partition != foreign])
    assert (log.shard.has(foreign), log.shard.has(mine)) == (False, True)
    log.skip({"put": 1}, to=("n", "a"), at=START + 5)
    assert log.publish({"put": 1}, at=START).entry.recorded_at == START + 5
    log.take(Record(3, START + 9, b"log.15.n.*", b"", b""))
    assert log.publish({"put": 1}, at=START).entry.recorded_at == START + 9
    assert len(log.shard.checkpoints()) == PARTITIONS - 1


def test_occurred_at_is_checked_against_the_clamped_time(log):
    log.publish({"put": 1}, at=START)
    late = {"put": 1, "occurred_at": "2023-11-14T22:18:20Z"}
    assert log.publish(late, at=0).entry.status is Status.applied


def test_an_unroutable_event_is_chained_and_counted_as_rejected(log):
    stray = Record(1, START, b"log.9.n.*", b"Nats-X: 1\r\n", b"{}")
    partition = partition_of(b"n", b"*")
    assert log.take(stray) == START
    found = next(checkpoint for checkpoint in log.shard.checkpoints() if checkpoint.partition == partition)
    assert found.chain == chain_link(chain_seed("log-1", partition), stray)
    assert (found.counts, found.last_sequence) == ([0, 0, 1, 0], 1)


@pytest.mark.parametrize("found", [1, 2, 4, 100])
def test_a_skipped_sequence_is_a_hole_in_the_log(log, found):
    log.publish({"put": 1})
    log.publish({"put": 1})
    with pytest.raises(LogHole) as hole:
        log.take(record({"put": 1}, sequence=found))
    assert hole.value.facts == {"expected": 3, "found": found}
    assert log.shard.read_sequence == 2


def test_a_hole_is_detected_among_foreign_and_unroutable_records(log):
    with pytest.raises(LogHole):
        log.shard.skip(record({"put": 1}, sequence=2), log.shard.route(subject_of("n", "d")))
    with pytest.raises(LogHole):
        log.take(Record(2, START, b"x", b"", b""))


def test_a_shard_continues_from_its_checkpoints(log):
    for n in range(3):
        log.publish({"put": n}, at=START + 10 - n)
    resumed = Log(log.shard.checkpoints())
    resumed.documents = log.documents
    step = resumed.publish({"put": 9}, at=START)
    assert (step.entry.sequence, step.entry.recorded_at, step.entry.version) == (4, START + 10, 4)
    assert resumed.checkpoint().counts[Status.applied] == 4


def test_an_entry_holds_the_recorded_event_and_its_outcome(log):
    log.publish({"put": {"a": 1}})
    headers = (("Refold-Id", "x"), ("Nats-Expected-Stream", "STATE"), ("traceparent", "00"))
    entry = log.publish({"merge": {"a": 2}}, *headers, at=START).entry
    assert (entry.sequence, entry.time, entry.recorded_at, entry.version) == (2, START, START + SECOND, 2)
    assert (entry.subject, entry.headers) == (None, lines(headers[0], headers[2]))
    assert entry.body == body_of({"merge": {"a": 2}})
    assert entry.effect == b'[{"op":"replace","path":"/a","value":2}]'
    assert (entry.reason, entry.detail, entry.first_sequence) == ("", "", 0)
    assert entry.identity is not None


def test_the_entry_of_a_duplicate_names_the_first_event(log):
    for _ in range(2):
        entry = log.publish({"put": 1, "id": "x"}).entry
    assert (entry.status, entry.version, entry.first_sequence, entry.identity) == (
        Status.duplicate,
        1,
        1,
        None,
    )


def test_the_entry_of_a_rejection_has_the_reason(log):
    entry = log.publish({"delete": True}).entry
    assert (entry.status, entry.reason, entry.version) == (Status.rejected, "document_absent", 0)
    assert entry.detail
    assert entry.effect is None


@pytest.mark.parametrize("subject", [b"state.n.d", b"log.0.n.d", b"log.x.15.n.d"])
def test_an_unusual_subject_is_kept(log, subject):
    step = log.take(record({"put": 1})._replace(subject=subject))
    assert step.entry.subject == subject
    assert log.documents["n", "d"].version == 1


def test_the_cache_of_routes_is_bounded(log):
    for n in range(SUBJECTS_CACHED_MAX + 2):
        log.shard.route(b"log.1.n.d%d" % n)
    assert len(log.shard._routes) <= SUBJECTS_CACHED_MAX
    assert log.shard.route(subject_of("n", "d")).partition == 15


def test_a_genesis_is_folded_like_any_event_and_sets_the_number(log):
    log.publish(genesis("log-1"), to=("_refold", "log"))
    assert log.shard.fold_number == NEWEST.number
    assert log.documents["_refold", "log"].version == 1


def test_an_unknown_fold_number_stops_the_fold_at_the_next_event(log):
    log.publish(genesis("log-1"), to=("_refold", "log"))
    log.publish({"put": {"fold": 3}}, to=("_refold", "fold"))
    assert {checkpoint.fold for checkpoint in log.shard.checkpoints()} == {3}
    for follow in (
        lambda: log.publish({"put": 1}),
        lambda: log.skip({"put": 1}),
        lambda: log.take(Record(3, START, b"x", b"", b"")),
    ):
        with pytest.raises(FoldUnknown) as unknown:
            follow()
        assert unknown.value.facts == {"fold": 3, "known": 2, "sequence": 3}
    assert log.shard.read_sequence == 2


@pytest.mark.parametrize("state", [{"fold": 1}, {"fold": True}, {"fold": 2, "x": 1}])
def test_a_rejected_fold_number_changes_nothing(log, state):
    log.publish({"put": state}, to=("_refold", "fold"))
    assert log.shard.fold_number == 1
    assert log.publish({"put": 1}).entry.status is Status.applied


def test_a_document_of_an_author_named_fold_changes_nothing(log):
    log.publish({"put": {"fold": 2}}, to=("n", "fold"))
    assert log.shard.fold_number == 1


def test_a_shard_that_starts_after_an_unknown_number_does_not_fold():
    checkpoints = first_checkpoints("log-1")
    for checkpoint in checkpoints:
        checkpoint.fold = 3
    with pytest.raises(FoldUnknown):
        Log(checkpoints).publish({"put": 1})

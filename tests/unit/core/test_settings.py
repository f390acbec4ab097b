"""Settings of a namespace: their document, the rules under them, and from when on they are in force."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from refold.core import json_text
from refold.core.document import Document
from refold.core.errors import Refused
from refold.core.extensions import EXTENDED, apply_extended
from refold.core.fold import v1
from refold.core.fold_state import FoldState, first_checkpoints
from refold.core.merge import apply_merge
from refold.core.patch import compile_patch
from refold.core.settings import DEFAULTS, SETTINGS_KEPT_MAX, SETTINGS_PREFIX, SettingsInForce, read_settings
from refold.core.stream import PARTITIONS, partition_of
from support.events import record
from support.fold2 import FOLD_2, MOVE_ON

LIMITS = v1.LIMITS
NUMBERS = {"additionalProperties": {"type": "number"}}


def settings(state: Any, document: str = "settings:acme") -> Any:
    return read_settings(document, state, LIMITS)


def test_a_document_without_members_sets_the_defaults():
    assert settings({}) == DEFAULTS
    assert (DEFAULTS.on_conflict, DEFAULTS.feed, DEFAULTS.schema, DEFAULTS.check) == (
        "last_write_wins",
        False,
        None,
        None,
    )
    assert DEFAULTS.lowered(LIMITS) is LIMITS


def test_each_member_is_read():
    limits = {"state_bytes": 1000, "depth": 4}
    found = settings({"on_conflict": "merge", "limits": limits, "feed": True, "schema": NUMBERS})
    assert (found.on_conflict, found.feed) == ("merge", True)
    assert found.lowered(LIMITS) == replace(LIMITS, state_bytes=1000, depth=4)
    found.check({"a": 1})
    with pytest.raises(Refused) as caught:
        found.check({"a": "x"})
    assert (caught.value.reason, caught.value.field) == ("schema", "state/a")


@pytest.mark.parametrize(
    "strategy", ["reject", "first_write_wins", "last_write_wins", "merge", "custom:cart"]
)
def test_every_strategy_may_be_a_default(strategy):
    assert settings({"on_conflict": strategy}).on_conflict == strategy


@pytest.mark.parametrize(
    ("state", "pointer"),
    [
        (None, ""),
        ([], ""),
        ({"on_conflict": "newest"}, "/on_conflict"),
        ({"on_conflict": None}, "/on_conflict"),
        ({"on_conflict": "custom:"}, "/on_conflict"),
        ({"feed": 1}, "/feed"),
        ({"feed": None}, "/feed"),
        ({"limits": []}, "/limits"),
        ({"limits": {"id_chars": 10}}, "/limits/id_chars"),
        ({"limits": {"depth": 0}}, "/limits/depth"),
        ({"limits": {"depth": 129}}, "/limits/depth"),
        ({"limits": {"depth": True}}, "/limits/depth"),
        ({"limits": {"depth": 10.0}}, "/limits/depth"),
        ({"schema": None}, "/schema"),
        ({"schema": {"properties": {"a": {"format": "date"}}}}, "/schema/properties/a/format"),
        ({"retention": 1, "a/b": 2}, "/a~1b"),
    ],
)
def test_what_is_none_is_refused_with_its_pointer(state, pointer):
    with pytest.raises(Refused) as caught:
        settings(state)
    assert (caught.value.reason, caught.value.field) == ("bad_system_event", pointer)


@pytest.mark.parametrize("name", ["", "_refold", "a.b", "a b", "_other"])
def test_a_settings_document_names_a_namespace_of_authors(name):
    with pytest.raises(Refused):
        settings({}, SETTINGS_PREFIX + name)


def test_a_limit_is_never_above_that_of_a_later_fold():
    found = settings({"limits": {"depth": 100}})
    assert found.lowered(replace(LIMITS, depth=10)).depth == 10


def test_earlier_settings_are_kept_for_a_while():
    kept = SettingsInForce()
    assert kept.at("acme", 0) is DEFAULTS
    assert kept.at("acme", 5) is None
    each = {
        sequence: settings({"limits": {"depth": sequence}}) for sequence in range(1, SETTINGS_KEPT_MAX + 1)
    }
    for sequence, found in each.items():
        kept.set("acme", sequence, found)
    assert kept.latest() == {"acme": each[SETTINGS_KEPT_MAX]}
    assert [kept.at("acme", sequence) for sequence in each] == list(each.values())
    assert kept.at("acme", 0) is None
    kept.set("acme", 100, DEFAULTS)
    assert (kept.at("acme", 1), kept.at("acme", 2), kept.at("acme", 100)) == (None, each[2], DEFAULTS)


def test_a_patch_whose_result_the_schema_does_not_allow_changes_nothing():
    check = settings({"schema": NUMBERS}).check
    state: Any = {"a": 1}
    for raw in (
        [{"op": "add", "path": "/b", "value": 2}, {"op": "replace", "path": "/a", "value": "x"}],
        [{"op": "push", "path": "/b", "value": 2, "max": 3}],
        [{"op": "replace", "path": "", "value": {"a": None}}],
    ):
        with pytest.raises(Refused, match=r"^state/[ab]: "):
            apply_extended(
                state, raw, compile_patch(raw, LIMITS, EXTENDED), size=7, limits=LIMITS, check=check
            )
        assert state == {"a": 1}
    with pytest.raises(Refused, match=r"^state/b: "):
        apply_merge(state, {"a": 2, "b": []}, size=7, limits=LIMITS, check=check)
    assert state == {"a": 1}
    assert apply_merge(state, {"b": 2}, size=7, limits=LIMITS, check=check)[0] == {"a": 1, "b": 2}


class Shard:
    """A shard of all partitions, or of some; it folds what is its own."""

    def __init__(self, partitions=range(PARTITIONS)):
        self.state = FoldState([it for it in first_checkpoints("log-1") if it.partition in partitions])
        self.documents = {}

    def take(self, taken):
        where = self.state.route(taken.subject)
        if not self.state.has(where.partition):
            return self.state.skip(taken, where)
        document = self.documents.setdefault(where[1:3], Document.new(where))
        return self.state.fold(taken, where, document).entry


@pytest.fixture
def log():
    events = [
        (MOVE_ON, "_refold", "fold"),
        ({"put": {"a": "text"}}, "acme", "d"),
        ({"put": {"limits": {"state_bytes": 20, "operations": 1}}}, "_refold", "settings:acme"),
        ({"put": {"a": "a longer text than that"}}, "acme", "d"),
        ({"put": {"a": "a longer text than that"}}, "other", "d"),
        ({"put": {}}, "_refold", "settings:acme"),
        ({"put": {"a": "a longer text than that"}}, "acme", "d"),
    ]
    return [
        record(event, sequence=sequence, namespace=namespace, document=document)
        for sequence, (event, namespace, document) in enumerate(events, 1)
    ]


def test_settings_are_in_force_from_their_own_sequence(log):
    shard = Shard()
    entries = [shard.take(each) for each in log]
    assert [entry.reason for entry in entries] == ["", "", "", "state_too_large", "", "", ""]
    assert shard.state.rules_of("acme").limits == FOLD_2.limits
    assert shard.state.rules_under("acme", 3).limits.state_bytes == 20
    assert shard.state.rules_under("acme", 0).settings is DEFAULTS
    assert shard.state.rules_under("acme", 5) is None
    assert shard.state.rules_of("other") is shard.state.rules


def test_settings_are_in_force_in_a_shard_that_has_not_their_document(log):
    own = partition_of(b"acme", b"d")
    assert own not in {partition_of(b"_refold", name) for name in (b"fold", b"settings:acme")}
    shard = Shard([own])
    entries = [shard.take(each) for each in log]
    assert [entry and entry.reason for entry in entries] == [
        None,
        "",
        None,
        "state_too_large",
        None,
        None,
        "",
    ]


def test_a_shard_that_starts_in_the_middle_resumes_the_settings(log):
    shard = Shard()
    for each in log[:3]:
        shard.take(each)
    resumed = Shard()
    resumed.state = FoldState(shard.state.checkpoints())
    resumed.documents = shard.documents
    resumed.state.resume_settings("settings:acme", 3, json_text.loads(b'{"limits":{"state_bytes":20}}'))
    assert resumed.take(log[3]).reason == "state_too_large"


def test_a_schema_excludes_the_usual_way_which_could_not_undo():
    under = FOLD_2.under(settings({"schema": NUMBERS}))
    assert under.fold_usual is None
    assert under.settings.check is not None
    assert FOLD_2.under(settings({"feed": True})).fold_usual is FOLD_2.fold_usual


def test_fold_1_has_no_settings():
    shard = Shard()
    entry = shard.take(record({"put": {}}, sequence=1, namespace="_refold", document="settings:acme"))
    assert entry.reason == "bad_system_event"

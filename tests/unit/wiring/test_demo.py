"""Vital signs are documents that change in small steps."""

from refold.core import json_text
from refold.core.stream import check_name
from refold.wiring.demo import PROCESSES_EVERY, Vitals


def test_every_sign_is_a_document_with_a_good_name_and_a_canonical_state():
    signs = Vitals().look()
    assert {"cpu", "memory", "network", "processes"} <= signs.keys()
    assert any(name.startswith("disk-") for name in signs)
    for name, state in signs.items():
        assert check_name(name, "doc") == name
        assert json_text.loads(json_text.dumps(state)) == state


def test_processes_are_listed_only_occasionally():
    vitals = Vitals()
    looks = [vitals.look()["processes"] for _ in range(PROCESSES_EVERY)]
    assert all(look is looks[0] for look in looks)
    assert vitals.look()["processes"] is not looks[0]

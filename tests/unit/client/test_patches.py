"""A patch applied to a client's copy does what the fold does."""

import json

import pytest

from refold.client import Refused, apply_patch
from support.sources import ROOT

FOLDER = ROOT / "schemas" / "vectors"
PLAIN, EXTENDED = (
    json.loads((FOLDER / name).read_text()) for name in ("rfc6902.json", "fold2/extensions.json")
)
VECTORS = [*EXTENDED, *(case for case in PLAIN if "expected" in case)]


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["comment"])
def test_a_copy_is_patched_as_the_vectors_say_and_the_state_stays(case):
    before = json.dumps(case["doc"])
    if "expected" not in case:
        with pytest.raises(Refused) as refused:
            apply_patch(case["doc"], case["patch"])
        assert refused.value.reason == case["error"]
    else:
        assert apply_patch(case["doc"], case["patch"]) == case["expected"]
    assert json.dumps(case["doc"]) == before


def test_values_of_a_patch_are_not_shared_with_the_copy():
    card = {"text": "tea"}
    patch = [{"op": "add", "path": "/cards/-", "value": card}]
    first = apply_patch({"cards": []}, patch)
    second = apply_patch(first, [{"op": "replace", "path": "/cards/0/text", "value": "ink"}])
    assert (card, first, second) == ({"text": "tea"}, {"cards": [card]}, {"cards": [{"text": "ink"}]})


def test_a_deleted_document_is_empty_and_can_be_made_again():
    assert apply_patch({"a": 1}, [{"op": "remove", "path": ""}]) == {}
    assert apply_patch({}, [{"op": "add", "path": "", "value": 7}]) == 7

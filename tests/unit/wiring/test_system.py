"""While the system starts, what it waits for is said: a fault that only a person can mend comes before progress."""

from refold.wiring.system import _waited_for

BEHIND = {"folded_sequence": 4_405, "required_sequence": 6_007}


def test_a_projection_that_is_being_folded_is_shown_with_its_progress():
    problem = {"unreachable": ["projection"], "detail": "projection: projection_behind", **BEHIND}
    assert _waited_for(problem) == "projection is being folded: 4,405 of 6,007 events"


def test_a_projector_that_waits_for_a_damaged_store_is_shown_with_its_error():
    detail = "projector: store_damaged: `refold rebuild --from-nothing` makes the projection anew"
    assert _waited_for({"unreachable": ["projection", "projector"], "detail": detail, **BEHIND}) == detail

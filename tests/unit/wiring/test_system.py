"""While the system starts, `up` says what it waits for, and what keeps that from happening."""

from refold.wiring.system import _waited_for

BEHIND = {"folded_sequence": 4_405, "required_sequence": 6_007}


def test_a_projection_that_is_being_folded_is_shown_with_its_progress():
    detail = "projection: projection_behind: the projection is being folded: 4,405 of 6,007 events"
    assert _waited_for({"detail": detail, **BEHIND}) == "projection is being folded: 4,405 of 6,007 events"


def test_a_projector_that_waits_for_a_damaged_store_is_shown_with_its_error():
    damaged = "projector: store_damaged: `refold rebuild --from-nothing` makes the projection anew"
    said = _waited_for({"detail": f"{damaged}; projection: projection_behind: it is being folded", **BEHIND})
    assert said == f"projection is being folded: 4,405 of 6,007 events; {damaged}"

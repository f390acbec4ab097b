"""A document's copy for a commit."""

from __future__ import annotations

from dataclasses import fields, replace

from refold.core.document import Document


def test_a_copy_without_state_has_all_the_rest() -> None:
    names = [field.name for field in fields(Document)]
    document = Document(**dict(zip(names, range(1, len(names) + 1), strict=True)))  # type: ignore[arg-type]
    assert document.without_state() == replace(document, state=None, identities={})

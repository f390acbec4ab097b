"""One round of `tests/acceptance/key_rotation.py`, which runs for longer and says what must hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from acceptance.key_rotation import STORES, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("store", STORES)
def test_keys_are_changed_under_load(store: str, tmp_path: Path) -> None:
    counts = run(store, tmp_path, rounds=1, rate=2_000)
    assert counts["rotations"] == 1
    assert counts["values rewritten"] > 0

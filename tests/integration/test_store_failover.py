"""Kills and one wipe of the first store by `tests/acceptance/store_failover.py`, which says what must hold."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from support.up import environment

TESTS = Path(__file__).parents[1]
COMMAND = TESTS / "acceptance" / "store_failover.py"

pytestmark = pytest.mark.slow


def test_reads_go_on_and_are_never_older_while_the_first_of_two_stores_is_killed() -> None:
    seed = random.SystemRandom().randrange(10**6)
    options = ["--kills", "3", "--wipes", "1", "--writers", "16", "--seed", str(seed)]
    run = subprocess.run(
        [sys.executable, str(COMMAND), *options],
        env=environment(PYTHONPATH=str(TESTS)),
        capture_output=True,
        text=True,
        check=False,
    )
    # The seed is in its first line.
    assert run.returncode == 0, run.stdout + run.stderr

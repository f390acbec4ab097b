"""Few kills of `tests/acceptance/transfers.py`, which runs for longer and says what must hold."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from support.up import environment

TESTS = Path(__file__).parents[1]
COMMAND = TESTS / "acceptance" / "transfers.py"
KILLS = 8
READS = 300

pytestmark = pytest.mark.slow


def test_no_transfer_is_seen_in_part_whatever_is_killed() -> None:
    seed = random.SystemRandom().randrange(10**6)
    bounds = ["--kills", str(KILLS), "--reads", str(READS)]
    command = [sys.executable, str(COMMAND), *bounds, "--seed", str(seed)]
    run = subprocess.run(
        command, env=environment(PYTHONPATH=str(TESTS)), capture_output=True, text=True, check=False
    )
    # The seed is in its first line.
    assert run.returncode == 0, run.stdout + run.stderr

"""Few kills of `tests/acceptance/kill_under_load.py`, which runs for longer and says what must hold."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from support.up import environment

TESTS = Path(__file__).parents[1]
COMMAND = TESTS / "acceptance" / "kill_under_load.py"
KILLS = 12

pytestmark = pytest.mark.slow


def test_no_read_is_behind_what_a_client_was_sent_whatever_is_killed() -> None:
    seed = random.SystemRandom().randrange(10**6)
    command = [sys.executable, str(COMMAND), "--kills", str(KILLS), "--seed", str(seed)]
    run = subprocess.run(
        command, env=environment(PYTHONPATH=str(TESTS)), capture_output=True, text=True, check=False
    )
    # The seed is in its first line.
    assert run.returncode == 0, run.stdout + run.stderr

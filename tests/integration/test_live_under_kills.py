"""One kill of each kind of `tests/acceptance/live_under_kills.py`, which runs for longer and says what must hold."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from support.up import environment

TESTS = Path(__file__).parents[1]
COMMAND = TESTS / "acceptance" / "live_under_kills.py"
SUBSCRIBERS = 50

pytestmark = pytest.mark.slow


def test_subscribers_get_each_version_once_and_in_order_whatever_is_killed() -> None:
    seed = random.SystemRandom().randrange(10**6)
    options = ["--subscribers", str(SUBSCRIBERS), "--rounds", "1", "--seed", str(seed)]
    command = [sys.executable, str(COMMAND), *options]
    run = subprocess.run(
        command, env=environment(PYTHONPATH=str(TESTS)), capture_output=True, text=True, check=False
    )
    # The seed is in its first line.
    assert run.returncode == 0, run.stdout + run.stderr

"""`refold demo` shows everything in a temporary folder, which is gone afterwards, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from support.up import environment, run_refold, until


def test_once_prints_its_results_and_leaves_nothing_behind(tmp_path):
    found = run_refold("demo", "--once", "--seconds", "1", TMPDIR=str(tmp_path))
    assert found.returncode == 0, found.stderr
    for text in ("documents", "events/s", "behind", "refold history", "refold diff", "--at", "http://"):
        assert text in found.stdout, text
    # The columns that `refold history` prints, as the README shows them.
    header = "version  recorded                  actor        type "
    assert header in found.stdout
    assert header in (Path(__file__).parents[2] / "README.md").read_text()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path):
    output = tmp_path / "output"
    folder = tmp_path / "folder"
    folder.mkdir()
    command = [sys.executable, "-m", "refold", "demo", "--seconds", "1"]
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env=environment(TMPDIR=str(folder)), start_new_session=True
        )
    until(lambda: "Ctrl-C" in output.read_text() or process.poll() is not None)
    assert list(folder.iterdir()) != []
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 0, output.read_text()
    assert list(folder.iterdir()) == []

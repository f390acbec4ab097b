"""`refold demo` shows everything in a temporary folder, which is gone afterwards, however it ends."""

import os
import signal
import subprocess
import sys

from support.up import environment, run_refold, until


def test_once_it_tells_what_it_did_and_leaves_nothing_behind(tmp_path):
    found = run_refold("demo", "--once", "--seconds", "1", TMPDIR=str(tmp_path))
    assert found.returncode == 0, found.stderr
    for told in ("documents", "events/s", "behind", "refold history", "refold diff", "--at", "http://"):
        assert told in found.stdout, told
    assert list(tmp_path.iterdir()) == []


def test_stopped_by_ctrl_c_it_leaves_nothing_behind(tmp_path):
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

"""Every example runs unchanged and prints what it promises."""

import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.up import Up, environment

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOWN = {
    "quickstart.py": ("http", "applied is version 3"),
    "publish_with_nats.py": ("nats", "'status': 'applied'"),
    "time_travel.py": ("http", "in 2000 it was 1.0"),
    "strict_write.py": ("http", "conflict"),
    "bulk.py": ("http", "1000 of 1000 took a version"),
    "follow_changes.py": ("nats", "version 3 by example"),
}


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    running = Up.start(tmp_path_factory.mktemp("examples") / "data", "--durability", "os")
    yield running
    assert running.stop() == 0


def test_every_example_is_tested():
    assert {path.name for path in EXAMPLES.glob("*.py")} == SHOWN.keys()


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_prints_what_it_promises(up, name):
    endpoint, promised = SHOWN[name]
    command = [sys.executable, str(EXAMPLES / name), up.endpoints()[endpoint]]
    found = subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=120, check=False
    )
    assert found.returncode == 0, found.stderr
    assert promised in found.stdout


def test_a_listener_to_changes_ignores_acknowledgements_on_its_subject(up):
    url = up.endpoints()["nats"]
    command = [sys.executable, str(EXAMPLES / "follow_changes.py"), url]
    listener = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    author = urlsplit(url)
    with socket.create_connection((author.hostname, author.port), timeout=10) as forger:
        forger.sendall(b'CONNECT {"verbose": false}\r\n')
        while listener.poll() is None:
            forger.sendall(b'PUB state.forged.d change.acme.counter 9\r\n{"put":1}\r\nPING\r\n')
            # The server's own PING may follow its answer.
            while b"PONG\r\n" not in forger.recv(4096):
                pass
    shown, errors = listener.communicate(timeout=60)
    assert listener.returncode == 0, errors
    assert [line.split()[2:4] for line in shown.splitlines()] == [["by", "example"]] * 3

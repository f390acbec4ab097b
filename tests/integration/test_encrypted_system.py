"""A whole system under keys: `refold up` with REFOLD_KEYS and REFOLD_LOG_KEY."""

from __future__ import annotations

from pathlib import Path

import httpx

from refold.store.layers.keyring import KeyFile, Keys
from support.encrypted import ONE, TWO
from support.up import Up

CANARY = "canary-5f2c81"


def test_no_content_is_in_the_data_folder_of_a_system_with_keys(tmp_path: Path) -> None:
    keys, data = tmp_path / "keys.json", tmp_path / "data"
    KeyFile(keys).write(Keys(used=1, keys={1: ONE}))
    given = {"REFOLD_KEYS": str(keys), "REFOLD_LOG_KEY": "k" * 32}
    for version in (1, 2):
        up = Up.start(data, "--store", "files", "--durability", "os", **given)
        answer = httpx.put(f"{up.url}/v1/n/d", json={"secret": CANARY, "version": version}, timeout=60)
        assert answer.is_success, answer.text
        state = httpx.get(f"{up.url}/v1/n/d?version=1", timeout=60).text
        assert CANARY in state
        assert up.stop() == 0
    held = [path for path in data.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    assert held == []
    KeyFile(keys).write(Keys(used=1, keys={1: TWO}))
    before = _contents(data / "files")
    up = Up(data, "--store", "files", "--http", "127.0.0.1:0", "--nats-port", "0", **given)
    assert up.process.wait(60) == 1
    assert up.said().count("key_wrong: key 1 is not the key 1") == up.said().count("\n") == 1, up.said()
    assert _contents(data / "files") == before
    assert not any(b"k" * 32 in path.read_bytes() for path in data.rglob("*") if path.is_file())


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

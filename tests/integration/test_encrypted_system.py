"""A whole system under keys: `refold up` with REFOLD_KEYS, REFOLD_ENCRYPT and REFOLD_LOG_KEY."""

from __future__ import annotations

import json
from pathlib import Path

import asyncpg
import httpx
import pytest

from refold.store.layers.keyring import KeyFile, Keys
from support.encrypted import ONE, TWO
from support.up import Up, execute, run_refold, until

CANARY = "canary-5f2c81"


def _holding(data: Path, text: str) -> list[str]:
    found = [path for path in data.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]
    return [str(path.relative_to(data)) for path in found]


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
        if version == 2:
            _refuse_other_keys(data, tmp_path / "other.json")
            _change_keys_for_the_worse(keys, data, up.url)
        assert up.stop() == 0
    assert _holding(data, CANARY) == []
    KeyFile(keys).write(Keys(used=1, keys={1: TWO}))
    before = _contents(data / "files")
    up = Up(data, "--store", "files", "--http", "127.0.0.1:0", "--nats-port", "0", **given)
    assert up.process.wait(60) == 1
    assert up.said().count("key_wrong: key 1 is not the key 1") == up.said().count("\n") == 1, up.said()
    assert _contents(data / "files") == before
    assert not any(b"k" * 32 in path.read_bytes() for path in data.rglob("*") if path.is_file())


def _refuse_other_keys(data: Path, other: Path) -> None:
    """A command uses the keys of the running system, which no variable says; with others it changes nothing."""
    KeyFile(other).write(Keys(used=2, keys={1: ONE, 2: TWO}))
    done = run_refold("keys", "reencrypt", "--data", str(data), REFOLD_KEYS=str(other))
    assert (done.returncode, "REFOLD_KEYS: is not as in the running system" in done.stderr) == (2, True)
    done = run_refold("store", "status", "--json", "--data", str(data))
    assert json.loads(done.stdout)[0]["encoding"] == "zstd:1, encrypted", done.stderr


def _contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_no_state_is_in_the_data_folder_of_a_system_that_encrypts_all(tmp_path: Path) -> None:
    keys, data = tmp_path / "keys.json", tmp_path / "data"
    KeyFile(keys).write(Keys(used=1, keys={1: ONE}))
    # Compressed values would hide what is not encrypted.
    given = {"REFOLD_KEYS": str(keys), "REFOLD_LOG_KEY": "k" * 32, "REFOLD_COMPRESSION": "none"}
    for level, canary in (("history", "plain-0b91d6"), ("all", CANARY)):
        encrypted = {**given, "REFOLD_ENCRYPT": level}
        up = Up.start(data, "--durability", "os", **encrypted)
        namespace = f"{up.url}/v1/{canary[:5]}"
        with httpx.Client(base_url=namespace, timeout=60) as client:
            for number in range(60):
                # The second document is large: its row's state is flushed later than its commits.
                state = {"n": number, canary: canary, "text": f"{number:04}" * (20_000 * (number % 2))}
                assert client.put(f"d{number % 2}", json=state).is_success
            test = [{"op": "test", "path": f"/{canary}", "value": 0}]
            headers = {"Content-Type": "application/json-patch+json"}
            assert client.patch("d0", content=json.dumps(test), headers=headers).is_client_error
            assert canary in client.get("d0").text
            assert canary in client.get("d1", params={"version": 20}).text
            searched = client.get(namespace, params={"where": "$.n == 58"})
            if level == "history":
                assert [each["id"] for each in searched.json()["items"]] == ["d0"]
                execute(up, "SELECT refold.create_view('plain')")
                assert up.stop() == 0
                continue
            assert (searched.status_code, searched.json()["code"]) == (422, "store_encrypted")
            for command in (["verify"], ["rebuild"], ["verify"]):
                # All that no variable says is as in the running system.
                done = run_refold(*command, "--data", str(data))
                assert done.returncode == 0, done.stdout + done.stderr
            assert client.get("d0").json()["n"] == 58
        with pytest.raises(asyncpg.PostgresError, match="REFOLD_ENCRYPT=all"):
            execute(up, "SELECT state FROM refold_views.plain")
        execute(up, "CHECKPOINT")
        # Also in the write-ahead log: no content reaches PostgreSQL in plain text.
        assert _holding(data, CANARY) == []
        assert up.stop() == 0
    assert _holding(data, CANARY) == []
    # What was written before is still in the write-ahead log, so that such a search can find something.
    assert any("postgres/" in path for path in _holding(data, "plain-0b91d6"))


def _change_keys_for_the_worse(keys: Path, data: Path, url: str) -> None:
    """A changed file that cannot be used is a named problem; what is running goes on with the keys that it has."""
    content = keys.read_bytes()
    lost = keys.rename(keys.with_name("lost.json"))
    made = run_refold("keys", "add", "--data", str(data), REFOLD_KEYS=str(keys))
    assert (made.returncode, "need key 1: restore the file" in made.stderr) == (2, True)
    lost.rename(keys)
    keys.write_bytes(b"{}")
    ready = until(lambda: _problems(f"{url}/readyz", {"keys", "projector"}))
    assert all("REFOLD_KEYS" in problem for problem in ready.values())
    assert _problems(f"{url}/status", {"keys", "projector"}) == ready
    assert httpx.put(f"{url}/v1/n/d", json={"secret": CANARY, "version": 3}, timeout=60).is_success
    keys.write_bytes(content)
    until(lambda: "problems" not in httpx.get(f"{url}/readyz", timeout=60).json())


def _problems(url: str, names: set[str]) -> dict[str, str]:
    """Return the problems, once there are those of these names."""
    answer = httpx.get(url, timeout=60)
    assert answer.is_success, answer.text
    found: dict[str, str] = answer.json().get("problems", {})
    return found if found.keys() == names else {}

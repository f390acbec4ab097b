"""Values are encrypted, each bound to its place; a keyring is refused for a reason that names the field and no key."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.core.errors import KeyUnknown, KeyWrong, Refused
from refold.store.layers import Place
from refold.store.layers import encryption as layer
from refold.store.layers.compression import Compression
from refold.store.layers.encryption import Encryption, key_number
from refold.store.layers.keyring import (
    REFRESH_SECONDS,
    KeyCommand,
    KeyFile,
    Keyring,
    Keys,
    compare_checks,
    parse_keys,
)
from support.encrypted import ONE, TWO, FixedKeys, encryption, keyring

LOG = "8a1f3c"
PLACE = Place("pages.payload", "acme", "order-1", 7)

names = st.text(min_size=0, max_size=12, alphabet="a:1|9/é")
places = st.builds(Place, names, names, names, st.integers(0, 2**63 - 1))


def _codec(ring: Keyring | None = None, log_id: str = LOG) -> Encryption:
    return encryption(log_id, ring)


@given(place=places, plain=st.binary(max_size=2_000))
def test_what_is_encrypted_is_read_again_and_does_not_show_its_content(place: Place, plain: bytes) -> None:
    codec = _codec()
    stored = codec.encode(place, plain)
    assert codec.decode(place, stored) == plain
    assert key_number(stored) == 1
    assert len(plain) < 8 or plain not in stored
    assert codec.encode(place, plain) != stored


@given(place=places, other=places)
def test_a_value_that_is_moved_to_another_place_is_refused(place: Place, other: Place) -> None:
    codec = _codec()
    stored = codec.encode(place, b"content")
    if place != other:
        with pytest.raises(ValueError, match="for another place"):
            codec.decode(other, stored)


def test_one_flipped_bit_anywhere_is_refused() -> None:
    codec = _codec()
    stored = codec.encode(PLACE, b"content" * 200)
    for bit in range(len(stored) * 8):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match=r"key|codec"):
            codec.decode(PLACE, bytes(flipped))


@pytest.mark.parametrize("length", [0, 1, 4, 5, 17, 32, 40])
def test_a_truncated_value_is_refused(length: int) -> None:
    codec = _codec()
    with pytest.raises(ValueError, match=r"cut off|changed|nothing"):
        codec.decode(PLACE, codec.encode(PLACE, b"content")[:length])


def test_a_value_of_another_log_or_under_another_key_is_refused() -> None:
    stored = _codec().encode(PLACE, b"content")
    with pytest.raises(ValueError, match="under key 1 was changed"):
        _codec(log_id="other").decode(PLACE, stored)
    with pytest.raises(ValueError, match="under key 1 was changed"):
        _codec(keyring({1: TWO})).decode(PLACE, stored)
    with pytest.raises(ValueError, match="encrypted with key 1, the keyring has 2"):
        _codec(keyring({2: TWO}, used=2)).decode(PLACE, stored)


def test_encryption_is_switched_on_and_off_at_any_time() -> None:
    ring = keyring()
    plain, on = Compression(), _codec(ring)
    off = Encryption(plain, ring, LOG, is_encrypting=False)
    for value in (b"small", b"large" * 1_000):
        assert on.decode(PLACE, plain.encode(PLACE, value)) == value
        assert off.decode(PLACE, on.encode(PLACE, value)) == value
        assert off.encode(PLACE, value) == plain.encode(PLACE, value)
    assert not on.is_current(plain.encode(PLACE, b"small"))
    assert not off.is_current(on.encode(PLACE, b"small"))


def test_a_changed_keyring_is_used_without_a_restart() -> None:
    now = 0.0
    source = FixedKeys({1: ONE}, 1)
    codec = _codec(Keyring(source, timer=lambda: now))
    old = codec.encode(PLACE, b"content")
    source.change({1: ONE, 2: TWO}, 2)
    # Another process has written under the new key already.
    new = _codec(keyring({2: TWO}, used=2)).encode(PLACE, b"content")
    assert codec.decode(PLACE, new) == b"content"
    now += REFRESH_SECONDS
    assert key_number(codec.encode(PLACE, b"content")) == 2
    assert not codec.is_current(old)
    assert codec.decode(PLACE, old) == b"content"


def test_a_subkey_that_has_encrypted_too_much_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "ENCRYPTIONS_MAX", 2)
    codec = _codec()
    for _ in range(2):
        codec.encode(PLACE, b"")
    assert codec.problem is None
    codec.encode(PLACE, b"")
    assert codec.problem is not None
    assert "key=1" in codec.problem


def test_a_wrong_key_is_named_by_its_number_and_an_absent_one_too() -> None:
    ring = keyring({1: ONE, 2: TWO}, used=2)
    stored = {2: ring.check(2, LOG)}
    compare_checks({}, None, LOG)
    compare_checks(stored, ring, LOG)
    with pytest.raises(KeyWrong, match="key 2 is not"):
        compare_checks(stored, keyring({1: ONE, 2: ONE}), LOG)
    with pytest.raises(KeyUnknown, match="key 2, the keyring has 1"):
        compare_checks(stored, keyring(), LOG)
    with pytest.raises(KeyUnknown, match="key 2, there is no keyring"):
        compare_checks(stored, None, LOG)


def test_a_changed_keyring_with_another_key_of_a_known_number_is_not_used() -> None:
    now, source = 0.0, FixedKeys({1: ONE}, 1)
    ring = Keyring(source, timer=lambda: now)
    kept = ring.check(1, LOG)
    source.change({1: TWO, 2: ONE}, 2)
    now = REFRESH_SECONDS
    assert (ring.used, ring.check(1, LOG)) == (1, kept)
    assert "key 1" in str(ring.problem)


def test_a_file_that_is_gone_or_lacks_a_needed_key_is_to_be_restored(tmp_path: Path) -> None:
    times = iter(range(100))
    file = KeyFile(tmp_path / "keys.json")
    file.write(Keys(used=2, keys={2: TWO}))
    ring = Keyring(file, timer=lambda: float(next(times)))
    away = file.path.rename(tmp_path / "away.json")
    assert ring.used == 2
    assert "restore it" in str(ring.problem)
    file.make(Keys(used=1, keys={1: ONE}))
    ring.look()
    assert ring.go_back([2])
    assert (ring.used, ring.numbers) == (2, [2])
    assert "lacks key 2" in str(ring.problem)
    away.rename(file.path)
    assert (ring.used, ring.problem) == (2, None)


KEY = base64.b64encode(ONE).decode()


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (KEY, "REFOLD_KEYS"),
        ("[]", "REFOLD_KEYS"),
        (json.dumps({"keys": {}}), "REFOLD_KEYS.keys"),
        (json.dumps({"keys": {"01": KEY}}), "REFOLD_KEYS.keys"),
        (json.dumps({"keys": {"0": KEY}}), "REFOLD_KEYS.keys"),
        (json.dumps({"keys": {str(2**32): KEY}}), "REFOLD_KEYS.keys"),
        (json.dumps({"keys": {"1": KEY[:-4]}}), "REFOLD_KEYS.keys.1"),
        (json.dumps({"keys": {"1": 5}}), "REFOLD_KEYS.keys.1"),
        (json.dumps({"keys": {"1": KEY}, "use": 2}), "REFOLD_KEYS.use"),
        (json.dumps({"keys": {"1": KEY}, "use": True}), "REFOLD_KEYS.use"),
        (json.dumps({"keys": {"1": KEY}, "user": 1}), "REFOLD_KEYS.user"),
        (" " * 300_000, "REFOLD_KEYS"),
    ],
)
def test_a_malformed_keyring_is_refused_without_quoting_a_key(text: str, field: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_keys(text.encode(), "REFOLD_KEYS")
    assert refused.value.field == field
    assert KEY[:20] not in str(refused.value)


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    with pytest.raises(Refused, match="refold keys add"):
        file.read()
    file.write(Keys(used=1, keys={1: ONE}))
    assert file.read().keys == {1: ONE}
    assert ONE.hex() not in repr(file.read())
    file.path.chmod(0o640)
    with pytest.raises(Refused, match=r"mode 0640\): chmod 600"):
        file.read()


def test_a_file_that_becomes_invalid_changes_nothing_and_is_reported(tmp_path: Path) -> None:
    now = 0.0
    file = KeyFile(tmp_path / "keys.json")
    file.write(Keys(used=1, keys={1: ONE}))
    keyring = Keyring(file, timer=lambda: now)
    file.path.write_text("{}")
    now += REFRESH_SECONDS
    assert keyring.used == 1
    assert "REFOLD_KEYS" in str(keyring.problem)
    file.write(Keys(used=2, keys={1: ONE, 2: TWO}))
    now += REFRESH_SECONDS
    assert (keyring.used, keyring.problem) == (2, None)


def test_a_command_prints_the_keys_and_its_output_is_never_quoted() -> None:
    environment = {"PATH": os.environ["PATH"]}
    printed = json.dumps({"keys": {"1": KEY}})
    keys = KeyCommand(f"printf %s '{printed}'", environment).read()
    assert keys.keys == {1: ONE}
    for command in (f"sh -c 'echo {KEY}; exit 3'", f"echo {KEY}", "sh -c 'echo {{'"):
        with pytest.raises(Refused) as refused:
            KeyCommand(command, environment).read()
        assert refused.value.field == "REFOLD_KEYS_COMMAND"
        assert KEY[:20] not in str(refused.value)

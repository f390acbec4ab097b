"""Copies of the log's files: deleted or truncated blocks are kept, sealed ones are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from refold.embedded.nats import copy_files, keep_losses, kept_folders, stored_blocks, stored_bytes

SEALED = b"cmp\x01\x14 sealed"
"""A block of 20 bytes before compression."""


@pytest.fixture
def stream(tmp_path: Path) -> Path:
    """A stream of one sealed and one open block, and its configuration."""
    stream = tmp_path / "jetstream/$G/streams/STATE"
    (stream / "msgs").mkdir(parents=True)
    (stream / "meta.inf").write_bytes(b"{}")
    (stream / "msgs/1.blk").write_bytes(SEALED)
    (stream / "msgs/2.blk").write_bytes(b"open block")
    (stream / "msgs/index.db").write_bytes(b"made anew")
    return stream


def kept(home: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (home / "damaged").rglob("*") if path.is_file()}


def test_no_copy_is_made_if_the_server_lost_nothing(tmp_path: Path, stream: Path) -> None:
    copy_files(tmp_path)
    (stream / "msgs/2.blk").write_bytes(b"open block, longer")
    (stream / "msgs/index.db").unlink()
    assert keep_losses(tmp_path, {"STATE": True}) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["jetstream"]


def test_a_sealed_block_costs_no_space(tmp_path: Path, stream: Path) -> None:
    copy_files(tmp_path)
    assert (stream / "msgs/1.blk").stat().st_nlink == 2
    assert (stream / "msgs/2.blk").stat().st_nlink == 1


def test_a_block_sealed_at_start_is_shorter_and_complete(tmp_path: Path, stream: Path) -> None:
    copy_files(tmp_path)
    (stream / "msgs/2.blk").write_bytes(b"cmp\x01\x0a")
    assert keep_losses(tmp_path, {"STATE": True}) == []


def test_a_block_truncated_in_place_is_copied_unchanged(tmp_path: Path, stream: Path) -> None:
    copy_files(tmp_path)
    with (stream / "msgs/2.blk").open("r+b") as file:
        file.truncate(4)
    (line,) = keep_losses(tmp_path, {"STATE": True})
    assert "cut it from 10 to 4 bytes" in line
    assert kept(tmp_path) == {"2.blk": b"open block"}
    assert (stream / "msgs/2.blk").read_bytes() == b"open"


def test_a_block_sealed_without_its_damaged_end_is_copied_unchanged(tmp_path: Path, stream: Path) -> None:
    copy_files(tmp_path)
    (stream / "msgs/2.blk").write_bytes(b"cmp\x01\x06 sealed without the damaged end")
    (line,) = keep_losses(tmp_path, {"STATE": True})
    assert "cut it from 10 to 6 bytes" in line
    assert kept(tmp_path) == {"2.blk": b"open block"}


def test_every_block_that_the_start_changed_is_copied_if_the_stream_has_a_hole(
    tmp_path: Path, stream: Path
) -> None:
    copy_files(tmp_path)
    (stream / "msgs/2.blk").write_bytes(b"cmp\x01\x0a sealed as it was")
    (line,) = keep_losses(tmp_path, {"STATE": False})
    assert "changed it" in line
    assert kept(tmp_path) == {"2.blk": b"open block"}


def test_a_deleted_block_is_copied(tmp_path: Path, stream: Path) -> None:
    copy_files(tmp_path)
    (stream / "msgs/1.blk").unlink()
    (line,) = keep_losses(tmp_path, {"STATE": True})
    assert "deleted it" in line
    assert kept(tmp_path) == {"1.blk": SEALED}


def test_an_unreadable_stream_is_copied_and_restored(tmp_path: Path, stream: Path) -> None:
    copy_files(tmp_path)
    shutil.rmtree(stream)
    (line,) = keep_losses(tmp_path, {})
    assert "could not read the stream" in line
    assert kept(tmp_path) == {"1.blk": SEALED, "2.blk": b"open block", "meta.inf": b"{}"}
    assert (stream / "msgs/1.blk").read_bytes() == SEALED
    assert (stream / "msgs/2.blk").read_bytes() == b"open block"
    assert (stream / "meta.inf").read_bytes() == b"{}"


def test_the_same_loss_is_copied_once(tmp_path: Path, stream: Path) -> None:
    for _ in range(3):
        copy_files(tmp_path)
        shutil.rmtree(stream)
        keep_losses(tmp_path, {})
    assert len(kept_folders(tmp_path)) == 1


def test_copies_of_a_killed_start_are_available_to_the_next(tmp_path: Path, stream: Path) -> None:
    copy_files(tmp_path)
    with (stream / "msgs/2.blk").open("r+b") as file:
        file.truncate(4)
    copy_files(tmp_path)
    keep_losses(tmp_path, {"STATE": True})
    assert kept(tmp_path) == {"2.blk": b"open block"}


def test_blocks_deleted_by_a_killed_start_are_restored_by_the_next(tmp_path: Path, stream: Path) -> None:
    copy_files(tmp_path)
    shutil.rmtree(stream)
    copy_files(tmp_path)
    keep_losses(tmp_path, {})
    assert (stream / "msgs/1.blk").read_bytes() == SEALED
    assert kept(tmp_path) == {"1.blk": SEALED, "2.blk": b"open block", "meta.inf": b"{}"}


def test_the_size_of_a_sealed_block_is_the_one_before_compression(tmp_path: Path, stream: Path) -> None:
    (stream / "msgs/1.blk").write_bytes(b"cmp\x01" + bytes([0xCC, 0xF6, 0xFF, 0x03]) + b"compressed")
    assert stored_bytes(tmp_path) == 8_387_404 + len(b"open block")


def test_only_blocks_with_content_are_stored_events(tmp_path: Path, stream: Path) -> None:
    (said,) = stored_blocks(tmp_path)
    assert "holds 2 blocks of 22 bytes, 1.blk to 2.blk" in said
    (stream / "msgs/1.blk").write_bytes(b"")
    (stream / "msgs/2.blk").unlink()
    assert stored_blocks(tmp_path) == []

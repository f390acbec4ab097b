"""An export's file is complete or absent; a reader may pause or leave."""

import asyncio
import os
import threading
from io import FileIO
from pathlib import Path

import pytest

from refold.core.errors import Refused
from refold.transfer import LinesFile, Target, target_file
from support.up import until

LINES = [b'{"n":%d}' % number for number in range(20_000)]


def names_in(folder):
    return [path.name for path in folder.iterdir()]


async def write_to(path, chunk):
    async with target_file(path) as target:
        await target.write(chunk)


@pytest.mark.parametrize("name", ["all.jsonl", "all.jsonl.zst", "all.jsonl.gz"])
async def test_a_file_is_compressed_by_its_suffix_and_an_import_reads_it(tmp_path, name):
    path = tmp_path / name
    async with target_file(path) as target:
        for start in range(0, len(LINES), 1_000):
            await target.write(b"".join(line + b"\n" for line in LINES[start : start + 1_000]))
        assert not path.exists()
    assert [text for _, text in LinesFile(path).lines()] == LINES
    assert (path.stat().st_size < sum(map(len, LINES))) == (path.suffix != ".jsonl")
    assert names_in(tmp_path) == [name]


async def test_an_aborted_export_keeps_the_earlier_file(tmp_path):
    path = tmp_path / "all.jsonl"
    path.write_text("earlier")

    async def end_early():
        async with target_file(path, is_replaced=True) as target:
            await target.write(b"half")
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await end_early()
    assert path.read_text() == "earlier"
    assert names_in(tmp_path) == [path.name]


async def test_an_export_overwrites_a_file_only_on_request(tmp_path):
    path = tmp_path / "all.jsonl"
    path.write_text("earlier")
    with pytest.raises(Refused, match="--force") as refused:
        await write_to(path, b"new")
    assert refused.value.reason == "file_exists"
    assert path.read_text() == "earlier"
    async with target_file(path, is_replaced=True) as target:
        await target.write(b"new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("name", ["x.jsonl.bz2", "x.xz", "x.parquet"])
async def test_an_export_refuses_an_unsupported_compression_suffix(tmp_path, name):
    with pytest.raises(Refused, match=r"\.jsonl.*\.zst, \.gz") as refused:
        await write_to(tmp_path / name, b"x")
    assert refused.value.reason == "bad_usage"
    assert names_in(tmp_path) == []


async def test_a_file_that_cannot_be_written_is_refused_by_its_name(tmp_path):
    for path in (tmp_path / "no" / "folder.jsonl", tmp_path):
        with pytest.raises(Refused) as refused:
            await write_to(path, b"x")
        assert (refused.value.reason, refused.value.field) == ("cannot_write", str(path))


async def test_a_device_is_written_directly_and_a_full_disk_is_reported():
    await write_to(Path("/dev/null"), b"x")
    with pytest.raises(Refused, match="No space left"):
        await write_to(Path("/dev/full"), b"x")


@pytest.fixture
def pipe():
    """A pipe that is not read yet, and what writes to it."""
    reading, writing = os.pipe()
    with FileIO(reading, "rb") as reader, FileIO(writing, "wb") as writer:
        yield reader, Target(writer, "stdout")
        reader.close()
        until(lambda: "export-write" not in {thread.name for thread in threading.enumerate()})


async def test_a_paused_reader_blocks_neither_the_event_loop_nor_shutdown(pipe):
    reader, target = pipe
    chunk = bytes(1_000_000)
    writing = asyncio.create_task(target.write(chunk))
    read = await asyncio.to_thread(os.read, reader.fileno(), 10)
    assert not writing.done()
    while len(read) < len(chunk):
        read += os.read(reader.fileno(), len(chunk))
        await asyncio.sleep(0)
    await writing
    assert read == chunk


async def test_a_blocked_write_can_be_cancelled(pipe):
    reader, target = pipe
    writing = asyncio.create_task(target.write(bytes(1_000_000)))
    await asyncio.to_thread(os.read, reader.fileno(), 10)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing


async def test_a_closed_reader_raises_broken_pipe(pipe):
    reader, target = pipe
    reader.close()
    with pytest.raises(BrokenPipeError):
        await target.write(b"x")

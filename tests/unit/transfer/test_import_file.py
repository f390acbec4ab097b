"""Lines are read the same from any compression; errors are reported."""

import gzip
import hashlib

import pytest
import zstandard

import refold.transfer as module
from refold.core.errors import Refused
from refold.transfer import LinesFile

TEXT = b'{"a":1}\n\n{"b":2}\n' + b"x" * 100_000 + b"\nlast without an end"
LINES = list(enumerate(TEXT.split(b"\n"), start=1))


def zst(data):
    return zstandard.ZstdCompressor().compress(data)


PACKED = {
    "plain.jsonl": TEXT,
    "one.jsonl.zst": zst(TEXT),
    "frames.jsonl.zst": zst(TEXT[:50_000]) + zst(b"") + zst(TEXT[50_000:]),
    "streamed.jsonl.zst": zstandard.ZstdCompressor().compressobj().compress(TEXT)
    or zstandard.ZstdCompressor(write_content_size=False).compress(TEXT),
    "one.jsonl.gz": gzip.compress(TEXT),
    "members.jsonl.gz": gzip.compress(TEXT[:10]) + gzip.compress(TEXT[10:]),
}


@pytest.mark.parametrize("name", PACKED)
def test_lines_and_numbers_do_not_depend_on_the_compression(tmp_path, name):
    (tmp_path / name).write_bytes(PACKED[name])
    file = LinesFile(tmp_path / name)
    assert list(file.lines()) == LINES
    assert file.read_bytes == file.size_bytes == len(PACKED[name])


def test_a_large_window_is_read(tmp_path):
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    path = tmp_path / "long.jsonl.zst"
    path.write_bytes(zstandard.ZstdCompressor(compression_params=parameters).compress(TEXT))
    assert list(LinesFile(path).lines()) == LINES


def test_the_digest_covers_the_raw_bytes(tmp_path):
    path = tmp_path / "one.jsonl.zst"
    path.write_bytes(PACKED["one.jsonl.zst"])
    assert LinesFile(path).digest() == hashlib.sha256(PACKED["one.jsonl.zst"]).hexdigest()


@pytest.mark.parametrize("name", ["one.jsonl.zst", "one.jsonl.gz"])
def test_a_truncated_file_is_refused_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(PACKED[name][:-3])
    with pytest.raises(Refused, match=name):
        list(LinesFile(tmp_path / name).lines())


@pytest.mark.parametrize("name", ["plain.zst", "plain.gz"])
def test_a_file_with_the_wrong_compression_suffix_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(TEXT)
    with pytest.raises(Refused, match="cannot be unpacked"):
        list(LinesFile(tmp_path / name).lines())


def test_an_empty_file_has_no_lines(tmp_path):
    for name in ("a.jsonl", "a.jsonl.zst", "a.jsonl.gz"):
        (tmp_path / name).write_bytes(b"")
        assert list(LinesFile(tmp_path / name).lines()) == []


def test_a_line_that_is_too_long_is_skipped_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LINE_BYTES_MAX", 1_000)
    monkeypatch.setattr(module, "PLAIN_CHUNK_BYTES", 64)
    path = tmp_path / "plain.jsonl"
    path.write_bytes(TEXT)
    assert list(LinesFile(path).lines()) == [
        (number, None if len(line) > 1_000 else line) for number, line in LINES
    ]

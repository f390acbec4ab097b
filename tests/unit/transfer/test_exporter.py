"""An export is a consistent snapshot under concurrent writes, and an import of it restores the history."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refold.client.responses import Change
from refold.core import json_text
from refold.core.document import ABSENT
from refold.core.errors import RefoldError, Refused, TimedOut
from refold.core.timestamp import format_time
from refold.transfer import exporter as module
from refold.transfer.exporter import ExportListener, VersionLines, export
from refold.transfer.importer import ImportListener, import_file
from support.events import EVENTS
from support.folding import FoldingRefold
from support.log_refold import LogRefold
from support.scribe import NAMESPACE

SECOND = 1_000_000_000
START = 1_700_000_000
LATER = 100_000


async def lines_of(refold, *, meanwhile=None, waiting=None, **asked):
    """Export; return the tally and the lines. `meanwhile` is called at each write."""
    written = bytearray()

    async def write(chunk):
        written.extend(chunk)
        if meanwhile is not None:
            meanwhile()

    listener = ExportListener(progress=lambda _: None, waiting=waiting or pytest.fail)
    tally = await export(refold, NAMESPACE, write, listener, **asked)
    lines = bytes(written).splitlines()
    assert (tally.lines, tally.bytes) == (len(lines), len(written))
    return tally, lines


async def imported(lines, path):
    """Import lines into a namespace that keeps the outcome of each event."""
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    refold = FoldingRefold()
    # Later than the first log, as the clock is.
    refold.sequence = LATER
    listener = ImportListener(refused=pytest.fail, progress=lambda _: None, waiting=pytest.fail)
    await import_file(refold, "n", path, listener)
    return refold


@pytest.fixture
def refold():
    return LogRefold()


@given(events=st.lists(st.tuples(st.sampled_from("ab"), EVENTS), max_size=12))
async def test_an_import_of_exported_lines_makes_the_same_versions(events, tmp_path_factory):
    refold = LogRefold()
    for document, event in events:
        refold.scribe.publish(document, {**event, "actor": document, "type": "t\u0000"})
    tally, lines = await lines_of(refold, is_history=True)
    kept = {}
    for line in map(json.loads, lines):
        state = None if line["state"] is None and not line.get("present") else line["state"]
        kept.setdefault(line["doc"], []).append((line["version"], line["ts"], state))
    copy = await imported(lines, tmp_path_factory.getbasetemp() / "imported.jsonl")
    assert tally.documents == len(kept) == len(copy.documents)
    for document, history in copy.documents.items():
        (_, *snapshots) = refold.scribe.snapshots[NAMESPACE, document]
        folded = [it for it in history.folded if it.outcome.status.is_effective]
        assert len(folded) == len(history.folded) == len(snapshots) == len(kept[document])
        assert history.row.version == snapshots[-1].version
        assert history.state_bytes == snapshots[-1].state
        for made, first in zip(folded, snapshots, strict=True):
            assert (made.outcome.version, made.occurred_at) == (first.version, first.occurred_at)
            assert (made.event.fields["actor"], made.event.fields["type"]) == (document, "t\u0000")
        # Every state in between, to the byte.
        states = [json.loads(line) for line in lines if json.loads(line)["doc"] == document]
        for line, first in zip(states, snapshots, strict=True):
            is_absent = line["state"] is None and not line.get("present")
            assert (None if is_absent else json_text.dumps(line["state"])) == first.state


async def test_a_line_holds_document_version_time_author_type_and_meta_exactly(refold):
    state = {"big": 2**64 - 1, "float": 1.0, "tiny": 5e-324, "zero": -0.0, "é\u0000𝄞": None}
    about = {"actor": "ada", "type": "made", "meta": {"k": [1, 1.0]}}
    refold.scribe.put("d", state)
    refold.scribe.publish("d", {"put": None, "occurred_at": "2020-01-01T00:00:00.000000001+01:00", **about})
    refold.scribe.publish("d", {"delete": True})
    _, lines = await lines_of(refold, is_history=True)
    first, second, third = map(json.loads, lines)
    assert json_text.dumps(first["state"]) == refold.scribe.snapshots[NAMESPACE, "d"][1].state
    assert first == {
        "doc": "d",
        "version": 1,
        "ts": format_time((START + 1) * SECOND),
        "state": first["state"],
    }
    ts = "2019-12-31T23:00:00.000000001Z"
    assert second == {"doc": "d", "version": 2, "ts": ts, "state": None, "present": True, **about}
    assert third == {"doc": "d", "version": 3, "ts": format_time((START + 3) * SECOND), "state": None}


async def test_without_history_there_is_a_line_for_each_present_document(refold):
    for document in ("a", "b", "c"):
        refold.scribe.put(document, {"is": document})
    refold.scribe.put("b", None)
    refold.scribe.publish("c", {"delete": True})
    tally, lines = await lines_of(refold)
    assert [json.loads(line) for line in lines] == [
        {"doc": "a", "state": {"is": "a"}, "ts": format_time((START + 1) * SECOND)},
        {"doc": "b", "state": None, "present": True, "ts": format_time((START + 4) * SECOND)},
    ]
    assert (tally.documents, tally.sequence) == (2, 5)


@pytest.mark.parametrize("is_history", [False, True])
async def test_writes_during_an_export_are_not_exported(refold, is_history, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    for number in range(30):
        refold.scribe.put(f"d{number % 10}", number)
    _, undisturbed = await lines_of(refold, is_history=is_history)

    def write():
        refold.scribe.put("d9", "late")
        refold.scribe.put("a-new-one", "late")
        refold.scribe.publish("d8", {"delete": True})

    refold.scribe.put("d0", "just before")
    tally, lines = await lines_of(refold, is_history=is_history, meanwhile=write)
    assert tally.sequence == 31
    assert len(lines) == len(undisturbed) + is_history
    assert b"late" not in b"".join(lines)


async def test_an_export_at_a_time_covers_a_prefix_of_the_log(refold):
    refold.scribe.put("a", 1)
    refold.scribe.put("gone", 2)
    refold.scribe.publish("gone", {"delete": True})
    refold.scribe.put("a", 4)
    for seconds, states, versions in ((2, [1, 2], 2), (2.5, [1, 2], 2), (3, [1], 3), (4, [4], 4), (0, [], 0)):
        at = str(START + seconds)
        _, lines = await lines_of(refold, at=at)
        assert [json.loads(line)["state"] for line in lines] == states
        _, lines = await lines_of(refold, at=at, is_history=True)
        assert len(lines) == versions


async def test_an_export_waits_for_the_projection_and_reports_it(refold, monkeypatch):
    refold.scribe.put("a", 1)
    refold.faults = [TimedOut("not yet"), TimedOut("not yet")]
    waited = []
    _, lines = await lines_of(refold, waiting=waited.append)
    assert (len(lines), len(waited)) == (1, 2)
    monkeypatch.setattr(module, "LAG_TRIES_MAX", 1)
    refold.faults = [TimedOut("never")] * 2
    with pytest.raises(TimedOut):
        await lines_of(refold, waiting=waited.append)


async def test_an_invalid_time_is_refused(refold):
    with pytest.raises(Refused) as refused:
        await lines_of(refold, at="soon")
    assert refused.value.reason == "bad_time"


async def test_a_bounded_number_of_histories_is_prefetched(refold, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    for number in range(20):
        refold.scribe.put(f"d{number:02}", number)
    ahead = []
    await lines_of(refold, is_history=True, meanwhile=lambda: ahead.append(len(refold.asked) - len(ahead)))
    assert max(ahead) <= module.AHEAD_MAX + 1


async def test_a_history_with_a_gap_is_an_error(refold):
    change = Change(version=2, sequence=2, recorded_at="", occurred_at="", patch=[])
    with pytest.raises(RefoldError, match="gap"):
        VersionLines("d").line(change)


@pytest.mark.parametrize("error", [BrokenPipeError, asyncio.CancelledError])
async def test_an_error_of_the_writer_propagates_unchanged(refold, error):
    for number in range(20):
        refold.scribe.put(f"d{number:02}", number)

    def end():
        raise error

    with pytest.raises(error):
        await lines_of(refold, is_history=True, meanwhile=end)


async def test_states_without_history_are_imported_into_another_namespace(refold, tmp_path):
    refold.scribe.put("a", {"n": 1.0})
    refold.scribe.put("a", {"n": 1})
    refold.scribe.put("b", None)
    _, lines = await lines_of(refold)
    copy = await imported(lines, tmp_path / "states.jsonl")
    assert {name: history.state_bytes for name, history in copy.documents.items()} == {
        "a": b'{"n":1}',
        "b": b"null",
    }
    assert all(history.state is not ABSENT for history in copy.documents.values())

"""An import makes small events, can be repeated, and keeps each document's order."""

import json
import random
import time

import pytest

from refold.core.document import ABSENT
from refold.core.errors import Refused, ServiceUnavailable
from refold.transfer import importer as module
from refold.transfer.importer import ImportListener, import_file
from support.folding import FoldingRefold


class Recorder:
    """Records the calls of a listener."""

    def __init__(self):
        self.refused = []
        self.texts = []
        self.waited = 0
        self.tallies = []

    def listener(self):
        def waiting(_):
            self.waited += 1

        def refused(number, why):
            self.refused.append((number, why.reason))
            self.texts.append(str(why))

        return ImportListener(
            refused=refused,
            progress=lambda tally: self.tallies.append(tally.lines),
            waiting=waiting,
        )


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(module, "BATCH_LINES_MAX", 3)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.jsonl"


def write(path, lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))


def states(document, values, **others):
    return [{"doc": document, "state": value, "ts": 1000 + i, **others} for i, value in enumerate(values)]


def versions(document, values, first=1, **others):
    lines = states(document, values, **others)
    return [line | {"version": version} for version, line in enumerate(lines, first)]


async def run_import(refold, path, **options):
    recorder = Recorder()
    return await import_file(refold, "n", path, recorder.listener(), **options), recorder


BIG = {f"k{i}": i for i in range(50)}


async def test_the_first_event_is_a_put_and_the_next_ones_are_patches(path):
    write(path, states("d", [BIG, {**BIG, "k1": 0}, None, BIG]))
    refold = FoldingRefold()
    tally, _ = await run_import(refold, path)
    assert [next(iter(event.keys() & {"put", "patch", "delete"})) for event in refold.appended] == [
        "put",
        "patch",
        "delete",
        "put",
    ]
    assert refold.appended[1]["patch"] == [{"op": "replace", "path": "/k1", "value": 0}]
    assert (tally.lines, tally.events) == (4, 4)


async def test_a_patch_larger_than_its_state_is_a_put(path):
    write(path, states("d", [BIG, {"a": 1}]))
    refold = FoldingRefold()
    await run_import(refold, path)
    assert refold.appended[1]["put"] == {"a": 1}


async def test_an_unchanged_line_makes_no_event_unless_it_has_a_version(path):
    write(path, [*states("d", [BIG, BIG]), *versions("e", [BIG, BIG])])
    refold = FoldingRefold()
    tally, _ = await run_import(refold, path)
    assert (tally.events, tally.unchanged) == (3, 1)
    assert refold.documents["e"].row.version == 2


async def test_an_event_holds_time_author_file_and_line(path):
    write(path, states("d", [BIG], actor="ada", commit="abc"))
    refold = FoldingRefold()
    await run_import(refold, path)
    (event,) = refold.appended
    digest = module.LinesFile(path).digest()
    assert event["occurred_at"] == "1970-01-01T00:16:40.000000000Z"
    assert event["actor"] == "ada"
    note = event["meta"].pop("import")
    assert (note["file"], note["line"], event["meta"]) == (digest, 1, {"commit": "abc"})


async def test_a_line_out_of_version_order_is_refused_with_all_later_ones(path):
    lines = [*versions("gap", [1, 2, 3, 4]), *versions("late", [1], first=2), *versions("other", [1, 2])]
    del lines[1]
    write(path, lines)
    refold = FoldingRefold()
    refold.publish("other", {"put": "another writer's"})
    tally, recorder = await run_import(refold, path)
    assert recorder.refused == [(number, "version_differs") for number in range(2, 7)]
    assert (tally.events, tally.refused) == (1, 5)
    assert (refold.state("gap"), refold.state("other")) == (1, "another writer's")
    assert "late" not in refold.documents


async def test_a_concurrent_write_does_not_shift_versions(path):
    write(path, versions("d", [1, 2, 3, 4]))
    refold = FoldingRefold()
    refold.before_append = [lambda: None, lambda: refold.publish("d", {"put": "another writer's"})]
    tally, recorder = await run_import(refold, path)
    assert recorder.refused == [(4, "version_differs")]
    assert (tally.events, refold.state("d"), refold.documents["d"].row.version) == (3, "another writer's", 4)


async def test_an_exported_event_keeps_its_type_and_earlier_import_metadata(path):
    first = {"file": "f", "line": 7}
    notes = [{}, {"import": first}, {"import": {"file": "g", "line": 1, "origin": first}}, {"import": "x"}]
    lines = versions("d", [1, 2, 3, 4], type="t")
    write(path, [line | {"meta": meta} for line, meta in zip(lines, notes, strict=True)])
    refold = FoldingRefold()
    await run_import(refold, path)
    assert {event["type"] for event in refold.appended} == {"t"}
    noted = [event["meta"]["import"] for event in refold.appended]
    assert [note["line"] for note in noted] == [1, 2, 3, 4]
    assert [note.get("origin") for note in noted] == [None, first, first, "x"]


async def test_metadata_of_another_import_does_not_mark_lines_as_imported(path, tmp_path):
    write(path, states("d", [1, 2, 3]))
    digest = module.LinesFile(path).digest()
    exported = tmp_path / "exported.jsonl"
    noted = {"import": {"file": digest, "line": 3}}
    write(exported, versions("d", [5], meta=noted))
    refold = FoldingRefold()
    await run_import(refold, exported)
    # The first file's own lines were never imported here, although the export's meta names them.
    tally, _ = await run_import(refold, path)
    assert (tally.events, tally.present, refold.state("d")) == (3, 0, 3)
    tally, _ = await run_import(refold, path)
    assert (tally.events, tally.present) == (0, 3)


async def test_a_repeated_import_publishes_nothing(path):
    write(path, [*states("d", [BIG, {**BIG, "k1": 0}, None, {"a": 1}]), *states("e", [1, 2, None])])
    refold = FoldingRefold()
    first, _ = await run_import(refold, path)
    count = len(refold.appended)
    second, _ = await run_import(refold, path)
    assert len(refold.appended) == count
    assert (second.events, second.present) == (0, first.events)


async def test_a_mended_file_repeats_nothing_and_adds_only_what_is_not_too_late(path):
    lines = [*states("d", [1, 2, 2, 3]), *states("e", [7, 8]), *states("f", [5])]
    refold = FoldingRefold()
    broken = [{**line, "ts": "soon"} if at in (1, 5, 6) else line for at, line in enumerate(lines)]
    write(path, broken)
    assert (await run_import(refold, path))[0].events == 4
    write(path, lines)
    tally, recorder = await run_import(refold, path)
    # A history takes no version in between; the last line of a document, and a document's only one, are imported.
    assert recorder.refused == [(2, "older_than_imported")]
    assert "--allow-older" in recorder.texts[0]
    assert (tally.events, tally.present, tally.refused) == (2, 4, 1)
    assert [refold.state(name) for name in "def"] == [3, 8, 5]
    before = len(refold.appended)
    await run_import(refold, path)
    assert len(refold.appended) == before


@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_file_with_more_lines_leaves_what_others_wrote_to_documents_without_new_ones(path, is_cut):
    lines = [*versions("v", [1, 1, 2]), *states("d", [1, 1, None, 2]), *states("e", [1])]
    refold = FoldingRefold()
    write(path, lines)
    await run_import(refold, path)
    refold.publish("e", {"put": "another writer's"})
    more = [*versions("v", [3], first=4), *[{"doc": "d", "state": state, "ts": 2000} for state in (3, 4)]]
    write(path, [*lines, *more])
    if is_cut:
        # The first of two batches with new lines is folded, but never answered.
        refold.faults = [ServiceUnavailable("away")] * 1_000
        with pytest.raises(ServiceUnavailable):
            await run_import(refold, path)
        refold.faults = []
    _, recorder = await run_import(refold, path)
    assert (recorder.refused, refold.state("e")) == ([], "another writer's")
    assert [refold.documents[name].row.version for name in "vde"] == [4, 5, 2]
    assert (refold.state("v"), refold.state("d")) == (3, 4)


async def test_a_line_older_than_another_files_is_imported_only_on_request(path, tmp_path):
    refold, older = FoldingRefold(), tmp_path / "older.jsonl"
    write(path, states("d", [1, 2]))
    await run_import(refold, path)
    write(older, [{"doc": "d", "state": 0, "ts": 900}])
    assert (await run_import(refold, older))[1].refused == [(1, "older_than_imported")]
    assert refold.state("d") == 2
    assert (await run_import(refold, older, takes_older=True))[0].events == 1
    assert refold.state("d") == 0


async def test_a_malformed_line_is_reported_and_the_rest_is_imported(path):
    write(path, [*states("d", [1]), "{", "", *states("d", [2]), '{"doc":"d","state":3}'])
    refold = FoldingRefold()
    tally, recorder = await run_import(refold, path)
    assert recorder.refused == [(2, "bad_json"), (5, "bad_line")]
    assert (tally.lines, tally.events, tally.refused) == (5, 2, 2)
    assert refold.state("d") == 2


async def test_a_rejected_line_is_reported_and_later_lines_continue_without_it(path):
    lines = states("d", [BIG, {**BIG, "k1": "future"}, {**BIG, "k2": 0}, {**BIG, "k3": 0}, {**BIG, "k4": 0}])
    lines[1]["ts"] = "2200-01-01"
    write(path, lines)
    refold = FoldingRefold()
    tally, recorder = await run_import(refold, path)
    assert recorder.refused == [(2, "occurred_in_future")]
    assert (tally.events, tally.refused) == (4, 1)
    assert refold.state("d") == {**BIG, "k4": 0}


async def test_a_dry_run_reports_a_future_time_and_the_clock_it_used(path):
    now = time.time()
    times = [now - 10, now + 200, now + 86_400, "2200-01-01", "2200-01-01"]
    lines = states("d", [1, 2, 3, 4, 2])
    write(path, [line | {"ts": ts} for line, ts in zip(lines, times, strict=True)])
    refold = FoldingRefold()
    tally, recorder = await run_import(refold, path, is_dry=True)
    assert recorder.refused == [(3, "occurred_in_future"), (4, "occurred_in_future")]
    assert "more than 5 minutes after now, by this machine's clock" in recorder.texts[0]
    assert (tally.events, tally.refused, tally.unchanged, refold.appended) == (2, 2, 1, [])


async def test_a_rejected_line_has_the_same_reason_in_a_repeated_import(path):
    write(path, [line | {"ts": "2200-01-01"} for line in states("d", [1, 2])])
    refold = FoldingRefold()
    texts = [(await run_import(refold, path))[1].texts for _ in range(2)]
    assert texts[0] == texts[1]
    assert "more than five minutes after recorded time" in texts[0][0]


async def test_a_bad_namespace_is_refused_before_any_line(path):
    write(path, ["{", "{"])
    recorder = Recorder()
    with pytest.raises(Refused, match="system's own") as refused:
        await import_file(FoldingRefold(), "_bad", path, recorder.listener())
    assert (refused.value.reason, recorder.refused) == ("reserved_namespace", [])


async def test_many_refused_lines_of_a_document_are_reported_singly_and_cost_few_events(path, monkeypatch):
    monkeypatch.setattr(module, "BATCH_LINES_MAX", 1_000)
    lines = states("d", [{**BIG, "k1": number} for number in range(40)])
    for line in lines[5:25]:
        line["ts"] = "2200-01-01"
    write(path, [*lines, *states("e", [1, 2])])
    refold = FoldingRefold()
    tally, recorder = await run_import(refold, path)
    assert recorder.refused == [(number, "occurred_in_future") for number in range(6, 26)]
    assert (tally.events, tally.refused) == (22, 20)
    assert (refold.state("d"), refold.state("e")) == ({**BIG, "k1": 39}, 2)
    assert len(refold.appended) < 4 * len(lines)


async def test_an_event_too_large_to_publish_is_refused_before_it_is_sent(path):
    write(path, states("d", [1, {"a": "x" * 1_100_000}, 2]))
    refold = FoldingRefold()
    tally, recorder = await run_import(refold, path)
    assert recorder.refused == [(2, "event_too_large")]
    assert tally.events == 2
    assert refold.state("d") == 2


@pytest.mark.parametrize("when", range(4))
async def test_after_a_concurrent_write_every_later_line_is_exact(path, when):
    values = [{**BIG, "k1": -i} for i in range(10)]
    write(path, states("d", values))
    refold = FoldingRefold()
    refold.before_append = [lambda: None] * when + [
        lambda: refold.publish("d", {"put": {"another": "writer"}})
    ]
    tally, recorder = await run_import(refold, path)
    assert recorder.refused == []
    assert tally.events == 10
    assert refold.state("d") == values[-1]


async def test_an_import_gives_up_a_document_that_keeps_changing(path):
    write(path, states("d", [1, 2]))
    refold = FoldingRefold()
    refold.before_append = [lambda: refold.publish("d", {"merge": {"x": 1}})] * 100
    tally, recorder = await run_import(refold, path)
    assert recorder.refused == [(1, "conflict"), (2, "conflict")]
    assert (tally.events, tally.refused) == (0, 2)


async def test_a_lost_response_is_requested_again_without_duplicates(path):
    write(path, states("d", [1, 2, 3, 4, 5]))
    refold = FoldingRefold()
    refold.faults = [ServiceUnavailable("lost"), ServiceUnavailable("lost again")]
    tally, recorder = await run_import(refold, path)
    assert recorder.waited == 2
    assert tally.events == 5
    assert refold.documents["d"].row.version == 5
    assert refold.state("d") == 5


async def test_a_service_that_stays_unreachable_ends_the_import(path):
    write(path, states("d", [1]))
    refold = FoldingRefold()
    refold.faults = [ServiceUnavailable("away")] * 1_000
    with pytest.raises(ServiceUnavailable):
        await run_import(refold, path)


@pytest.mark.parametrize("seed", range(8))
async def test_an_interrupted_import_has_the_same_result_when_repeated(path, seed, monkeypatch):
    chance = random.Random(seed)
    documents = {name: {} for name in "abcde"}
    lines = []
    for number in range(120):
        name = chance.choice("abcde")
        state = documents[name]
        if chance.random() < 0.1:
            documents[name], value = {}, None
        else:
            state[f"k{chance.randrange(8)}"] = chance.randrange(4)
            value = dict(state)
        lines.append({"doc": name, "state": value, "ts": 1000 + number})
    write(path, lines)
    undisturbed, disturbed = FoldingRefold(), FoldingRefold()
    await run_import(undisturbed, path)
    monkeypatch.setattr(module, "UNANSWERED_TRIES_MAX", 0)
    while True:
        disturbed.faults = [ServiceUnavailable("killed")] if chance.random() < 0.5 else []
        try:
            await run_import(disturbed, path)
        except ServiceUnavailable:
            continue
        break
    for name, history in undisturbed.documents.items():
        again = disturbed.documents[name]
        assert again.state == history.state or again.state is history.state is ABSENT
        assert again.row.version == history.row.version

"""Usage is counted exactly: by every grouping the same sums, those of the projection's checkpoints."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import NoReturn

import pytest

from refold.core.document import Status
from refold.core.errors import LogHole, Refused, StoreDiffers
from refold.log.memory import MemoryLog
from refold.store.memory import MemoryStore
from refold.usage import OTHER_SECTIONS, SECTIONS_MAX, Counted, reader, report
from refold.usage.reader import UsageReader
from refold.usage.report import COUNTS, Question, answer
from refold.usage.storage import Position, Storage
from support.projection import append, ports, project, projecting

MINUTE = 60_000_000_000
NOON = 1_800_014_400_000_000_000
"""A full hour."""


class Clock:
    """A broker's clock that the test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> int:
        return self.now


async def story(log: MemoryLog, rounds: int = 3) -> None:
    """Append events of every outcome: of a round's ten, 4 applied, 1 merged, 3 rejected and 1 duplicate, 1 unnamed."""
    for number in range(rounds):
        name, ada = f"d{number}", {"actor": "ada", "type": "made"}
        await append(log, name, {"put": {"a": {"b": 1}, "list": []}, "id": "first", **ada})
        await append(log, name, {"put": {"a": {"b": 1}, "list": []}, "id": "first", **ada})
        both = [{"op": "replace", "path": "/a/b", "value": 2}, {"op": "add", "path": "/list/-", "value": 1}]
        await append(
            log, name, {"patch": [{"op": "test", "path": "/a/b", "value": 1}, *both], "actor": "bob"}
        )
        await append(log, name, {"merge": {"c": number}, "session": "s"})
        await append(log, name, {"patch": [{"op": "replace", "path": "/c", "value": 9}], "base": 2})
        await append(log, name, {"put": 1, "base": 1, "on_conflict": "reject", "actor": "eve"})
        await append(log, name, {"put": 1, "base": 99, "actor": "eve"})
        await append(log, name, b"no JSON")
        await append(log, name, {"delete": True, "actor": "ada"}, namespace="m")
        await append(log, name, {"put": None, "actor": "ada"}, namespace="m")


async def counted(log: MemoryLog, store: MemoryStore, path: Path, *totals: str) -> Storage:
    """Count into a file."""
    storage = Storage(path, (await log.info()).log_id, totals)
    with ExitStack() as stack:
        stack.callback(storage.close)
        await UsageReader(log, store, storage).catch_up()
        stack.pop_all()
    return storage


def rows(storage: Storage, by: str, namespace: str | None = "n", **times: str) -> dict:
    """Return the rows of an answer by their names."""
    found = answer(storage, Question.read(namespace, by, **times))
    name = "actor" if by == "session" else by
    assert found["groups"] == len(found["rows"])
    return {row.pop(name): row for row in found["rows"]}


def content(storage: Storage) -> str:
    return "\n".join(storage.file.iterdump())


async def test_the_sums_over_every_grouping_are_those_of_the_checkpoints(tmp_path):
    log = MemoryLog("log-1")
    await story(log)
    store = await project(log)
    with closing(await counted(log, store, tmp_path / "usage.sqlite")) as storage:
        statuses = zip(*(each.counts for each in await store.checkpoints()), strict=True)
        applied, merged, rejected, duplicate = map(sum, statuses)
        assert (applied, merged, rejected, duplicate) == (13, 3, 12, 3)
        sums = []
        for by in ("namespace", "hour", "actor", "type", "section", "session"):
            total = answer(storage, Question.read(None, by))["total"]
            sums.append(tuple(total[name] for name in COUNTS))
        assert sums[0][:6] == (31, applied + merged, merged, rejected, duplicate, 6)
        assert set(sums) == {sums[0]}
        assert storage.position.sequence == 31


async def test_events_are_counted_by_actor_type_section_and_document(tmp_path):
    log = MemoryLog("log-1")
    await story(log)
    with closing(await counted(log, await project(log), tmp_path / "usage.sqlite")) as storage:
        by_actor = rows(storage, "actor")
        names = ("events", "effective", "merged", "rejected", "duplicate", "conflicts", "documents")
        shown = {actor: tuple(row[name] for name in names) for actor, row in by_actor.items()}
        assert shown == {
            "ada": (6, 3, 0, 0, 3, 0, 3),
            "bob": (3, 3, 0, 0, 0, 0, 3),
            "eve": (6, 0, 0, 6, 0, 3, 3),
            None: (9, 6, 3, 3, 0, 3, 3),
        }
        assert {kind: row["events"] for kind, row in rows(storage, "type").items()} == {"made": 6, None: 18}
        sections = {
            name: (row["events"], row["operations"]) for name, row in rows(storage, "section").items()
        }
        # What is merged with all its operations dropped has no section.
        assert sections == {None: (15, 0), "": (3, 3), "/a": (3, 3), "/list": (0, 3), "/c": (3, 3)}
        ((hour, row),) = rows(storage, "hour").items()
        assert (row["documents"], row["actors"]) == (3, 3)
        assert hour.endswith(":00:00.000000000Z")


async def test_neither_the_size_of_a_batch_nor_a_restart_changes_what_is_counted(tmp_path, monkeypatch):
    log = MemoryLog("log-1")
    store = MemoryStore()
    async with projecting(ports(log, store)) as running:
        for _ in range(4):
            await story(log, 2)
            await running.committed((await log.info()).last_sequence)
            (await counted(log, store, tmp_path / "often.sqlite")).close()
    with closing(await counted(log, store, tmp_path / "often.sqlite")) as often:
        for size in (7, 1):
            monkeypatch.setattr(reader, "BATCH_EVENTS_MAX", size)
            monkeypatch.setattr(reader, "REJECTIONS_READ", 2)
            with closing(await counted(log, store, tmp_path / f"{size}.sqlite")) as other:
                assert content(other) == content(often)


async def test_a_session_ends_with_a_pause_of_five_minutes(tmp_path):
    clock = Clock()
    log = MemoryLog("log-1", clock=clock)
    for actor, minutes in (
        ("ada", 0),
        ("bob", 2),
        ("ada", 4.9),
        ("ada", 9),
        ("bob", 6.5),
        (None, 12),
        ("ada", 14),
    ):
        clock.now = NOON + int(minutes * MINUTE)
        await append(log, "d", {"put": minutes, **({"actor": actor} if actor else {})})
    clock.now = NOON + 30 * MINUTE
    await append(log, "d", {"put": 0, "actor": "ada"})
    await append(log, "d", {"put": 0, "actor": "ada", "session": "other"})
    with closing(await counted(log, await project(log), tmp_path / "usage.sqlite")) as storage:
        shown = {
            actor: (row["sessions"], row["events"], row["seconds"], row["longest_seconds"])
            for actor, row in rows(storage, "session").items()
        }
        # Time never steps back: bob's event after that of minute 9 is of minute 9, and begins a session.
        assert shown == {"ada": (4, 6, 540, 540), "bob": (2, 2, 0, 0), None: (0, 1, 0, 0)}
        assert rows(storage, "session")["ada"]["effective_per_minute"] == pytest.approx(6 / 9)


async def test_hours_from_and_to_are_whole_and_active_users_are_counted(tmp_path):
    clock = Clock()
    log = MemoryLog("log-1", clock=clock)
    for hour, actor in enumerate(("ada", "ada", "bob", "eve")):
        clock.now = NOON + hour * 60 * MINUTE + MINUTE
        await append(log, "d", {"put": hour, "actor": actor})
        await append(log, f"d{hour}", {"put": hour, "actor": "ada"})
    with closing(await counted(log, await project(log), tmp_path / "usage.sqlite")) as storage:
        asked = {"begin": "2027-01-15T13:30:00Z", "end": "2027-01-15T14:00:01Z"}
        found = answer(storage, Question.read("n", "hour", **asked))
        assert (found["from"][:16], found["to"][:16]) == ("2027-01-15T13:00", "2027-01-15T15:00")
        assert [(row["hour"][11:13], row["events"], row["actors"]) for row in found["rows"]] == [
            ("13", 2, 1),
            ("14", 2, 2),
        ]
        # The document of both hours counts once.
        assert rows(storage, "actor", **asked)["ada"]["documents"] == 3


async def test_a_namespace_has_a_bounded_number_of_sections(tmp_path):
    log = MemoryLog("log-1")
    await append(log, "d", {"put": {}})
    for number in range(SECTIONS_MAX + 10):
        await append(log, "d", {"patch": [{"op": "add", "path": f"/s{number}", "value": 1}]})
    await append(log, "d", {"patch": [{"op": "add", "path": "/s1", "value": 2}]})
    with closing(await counted(log, await project(log), tmp_path / "usage.sqlite")) as storage:
        found = rows(storage, "section")
        assert len(found) == SECTIONS_MAX + 1
        assert (found[OTHER_SECTIONS]["events"], found["/s1"]["events"]) == (11, 2)
        assert f"/s{SECTIONS_MAX}" not in content(storage)


async def test_without_actors_no_actor_is_in_the_file(tmp_path):
    log = MemoryLog("log-1")
    await story(log)
    store = await project(log)
    (await counted(log, store, tmp_path / "usage.sqlite")).close()
    with closing(await counted(log, store, tmp_path / "usage.sqlite", "n")) as storage:
        assert list(rows(storage, "actor")) == [None]
        assert rows(storage, "session")[None]["sessions"] == 0
        assert rows(storage, "actor", "m").keys() == {"ada"}
        assert "bob" not in content(storage)
        file = (tmp_path / "usage.sqlite").read_bytes()
        assert b"bob" not in file


async def test_counts_are_of_one_log_and_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr("refold.store.exclusive.WAIT_SECONDS", 0.01)
    log, path = MemoryLog("log-1"), tmp_path / "usage.sqlite"
    await story(log)
    store = await project(log)
    with (
        closing(await counted(log, store, path)),
        pytest.raises(Refused, match="another `refold usage` may run"),
    ):
        Storage(path, "log-1")
    with pytest.raises(StoreDiffers, match="the counts of another log"):
        Storage(path, "log-2")
    shorter = MemoryLog("log-1")
    with pytest.raises(LogHole, match="the log ends before what was counted"):
        await counted(shorter, await project(shorter), path)
    path.write_text("no database" * 1000)
    with pytest.raises(Refused, match="cannot be used"):
        Storage(path, "log-1")


async def test_nothing_is_counted_that_a_partition_has_not_folded(tmp_path, monkeypatch):
    log = MemoryLog("log-1")
    await story(log)
    store = await project(log)
    checkpoints = await store.checkpoints()
    checkpoints[5].read_sequence = 10

    async def behind() -> list:
        return checkpoints

    monkeypatch.setattr(store, "checkpoints", behind)
    with closing(await counted(log, store, tmp_path / "usage.sqlite")) as storage:
        assert (storage.position.sequence, sum(storage.statuses)) == (10, 10)


@pytest.mark.parametrize("is_more", [False, True])
async def test_counts_that_are_not_those_of_the_projection_are_an_error_until_they_are_removed(
    tmp_path, is_more
):
    log, path = MemoryLog("log-1"), tmp_path / "usage.sqlite"
    await story(log, 1)
    store = MemoryStore()
    async with projecting(ports(log, store)) as running:
        await running.committed((await log.info()).last_sequence)
        with closing(await counted(log, store, path)) as storage:
            storage.file.execute(
                "UPDATE counts SET rejected = rejected - 1, duplicate = duplicate + 1 WHERE rejected > 0"
            )
        for _ in range(2):
            if is_more:
                await story(log, 1)
                await running.committed((await log.info()).last_sequence)
            with pytest.raises(StoreDiffers, match="are not those of the projection"):
                await counted(log, store, path)
        path.unlink()
        (await counted(log, store, path)).close()


async def test_other_users_cannot_read_the_file(tmp_path):
    log, path = MemoryLog("log-1"), tmp_path / "usage.sqlite"
    await story(log, 1)
    with closing(await counted(log, await project(log), path)):
        assert {each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {0o600}


async def test_a_file_in_which_not_every_event_is_counted_once_is_refused(tmp_path):
    log = MemoryLog("log-1")
    await story(log, 1)
    with closing(await counted(log, await project(log), tmp_path / "usage.sqlite")) as storage:
        storage.file.execute("UPDATE counts SET events = events + 100, effective = effective + 100")
    with pytest.raises(StoreDiffers, match="remove the file to count again"):
        Storage(tmp_path / "usage.sqlite", "log-1")


@pytest.mark.parametrize("by", ["actor", "session", "section", "hour"])
async def test_an_answer_has_a_bounded_number_of_rows_and_the_total_of_all(tmp_path, monkeypatch, by):
    clock = Clock()
    log = MemoryLog("log-1", clock=clock)
    for number, name in enumerate("abbccc"):
        clock.now = NOON + number * 60 * MINUTE
        await append(log, name, {"merge": {name: number}, "actor": name})
    with closing(await counted(log, await project(log), tmp_path / "usage.sqlite")) as storage:
        all_rows = answer(storage, Question.read("n", by))["rows"]
        monkeypatch.setattr(report, "ROWS_MAX", 2)
        found = answer(storage, Question.read("n", by))
        assert (found["rows"], found["groups"]) == (all_rows[:2], len(all_rows))
        assert found["total"]["events"] == sum(row["events"] for row in all_rows) == 6
        names = [row[{"session": "actor"}.get(by, by)].removeprefix("/")[-1] for row in found["rows"]]
        assert by == "hour" or names == ["c", "b"]


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ({"by": "colour"}, r"by: must be one of hour, actor, type, section, session"),
        ({"begin": "2027-01-02", "end": "2027-01-01"}, "from: must not be after `to`"),
        ({"begin": "yesterday"}, "from: a time must be"),
        ({"namespace": "a b"}, "namespace: a name is"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(question, why):
    with pytest.raises(Refused, match=why):
        Question.read(**{"namespace": "n", **question})


async def test_a_namespace_without_events_is_refused(tmp_path):
    log = MemoryLog("log-1")
    await append(log, "d", {"put": 1}, namespace="other")
    with closing(await counted(log, await project(log), tmp_path / "usage.sqlite")) as storage:
        with pytest.raises(Refused, match="no event of a namespace n is counted"):
            answer(storage, Question.read("n"))
        assert answer(storage, Question.read("other"))["total"]["events"] == 1


def batch(first: int) -> list[Counted]:
    """Return 50 events: four actors, three sections, seven documents, all statuses."""
    return [
        Counted(
            n, n * 10**9, "n", f"d{n % 7}", Status(n % 4), False, f"u{n % 5}", None, None, n, [f"/{n % 3}"]
        )
        for n in range(first, first + 50)
    ]


def test_counts_and_checkpoint_agree_after_a_kill_at_any_statement(tmp_path):
    path = tmp_path / "usage.sqlite"
    with closing(Storage(path, "log-1")) as storage:
        storage.add(batch(1), Position(50, 50 * 10**9))
    for number in count(1):
        child = os.fork()
        if not child:
            _add_and_die(path, at_statement=number)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with closing(sqlite3.connect(path)) as file:
            (sequence,) = file.execute("SELECT sequence FROM log").fetchone()
            for table in ("counts", "sessions"):
                found = file.execute(
                    f"SELECT sum(events), sum(bytes), sum(operations) FROM {table}"
                ).fetchone()
                assert found == (sequence, sequence * (sequence + 1) // 2, sequence), (table, number)
        if status == 0:
            break
        assert status == -signal.SIGKILL
    # It was killed before each statement of a transaction.
    assert (number > 20, sequence) == (True, 100)


def _add_and_die(path: Path, *, at_statement: int) -> NoReturn:
    """In a child process: add a batch, and be killed before a statement, counted from 1."""
    try:
        statements = count(1)
        storage = Storage(path, "log-1")
        storage.file.set_trace_callback(
            lambda _: os.kill(os.getpid(), signal.SIGKILL) if next(statements) == at_statement else None
        )
        storage.add(batch(51), Position(100, 100 * 10**9))
        os._exit(0)
    finally:
        os._exit(1)

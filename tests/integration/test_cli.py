"""The commands over a running system: what they print, and the exit code that scripts rely on."""

import asyncio
import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import asyncpg
import httpx
import jsonpatch
import memray
import pytest
from prometheus_client.parser import text_string_to_metric_families

from refold.cli import main
from refold.core.errors import Refused, ServiceUnavailable
from refold.core.fold import RULES, genesis
from refold.embedded import read_passwords
from refold.wiring.profiling import ask_for_profile
from refold.wiring.servers import make_embedded_log, running_servers
from refold.wiring.settings import load
from support.up import END_SECONDS, Up, environment, execute, run_refold


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    running = Up.start(tmp_path_factory.mktemp("cli") / "data", "--durability", "os", REFOLD_PROFILING="on")
    yield running
    assert running.stop() == 0


class Found(NamedTuple):
    """The result of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
def refold(up, monkeypatch, capsys):
    """Run a command in this process: starting a process for each would take most of the time."""

    def run(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["refold", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        monkeypatch.setenv("REFOLD_URL", up.url)
        with pytest.raises(SystemExit) as ended:
            main()
        return Found(ended.value.code or 0, *capsys.readouterr())

    return run


def printed(found, code=0):
    assert found.code == code, found.err
    return json.loads(found.out)


def test_a_document_is_written_changed_and_read_at_an_earlier_version(refold, tmp_path):
    (tmp_path / "state.json").write_text('{"total": 10, "items": []}')
    put = printed(refold("put", "acme/order-1", str(tmp_path / "state.json"), "--json"))
    assert (put["status"], put["version"]) == ("applied", 1)
    patch = '[{"op": "add", "path": "/items/-", "value": "pen"}]'
    assert printed(refold("patch", "acme/order-1", patch, "--actor", "ada", "--json"))["version"] == 2
    assert printed(refold("merge", "acme/order-1", "-", "--json", stdin='{"total": 12}'))["version"] == 3
    assert printed(refold("get", "acme/order-1")) == {"items": ["pen"], "total": 12}
    assert printed(refold("get", "acme/order-1", "--version", "1")) == {"items": [], "total": 10}
    assert printed(refold("get", "acme/order-1", "--path", "/items/0", "--json")) == "pen"
    history = printed(refold("history", "acme/order-1", "--json"))
    assert [(it["version"], it["actor"]) for it in history] == [(1, None), (2, "ada"), (3, None)]
    at = history[1]["recorded_at"]
    assert printed(refold("get", "acme/order-1", "--at", at)) == {"items": ["pen"], "total": 10}
    diff = printed(refold("diff", "acme/order-1", "1", "3"))
    assert jsonpatch.apply_patch({"items": [], "total": 10}, diff) == {"items": ["pen"], "total": 12}
    touched = printed(refold("history", "acme/order-1", "--path", "/total", "--json"))
    assert [it["version"] for it in touched] == [1, 3]
    newest = printed(refold("history", "acme/order-1", "--reverse", "--limit", "1", "--json"))
    assert [it["version"] for it in newest] == [3]
    assert refold("delete", "acme/order-1").code == 0
    gone = refold("get", "acme/order-1")
    assert gone.code == 1
    assert "document_absent" in gone.err
    assert printed(refold("get", "acme/order-1", "--version", "3")) == {"items": ["pen"], "total": 12}


def test_a_rejected_event_exits_1_and_is_listed_among_the_rejections(refold):
    refold("put", "acme/refused", '{"a": 1}')
    found = refold("patch", "acme/refused", '[{"op": "test", "path": "/a", "value": 2}]')
    assert found.code == 1
    assert "rejected" in found.err
    (rejection,) = printed(refold("rejections", "acme/refused", "--json"))
    assert rejection["reason"] == "test_failed"


def test_what_came_of_stale_events_is_printed_and_listed(refold):
    name, stale = "shared/doc", ("--base", "1", "--actor", "eve")
    refold("put", name, '{"a": 1}')
    refold("merge", name, '{"a": 2}', "--actor", "bob")
    merged = refold("merge", name, '{"a": 3}', *stale, "--session", "s", "--all-or-nothing")
    assert merged.code == 0
    assert "merged  version 3" in merged.out
    assert "overwrote 2" in merged.out
    assert refold("merge", name, '{"a": 4}', *stale, "--on-conflict", "custom:mine").code == 1
    first, second = printed(refold("conflicts", name, "--json"))
    assert (first["version"], first["overwrote"]) == (3, [2])
    assert first["others"] == [{"version": 2, "actor": "bob"}]
    table = refold("conflicts", name, "--reverse", "-n", "1")
    assert "custom:mine  open    eve    2 by bob, 3 by eve" in table.out
    assert table.err == f"1 shown; more: --after {second['sequence']}\n"
    assert [it["sequence"] for it in printed(refold("conflicts", name, "--open", "--json"))] == [
        second["sequence"]
    ]
    resolved = refold("merge", name, '{"a": 4}', "--if-version", "3", "--resolves", str(second["sequence"]))
    assert resolved.code == 0
    assert printed(refold("conflicts", name, "--open", "--json")) == []
    assert "no namespace nope" in refold("conflicts", "nope/doc").err


def test_rejections_are_listed_by_document_by_namespace_and_in_total(refold):
    for name in ("poor/one", "poor/two"):
        refold("patch", name, '[{"op": "remove", "path": "/a"}]')
    assert [it["document"] for it in printed(refold("rejections", "poor", "--json"))] == ["two", "one"]
    assert [it["document"] for it in printed(refold("rejections", "poor/one", "--json"))] == ["one"]
    assert "poor/two" in refold("rejections", "-n", "1").out
    assert "no namespace nope" in refold("rejections", "nope").err


def test_a_conflict_exits_1_and_names_the_documents_version(refold):
    refold("put", "acme/conflict", "1")
    found = refold("put", "acme/conflict", "2", "--if-version", "7")
    assert found.code == 1
    message = "conflict: the document is at version 1; nothing was published; read it and try again\n"
    assert found.err == message
    found = refold("put", "acme/conflict", "2", "--if-version", "7", "-o", "json")
    assert (json.loads(found.out)["status"], json.loads(found.out)["version"]) == ("conflict", 1)


def test_the_same_id_sent_twice_counts_once(refold):
    first = printed(refold("put", "acme/once", "1", "--id", "mine", "--json"))
    second = printed(refold("put", "acme/once", "1", "--id", "mine", "--json"))
    assert (first["status"], second["status"]) == ("applied", "duplicate")
    assert first["version"] == second["version"] == 1


def test_several_documents_are_changed_together_or_not_at_all(refold, tmp_path):
    for name in ("a", "b"):
        refold("put", f"bank/{name}", '{"balance": 10}')

    def inc(doc, version, by):
        return {"doc": doc, "version": version, "patch": [{"op": "inc", "path": "/balance", "inc": by}]}

    (tmp_path / "t.json").write_text(
        json.dumps({"id": "t", "changes": [inc("bank/a", 1, -3), inc("bank/b", 1, 3)]})
    )
    found = refold("transact", str(tmp_path / "t.json"))
    assert (found.code, found.err) == (0, "")
    assert [line.split()[0] for line in found.out.splitlines()] == ["applied", "bank/a", "bank/b"]
    again = printed(refold("transact", str(tmp_path / "t.json"), "--json"))
    assert (again["status"], [each["status"] for each in again["outcomes"]]) == (
        "duplicate",
        ["duplicate"] * 2,
    )
    lines = "\n".join(map(json.dumps, [inc("bank/a", 2, 1), inc("bank/b", 1, -1)]))
    stale = refold("transact", "-", stdin=lines)
    assert (stale.code, stale.out) == (1, "")
    assert "bank/b is at version 2, not 1" in stale.err
    rejected = refold("transact", json.dumps([{"doc": "bank/c", "version": 0, "delete": True}]))
    assert (rejected.code, "document_absent" in rejected.err) == (1, True)
    for wrong in ("[1]", '[{"doc": "a"}]', '{"doc": "n/a"}\n{"doc": "m/a"}', '{"doc": "n/a"}\n{', "{"):
        assert refold("transact", "-", stdin=wrong).code in {1, 2}
    assert printed(refold("get", "bank/b")) == {"balance": 13}


def test_documents_are_listed_by_prefix_and_by_predicate(refold):
    for number in range(4):
        refold("put", f"shop/item-{number}", json.dumps({"price": number}))
    refold("put", "shop/other", '{"price": 9}')
    listed = printed(refold("list", "shop", "--prefix", "item-", "--where", "$.price > 1", "--json"))
    assert [(it["id"], it["state"]) for it in listed] == [("item-2", {"price": 2}), ("item-3", {"price": 3})]
    table = refold("list", "shop")
    assert "item-0" in table.out
    assert "other" in table.out


def test_documents_are_listed_as_of_a_time(refold):
    first = printed(refold("put", "then/a", '"old"', "--occurred-at", "2020-01-01T00:00:00Z", "--json"))
    refold("delete", "then/a")
    refold("put", "then/b", '"new"')
    for arguments in (
        ("--sequence", str(first["sequence"])),
        ("--at", first["recorded_at"]),
        ("--at", first["recorded_at"], "--clock", "recorded"),
        ("--at", "2020-01-02", "--clock", "occurred"),
    ):
        listed = printed(refold("list", "then", *arguments, "--json"))
        assert [(it["id"], it["version"], it["state"]) for it in listed] == [("a", 1, "old")]
    assert printed(refold("list", "then", "--at", "2019-01-01", "--clock", "occurred", "--json")) == []
    assert refold("list", "then", "--sequence", "1", "--at", "2020-01-01").code == 2


def test_the_status_shows_the_lag(refold):
    status = printed(refold("status", "--json"))
    assert status["lag_events"] == 0
    assert len(status["partitions"]) == 64
    assert "behind by 0 events" in refold("status").out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("get", "acme/never-there"), "document_absent: acme/never-there never existed"),
        (("get", "acme/shown", "--version", "99"), "version_unknown"),
        (("get", "acme/shown", "--at", "1990-01-01"), "document_absent"),
        (("put", "_refold/log", "1"), "reserved_namespace"),
        (("delete", "acme/never-there"), "document_absent: acme/never-there never existed"),
    ],
)
def test_an_error_is_one_line_and_exit_code_1(refold, arguments, code):
    refold("put", "acme/shown", "1")
    found = refold(*arguments)
    assert found.code == 1, found.out
    assert found.out == ""
    assert code in found.err
    assert found.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("list", "nope"), "namespace_unknown: there is no namespace nope"),
        (("list", "shopp"), "did you mean shop?"),
        (("export", "nope"), "namespace_unknown: there is no namespace nope"),
        (("history", "nope/x"), "namespace_unknown: there is no namespace nope"),
        (("history", "shop/nope"), "document_absent: shop/nope never existed"),
        (("rejections", "shop/nope"), "document_absent: shop/nope never existed"),
        (("get", "shop/nope"), "document_absent: shop/nope never existed"),
        (("get", "nope/x", "--version", "1"), "namespace_unknown: there is no namespace nope"),
        (("delete", "nope/x"), "namespace_unknown: there is no namespace nope"),
        (("restore", "shop/nope", "--version", "1"), "version_unknown: shop/nope never existed"),
        (("diff", "shop/nope", "1", "2"), "version_unknown: shop/nope never existed"),
    ],
)
def test_a_misspelt_name_is_an_error(refold, arguments, code):
    refold("put", "shop/known", "1")
    found = refold(*arguments)
    assert (found.code, found.out) == (1, "")
    assert code in found.err


@pytest.mark.parametrize("target", ["nope", "shop/nope"])
def test_verify_of_an_unknown_name_finds_nothing(refold, up, target):
    refold("put", "shop/known", "1")
    found = refold("verify", target, "--data", str(up.data))
    assert (found.code, found.out) == (1, "")
    assert f"nothing_found: the log has no event of {target}" in found.err


def test_an_empty_result_of_a_known_name_is_not_an_error(refold):
    refold("put", "hollow/known", "1")
    assert printed(refold("list", "hollow", "--prefix", "z", "--json")) == []
    assert printed(refold("history", "hollow/known", "--after", "9", "--json")) == []
    empty = refold("history", "hollow/known", "--after", "9")
    assert (empty.code, empty.out, empty.err) == (0, "", "none\n")
    assert printed(refold("rejections", "hollow/known", "--json")) == []
    refold("patch", "hollow/refused", '[{"op": "test", "path": "/a", "value": 2}]')
    assert printed(refold("history", "hollow/refused", "--json")) == []
    refold("delete", "hollow/known")
    assert printed(refold("list", "hollow", "--json")) == []
    assert refold("export", "hollow").code == 0


def test_a_not_found_message_names_the_head_and_the_first_version(refold):
    when = ("--occurred-at", "2020-01-01T00:00:00Z")
    first = printed(refold("put", "lost/one", "1", *when, "--json"))
    refold("put", "lost/one", "2")
    head = "its head is version 2"
    assert f"lost/one has no version 7; {head}" in refold("get", "lost/one", "--version", "7").err
    assert f"lost/one has no version 9; {head}" in refold("diff", "lost/one", "1", "9").err
    assert "lost/one did not exist then" in refold("get", "lost/one", "--version", "0").err
    early = refold("get", "lost/one", "--at", "2021-01-01").err
    assert (
        f"its first version, of sequence {first['sequence']}, was recorded at {first['recorded_at']}" in early
    )
    assert "and occurred at 2020-01-01T00:00:00.000000000Z" in early
    assert early.strip().endswith("ask with --clock occurred; its head is version 2")
    assert printed(refold("get", "lost/one", "--at", "2021-01-01", "--clock", "occurred")) == 1
    earlier = refold("get", "lost/one", "--at", "2019-01-01", "--clock", "occurred").err
    assert "its first version occurred at 2020-01-01" in earlier
    refold("delete", "lost/one")
    gone = refold("get", "lost/one").err
    assert "lost/one is absent: version 3 deleted it; its head is version 3" in gone
    assert (
        "lost/one is absent: version 3 deleted it; nothing was published" in refold("delete", "lost/one").err
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("get", "acme/shown", "--at", "yesterday"), "bad_time"),
        (("put", "acme/shown", "1", "--occurred-at", "soon"), "bad_time"),
        (("get", "acme/.."), "bad_name"),
        (("put", "acme/shown", "no-such-file.json"), "bad_usage"),
        (("export", "acme", "--out", "x.jsonl.bz2"), "bad_usage"),
        (("get", "acme/shown", "--url", "ftp://gateway"), "bad_url"),
        (("put", "acme/shown", '{"a":1,"a":2}'), "duplicate_key"),
        (("put", "acme/shown", "{bad"), "bad_json"),
        (("put", "acme/shown", "1", "--wait", "1000"), "--wait: seconds from 0 to 300 (got"),
        (("put", "acme/shown", "1", "--meta", "[1]"), "--meta: must be an object"),
        (("put", "acme/shown", "1", "--on-conflict", "bogus"), "--on-conflict: one of"),
        (
            ("put", "acme/shown", "1", "--if-version", "1", "--base", "1"),
            "--if-version: cannot be combined with --base or --on-conflict",
        ),
        (("list", "acme", "--where", "$.price"), "--where: not a predicate"),
        (("watch", "acme", "--path", "/a"), "--path: only of a document"),
        (
            ("watch", "acme/shown", "--mode", "heads"),
            "--mode: of a document it is patch or values; --no-merge",
        ),
    ],
)
def test_wrong_usage_of_any_kind_is_one_line_and_exit_code_2(refold, arguments, code):
    refold("put", "acme/shown", "1")
    found = refold(*arguments)
    assert (found.code, found.out, found.err.count("\n")) == (2, "", 1), found.err
    assert code in found.err


def test_an_id_may_have_a_slash_a_dot_and_other_characters(refold, up):
    name = "acme/CSS/supports.é 50%"
    assert printed(refold("put", name, '{"a": 1}', "--json"))["version"] == 1
    assert printed(refold("patch", name, '[{"op":"inc","path":"/a","inc":1}]', "--json"))["version"] == 2
    assert printed(refold("get", name)) == {"a": 2}
    assert "CSS/supports.é 50%" in refold("list", "acme", "--prefix", "CSS/").out
    assert refold("verify", name, "--data", str(up.data)).code == 0


def test_the_options_of_a_command_are_those_that_it_can_use(refold, tmp_path, monkeypatch):
    """An option that would contradict what the command itself does is unknown to it."""
    for value in ("1", "2"):
        refold("put", "acme/options", value)
    monkeypatch.setenv("VISUAL", "true")
    for command in (("restore", "acme/options", "--version", "1"), ("edit", "acme/options")):
        for option in (("--base", "1"), ("--on-conflict", "merge"), ("--session", "s")):
            found = refold(*command, *option)
            assert (found.code, f"No such option: {option[0]}" in found.err) == (2, True), found.err
    assert refold("undo", "acme/options", "1", "--base", "1").code == 2
    stale = refold("restore", "acme/options", "--version", "1", "--if-version", "1")
    assert (stale.code, "at version 2" in stale.err) == (1, True)
    assert refold("restore", "acme/options", "--version", "1", "--if-version", "2").code == 0


def test_a_value_that_names_what_is_not_there_yet_exits_1(refold):
    refold("put", "acme/shown", "1")
    for arguments in (
        ("list", "acme", "--sequence", "99999999"),
        ("watch", "acme", "--from", "99999999"),
        ("get", "acme/shown", "--path", "/a"),
    ):
        found = refold(*arguments)
        assert (found.code, found.out) == (1, "")
    assert "--from: the log ends at" in refold("watch", "acme", "--from", "99999999").err


def test_an_unreachable_service_exits_3(refold):
    assert refold("status", "--url", "http://127.0.0.1:9").code == 3
    assert refold("status", "--checks", "--url", "http://127.0.0.1:9").code == 3


def test_a_service_that_accepts_and_never_answers_exits_3(refold, monkeypatch):
    monkeypatch.setattr("refold.cli.operate.HEALTH_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert refold("status", "--checks", "--url", url).code == 3


def test_the_checks_are_printed_as_a_table(refold):
    health = printed(refold("status", "--checks", "--json"))
    assert health["status"] == "pass"
    table = refold("status", "--checks").out.splitlines()
    assert table[0].split() == ["check", "status", "value", "limit", "of"]
    assert {line.split()[0] for line in table[1:-1]} == health["checks"].keys()
    assert table[-1] == "pass"


def test_a_check_that_fails_exits_1(refold, monkeypatch):
    finding = {"status": "fail", "time": "2026", "since": "2026", "seconds": 0, "output": "it is full"}
    health = {"status": "fail", "checks": {"log:utilization": [finding]}}

    async def failing(_):
        return health

    monkeypatch.setattr("refold.client.Refold.health", failing)
    found = refold("status", "--checks")
    assert (found.code, found.out.splitlines()[-1]) == (1, "fail")
    assert "fail  log:utilization: it is full (first found 2026Z)" in found.out.splitlines()
    assert printed(refold("status", "--checks", "--json"), code=1) == health


def test_a_command_in_its_own_process_prints_only_its_answer(up):
    run_refold("put", "acme/piped", "{}", "--url", up.url)
    found = run_refold("get", "acme/piped", "--url", up.url)
    assert (found.returncode, found.stdout, found.stderr) == (0, "{}\n", "")


def test_the_endpoints_file_of_a_data_folder_names_the_service(up):
    found = run_refold("status", REFOLD_DATA=str(up.data))
    assert found.returncode == 0, found.stderr


def test_a_projection_is_verified_rebuilt_and_its_damage_reported(refold, up):
    for number in range(3):
        refold("put", "proof/one", f'{{"n": {number}}}')
    data = ("--data", str(up.data))
    assert printed(refold("verify", "proof", *data, "--json")) | {"seconds": 0} == {
        "differences": 0,
        "documents": 1,
        "events": 3,
        "found": [],
        "seconds": 0,
        "sequence": printed(refold("status", "--json"))["folded_sequence"],
        "store": "postgres",
    }
    second = printed(refold("verify", "proof", *data, "--independent", "--json"))
    assert (second["differences"], second["coverage"]) == (0, {"puts and deletes": 3})
    assert printed(refold("rebuild", *data, "--json"))["swapped"] is True
    assert "clean" in refold("verify", *data).out
    refold("put", "proof/one", '{"n": 3}', "--committed")
    assert printed(refold("get", "proof/one")) == {"n": 3}
    execute(up, "UPDATE refold.documents SET state = '{\"n\":7}' WHERE namespace = 'proof'")
    found = refold("verify", "proof/one", *data)
    assert (found.code, found.out.count("\n")) == (1, 2)
    assert "proof/one: document state: expected b'{\"n\":3}', found b'{\"n\":7}'" in found.out
    found = refold("rebuild", *data, "--into", "beside")
    assert found.code == 1
    assert "proof/one: live version 4, last sequence" in found.out
    assert "nothing swapped" in found.out
    execute(up, "UPDATE refold.documents SET state = '{\"n\":3}' WHERE namespace = 'proof'")
    assert refold("verify", *data).code == 0
    # The rebuilt projection is kept, and the next rebuild continues it.
    assert printed(refold("rebuild", *data, "--into", "beside", "--json"))["replayed"] == 0


def test_verify_without_a_running_system_exits_3(refold, tmp_path):
    found = refold("verify", "--data", str(tmp_path))
    assert (found.code, found.err.count("\n")) == (3, 1)


@pytest.mark.parametrize("command", ["verify", "psql", "status", "config --running"])
def test_without_a_running_system_every_command_names_the_folder_and_how_to_start_one(command, tmp_path):
    found = run_refold(*command.split(), REFOLD_DATA=str(tmp_path))
    assert found.returncode == 3
    assert f"no system runs on {tmp_path}; start it with `refold up --data {tmp_path}`" in found.stderr


def test_a_rebuild_in_a_folder_without_a_system_names_the_folder(refold, tmp_path):
    found = refold("rebuild", "--data", str(tmp_path))
    assert (found.code, found.err.count("\n")) == (3, 1)
    assert f"{tmp_path} holds no system's data" in found.err


def test_a_dead_system_is_reported_at_once_and_stdout_stays_empty(tmp_path):
    """The endpoints of a system that was killed are still in its folder."""
    endpoints = {
        "http": "http://127.0.0.1:9",
        "nats": "nats://127.0.0.1:9",
        "stores": "postgres://u:s3cret@127.0.0.1:9/x",
    }
    (tmp_path / "endpoints.json").write_text(json.dumps(endpoints))
    (tmp_path / "secrets.json").write_text(json.dumps({"projector": "s3cret"}))
    found = run_refold("verify", "--data", str(tmp_path))
    assert (found.returncode, found.stdout, found.stderr.count("\n")) == (3, "", 1)
    assert "no system runs there: nothing listens at nats://" in found.stderr
    assert "s3cret" not in found.stderr


def test_an_old_state_is_restored_as_a_new_version(refold):
    for value in ("1", "2"):
        refold("put", "past/one", value)
    restored = printed(refold("restore", "past/one", "--version", "1", "--actor", "ada", "--json"))
    assert (restored["status"], restored["version"]) == ("applied", 3)
    (change,) = printed(refold("history", "past/one", "--after", "2", "-o", "json"))
    assert (change["actor"], change["reverts"]) == ("ada", 1)
    assert printed(refold("get", "past/one")) == 1
    refold("delete", "past/one")
    assert printed(refold("restore", "past/one", "--at", change["recorded_at"], "--json"))["version"] == 5
    assert printed(refold("restore", "past/one", "--version", "4", "--json"))["version"] == 6
    assert "past/one is absent: version 6 deleted it" in refold("get", "past/one").err
    assert "past/one has no version 9" in refold("restore", "past/one", "--version", "9").err
    assert "past/nope never existed" in refold("restore", "past/nope", "--version", "1").err


def test_a_version_is_undone_and_blame_names_who_wrote_what(refold):
    refold("put", "undone/one", '{"items": ["a"], "n": 1}', "--actor", "ada")
    refold("patch", "undone/one", '[{"op": "inc", "path": "/n", "inc": 4}]', "--actor", "bob")
    refold("patch", "undone/one", '[{"op": "add", "path": "/items/0", "value": "b"}]', "--actor", "eve")
    assert printed(refold("undo", "undone/one", "2", "--actor", "bob", "--json"))["version"] == 4
    assert printed(refold("get", "undone/one")) == {"items": ["b", "a"], "n": 1}
    leaves = printed(refold("blame", "undone/one", "--json"))
    assert [(it["path"], it["version"], it["actor"], it["value"]) for it in leaves] == [
        ("/items/0", 3, "eve", "b"),
        ("/items/1", 1, "ada", "a"),
        ("/n", 4, "bob", 1),
    ]
    head, line = refold("blame", "undone/one", "/items", "-n", "1").out.splitlines()
    assert head.split() == ["pointer", "version", "recorded", "actor", "value"]
    assert [line.split()[0], line.split()[1], line.split()[-1]] == ["/items/0", "3", '"b"']
    assert printed(refold("revert", "undone/one", "1", "--json"))["version"] == 5
    assert printed(refold("get", "undone/one")) == {"items": ["a"], "n": 1}
    found = refold("undo", "undone/one", "9")
    assert (found.code, found.out) == (1, "")
    assert "undone/one has no version 9" in found.err


def test_an_edit_in_an_editor_is_a_strict_write(refold, tmp_path, monkeypatch):
    refold("put", "edited/one", '{"n": 1}')
    monkeypatch.setenv("EDITOR", "sed -i s/1/2/")
    assert printed(refold("edit", "edited/one", "--json"))["version"] == 2
    assert printed(refold("get", "edited/one")) == {"n": 2}
    unchanged = refold("edit", "edited/one")
    assert (unchanged.code, unchanged.out, unchanged.err) == (0, "", "no change\n")
    assert printed(refold("get", "edited/one")) == {"n": 2}
    assert refold("edit", "edited/new", "--editor", "sed -i 's/{/{\"n\":7/'").code == 0
    assert printed(refold("get", "edited/new")) == {"n": 7}


@pytest.mark.parametrize("editor", ["false", "no-such-editor"])
def test_a_failing_editor_is_one_line_and_nothing_is_written_or_left(refold, editor, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    refold("put", "edited/failed", "1")
    found = refold("edit", "edited/failed", "--editor", editor)
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    assert f"editor_failed: {editor}: " in found.err
    assert list(tmp_path.iterdir()) == []
    assert printed(refold("get", "edited/failed")) == 1


def test_an_edited_text_that_is_not_json_is_saved_and_the_message_names_the_file(refold):
    refold("put", "edited/broken", '{"n": 1}')
    found = refold("edit", "edited/broken", "--editor", "sed -i s/1/1,/")
    assert (found.code, found.out) == (2, "")
    kept, error = found.err.splitlines()
    assert "bad_json: state: not JSON" in error
    path = Path(kept.removeprefix("the edited text is kept: "))
    assert path.read_text() == '{\n  "n": 1,\n}\n'
    path.unlink()
    path.parent.rmdir()
    assert printed(refold("get", "edited/broken")) == {"n": 1}


def test_a_document_that_changes_while_it_is_edited_is_not_overwritten(refold, up, tmp_path):
    refold("put", "edited/two", "1")
    editor = tmp_path / "editor"
    command = f"{sys.executable} -m refold put edited/two 5 --url {up.url}"
    editor.write_text(f"#!/bin/sh\n{command} >/dev/null\nsed -i s/1/2/ $1\n")
    editor.chmod(0o755)
    found = refold("edit", "edited/two", "--editor", str(editor))
    assert found.code == 1
    assert "the edited text is kept: " in found.err
    assert "conflict" in found.err
    assert printed(refold("get", "edited/two")) == 5


def test_a_diff_goes_to_the_head_by_default(refold):
    for value in ("1", "2", "3"):
        refold("put", "head/one", value)
    assert printed(refold("diff", "head/one", "1")) == printed(refold("diff", "head/one", "1", "3"))


def test_a_history_is_filtered_by_author_type_and_time(refold):
    for number, (actor, kind) in enumerate(
        (("ada", "made"), ("bob", "paid"), ("ada", "paid"), ("bob", "sent"))
    ):
        refold("put", "filtered/one", str(number), "--actor", actor, "--type", kind)
    changes = printed(refold("history", "filtered/one", "--json"))

    def versions(*arguments):
        return [it["version"] for it in printed(refold("history", "filtered/one", *arguments, "--json"))]

    assert versions("--actor", "ada") == [1, 3]
    assert versions("--actor", "ada", "--type", "paid") == [3]
    assert versions("--since", changes[1]["recorded_at"], "--until", changes[2]["recorded_at"]) == [2, 3]
    assert versions("--since", changes[2]["recorded_at"], "--reverse") == [4, 3]
    assert versions("--type", "paid", "-n", "1", "--reverse") == [3]
    assert versions("--since", "-5m") == [1, 2, 3, 4]
    assert versions("--until", "5m ago") == []


@pytest.mark.parametrize("output", ["text", "json"])
def test_a_truncated_list_is_reported_on_stderr(refold, output):
    for number in range(3):
        refold("put", f"{output}/one", str(number))
        refold("patch", f"{output}/poor", '[{"op": "remove", "path": "/a"}]')
    assert refold("history", f"{output}/one", "-n", "2", "-o", output).err == "2 shown; more: --after 2\n"
    assert (
        refold("history", f"{output}/one", "-n", "2", "-r", "-o", output).err == "2 shown; more: --after 2\n"
    )
    assert refold("history", f"{output}/one", "-n", "2", "--since", "-5m", "-o", output).err.startswith(
        "2 shown"
    )
    assert refold("rejections", output, "-n", "2", "-o", output).err == "2 shown; more: --limit 4\n"
    assert refold("history", f"{output}/one", "-n", "3", "-o", output).err == ""
    assert refold("rejections", output, "-n", "3", "-o", output).err == ""
    assert refold("history", f"{output}/one", "--after", "2", "-n", "2", "-o", output).err == ""


def test_a_history_shows_recorded_times_and_occurred_ones_where_they_differ(refold):
    refold("put", "clocks/one", "1")
    header, row = refold("history", "clocks/one").out.splitlines()
    assert header.split() == ["version", "recorded", "change"]
    (change,) = printed(refold("history", "clocks/one", "--json"))
    assert change["recorded_at"][:23] in row
    refold("put", "clocks/one", "2", "--occurred-at", "2020-01-01")
    header, _, row = refold("history", "clocks/one").out.splitlines()
    assert header.split() == ["version", "recorded", "occurred", "change"]
    assert row.split()[2] == "2020-01-01T00:00:00.000Z"


def test_an_export_is_imported_through_a_pipe(refold):
    refold("put", "piped/one", '{"n": 1}')
    lines = refold("export", "piped").out
    found = printed(refold("import", "piped-copy", "-", "--json", stdin=lines))
    assert (found["lines"], found["events"], found["refused"]) == (1, 1, 0)
    assert printed(refold("get", "piped-copy/one")) == {"n": 1}
    refused = refold("import", "piped-copy", "-", stdin="nonsense\n")
    assert (refused.code, "-:1: " in refused.err) == (1, True)


@pytest.mark.parametrize("separator", [[], ["--"]])
def test_options_of_psql_are_passed_on(up, separator):
    found = run_refold("psql", *separator, "-tA", "-c", "SELECT 40 + 2", REFOLD_DATA=str(up.data))
    assert (found.returncode, found.stdout) == (0, "42\n"), found.stderr


def test_a_time_is_given_in_any_form(refold):
    refold("put", "timed/one", "1")
    for time in ("now", "-0s", "0s ago"):
        assert printed(refold("get", "timed/one", "--at", time)) == 1
    assert refold("get", "timed/one", "--at", "-5m").code == 1
    assert "is local time" in refold("get", "timed/one", "--at", "2026-01-01 10:00").err
    put = printed(refold("put", "timed/two", "1", "--occurred-at", "1764410400000", "--json"))
    assert put["status"] == "applied"
    (change,) = printed(refold("history", "timed/two", "--json"))
    assert change["occurred_at"] == "2025-11-29T10:00:00.000000000Z"


def test_every_command_finds_the_system_the_same_way(up, tmp_path):
    address = up.url.removeprefix("http://")
    for arguments, variables in (
        (("--url", address), {}),
        (("--data", str(up.data)), {}),
        (("--data", str(up.data)), {"REFOLD_URL": "http://127.0.0.1:9"}),
        (("--url", address), {"REFOLD_DATA": str(tmp_path)}),
        ((), {"REFOLD_URL": address}),
        ((), {"REFOLD_DATA": str(up.data)}),
    ):
        found = run_refold("status", *arguments, **variables)
        assert found.returncode == 0, found.stderr
        assert f"url     {up.url}\n" in found.stdout
    nothing = run_refold("status", "--data", str(tmp_path))
    assert (nothing.returncode, nothing.stdout) == (3, "")
    assert f"refold up --data {tmp_path}" in nothing.stderr


def test_the_status_gives_a_postgres_url_that_works(refold, up):
    async def read(url):
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval("SELECT 1")
        finally:
            await connection.close()

    assert asyncio.run(read(run_refold("status", "--sql", "--data", str(up.data)).stdout.strip())) == 1


def test_an_import_has_a_dry_run_and_stops_at_an_error_on_request(refold, tmp_path):
    path = tmp_path / "lines.jsonl"
    lines = [{"doc": "a", "state": 1, "ts": 1}, {"doc": "b", "ts": 2}, {"doc": "c", "state": 3, "ts": 3}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    dry = refold("import", "imported", str(path), "--dry-run", "--json")
    assert (dry.code, json.loads(dry.out)["events"], json.loads(dry.out)["refused"]) == (1, 2, 1)
    assert "lines.jsonl:2: bad_line" in dry.err
    assert "no namespace imported" in refold("list", "imported").err
    stopped = refold("import", "imported", str(path), "--stop-on-error", "--json")
    assert (stopped.code, json.loads(stopped.out)["events"]) == (1, 1)
    assert [it["id"] for it in printed(refold("list", "imported", "--json"))] == ["a"]
    assert refold("import", "imported", str(path)).code == 1
    assert [it["id"] for it in printed(refold("list", "imported", "--json"))] == ["a", "c"]


def test_an_export_refuses_an_existing_file_without_force(refold, tmp_path):
    refold("put", "out/one", "1")
    path = tmp_path / "out.jsonl"
    assert refold("export", "out", "--out", str(path)).code == 0
    again = refold("export", "out", "--out", str(path))
    assert (again.code, "file_exists" in again.err) == (1, True)
    assert refold("export", "out", "--out", str(path), "--force").code == 0


def test_verbose_shows_requests_on_stderr(refold, up):
    refold("put", "shown/one", "1")
    found = refold("get", "shown/one", "-v")
    assert found.out == "1\n"
    assert f"GET {up.url}/v1/shown/one: 200, 1 bytes" in found.err


def on_a_terminal(*arguments):
    """Run a command whose stdout is a terminal; return what it prints."""
    screen, terminal = pty.openpty()
    variables = {"TERM": "xterm-256color", "NO_COLOR": ""}
    with subprocess.Popen(
        [sys.executable, "-m", "refold", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=terminal,
        env=environment(**variables),
    ) as process:
        os.close(terminal)
        printed = b"".join(_read_to_end(screen))
    assert process.returncode == 0
    return printed.decode()


def _read_to_end(screen):
    try:
        while chunk := os.read(screen, 65_536):
            yield chunk
    except OSError:
        # Linux reports this when no process has the terminal open any more.
        return
    finally:
        os.close(screen)


def test_a_diff_on_a_terminal_is_coloured_lines_and_a_json_patch_when_piped(refold, up):
    refold("put", "colour/one", '{"kept": 1, "total": 10}')
    refold("put", "colour/one", '{"kept": 1, "total": 12}')
    shown = on_a_terminal("diff", "colour/one", "1", "2", "--url", up.url)
    assert '\x1b[31m-  "total": 10\x1b[0m' in shown
    assert '\x1b[32m+  "total": 12\x1b[0m' in shown
    assert '\r\n   "kept": 1,\r\n' in shown
    piped = run_refold("diff", "colour/one", "1", "2", "--url", up.url)
    assert json.loads(piped.stdout) == [{"op": "replace", "path": "/total", "value": 12}]


def test_a_table_has_lines_and_styles_on_a_terminal_and_none_when_piped(refold, up):
    refold("put", "table/one", '{"total": 10}')
    refold("put", "table/two", '{"total": 12}')
    shown = on_a_terminal("list", "table", "--url", up.url)
    assert "\x1b[1mdocument" in shown
    assert "────" in shown
    header, *rows = run_refold("list", "table", "--url", up.url).stdout.splitlines()
    assert header.split() == ["document", "version", "recorded", "state"]
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [
        ("one", '{"total":10}'),
        ("two", '{"total":12}'),
    ]


def test_get_imports_only_what_it_uses(refold, up):
    """What `get` costs is what it imports; this counts modules because a time differs from run to run."""
    refold("put", "light/one", "{}")
    code = (
        "import sys; from refold.cli import main\n"
        f"sys.argv = ['refold', 'get', 'light/one', '--url', '{up.url}']\n"
        "try: main()\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    imported = found.stderr.split()
    heavy = {
        "pydantic",
        "rich",
        "structlog",
        "psutil",
        "nats",
        "asyncpg",
        "starlette",
        "httptools",
        "zstandard",
    }
    assert not heavy & set(imported)
    ours = {name for name in imported if name.partition(".")[0] == "refold"}
    # `refold.embedded` finds the running system.
    others = ours - {"refold", "refold.embedded"}
    assert {name.split(".")[1] for name in others} == {"cli", "client", "core"}
    assert len(ours) <= 21, sorted(ours)


# The system's own documents


async def create_old_log(data):
    async with running_servers(data, durability="os") as servers:
        await make_embedded_log(servers, servers.settings(load(data=data)))


@pytest.fixture
def old(tmp_path):
    """Run a system whose log was created under fold 1."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("refold.log.jetstream.stream.genesis", partial(genesis, rules=RULES[1]))
        asyncio.run(create_old_log(tmp_path / "old"))
    running = Up.start(tmp_path / "old", "--durability", "os")
    yield running
    assert running.stop() == 0


def test_a_log_is_moved_to_fold_2_and_a_namespace_gets_settings(refold, old, monkeypatch):
    on = "--data", str(old.data)
    inc = '[{"op": "inc", "path": "/n", "inc": 1}]'
    refold("put", "acme/d", '{"n": 1}', *on)
    before = printed(refold("patch", "acme/d", inc, "--id", "early", *on, "--json"), code=1)
    assert before["reason"] == "not_in_this_fold"
    refused = refold("settings", "acme", '{"on_conflict": "reject"}', *on)
    assert (refused.code, "`refold fold 2`" in refused.err) == (1, True), refused.err
    for number in ("1", "3"):
        assert "bad_fold: fold: the log is under fold 1" in refold("fold", number, *on).err
    moved = refold("fold", "2", *on)
    assert (moved.code, moved.err) == (0, "")
    assert re.fullmatch(r"fold 2 after sequence \d+; the events up to it stay under fold 1\n", moved.out)
    assert "the log is under fold 2" in refold("fold", "2", *on).err
    assert printed(refold("patch", "acme/d", inc, *on, "--json"))["version"] == 2
    assert printed(refold("settings", "acme", *on)) == {}
    schema = {"properties": {"n": {"type": "number"}}}
    wanted = {"on_conflict": "reject", "limits": {"state_bytes": 30}, "schema": schema}
    assert printed(refold("settings", "acme", json.dumps(wanted), *on, "--json"))["status"] == "applied"
    assert printed(refold("settings", "acme", *on)) == wanted
    for event, reason in (
        (("put", "acme/d", '{"n": "text"}'), "schema"),
        (("put", "acme/d", json.dumps({"text": "x" * 30})), "state_too_large"),
        (("put", "acme/d", "{}", "--base", "1"), "conflict"),
    ):
        found = printed(refold(*event, *on, "--json"), code=1)
        assert found["reason"] == reason
    assert "state/n" in refold("put", "acme/d", '{"n": "text"}', *on).err
    assert printed(refold("put", "other/d", '{"n": "text"}', *on, "--json"))["version"] == 1
    wrong = refold("settings", "acme", '{"schema": {"properties": {"a": {"format": "date"}}}}', *on)
    assert (wrong.code, "/schema/properties/a/format" in wrong.err) == (1, True), wrong.err
    assert printed(refold("settings", "acme", "{}", *on, "--json"))["status"] == "applied"
    assert refold("put", "acme/d", '{"n": "text"}', *on).code == 0
    assert "clean" in refold("verify", *on).out
    password, address = read_passwords(old.data)["administrator"], old.endpoints()["nats"]
    address = address.replace("nats://", f"nats://administrator:{password}@")
    monkeypatch.setenv("REFOLD_NATS_ADMIN_URL", address)
    assert printed(refold("settings", "acme", "{}", "--url", old.url, "--json"))["status"] == "applied"
    # REFOLD_URL names the gateway of another system.
    other = refold("settings", "acme", "{}")
    assert (other.code, "log_differs" in other.err) == (1, True), other.err


def test_settings_are_not_set_without_the_administrators_address(refold, up, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    found = refold("settings", "acme", "{}")
    assert (found.code, "no system runs on .refold" in found.err) == (3, True), found.err
    problem = refold("put", "_refold/settings:acme", "{}").err
    assert "reserved_namespace" in problem


def test_top_prints_the_numbers_of_the_services(refold, up, monkeypatch):
    refold("put", "seen/one", "1")
    monkeypatch.setenv("REFOLD_DATA", str(up.data))
    monkeypatch.delenv("REFOLD_URL", raising=False)
    found = printed(refold("top", "--once", "--json", "--interval", "0.1", "--url", ""))
    exposed = exposed_by(up)
    assert found["latencies"]["append"]["count"] == exposed["refold_append_seconds_count"] > 0
    assert found["latencies"]["commit"]["count"] == exposed["refold_commit_seconds_count"] > 0
    assert found["totals"]["folded"] == exposed["refold_events_folded_total"]
    facts = printed(refold("status", "--json"))
    assert found["log"]["last_sequence"] == facts["last_sequence"]
    assert (found["lag"]["events"], found["rates"]["in"]) == (0, 0)
    # Measured every few seconds: not before this test where it is the first.
    assert found["replicas"].get("current", 1) == 1
    assert found["alerts"] is None
    pids = {each["service"]: each["pid"] for each in found["services"]}
    assert pids == {name: up.child(name).pid for name in ("gateway", "projector")}
    assert all(each["memory_bytes"] for each in found["services"])
    (seen,) = [each for each in found["namespaces"] if each["namespace"] == "seen"]
    assert (seen["documents"], seen["events"]) == (1, 1)


def exposed_by(up):
    """The samples of all services, summed by name."""
    sums = {}
    for endpoint in ("http", "probe"):
        text = httpx.get(f"{up.endpoints()[endpoint]}/metrics", trust_env=False).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0) + sample.value
    return sums


def test_top_ends_with_a_signal_as_with_a_key(up):
    arguments = ("top", "--data", str(up.data), "--interval", "0.1")
    written = on_terminal(*arguments, until="subscribers", then=signal.SIGTERM)
    # The cursor is shown, and the screen that was there before.
    assert "\x1b[?25h" in written
    assert "\x1b[?1049l" in written


def test_top_fills_a_terminal_and_ends_with_a_key(up):
    screen = on_terminal("top", "--data", str(up.data), "--interval", "0.1", until="subscribers", then=b"q")
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.partition("subscribers")[0]).splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for start in (
        "refold top",
        "gateway",
        "projector",
        "per second",
        "lag",
        "latency",
        "namespace",
        "log replicas",
        "alerts firing   unknown",
    ):
        assert any(line.startswith(start) for line in lines), start
    last_sequence = httpx.get(f"{up.url}/status", trust_env=False).json()["last_sequence"]
    assert any(line.startswith(f"lag             0 of {last_sequence:,} events") for line in lines)
    assert "\x1b[1m" in screen
    # NO_COLOR: emphasis stays, colours go.
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", screen)


def on_terminal(*arguments, until, then):
    """Run a command on a terminal of 80 x 24 without colour; return what it wrote before and after keys or a signal."""
    primary, replica = pty.openpty()
    termios.tcsetwinsize(replica, (24, 80))
    settings = environment(NO_COLOR="1", TERM="xterm-256color")
    del settings["COLUMNS"]
    command = [sys.executable, "-m", "refold", *arguments]
    process = subprocess.Popen(command, stdin=replica, stdout=replica, stderr=replica, env=settings)
    os.close(replica)
    written = b""
    try:
        while until.encode() not in written:
            written += os.read(primary, 65_536)
        if isinstance(then, bytes):
            os.write(primary, then)
        else:
            process.send_signal(then)
        with suppress(OSError):
            # Linux reports the end of a terminal as an error.
            while part := os.read(primary, 65_536):
                written += part
        assert process.wait(END_SECONDS) == 0
    finally:
        process.kill()
        os.close(primary)
    return written.decode()


def test_top_ends_where_no_service_answers(refold):
    found = refold("top", "--url", "http://127.0.0.1:9")
    assert (found.code, found.out) == (3, "")
    assert "no service answers at http://127.0.0.1:9" in found.err


def test_top_refuses_addresses_that_are_none_and_a_projector_for_the_gateway(refold, up):
    probe = up.endpoints()["probe"]
    for arguments, reason in (
        (("--url", "nonsense"), "bad_url"),
        (("--url", up.url, "--probe", "foo"), "bad_url"),
        (("--url", probe), "--url: is no gateway; give a projector's address with --probe"),
    ):
        found = refold("top", "--once", *arguments)
        assert (found.code, found.out) == (2, "")
        assert reason in found.err
    arguments = ("--once", "--interval", "0.1", "-o", "json", "--url", up.url, "--probe", probe)
    assert len(printed(refold("top", *arguments))["services"]) == 2


async def test_a_service_is_profiled_by_one_request_at_a_time(up):
    ask = partial(ask_for_profile, up.data, "projector", shape="speedscope", seconds=1)
    first, second = await asyncio.gather(ask(instance=None), ask(instance=None), return_exceptions=True)
    (facts, profile), refused = (first, second) if isinstance(second, Refused) else (second, first)
    assert refused.reason == "profile_running"
    assert facts["instance"].endswith(f":{up.child('projector').pid}")
    assert facts["samples"] > 0
    assert 0 < facts["waiting"] <= 1
    assert json.loads(profile)["exporter"] == "refold"
    with pytest.raises(Refused, match="seconds: must be a number from 1 to 60"):
        await ask(instance=facts["instance"], seconds=10_000)
    with pytest.raises(ServiceUnavailable, match="no projector elsewhere:1 runs"):
        await ask(instance="elsewhere:1")
    with pytest.raises(Refused, match="must be HOST:PID"):
        await ask(instance="a b")


def test_a_profile_has_bounds_and_is_printed(refold, up, tmp_path):
    for seconds in ("10000", "nan"):
        assert refold("profile", "gateway", "--seconds", seconds, "--data", str(up.data)).code == 2
    for unwritable in (tmp_path, tmp_path / "none" / "x"):
        refused = refold("profile", "gateway", "--out", str(unwritable), "--data", str(up.data))
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert "--out: must be a file" in refused.err
    out = tmp_path / "profile.txt"
    found = refold("profile", "gateway", "--seconds", "1", "--out", str(out), "--data", str(up.data))
    assert (found.code, found.out) == (0, "")
    waiting = r"samples, the loop waiting in [0-9.]+% of them"
    assert re.search(rf"gateway \S+: 1\.\d s, .* {waiting}; overhead \d+% while it ran", found.err)
    top, _ = out.read_text().split("\n\n")
    assert "Runner.run" not in top


def test_a_profile_of_memory_is_a_file_of_memray(refold, up, tmp_path):
    arguments = ("profile", "projector", "--memory", "--seconds", "1", "--data", str(up.data))
    assert "--out" in refold(*arguments).err
    out = tmp_path / "memory.bin"
    found = refold(*arguments, "--out", str(out))
    assert (found.code, found.out) == (0, "")
    assert re.search(r"projector \S+: \d\.\d s, .* allocations; overhead \d+% while it ran", found.err)
    with memray.FileReader(out) as reader:
        assert reader.metadata.total_allocations > 0

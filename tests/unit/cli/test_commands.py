"""The command line: one line and one exit code for every error; foreign text cannot control the terminal."""

import re
import subprocess
import sys
from typing import get_args

import pytest
from typer.testing import CliRunner

from refold.cli import COMMANDS, app, errors, load, main
from refold.cli.options import read_json
from refold.cli.output import change_summary, print_table, printable
from refold.cli.serve import flags
from refold.cli.usage import print_usage
from refold.core.errors import (
    DocumentAbsent,
    LogUnavailable,
    PortTaken,
    RefoldError,
    Refused,
    ServiceUnavailable,
    TimedOut,
    VersionUnknown,
)
from support.up import environment

MEASUREMENTS = ("append", "live", "latency", "read", "travel")
UNREACHABLE = "http://127.0.0.1:9"


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, stdin=None):
        monkeypatch.setattr(sys, "argv", ["refold", *arguments])
        return CliRunner().invoke(app, arguments, input=stdin)

    return run


def test_help_lists_every_command_with_an_untruncated_summary(run):
    shown = run("--help").output
    assert "…" not in shown
    for command in COMMANDS:
        assert f"│ {command} " in shown


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help(run, command):
    found = run(command, "--help")
    assert found.exit_code == 0
    assert "Usage: refold" in found.output


@pytest.mark.parametrize("measurement", MEASUREMENTS)
def test_every_measurement_has_help(run, measurement):
    found = run("bench", measurement, "--help")
    assert found.exit_code == 0
    for option in ("--rounds", "--durability", "--url", "--json"):
        assert option in found.output


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_listed_summary_is_that_of_the_commands_help(command):
    assert load(command).help.startswith(COMMANDS[command].summary.removesuffix("."))


def test_help_imports_nothing_heavy():
    heavy = (
        "aiohttp",
        "pydantic",
        "asyncio",
        "nats",
        "asyncpg",
        "fastapi",
        "faststream",
        "httptools",
        "psutil",
        "matplotlib",
    )
    code = f"import refold.cli, sys; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ("get",),
        ("get", "no-slash"),
        ("get", "/d"),
        ("get", "n/d", "--version", "-1"),
        ("get", "n/d", "--version", "1", "--at", "2026-01-01"),
        ("get", "n/d", "--clock", "mine"),
        ("get", "n/d", "--output", "xml"),
        ("get", "n/d", "--no-such-option"),
        ("history", "n/d", "-n", "0"),
        ("restore", "n/d"),
        ("restore", "n/d", "--version", "1", "--at", "now"),
        ("list", "n", "--where", "$.a > 1", "--at", "2026-01-01"),
        ("list", "n", "--sequence", "-1"),
        ("diff", "n/d"),
        ("import", "n", "not-there.jsonl"),
        ("nonsense",),
        ("up", "--durability", "maybe"),
    ],
)
def test_wrong_usage_exits_2(run, arguments):
    found = run(*arguments)
    is_ours = isinstance(found.exception, RefoldError)
    assert (errors.exit_code(found.exception) if is_ours else found.exit_code) == errors.USAGE


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("restore", "n/d", "3"), "a version is given as --version 3"),
        (("get", "n/d", "3"), "a version is given as --version 3"),
        (("restore", "n/d"), "give one of them"),
        (("restore", "n/d", "--version", "1", "--at", "now"), "give only one of them"),
        (("get", "n/d", "--version", "1", "--at", "now"), "give only one of them"),
        (("list", "n", "--where", "$.a > 1", "--at", "now"), "give only one of them"),
    ],
)
def test_wrong_usage_suggests_the_correction(run, arguments, text):
    assert text in " ".join(run(*arguments).output.split())


def test_an_empty_argument_is_not_treated_as_a_file():
    with pytest.raises(Refused, match="state: is empty; give a file, - for stdin, or the JSON itself"):
        read_json("", "state")


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("get", "refold get [OPTIONS] NS/DOC"),
        ("diff", "refold diff [OPTIONS] NS/DOC FROM [TO]"),
        ("rejections", "refold rejections [OPTIONS] [NS[/DOC]]"),
        ("verify", "refold verify [OPTIONS] [NS[/DOC]]"),
        ("psql", "refold psql [OPTIONS] [ARGUMENT]..."),
        ("import", "refold import [OPTIONS] NS FILE"),
    ],
)
def test_a_usage_line_has_readable_argument_names(run, command, usage):
    assert f"Usage: {usage} " in run(command, "--help").output


def test_help_about_usage_shows_what_the_short_form_takes(run):
    found = run("usage", "--help").output
    assert all(text in found for text in ("[NAMESPACE]", "--by", "--from", "refold usage serve"))


def test_a_bad_value_is_reported_with_its_option(run):
    for arguments, field in (
        (("usage", "acme", "--from", "soon"), "--from"),
        (("usage", "acme", "--by", "colour"), "--by"),
        (("get", "n/d", "--at", "soon"), "--at"),
    ):
        assert run(*arguments).exception.field == field


def test_a_name_in_a_table_of_usage_is_cut_and_is_not_taken_for_its_absence(capsys):
    counts = dict.fromkeys(("events", "effective", "merged", "rejected", "duplicate", "conflicts"), 1)
    row = counts | dict.fromkeys(("operations", "bytes", "documents", "actors"), 1)
    names = ["a" * 300, "(none)", '"(none)"', None]
    rows = [{"actor": name, **row} for name in names]
    print_usage({"by": "actor", "rows": rows, "groups": 4, "total": counts}, 50)
    shown = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert shown == ["actor", "a" * 59 + "…", '"(none)"', '""(none)""', "(none)", "total"]


def test_every_argument_has_a_help_text():
    for name in COMMANDS:
        command = load(name)
        for parameter in command.params:
            assert parameter.param_type_name != "argument" or parameter.help, (name, parameter.name)


@pytest.mark.parametrize(
    ("name", "placeholder"),
    [
        ("http", "HOST:PORT"),
        ("http_waiting_max", "N"),
        ("http_waiting_per_client_max", "N"),
        ("http_body_seconds", "SECONDS"),
        ("cache_bytes_max", "BYTES"),
        ("commit_events_max", "N"),
        ("nats_port", "PORT"),
    ],
)
def test_the_placeholder_of_a_setting_shows_its_type(name, placeholder):
    option = get_args(flags(name).__dataclass_fields__[name].type)[1]
    assert option.metavar == placeholder


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DocumentAbsent(), errors.REFUSED),
        (VersionUnknown(), errors.REFUSED),
        (Refused("bad_where", "…"), errors.REFUSED),
        (Refused("bad_name", "…"), errors.USAGE),
        (Refused("bad_time", "…"), errors.USAGE),
        (PortTaken("…"), errors.REFUSED),
        (Refused("bad_setting", "…"), errors.USAGE),
        (ServiceUnavailable(), errors.UNREACHED),
        (TimedOut(), errors.UNREACHED),
        (LogUnavailable(), errors.UNREACHED),
    ],
)
def test_an_error_has_its_exit_code_and_one_line(error, code, capsys):
    with pytest.raises(SystemExit) as ended, errors.exiting_clearly():
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err.count("\n") == 1


def test_an_error_is_printed_without_its_secrets(capsys):
    with pytest.raises(SystemExit), errors.exiting_clearly():
        raise LogUnavailable("cannot reach nats://u:s3cret@h")
    assert "s3cret" not in capsys.readouterr().err


def test_a_closed_output_is_not_an_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    with pytest.raises(SystemExit) as ended, errors.exiting_clearly():
        raise BrokenPipeError
    assert ended.value.code == 0


def test_an_unreachable_service_is_named_with_a_hint(run):
    found = run("get", "acme/order-1", "--url", UNREACHABLE)
    assert isinstance(found.exception, ServiceUnavailable)
    assert UNREACHABLE in str(found.exception)


def test_json_comes_from_a_file_from_stdin_or_from_the_argument(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    path.write_text('{"a": 1}')
    assert read_json(str(path), "state") == {"a": 1}
    assert read_json(f"@{path}", "state") == {"a": 1}
    assert read_json(' {"a": 2}', "state") == {"a": 2}
    assert read_json("null", "state") is None
    assert read_json("-1.5", "state") == -1.5


@pytest.mark.parametrize(
    ("argument", "reason"),
    [("{", "bad_json"), ('{"a":1,"a":2}', "duplicate_key"), ("gone.json", "bad_usage"), ("[1", "bad_json")],
)
def test_invalid_json_is_refused_by_field(argument, reason):
    with pytest.raises(Refused) as refused:
        read_json(argument, "state")
    assert refused.value.reason == reason


def test_control_characters_are_not_printed():
    assert printable("a\x1b[2Jb\nc") == "a�[2Jb�c"


def test_a_patch_is_summarised_briefly():
    patch = [{"op": "replace", "path": "/total", "value": 12}, {"op": "remove", "path": "/x"}]
    assert change_summary(patch) == "replace /total 12, remove /x"
    assert change_summary([{"op": "move", "path": "/a", "from": "/b"}]) == "move /b → /a"
    assert change_summary([{"op": "add", "path": "", "value": {}}]) == 'add "" {}'
    counted, cut = {"op": "inc", "path": "/n", "inc": -1}, {"op": "str_del", "path": "/t", "pos": 3, "len": 2}
    typed = {"op": "str_ins", "path": "/t", "pos": 3, "str": "é"}
    assert change_summary([counted, cut, typed]) == 'inc /n -1, str_del /t 3 2, str_ins /t 3 "é"'
    assert change_summary(patch * 100).endswith("more)")


def test_config_prints_the_settings_in_force_without_secrets(run, monkeypatch):
    monkeypatch.setenv("REFOLD_NATS_URL", "nats://u:s3cret@h:4222")
    found = run("config", "--json")
    assert found.exit_code == 0
    assert "nats://u:***@h:4222" in found.output
    assert "s3cret" not in found.output


def test_a_piped_table_is_plain(capsys):
    print_table(("document", "version", "actor"), [("a", "1", None), ("longer", "10", "")])
    assert capsys.readouterr().out == "document  version\na               1\nlonger         10\n"
    print_table(("document",), [])
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("refold ", set(COMMANDS)),
        ("refold g", {"get", "gateway"}),
        (
            "refold get --",
            {"--version", "--at", "--clock", "--path", "--url", "--data", "--json", "--output"},
        ),
        ("refold get n/d --clock ", {"recorded", "occurred"}),
        ("refold bench ", set(MEASUREMENTS)),
        ("refold log ", {"create"}),
    ],
)
def test_a_shell_completes_commands_options_and_values(words, offered):
    """The protocol of bash: the words so far and the number of the one to complete."""
    typed = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    found = completion(_REFOLD_COMPLETE="complete_bash", **typed)
    assert offered <= set(found.split())


def test_the_script_for_a_shell_is_printed():
    script = completion(_REFOLD_COMPLETE="source_bash")
    assert "complete -o default -F _refold_completion refold" in script


def completion(**variables):
    code = "import sys; from refold.cli import main; sys.argv = ['refold']; main()"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(**variables))
    return found.stdout


def test_help_names_what_an_option_takes_and_not_a_type_of_python(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")
    for command in (("put",), ("watch",), ("up",), ("import",), ("store", "train")):
        monkeypatch.setattr(sys, "argv", ["refold", *command, "--help"])
        with pytest.raises(SystemExit):
            main()
        text = capsys.readouterr().out
        assert not re.search(r"<(str|bool|int|float|Target|path)|default: \(|\{[A-Z]+\}", text), text

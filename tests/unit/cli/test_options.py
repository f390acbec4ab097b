"""Where commands look for a running system, and how they read times."""

import pytest

from refold.cli import read, write
from refold.cli.options import DEFAULT_URL, System, make_command, read_time
from refold.core.errors import Refused, ServiceUnavailable


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def running(folder, url):
    folder.mkdir()
    (folder / "endpoints.json").write_text(f'{{"http": "{url}"}}')
    return folder


def test_without_options_the_default_address_is_used():
    assert System().gateway_url() == DEFAULT_URL


def test_a_url_precedes_a_folder_which_precedes_the_current_folder(here):
    running(here / ".refold", "http://127.0.0.1:1")
    assert System().gateway_url() == "http://127.0.0.1:1"
    other = running(here / "other", "http://127.0.0.1:2")
    assert System(data=other).gateway_url() == "http://127.0.0.1:2"
    assert System(data=other, url="host:3").gateway_url() == "host:3"


def test_a_folder_without_a_running_system_is_named(here):
    with pytest.raises(ServiceUnavailable, match="refold up --data nowhere"):
        System(data=here.relative_to(here) / "nowhere").gateway_url()


def test_an_invalid_endpoints_file_is_reported_by_path(here):
    (here / ".refold").mkdir()
    (here / ".refold" / "endpoints.json").write_text("{")
    with pytest.raises(Refused, match=r"endpoints\.json"):
        System().gateway_url()


def test_a_time_without_a_zone_is_local_and_a_note_says_so(capsys):
    read = read_time("2026-11-29 10:00")
    assert read.startswith("2026-11-2")
    assert "note: 2026-11-29 10:00 is local time, 2026-11-2" in capsys.readouterr().err
    assert read_time("2026-11-29 10:00Z") == "2026-11-29T10:00:00.000000000Z"
    assert read_time("now") > read_time("-5m") > read_time("6m ago")
    assert capsys.readouterr().err == ""


def test_an_invalid_time_is_refused():
    with pytest.raises(Refused) as refused:
        read_time("yesterday")
    assert refused.value.reason == "bad_time"


def test_options_are_declared_once_and_expanded_into_each_command():
    for command in (read.get, write.put):
        names = set(make_command(command).__signature__.parameters)
        assert {"url", "data", "verbose", "json", "output"} <= names

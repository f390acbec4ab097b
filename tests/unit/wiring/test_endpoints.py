"""Where commands look for a running system."""

import pytest

from refold.core.errors import Refused
from refold.wiring.endpoints import USUAL_URL, gateway_url


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("REFOLD_URL", "REFOLD_DATA"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_without_anything_it_is_the_usual_place():
    assert gateway_url(None) == USUAL_URL


def test_the_endpoints_file_goes_before_the_usual_place_the_variable_before_it_the_flag_first(
    here, monkeypatch
):
    (here / ".refold").mkdir()
    (here / ".refold" / "endpoints.json").write_text('{"http": "http://127.0.0.1:1"}')
    assert gateway_url(None) == "http://127.0.0.1:1"
    monkeypatch.setenv("REFOLD_URL", "http://127.0.0.1:2")
    assert gateway_url(None) == "http://127.0.0.1:2"
    assert gateway_url("http://127.0.0.1:3") == "http://127.0.0.1:3"


def test_an_endpoints_file_that_is_no_json_is_named(here):
    (here / ".refold").mkdir()
    (here / ".refold" / "endpoints.json").write_text("{")
    with pytest.raises(Refused, match=r"endpoints\.json"):
        gateway_url(None)


def test_a_url_that_is_none_is_refused():
    with pytest.raises(Refused) as refused:
        gateway_url("127.0.0.1:8080")
    assert refused.value.field == "--url"

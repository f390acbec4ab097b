"""What a running system wrote into its data folder."""

import fcntl

import pytest

from refold.core.errors import Refused, ServiceUnavailable
from refold.embedded import read_endpoints, running_settings


def test_the_endpoints_file_of_a_killed_process_is_stale(tmp_path):
    (tmp_path / "endpoints.json").write_text('{"http": "http://127.0.0.1:1"}')
    (tmp_path / "settings.json").write_text('{"settings": [{"setting": "http"}]}')
    with (tmp_path / "lock").open("wb") as lock:
        assert read_endpoints(tmp_path) == {}
        with pytest.raises(ServiceUnavailable):
            running_settings(tmp_path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert read_endpoints(tmp_path) == {"http": "http://127.0.0.1:1"}
        assert running_settings(tmp_path) == [{"setting": "http"}]


def test_an_endpoints_file_that_is_not_json_is_reported_by_path(tmp_path):
    (tmp_path / "endpoints.json").write_text("{")
    with pytest.raises(Refused, match=r"endpoints\.json"):
        read_endpoints(tmp_path)

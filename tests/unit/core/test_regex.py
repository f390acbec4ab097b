"""Regular expressions: by the vectors, against JavaScript, and in bounded time."""

from __future__ import annotations

import json
import subprocess

import pytest

from refold.core import regex
from refold.core.errors import Refused
from refold.core.regex import Regex
from support import node
from support.vectors import vectors

COMPARED = """
const rows = JSON.parse(require("fs").readFileSync(0, "utf8"));
const differs = rows.filter(({ pattern, matches, misses }) => {
  const found = new RegExp(pattern, "u");
  return !matches.every((text) => found.test(text)) || misses.some((text) => found.test(text));
});
console.log(JSON.stringify(differs));
"""


@pytest.mark.parametrize("vector", vectors("fold2/regex.json"))
def test_every_vector_has_its_expected_result(vector):
    if "error" in vector:
        with pytest.raises(Refused) as caught:
            Regex(vector["pattern"])
        assert caught.value.reason == vector["error"]
        return
    found = Regex(vector["pattern"])
    assert [text for text in vector["matches"] if not found.search(text)] == []
    assert [text for text in vector["misses"] if found.search(text)] == []


def test_javascript_has_the_same_results():
    rows = [row.values[0] for row in vectors("fold2/regex.json")]
    rows = [row for row in rows if "error" not in row]
    done = subprocess.run(
        [node.program("node"), "-e", COMPARED],
        input=json.dumps(rows),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == []


def test_a_refusal_names_the_position():
    with pytest.raises(Refused, match="at character 2: ") as caught:
        Regex("ab)")
    assert caught.value.reason == "bad_regex"


def test_an_expression_matches_alike_after_its_transitions_were_forgotten(monkeypatch):
    monkeypatch.setattr(regex, "TRANSITIONS_CACHED_MAX", 3)
    found = Regex("^(a|bc|def)+$")
    assert found.search("abcdefaadefbc")
    assert not found.search("abcdefaadefb")
    assert found.search("a")


def test_what_makes_a_backtracking_engine_hang_takes_a_moment():
    for pattern in ["^(a+)+$", "^(a|a)*$", "(.*)*x$", "^a*a*a*a*a*a*b$"]:
        assert not Regex(pattern).search("a" * 100_000 + "c")

"""README's first handler does on a newcomer's machine what README shows."""

import json
import re
import sys

import pytest

from batching_watchdog.testing import Function
from support.pages import ROOT, blocks

README = (ROOT / "README.md").read_text()
HANDLER, ANSWERS = (
    next(block.text for block in blocks(README) if block.language == language)
    for language in ("python", "text")
)


@pytest.fixture
def function(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "handler.py").write_text(HANDLER)
    return Function(tmp_path, in_process=True)


def test_requests_of_readme_get_the_answers_that_it_shows(function):
    served, refused = function.batch([body.encode() for body in re.findall(r"--data '(.*?)'", README)])
    first, second = ANSWERS.splitlines()
    assert served.json() == pytest.approx(json.loads(first))
    assert (refused.status, refused.body.decode()) == (400, f"{second}\n")


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"junk",
        b"[1, 2, 3]",
        b'{"a": 1}',
        b"[1, 2, 3, null]",
        b'"abcd"',
        b"[[1, 2], [3]]",
        b"[NaN, 1, 2, 3]",
    ],
)
def test_bad_body_is_its_clients_error_beside_a_good_one(function, bad):
    good, refused = function.batch([*function.examples, bad])
    assert (good.status, refused.status) == (200, 400)

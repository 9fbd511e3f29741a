"""The handlers of functions/recipes/web/ do what docs/howto/web-habits.md says."""

import gzip
import hashlib
import re
import sys

import pytest

from batching_watchdog.testing import Function
from support.pages import ROOT

CODE = {path.stem: path.read_text() for path in (ROOT / "functions/recipes/web").glob("*.py")}


@pytest.fixture
def habit(tmp_path, monkeypatch):
    """Return the function of a file, in which a text may be replaced."""
    monkeypatch.setattr("sys.path", list(sys.path))

    def function(name: str, old: str = "", new: str = "") -> Function:
        assert old in CODE[name]
        code = CODE[name].replace(old, new)
        (tmp_path / "handler.py").write_text(code)
        return Function(tmp_path, in_process=True)

    return function


def test_preflight_is_answered_before_the_model_and_answers_have_the_header(habit):
    function = habit("cors")
    preflight, answer = function.call(b"", method="OPTIONS"), function.call(b"[1, 2]")
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.headers["Access-Control-Allow-Headers"] == "Content-Type"
    assert (answer.status, answer.json()) == (200, {"y": 3})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example.com"


MULTIPART = (
    b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\na cat\r\n'
    b'--x\r\nContent-Disposition: form-data; name="upload"; filename="a.bin"\r\n\r\n'
    b"\x00\r\n\xff\n\r\n--x--\r\n"
)


def test_form_with_a_file_is_read_and_any_other_body_is_its_clients_error(habit):
    function, headers = habit("upload"), {"Content-Type": "multipart/form-data; boundary=x"}
    assert function.call(MULTIPART, headers=headers).json() == {"name": "a cat", "bytes": 5}
    assert function.call(b"junk", headers=headers).status == 400
    assert function.call(MULTIPART).status == 400


def test_compressed_body_is_opened_within_its_bound(habit):
    function, headers = habit("compressed", "1 << 24", "1000"), {"Content-Encoding": "gzip"}
    assert function.call(gzip.compress(b"a" * 1000), headers=headers).json() == {"bytes": 1000}
    assert function.call(b"plain").json() == {"bytes": 5}
    for bad in (gzip.compress(b"a" * 1001), gzip.compress(b"a" * 99)[:-9], b"junk", b""):
        assert function.call(bad, headers=headers).status == 400


def test_request_without_the_key_is_refused_before_the_model(habit, tmp_path):
    (tmp_path / "api-key").write_text("secret\n")
    function = habit("api_key", "/var/openfaas/secrets", str(tmp_path))
    good, bad = {"Authorization": "Bearer secret"}, {"Authorization": "Bearer s\xe9cret"}
    assert function.call(b"[1]", headers=good).json() == {"y": 1}
    assert [function.call(b"[1]", headers=headers).status for headers in ({}, bad)] == [401, 401]


def test_weights_are_fetched_once_and_only_if_they_are_the_right_ones(tmp_path):
    (tmp_path / "served.pt").write_bytes(b"weights")
    code = CODE["fetch"].replace("https://models.example.com/model-3.pt", (tmp_path / "served.pt").as_uri())
    right = code.replace('"0" * 64', repr(hashlib.sha256(b"weights").hexdigest()))
    fetch = {"__file__": str(tmp_path / "fetch.py")}
    with pytest.raises(SystemExit):
        exec(code, dict(fetch))
    assert not (tmp_path / "model.pt").exists()
    exec(right, dict(fetch))
    (tmp_path / "served.pt").unlink()
    exec(right, dict(fetch))
    assert (tmp_path / "model.pt").read_bytes() == b"weights"


def test_repeated_request_is_answered_from_the_cache(habit):
    function = habit("cached", "sum(row)", "len(ANSWERS)")
    first, other, again = (function.call(body).json() for body in (b"[1]", b"[2]", b"[1]"))
    assert (first, other, again) == ({"y": 0}, {"y": 1}, {"y": 0})


def test_each_path_has_its_model(habit):
    function = habit("several_models")
    assert [function.call(b"[1, 2]", path=path).json() for path in ("/sum", "/max")] == [{"y": 3}, {"y": 2}]
    assert function.call(b"[1, 2]", path="/min").status == 404


def test_every_habit_is_tried():
    tried = set(
        re.findall(r'(?:habit\(|CODE\[)"([^"]+)"', (ROOT / "tests/docs/test_web_habits.py").read_text())
    )
    assert tried == set(CODE)

"""The starter's handler, which ``faas-cli new`` makes, as production runs it."""

import json

import pytest

from batching_watchdog.testing import Function
from support.pages import ROOT

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def starter():
    function = Function(ROOT / "template/python3-inference/function")
    yield function
    function.close()


def test_a_batch_answers_each_request_as_if_it_were_alone(starter):
    bodies = [json.dumps({"x": [float(i), 0, -1, 2]}).encode() for i in range(5)]
    together = [answer.json()["y"] for answer in starter.batch(bodies)]
    assert together == pytest.approx([starter.call(body).json()["y"] for body in bodies], rel=1e-4)
    assert len(set(together)) == 5


@pytest.mark.parametrize("bad", [b"", b"[]", b"{}", b'{"x": [1, 2]}', b'{"x": [1, 2, 3, "four"]}'])
def test_a_bad_request_fails_alone(starter, bad):
    good, refused = starter.batch([b'{"x": [1, 2, 3, 4]}', bad])
    assert good.status == 200
    assert refused.status == 400

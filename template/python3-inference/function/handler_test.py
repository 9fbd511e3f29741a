"""Tests of your function: run ``pytest`` in this folder. They also run when the image is built.

Function serves as production does: load() and the handler run in a worker process, and results are encoded.
"""

import json
from pathlib import Path

import pytest

from batching_watchdog.testing import Function

FUNCTION = Function(Path(__file__).parent)


def test_each_example_is_answered():
    for answer in FUNCTION.batch(FUNCTION.examples):
        assert answer.status == 200
        assert isinstance(answer.json()["y"], float)


def test_a_batch_answers_each_request_as_if_it_were_alone():
    bodies = [json.dumps({"x": [float(i), 0, -1, 2]}).encode() for i in range(5)]
    together = [answer.json()["y"] for answer in FUNCTION.batch(bodies)]
    assert together == pytest.approx([FUNCTION.call(body).json()["y"] for body in bodies], rel=1e-4)
    assert len(set(together)) == 5


@pytest.mark.parametrize("bad", [b"", b"[]", b"{}", b'{"x": [1, 2]}', b'{"x": [1, 2, 3, "four"]}'])
def test_a_bad_request_fails_alone(bad):
    good, refused = FUNCTION.batch([b'{"x": [1, 2, 3, 4]}', bad])
    assert good.status == 200
    assert refused.status == 400

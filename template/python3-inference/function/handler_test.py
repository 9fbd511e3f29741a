"""Tests of your function: run ``pytest`` in this folder. They also run when the image is built."""

import json
from types import SimpleNamespace

import handler
import pytest

CONTEXT = SimpleNamespace(model=handler.load(), hostname="test")


def read(body):
    """What parse makes of a request with this body."""
    return handler.parse(SimpleNamespace(body=body, json=lambda: json.loads(body)))


def call(*bodies):
    """What handle_batch answers to a batch of these bodies."""
    return handler.handle_batch([read(body) for body in bodies], CONTEXT)


def test_the_example_is_answered():
    (answer,) = call(handler.example())
    assert isinstance(answer["y"], float)


def test_a_batch_answers_each_request_as_if_it_were_alone():
    bodies = [json.dumps({"x": [float(i), 0, -1, 2]}).encode() for i in range(5)]
    together = [answer["y"] for answer in call(*bodies)]
    assert together == pytest.approx([call(body)[0]["y"] for body in bodies], rel=1e-4)
    assert len(set(together)) == 5


@pytest.mark.parametrize("bad", [b"", b"[]", b"{}", b'{"x": [1, 2]}', b'{"x": [1, 2, 3, "four"]}'])
def test_a_bad_request_is_refused(bad):
    with pytest.raises((ValueError, TypeError, KeyError)):
        read(bad)

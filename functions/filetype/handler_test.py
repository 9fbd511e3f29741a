"""Tests of the handler: run ``pytest`` in this folder. They also run when the image is built."""

import json
import random
import zlib
from pathlib import Path

import handler
import pytest
from magika import Magika

from batching_watchdog.testing import Function

FUNCTION = Function(Path(__file__).parent)
PLAIN = b"The quick brown fox jumps over the lazy dog. " * 200
BODIES = {
    "python": handler.example(),
    "json": json.dumps({"a": list(range(500))}).encode(),
    "html": b"<!DOCTYPE html><html><head><title>t</title></head><body><p>hello</p></body></html>",
    "long": PLAIN,
    "random": random.Random(1).randbytes(5_000),
    "zlib": zlib.compress(PLAIN),
    "spaces at both ends": b" " * 5_000 + PLAIN + b"\n" * 3_000,
    "nothing but spaces": b" " * 9_000,
    "seven bytes": b"1234567",
    "eight bytes": b"12345678",
    "short and no text": b"\xff\xfe\xfd",
    "nothing": b"",
}


def call(*bodies: bytes) -> list:
    return [answer.json() for answer in FUNCTION.batch(bodies)]


@pytest.mark.parametrize("name", BODIES)
def test_the_answer_is_that_of_magikas_own_client(name):
    theirs = Magika().identify_bytes(BODIES[name])
    (found,) = call(BODIES[name])
    assert (found["label"], found["score"]) == (theirs.output.label, pytest.approx(theirs.score, abs=1e-3))


def test_a_batch_answers_each_body_as_it_is_answered_alone():
    together = [answer["label"] for answer in call(*BODIES.values())]
    assert together == [call(body)[0]["label"] for body in BODIES.values()]

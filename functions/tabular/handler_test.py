"""Tests of the handler: run ``pytest`` in this folder. They also run when the image is built."""

import json
from pathlib import Path

import pytest

from batching_watchdog.testing import Function

from . import handler

FUNCTION = Function(Path(__file__).parent)
GOOD = json.loads(handler.example())["features"]


def call(*bodies: bytes) -> list:
    return [answer.json() for answer in FUNCTION.batch(bodies)]


def body_of(features: object) -> bytes:
    return json.dumps({"features": features}).encode()


def test_the_example_gets_a_score_and_the_label_that_follows_from_it():
    (answer,) = call(handler.example())
    assert answer.keys() == {"score", "label"}
    assert 0.0 < answer["score"] < 1.0
    assert answer["label"] == (answer["score"] >= 0.5)


def test_different_rows_get_different_scores():
    answers = call(*(body_of([float(i)] * handler.FEATURES) for i in range(5)))
    assert len({answer["score"] for answer in answers}) == 5


def test_the_same_seed_makes_the_same_model():
    assert Function(Path(__file__).parent).call(handler.example()) == FUNCTION.call(handler.example())


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"not json",
        b"\xff\xfe\x00",
        b"[]",
        b"7",
        b"[" * 100_000,
        b"{}",
        body_of(None),
        body_of("12345678901234567890123456789012"),
        body_of(GOOD[:-1]),
        body_of([*GOOD, 1.0]),
        body_of([*GOOD[:-1], "1"]),
        body_of([*GOOD[:-1], None]),
        body_of([*GOOD[:-1], [1]]),
        body_of([*GOOD[:-1], 10**400]),
        body_of([*GOOD[:-1], float("nan")]),
        body_of([*GOOD[:-1], 1e300]),
    ],
    ids=lambda bad: repr(bad[:20] + bad[-10:]),
)
def test_a_malformed_row_is_answered_400_and_leaves_its_neighbors_alone(bad):
    row = body_of([0.5] * handler.FEATURES)
    before, refused, after = FUNCTION.batch([row, bad, handler.example()])
    assert refused.status == 400
    assert b"features" in refused.body
    assert before.json()["score"] == pytest.approx(
        call(body_of([0.5] * handler.FEATURES))[0]["score"], rel=1e-4
    )
    assert after.json()["score"] == pytest.approx(call(handler.example())[0]["score"], rel=1e-4)


def test_a_batch_of_malformed_rows_is_answered_400():
    assert [answer.status for answer in FUNCTION.batch([b""] * 3)] == [400, 400, 400]

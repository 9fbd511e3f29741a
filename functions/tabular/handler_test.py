"""Tests of the handler: run ``pytest`` in this folder. They also run when the image is built."""

import json
from types import SimpleNamespace

import pytest

from . import handler

CONTEXT = SimpleNamespace(model=handler.load(), hostname="test")
GOOD = json.loads(handler.example())["features"]


def call(*bodies: bytes) -> list:
    return handler.handle_batch([SimpleNamespace(body=body) for body in bodies], CONTEXT)


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
    assert call(handler.example()) == handler.handle_batch(
        [SimpleNamespace(body=handler.example())], SimpleNamespace(model=handler.load())
    )


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
    before, refused, after = call(body_of([0.5] * handler.FEATURES), bad, handler.example())
    assert refused["statusCode"] == 400
    assert "features" in refused["body"]["error"]
    assert before["score"] == pytest.approx(call(body_of([0.5] * handler.FEATURES))[0]["score"], rel=1e-4)
    assert after["score"] == pytest.approx(call(handler.example())[0]["score"], rel=1e-4)


def test_a_batch_of_malformed_rows_is_answered_without_the_model():
    answers = handler.handle_batch([SimpleNamespace(body=b"")] * 3, SimpleNamespace(model=None))
    assert [answer["statusCode"] for answer in answers] == [400, 400, 400]

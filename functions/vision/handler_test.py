"""Tests of the handler: run ``pytest`` in this folder. They also run when the image is built."""

from pathlib import Path

import pytest
import torch

from batching_watchdog.testing import Function

from . import handler

FUNCTION = Function(Path(__file__).parent)


def call(*bodies: bytes) -> list:
    return [answer.json() for answer in FUNCTION.batch(bodies)]


def image(red: int, green: int, blue: int) -> bytes:
    return bytes([red, green, blue]) * handler.SIDE**2


def test_the_example_gets_one_of_the_thousand_classes_and_its_score():
    (answer,) = call(handler.example())
    assert answer.keys() == {"class", "score"}
    assert 0 <= answer["class"] < 1000
    assert 0.001 < answer["score"] <= 1.0


def test_different_images_get_different_answers():
    answers = call(image(255, 0, 0), image(0, 255, 0), image(0, 0, 255), image(255, 255, 255))
    assert len({(answer["class"], answer["score"]) for answer in answers}) == 4


def test_pixels_are_normalized_with_the_statistics_of_their_channel():
    tensor = handler.normalize([image(0, 255, 0), image(255, 0, 0)])
    assert tensor.shape == (2, 3, handler.SIDE, handler.SIDE)
    expected = torch.tensor([(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0 - 0.406) / 0.225])
    torch.testing.assert_close(tensor[0, :, 7, 100], expected)
    assert tensor[1, 0, 0, 0] == pytest.approx((1 - 0.485) / 0.229)


def test_rows_and_columns_keep_their_places():
    pixels = bytearray(handler.BODY_BYTES)
    pixels[(10 * handler.SIDE + 20) * 3 + 1] = 255
    green = handler.normalize([bytes(pixels)])[0, 1]
    assert (green == green.max()).nonzero().tolist() == [[10, 20]]


@pytest.mark.parametrize("size", [0, handler.BODY_BYTES - 1, handler.BODY_BYTES + 1])
def test_a_body_of_the_wrong_length_is_answered_400_and_leaves_its_neighbors_alone(size):
    before, refused, after = FUNCTION.batch([image(1, 2, 3), bytes(size), image(200, 100, 0)])
    assert refused.status == 400
    assert str(handler.BODY_BYTES).encode() in refused.body
    assert before.json().keys() == after.json().keys() == {"class", "score"}


def test_a_batch_of_wrong_bodies_is_answered_400():
    assert [answer.status for answer in FUNCTION.batch([b""] * 3)] == [400, 400, 400]

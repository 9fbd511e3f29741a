"""What a soak says of memory."""

import pytest
from bench.soak import growth


def samples(*sizes: float) -> list[dict[str, float]]:
    return [{"total": size} for size in sizes]


def test_memory_that_stays_flat_after_a_start_has_not_grown():
    assert growth(samples(50, 90, *[100.0] * 8), "total") == 0


def test_growth_is_of_the_end_against_the_time_after_the_start():
    assert growth(samples(1, 1, *[100.0] * 4, 110, 120, 130, 130), "total") == pytest.approx(0.3)


def test_one_high_sample_is_no_growth():
    assert growth(samples(*[100.0] * 19, 900), "total") == 0


def test_too_few_samples_say_nothing():
    assert growth(samples(1, 2, 3, 4), "total") is None

"""What a watchdog has learned: which size it uses, and the words for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.web.profile import curve, profile
from tailbound_lab.simulate.function import Function, Service

LEARNED = {1: 0.028, 2: 0.044, 4: 0.075, 8: 0.14}


def test_the_size_with_the_best_throughput_that_fits_is_chosen_and_the_next_one_is_told():
    found = profile(LEARNED, 1, 0.2, 53.0)
    assert found["chosen"] == 4
    assert [each["fits"] for each in found["sizes"]] == [True, True, True, False]
    assert "150 ms with the wait for the one before it, of 200 ms" in found["why"]
    assert "8 at a time would take 280 ms" in found["why"]
    assert found["why"].endswith("The autoscaler counts on 53/s of a replica.")


@pytest.mark.parametrize(
    ("capacity", "words"),
    [(397.0, "of a replica: capacity goes by mean times"), (30.0, "CPU time"), (53.0, "53/s of a replica.")],
)
def test_why_a_capacity_differs_from_the_throughput_is_said(capacity, words):
    assert words in profile(LEARNED, 1, 0.2, capacity)["why"]


def test_of_nearly_equal_ones_the_smallest_is_chosen():
    assert profile({1: 0.010, 2: 0.0199, 4: 0.0397}, 1, 1.0, None)["chosen"] == 1


def test_more_workers_share_the_wait_and_add_their_throughput():
    one, four = profile(LEARNED, 1, 0.2, None), profile(LEARNED, 4, 0.2, None)
    assert four["chosen"] == 8
    assert four["sizes"][0]["throughput"] == pytest.approx(4 * one["sizes"][0]["throughput"])
    assert "4 workers" in four["why"]


@pytest.mark.parametrize(
    ("predicted", "latency", "words"),
    [
        ({}, 0.2, "Nothing is learned yet"),
        ({1: 0.3}, 0.2, "More replicas will not help"),
        (LEARNED, None, "There is no SLO"),
    ],
)
def test_without_a_choice_the_reason_is_told(predicted, latency, words):
    found = profile(predicted, None, latency, None)
    assert found["chosen"] is None
    assert words in found["why"]


tables = st.dictionaries(
    st.sampled_from([1, 2, 4, 8, 16, 32]), st.floats(0.001, 2.0, allow_nan=False), min_size=1
)


@given(tables)
def test_the_curve_is_what_a_simulation_takes_and_passes_through_the_largest_value(predicted):
    seconds = curve(predicted)
    assert len(seconds) == max(predicted)
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(max(predicted.values()))
    Function(Service(tuple(seconds)))


def test_nothing_learned_is_no_curve():
    assert curve({}) == []


@given(tables, st.integers(1, 8), st.floats(0.005, 3.0))
def test_the_chosen_size_fits_and_none_that_fits_does_much_better(predicted, workers, latency):
    found = profile(predicted, workers, latency, None)
    fits = [each for each in found["sizes"] if each["fits"]]
    chosen = [each for each in found["sizes"] if each["chosen"]]
    assert bool(chosen) == bool(fits)
    for each in chosen:
        assert each in fits
        assert all(each["throughput"] >= 0.969 * other["throughput"] for other in fits)

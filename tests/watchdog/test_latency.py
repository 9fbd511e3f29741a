"""Service times here are made up by laws of the batch size, so that the right answer is known."""

from collections.abc import Callable
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.engine.latency import FORGET_EVERY, REACH, RECENT, TRIES, WINDOW, LatencyModel
from watchdog.curves import TABULAR, TEXT, VISION, VISION_TUNED

Law = Callable[[int], float]
SIZES = st.integers(1, 64)
RUNS = st.lists(st.tuples(SIZES, st.floats(0, 10)), min_size=1, max_size=200)


def accelerator(size: int) -> float:
    return 0.008 + 0.0005 * size


def linear(size: int) -> float:
    return 0.005 * size


def learn(model: LatencyModel, law: Law, sizes: range | list[int], times: int = 1) -> LatencyModel:
    for _ in range(times):
        for size in sizes:
            model.observe(size, law(size))
    return model


def saturate(model: LatencyModel, law: Law, batches: int) -> list[int]:
    """Run ``batches`` under so much load that each has the best size; the sizes that were run."""
    sizes = []
    for _ in range(batches):
        sizes.append(model.best_size)
        model.observe(sizes[-1], law(sizes[-1]))
    return sizes


def test_nothing_is_promised_before_anything_is_learned():
    model = LatencyModel(64)
    assert not model.learned
    assert model.predict(1) == model.predict(64) == model.predict_mean(64) == 0.0
    assert model.capacity(2, 0.1) is None
    assert model.sizes_learned() == []
    assert model.best_size == 1


@given(RUNS)
def test_predictions_are_positive_and_non_decreasing_in_the_size(runs: list[tuple[int, float]]):
    model = LatencyModel(64)
    for size, seconds in runs:
        model.observe(size, seconds)
    for predict in (model.predict, model.predict_mean):
        values = [predict(size) for size in range(1, 65)]
        assert values[0] > 0
        assert all(low <= high * (1 + 1e-9) for low, high in pairwise(values))


@given(RUNS)
def test_the_best_size_is_within_what_is_allowed_and_at_most_twice_the_largest_seen(
    runs: list[tuple[int, float]],
):
    model = LatencyModel(48)
    largest = 0
    for size, seconds in runs:
        model.observe(min(size, 48), seconds)
        largest = max(largest, min(size, 48))
        assert 1 <= model.best_size <= min(48, 2 * largest)


@given(RUNS, st.floats(0, 20))
def test_the_largest_batch_within_a_time_is_the_last_that_is_predicted_to_fit(
    runs: list[tuple[int, float]], seconds: float
):
    model = LatencyModel(64)
    for size, taken in runs:
        model.observe(size, taken)
    within = model.largest_within(seconds)
    tried = min(64, 2 * max(size for size, _ in runs))
    assert within <= tried
    assert within == 0 or model.predict(within) <= seconds
    assert within == tried or model.predict(within + 1) > seconds


@given(RUNS, st.integers(1, 8), st.floats(0.001, 10))
def test_capacity_is_finite_and_zero_only_if_no_size_qualifies(
    runs: list[tuple[int, float]], workers: int, slo_latency: float
):
    model = LatencyModel(64)
    for size, seconds in runs:
        model.observe(size, seconds)
    capacity = model.capacity(workers, slo_latency)
    assert capacity is not None
    assert 0 <= capacity < float("inf")
    assert (capacity == 0) == (model.predict(1) > slo_latency / (1 + 1 / workers))


@given(
    st.floats(0.0001, 1), st.floats(0.00001, 0.1), st.lists(SIZES, min_size=20, max_size=100, unique=False)
)
def test_an_affine_law_is_recovered_within_a_few_percent(base: float, each: float, sizes: list[int]):
    model = learn(
        LatencyModel(64), lambda size: base + each * size, [1, 2, 4, 8, 16, 32, 64, *sizes], times=2
    )
    for size in range(1, 65):
        assert model.predict_mean(size) == pytest.approx(base + each * size, rel=0.03)
        assert model.predict(size) == pytest.approx(base + each * size, rel=0.03)


def test_beyond_what_was_seen_an_affine_law_is_continued_as_a_line():
    model = learn(LatencyModel(1024), accelerator, [1, 2, 4, 8], times=4)
    assert model.predict(16) == pytest.approx(accelerator(16), rel=0.01)
    assert model.predict(1024) == pytest.approx(accelerator(1024), rel=0.01)
    assert model.predict(5000) == model.predict(1024)


@given(SIZES, st.floats(0.0001, 10), st.integers(1, 200))
def test_one_size_alone_is_enough_to_predict_it(size: int, seconds: float, times: int):
    model = learn(LatencyModel(64), lambda _: seconds, [size], times=times)
    assert model.predict(size) == pytest.approx(seconds)
    assert model.predict_mean(size) == pytest.approx(seconds)


def test_the_upper_quantile_is_above_the_usual_run_and_the_mean_is_not():
    model = LatencyModel(4)
    for run in range(60):
        model.observe(1, 0.020 if run % 6 == 0 else 0.010)
    assert model.predict(1) == pytest.approx(0.020)
    assert 0.011 < model.predict_mean(1) < 0.012


@given(st.integers(1, WINDOW - 1), st.sampled_from([1, 2, 4, 8, 16]))
def test_one_outlier_changes_no_prediction(after: int, size: int):
    model = learn(LatencyModel(16), accelerator, [1, 2, 4, 8, 16], times=5)
    before = [model.predict(each) for each in range(1, 17)]
    model.observe(size, 10.0)
    learn(model, accelerator, [size], times=after)
    assert [model.predict(each) for each in range(1, 17)] == pytest.approx(before, rel=0.01)


def test_a_slow_first_run_does_not_stop_a_size_from_being_tried_again():
    slow = dict.fromkeys((1, 2, 4, 8, 16, 32, 64), 1.0)
    model = LatencyModel(64)
    for _ in range(200):
        size = model.best_size
        model.observe(size, accelerator(size) + slow.pop(size, 0.0))
    assert model.best_size >= 50
    assert model.predict(64) == pytest.approx(accelerator(64), rel=0.01)


def test_a_slow_first_run_of_a_small_size_does_not_condemn_the_larger_ones():
    model = LatencyModel(64)
    model.observe(1, 5.0)
    learn(model, accelerator, [2, 4, 8, 16, 32, 64], times=4)
    assert model.predict(1) <= accelerator(2) * 1.001
    assert model.predict(64) == pytest.approx(accelerator(64), rel=0.01)


def test_a_size_that_ran_once_is_bounded_by_its_parts():
    model = learn(LatencyModel(8), linear, [1], times=10)
    model.observe(2, 7.0)
    assert model.predict(2) == pytest.approx(linear(2))
    model.observe(2, 7.0)
    assert model.predict(2) == pytest.approx(7.0)


def test_a_model_that_becomes_twice_as_slow_is_followed():
    model = learn(LatencyModel(64), accelerator, [1, 2, 4, 8, 16, 32, 64], times=20)
    learn(model, lambda size: 2 * accelerator(size), [1, 2, 4, 8, 16, 32, 64], times=WINDOW + 8)
    for size in (1, 8, 50, 64):
        assert model.predict(size) == pytest.approx(2 * accelerator(size), rel=0.03)
        assert model.predict_mean(size) == pytest.approx(2 * accelerator(size), rel=0.03)


def test_the_deadline_test_follows_a_slower_model_long_before_its_window_has_passed():
    model = learn(LatencyModel(8), accelerator, [8], times=WINDOW)
    learn(model, lambda size: 2 * accelerator(size), [8], times=16)
    assert model.predict(8) == pytest.approx(2 * accelerator(8), rel=0.01)


@pytest.mark.parametrize("change", [2.0, 10.0])
@pytest.mark.parametrize("size", [1, 8, 64])
def test_a_model_that_has_become_slower_is_believed_after_a_few_runs_of_whatever_size(
    change: float, size: int
):
    model = learn(LatencyModel(64), accelerator, [1, 2, 4, 8, 16, 32, 64], times=20)
    learn(model, lambda each: change * accelerator(each), [size], times=RECENT + 4)
    for each in (1, 2, 8, 50, 64):
        assert model.predict(each) == pytest.approx(change * accelerator(each), rel=0.05)
        assert model.predict_mean(each) == pytest.approx(change * accelerator(each), rel=0.05)


@pytest.mark.parametrize("size", [1, 8, 64])
def test_a_model_that_has_become_faster_is_believed_for_the_sizes_that_ran(size: int):
    model = learn(LatencyModel(64), accelerator, [1, 2, 4, 8, 16, 32, 64], times=20)
    learn(model, lambda each: 0.5 * accelerator(each), [size], times=RECENT + 4)
    assert model.predict(size) == pytest.approx(0.5 * accelerator(size), rel=0.05)
    for each in (1, 2, 8, 50, 64):
        assert model.predict(each) <= 1.05 * accelerator(each)
    learn(model, lambda each: 0.5 * accelerator(each), [64], times=2)
    assert model.predict_mean(64) == pytest.approx(0.5 * accelerator(64), rel=0.05)


def test_busy_cores_that_come_and_go_leave_no_trace_in_the_sizes_that_do_not_run():
    model = learn(LatencyModel(64), accelerator, [1, 2, 4, 8, 16, 32, 64], times=20)
    for _ in range(10):
        learn(model, lambda size: 1.6 * accelerator(size), [2], times=30)
        assert model.predict_mean(64) == pytest.approx(1.6 * accelerator(64), rel=0.05)
        learn(model, accelerator, [2], times=30)
        assert model.predict_mean(64) == pytest.approx(accelerator(64), rel=0.05)


def test_sizes_that_do_not_run_recover_as_slowly_as_those_that_do():
    model = learn(LatencyModel(64), accelerator, [1, 2, 4, 8, 16, 32, 64], times=20)
    for _ in range(5):
        learn(model, lambda size: 1.6 * accelerator(size), [2], times=30)
        for percent in range(59, -1, -1):  # too slowly to be a change
            learn(model, lambda size: (1 + percent / 100) * accelerator(size), [2], times=8)  # noqa: B023
        learn(model, accelerator, [2], times=WINDOW)
    assert model.predict_mean(64) == pytest.approx(accelerator(64), rel=0.05)


def test_sizes_that_have_seen_the_change_themselves_are_not_changed_twice():
    model = learn(LatencyModel(8), accelerator, [1, 2, 4, 8], times=20)
    for _ in range(3 * RECENT):
        learn(model, lambda size: 2 * accelerator(size), [1, 2, 4, 8])
        assert model.predict_mean(8) <= 2.05 * accelerator(8)
    for size in range(1, 9):
        assert model.predict(size) == pytest.approx(2 * accelerator(size), rel=0.01)


@given(st.integers(0, 2**32), st.floats(0.0, 0.1))
def test_noise_is_not_taken_for_a_change(seed: int, noise: float):
    model, random = LatencyModel(8), Random(seed)
    for number in range(500):
        model.observe(1 + number % 2, random.uniform(1 - noise, 1 + noise) * accelerator(1 + number % 2))
    assert all(len(samples.kept) >= WINDOW * 3 // 4 for samples in model._samples.values())


def test_a_stall_of_a_few_batches_is_not_taken_for_a_change():
    model = learn(LatencyModel(8), accelerator, [8], times=WINDOW)
    learn(model, lambda size: 5 * accelerator(size), [8], times=RECENT - 2)
    learn(model, accelerator, [8], times=2)
    assert model.predict_mean(8) < 2 * accelerator(8)


def test_a_slow_spell_of_all_sizes_is_forgotten_though_only_the_largest_is_used_after_it():
    model = learn(LatencyModel(64), lambda size: 10 * accelerator(size), [1, 2, 4, 8, 16, 32, 64], times=30)
    learn(model, accelerator, [64], times=WINDOW + 8)
    assert model.predict(64) == pytest.approx(accelerator(64), rel=0.01)
    assert model.predict(1) <= model.predict(64)


def test_a_slow_spell_of_all_sizes_is_forgotten_though_only_the_smallest_is_used_after_it():
    model = learn(LatencyModel(64), lambda size: 10 * accelerator(size), [1, 2, 4, 8, 16, 32, 64], times=30)
    sizes = saturate(model, accelerator, 16 * FORGET_EVERY)
    assert sizes[-1] >= 50


def test_an_affine_law_makes_large_batches():
    model = LatencyModel(64)
    sizes = saturate(model, accelerator, 60)
    assert sizes[:7] == [1, 2, 4, 8, 16, 32, 64]
    assert model.best_size == 64


def test_a_law_without_intercept_makes_no_batches():
    model = LatencyModel(64)
    sizes = saturate(model, linear, 100)
    assert model.best_size == 1
    # Once more for the sample that was forgotten.
    assert sizes.count(2) == TRIES + 100 // FORGET_EVERY
    assert max(sizes) == 2


@pytest.mark.parametrize(
    ("law", "limit", "low", "high"),
    [
        pytest.param(VISION, 64, 4, 4, id="vision"),
        pytest.param(VISION_TUNED, 64, 8, 8, id="vision-tuned"),
        pytest.param(TEXT, 128, 32, 32, id="text"),
        pytest.param(TABULAR, 128, 64, 128, id="tabular"),
    ],
)
def test_the_best_size_is_found_on_measured_curves(law: Law, limit: int, low: int, high: int):
    model = LatencyModel(limit)
    sizes = saturate(model, law, 400)
    assert low <= sorted(sizes[-100:])[50] <= high


def test_the_best_size_is_found_through_noise():
    model = LatencyModel(64)
    noise = [1.0, 1.12, 0.97, 1.05, 1.31, 1.02, 0.99]
    sizes = []
    for batch in range(500):
        sizes.append(model.best_size)
        model.observe(sizes[-1], VISION(sizes[-1]) * noise[batch % len(noise)])
    assert 3 <= sorted(sizes[-100:])[50] <= 5


def test_a_worse_size_is_tried_again_but_seldom():
    model = LatencyModel(64)
    saturate(model, linear, 10 * FORGET_EVERY)
    again = saturate(model, linear, 20 * FORGET_EVERY)
    assert 1 <= again.count(2) <= 20 + TRIES


def test_a_size_that_has_become_better_is_found():
    model = LatencyModel(64)
    saturate(model, linear, 100)
    saturate(model, accelerator, 8 * FORGET_EVERY)
    assert model.best_size >= 50


@pytest.mark.parametrize(
    ("workers", "slo_latency", "expected"),
    [
        # l(1) = 10 ms, l(2) = 12 ms, l(4) = 16 ms
        pytest.param(1, 0.100, 250.0, id="all sizes fit: 4 / 16 ms"),
        pytest.param(1, 0.032, 250.0, id="2 x 16 ms is just within 32 ms"),
        pytest.param(1, 0.028, 3 / 0.014, id="2 x 14 ms: three at a time"),
        pytest.param(1, 0.025, 2 / 0.012, id="2 x 12 ms is within 25 ms, 2 x 14 ms is not"),
        pytest.param(1, 0.020, 100.0, id="one at a time"),
        pytest.param(1, 0.019, 0.0, id="not even one: it may wait for another"),
        pytest.param(2, 0.019, 2 * 2 / 0.012, id="two workers: 1.5 x 12 ms is within 19 ms: 2 x 2 / 12 ms"),
        pytest.param(4, 0.020, 1000.0, id="four workers: 1.25 x 16 ms is 20 ms: 4 x 4 / 16 ms"),
    ],
)
def test_capacity_by_hand(workers: int, slo_latency: float, expected: float):
    model = learn(LatencyModel(4), lambda size: 0.008 + 0.002 * size, [1, 2, 4], times=10)
    # A hair more, since 0.008 + 0.002 x 4 is not exactly 0.016 in floating point.
    assert model.capacity(workers, slo_latency + 1e-9) == pytest.approx(expected)


def test_capacity_continues_the_line_through_the_sizes_seen_as_far_as_the_slo_allows():
    model = learn(LatencyModel(64), accelerator, [1, 2, 4, 8], times=10)
    # 2 x l(b) is within 40 ms up to 24 requests.
    assert model.capacity(1, 0.0401) == pytest.approx(24 / accelerator(24))
    assert model.capacity(1, 1.0) == pytest.approx(64 / accelerator(64))


def test_capacity_promises_nothing_far_beyond_what_was_seen():
    model = learn(LatencyModel(1024), accelerator, [1, 2], times=10)
    assert model.capacity(1, 100.0) == pytest.approx(2 * REACH / accelerator(2 * REACH))


@pytest.mark.parametrize(
    ("sizes", "times"), [([1], 10), ([1, 2], TRIES - 1)], ids=["one size", "too few runs of the second"]
)
def test_capacity_promises_nothing_for_sizes_not_seen_without_a_line_through_two(
    sizes: list[int], times: int
):
    model = learn(LatencyModel(64), accelerator, sizes, times=times)
    assert model.capacity(1, 1.0) == pytest.approx(sizes[-1] / accelerator(sizes[-1]))


def test_capacity_promises_nothing_of_larger_sizes_when_the_largest_seen_is_known_to_be_worse():
    model = learn(LatencyModel(64), VISION, [1, 4, 8], times=10)
    assert model.capacity(1, 10.0) == pytest.approx(286)


def test_capacity_without_workers_is_unknown():
    assert learn(LatencyModel(4), linear, [1]).capacity(0, 0.1) is None


def test_the_best_throughput_may_be_at_less_than_the_largest_size_that_fits():
    model = learn(LatencyModel(32), VISION, [1, 2, 4, 8, 16, 32], times=10)
    assert model.capacity(2, 10.0) == pytest.approx(2 * 286, rel=0.01)


def test_sizes_learned_are_the_powers_of_two_that_hold_them():
    model = learn(LatencyModel(48), linear, [1, 3, 5, 40])
    assert model.sizes_learned() == [1, 4, 8, 48]


def test_memory_and_work_do_not_grow_with_the_largest_size_allowed():
    model = learn(LatencyModel(65536), accelerator, [1, 2, 4], times=500)
    assert len(model._upper.sizes) == len(model._mean.sizes) == 3
    assert all(len(samples.kept) <= WINDOW for samples in model._samples.values())


def test_of_sizes_that_contradict_each_other_the_one_that_ran_last_is_believed_whatever_lies_between():
    model = learn(LatencyModel(64), accelerator, [1, 2, 4, 8, 16, 32, 64], times=30)
    learn(model, lambda size: 10 * accelerator(64), [1], times=30)
    learn(model, accelerator, [64], times=1)
    assert model.predict(1) <= 1.01 * accelerator(64)

"""Service times here are made up by laws of the batch size, so that the right answer is known."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.engine.latency import AGAIN_EVERY, RECENT, TRIES, WINDOW, LatencyModel
from watchdog.engine.queues import TABULAR, TEXT, VISION, VISION_TUNED, Law, learn, learned

POWERS = (1, 2, 4, 8, 16, 32, 64)
SIZES = st.integers(1, 64)
RUNS = st.lists(st.tuples(SIZES, st.floats(0, 10)), min_size=1, max_size=200)


def accelerator(size: int) -> float:
    return 0.008 + 0.0005 * size


def linear(size: int) -> float:
    return 0.005 * size


def scaled(factor: float) -> Law:
    return lambda size: factor * accelerator(size)


def follows(model: LatencyModel, law: Law, sizes: tuple[int, ...], *, within: float = 0.05) -> None:
    """The model predicts this law at these sizes, by quantile and by mean."""
    for predict in (model.predict, model.predict_mean):
        assert [predict(size) for size in sizes] == pytest.approx([law(size) for size in sizes], rel=within)


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
    assert model.sizes_learned() == []
    assert model.best_size == 1


@given(RUNS, st.floats(0, 20))
def test_any_runs_give_a_rising_curve_with_consistent_values(runs, seconds):
    model, largest = LatencyModel(48), 0
    for size, taken in runs:
        model.observe(min(size, 48), taken)
        largest = max(largest, min(size, 48))
        assert 1 <= model.best_size <= min(48, 2 * largest)
    for predict in (model.predict, model.predict_mean, model.predict_cautious):
        values = [predict(size) for size in range(1, 49)]
        assert values[0] > 0
        assert all(low <= high * (1 + 1e-9) for low, high in pairwise(values))
    within, tried = model.largest_within(seconds), min(48, 2 * largest)
    assert within <= tried
    assert within == 0 or model.predict(within) <= seconds
    assert within == tried or model.predict(within + 1) > seconds


@given(st.floats(0.0001, 1), st.floats(0.00001, 0.1), st.lists(SIZES, min_size=20, max_size=100))
def test_an_affine_law_is_recovered_within_a_few_percent(base, each, sizes):
    law: Law = lambda size: base + each * size  # noqa: E731 - it closes over what was drawn
    follows(learned(law, [*POWERS, *sizes], 64, times=2), law, tuple(range(1, 65)), within=0.03)


def test_beyond_what_was_seen_an_affine_law_is_continued_as_a_line():
    model = learned(accelerator, limit=1024, times=4)
    follows(model, accelerator, (16, 1024), within=0.01)
    assert model.predict(5000) == model.predict(1024)


def test_the_upper_quantile_is_above_the_usual_run_and_the_mean_is_not():
    model = LatencyModel(4)
    for run in range(60):
        model.observe(1, 0.020 if run % 4 == 0 else 0.010)
    assert model.predict(1) == pytest.approx(0.020)
    assert 0.012 < model.predict_mean(1) < 0.013


# Within what could pass for a model that has become slower or faster.
@given(st.lists(st.floats(0.01, 0.0112), min_size=1, max_size=4))
def test_no_run_is_slower_than_the_upper_quantile_while_there_are_too_few_to_show_it(runs):
    model = LatencyModel(1)
    for seconds in runs:
        model.observe(1, seconds)
    assert model.predict(1) == pytest.approx(max(runs))


def test_the_cautious_mean_is_further_above_the_mean_the_fewer_runs_there_are():
    model, random, above = LatencyModel(8), Random(1), []
    for runs in (4, 12, 48):
        for _ in range(runs):
            model.observe(8, random.uniform(0.9, 1.1) * accelerator(8))
        above.append(model.predict_cautious(8) / model.predict_mean(8) - 1.0)
    assert above[0] > above[1] > above[2] > 0.0


def test_a_size_with_few_runs_is_taken_to_vary_as_others_do():
    model = LatencyModel(8)
    for run in range(60):
        model.observe(2, 0.020 if run % 2 else 0.010)
    model.observe(8, 0.040)
    assert model.predict(8) > 1.25 * model.predict_mean(8)


def test_slow_run_that_recurs_is_no_stall():
    model = learned(accelerator, [1], times=20)
    model.observe(1, 0.1)
    learn(model, accelerator, [1], times=20)
    assert max(model.deviations) == pytest.approx(1.0)
    model.observe(1, 0.1)
    learn(model, accelerator, [1], times=2)
    assert max(model.deviations) > 7.0


@given(st.integers(1, WINDOW - 1), st.sampled_from([1, 2, 4, 8, 16]))
def test_one_outlier_changes_no_prediction(after, size):
    model = learned(accelerator, POWERS[:5], 16)
    before = [model.predict(each) for each in range(1, 17)]
    model.observe(size, 10.0)
    learn(model, accelerator, [size], times=after)
    assert [model.predict(each) for each in range(1, 17)] == pytest.approx(before, rel=0.01)


def test_a_slow_first_run_does_not_stop_a_size_from_being_tried_again():
    slow = dict.fromkeys(POWERS, 1.0)
    model = LatencyModel(64)
    for _ in range(200):
        size = model.best_size
        model.observe(size, accelerator(size) + slow.pop(size, 0.0))
    assert model.best_size >= 50
    assert model.predict(64) == pytest.approx(accelerator(64), rel=0.01)


def test_a_slow_first_run_of_a_small_size_does_not_condemn_the_larger_ones():
    model = learned(lambda _: 5.0, [1], 64, times=1)
    learn(model, accelerator, POWERS[1:], times=4)
    assert model.predict(1) <= accelerator(2) * 1.001
    assert model.predict(64) == pytest.approx(accelerator(64), rel=0.01)


def test_a_size_that_ran_once_is_bounded_by_its_parts():
    model = learned(linear, [1], times=10)
    model.observe(2, 7.0)
    assert model.predict(2) == pytest.approx(linear(2))
    model.observe(2, 7.0)
    assert model.predict(2) == pytest.approx(7.0)


@pytest.mark.parametrize("change", [2.0, 10.0])
@pytest.mark.parametrize("size", [1, 8, 64])
def test_a_model_that_has_become_slower_is_believed_for_the_sizes_that_ran_and_for_the_capacity(change, size):
    model = learned(accelerator, POWERS, 64, times=20)
    learn(model, scaled(change), [size], times=RECENT + 4)
    follows(model, scaled(change), (size,))
    for each in (1, 2, 8, 50, 64):
        assert model.predict_cautious(each) == pytest.approx(change * accelerator(each), rel=0.05)
    learn(model, scaled(change), POWERS)
    follows(model, scaled(change), (1, 2, 8, 50, 64))


def test_a_size_that_ran_between_a_change_and_its_recognition_is_not_changed_twice():
    model = learned(accelerator, POWERS, 64, times=20)
    learn(model, scaled(2), [8], times=2)
    learn(model, scaled(2), [64], times=2)
    learn(model, scaled(2), [8], times=2 * RECENT)
    follows(model, scaled(2), (8, 64))
    assert model.predict_cautious(50) == pytest.approx(2 * accelerator(50), rel=0.05)


@pytest.mark.parametrize("size", [1, 8, 64])
def test_a_model_that_has_become_faster_is_believed_for_the_sizes_that_ran(size):
    model = learned(accelerator, POWERS, 64, times=20)
    learn(model, scaled(0.5), [size], times=RECENT + 4)
    assert model.predict(size) == pytest.approx(0.5 * accelerator(size), rel=0.05)
    assert all(model.predict(each) <= 1.05 * accelerator(each) for each in (1, 2, 8, 50, 64))
    assert size == 64 or model.predict(64) >= 0.95 * accelerator(64), (
        "what speeds up may be the cost of a call"
    )
    learn(model, scaled(0.5), [64], times=2)
    assert model.predict_mean(64) == pytest.approx(0.5 * accelerator(64), rel=0.05)


def test_a_change_too_small_to_be_one_is_followed_within_a_window():
    model = learned(accelerator, POWERS, 64, times=20)
    learn(model, scaled(1.1), POWERS, times=WINDOW + 8)
    follows(model, scaled(1.1), (1, 8, 50, 64), within=0.03)


def test_busy_cores_that_come_and_go_leave_no_trace_in_the_sizes_that_do_not_run():
    model = learned(accelerator, POWERS, 64, times=20)
    for _ in range(10):
        for factor in (1.6, 1.0):
            learn(model, scaled(factor), [2], times=30)
            assert model.predict_mean(64) == pytest.approx(accelerator(64), rel=0.05)
            assert model.predict_cautious(64) == pytest.approx(factor * accelerator(64), rel=0.05)


def test_a_size_that_does_not_run_through_a_change_keeps_what_all_of_its_runs_show():
    model = learned(accelerator, POWERS, 64, times=20)
    for factor in (1.2, 0.8) * 10:
        model.observe(64, factor * accelerator(64))
    before = model.predict_cautious(64)
    learn(model, scaled(2), [2], times=2 * RECENT)
    assert model.predict_cautious(64) == pytest.approx(2 * before, rel=0.05)


def test_sizes_that_do_not_run_recover_as_slowly_as_those_that_do():
    model = learned(accelerator, POWERS, 64, times=20)
    for _ in range(5):
        learn(model, scaled(1.6), [2], times=30)
        for percent in range(59, -1, -1):  # too slowly to be a change
            learn(model, scaled(1 + percent / 100), [2], times=8)
        learn(model, accelerator, [2], times=WINDOW)
    assert model.predict_cautious(64) == pytest.approx(accelerator(64), rel=0.05)


def test_sizes_that_have_seen_the_change_themselves_are_not_changed_twice():
    model = learned(accelerator, times=20)
    for _ in range(3 * RECENT):
        learn(model, scaled(2), [1, 2, 4, 8])
        assert model.predict_mean(8) <= 2.05 * accelerator(8)
    follows(model, scaled(2), tuple(range(1, 9)), within=0.03)


@given(st.integers(0, 2**32), st.floats(0.0, 0.1))
def test_noise_is_not_taken_for_a_change(seed, noise):
    model, random = LatencyModel(8), Random(seed)
    for number in range(500):
        model.observe(1 + number % 2, random.uniform(1 - noise, 1 + noise) * accelerator(1 + number % 2))
    assert all(len(samples.kept) >= WINDOW * 3 // 4 for samples in model._samples.values())


@pytest.mark.parametrize("seed", range(3))
def test_in_minutes_of_a_fast_function_noise_is_not_taken_for_a_change(seed):
    model, random, restarts, before = LatencyModel(8), Random(seed), 0, 0
    for _ in range(20_000):
        model.observe(8, random.lognormvariate(0.0, 0.15) * accelerator(8))
        kept = len(model._samples[6].kept)
        restarts, before = restarts + (kept < before), kept
    assert not restarts


def test_a_stall_of_a_few_batches_is_not_taken_for_a_change():
    model = learned(accelerator, [8], times=WINDOW)
    learn(model, scaled(5), [8], times=RECENT - 2)
    learn(model, accelerator, [8], times=2)
    assert model.predict_mean(8) < 2 * accelerator(8)


def test_a_slow_spell_of_all_sizes_is_forgotten_though_only_the_largest_or_the_smallest_is_used_after_it():
    model = learned(scaled(10), POWERS, 64, times=30)
    learn(model, accelerator, [64], times=WINDOW + 8)
    assert model.predict(64) == pytest.approx(accelerator(64), rel=0.01)
    assert model.predict(1) <= model.predict(64)
    model = learned(scaled(10), POWERS, 64, times=30)
    assert saturate(model, accelerator, 16 * AGAIN_EVERY)[-1] >= 50


def test_of_sizes_that_contradict_each_other_the_one_that_ran_last_is_believed_whatever_lies_between():
    model = learned(accelerator, POWERS, 64, times=30)
    learn(model, lambda size: 10 * accelerator(64), [1], times=30)
    learn(model, accelerator, [64], times=1)
    assert model.predict(1) <= 1.01 * accelerator(64)


def test_an_affine_law_makes_large_batches():
    model = LatencyModel(64)
    assert saturate(model, accelerator, 60)[:7] == [*POWERS]
    assert model.best_size == 64


def test_a_law_without_intercept_makes_no_batches_tries_a_worse_size_again_and_finds_it_better():
    model = LatencyModel(64)
    sizes = saturate(model, linear, 100)
    # Once more after it has not run for long.
    assert (model.best_size, max(sizes), sizes.count(2)) == (1, 2, TRIES + 100 // AGAIN_EVERY)
    saturate(model, linear, 9 * AGAIN_EVERY)
    again = saturate(model, linear, 20 * AGAIN_EVERY)
    assert 1 <= again.count(2) <= 20 + TRIES
    saturate(model, accelerator, 8 * AGAIN_EVERY)
    assert model.best_size >= 50


def test_a_double_that_was_slower_again_and_again_is_tried_ever_more_seldom():
    model = LatencyModel(64)
    saturate(model, linear, 100 * AGAIN_EVERY)
    assert 1 <= saturate(model, linear, 50 * AGAIN_EVERY).count(2) <= 10


def test_a_size_that_was_slower_again_and_again_seems_faster_ever_more_seldom():
    model = learned(VISION, [1, 2, 4, 8], 64, times=4 * TRIES)
    learn(model, VISION, [4], times=2 * AGAIN_EVERY)
    follows(model, VISION, (4, 8))
    learn(model, VISION, [4], times=4 * AGAIN_EVERY)
    assert model.predict(8) <= 1.01 * 2 * VISION(4)


def noisy(law: Law) -> Law:
    noise = Random(1)
    return lambda size: law(size) * noise.choice([1.0, 1.12, 0.97, 1.05, 1.31, 1.02, 0.99])


@pytest.mark.parametrize(
    ("law", "limit", "low", "high"),
    [
        pytest.param(VISION, 64, 4, 4, id="vision"),
        pytest.param(noisy(VISION), 64, 3, 5, id="vision-noisy"),
        pytest.param(VISION_TUNED, 64, 8, 8, id="vision-tuned"),
        pytest.param(TEXT, 128, 32, 32, id="text"),
        pytest.param(TABULAR, 128, 64, 128, id="tabular"),
    ],
)
def test_the_best_size_is_found_on_measured_curves(law, limit, low, high):
    sizes = saturate(LatencyModel(limit), law, 400)
    assert low <= sorted(sizes[-100:])[50] <= high


def test_sizes_learned_are_the_powers_of_two_that_hold_them():
    assert learned(linear, [1, 3, 5, 40], 48).sizes_learned() == [1, 4, 8, 48]


def test_batches_of_three_do_not_hide_what_is_known_of_four():
    # From four to eight it rises by a quarter as much per request as before.
    def law(size: int) -> float:
        return 0.015 + 0.02 * min(size, 4) + 0.005 * max(0, size - 4)

    model = learned(law, [1, 2, 4, 8, 16], 64, times=30)
    learn(model, law, [1, 2, 3], times=300)
    follows(model, law, (3, 4, 8), within=0.01)


def test_a_throughput_that_was_measured_counts_where_slower_larger_batches_bend_the_curve():
    # The line from three to eight is far above the law at four.
    assert learned(VISION, [1, 2, 3, 8], 64, times=30).best_size == 4


def test_memory_and_work_do_not_grow_with_the_largest_size_allowed():
    model = learned(accelerator, [1, 2, 4], 65536, times=500)
    assert len(model._upper.sizes) == len(model._mean.sizes) == 3
    assert all(len(samples.kept) <= WINDOW for samples in model._samples.values())

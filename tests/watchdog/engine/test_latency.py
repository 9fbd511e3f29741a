"""Service times here are made up by laws of the batch size, so that the right answer is known."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.tuning import TUNING
from watchdog.engine.queues import TABULAR, TEXT, VISION, VISION_TUNED, Law, accelerator, learn, learned

POWERS = (1, 2, 4, 8, 16, 32, 64)
SIZES = st.integers(1, 48)


def linear(size: int) -> float:
    return 0.005 * size


def scaled(factor: float) -> Law:
    return lambda size: factor * accelerator(size)


def noisy(law: Law) -> Law:
    noise = Random(1)
    return lambda size: law(size) * noise.choice([1.0, 1.12, 0.97, 1.05, 1.31, 1.02, 0.99])


def follows(model: LatencyModel, law: Law, sizes: tuple[int, ...], *, within: float = 0.05) -> None:
    """Check that the model predicts this law at these sizes."""
    assert [model.predict_mean(size) for size in sizes] == pytest.approx(
        [law(size) for size in sizes], rel=within
    )


def saturate(model: LatencyModel, law: Law, batches: int) -> list[int]:
    """Run ``batches`` under so much load that each has the best size; return the sizes that ran."""
    sizes = []
    for _ in range(batches):
        sizes.append(model.best_size)
        model.observe(sizes[-1], law(sizes[-1]))
    return sizes


def test_model_without_runs_predicts_nothing_and_tries_one_request():
    model = LatencyModel(64)
    assert not model.learned
    assert model.predict(64) == model.predict_mean(64) == 0.0
    assert (model.best_size, model.sizes_learned()) == (1, [])


def test_time_of_one_request_alone_is_the_least_of_several():
    model = LatencyModel(64)
    for seconds in (2.0, *[0.05] * (TUNING.tries - 1)):  # the first one warms up
        assert model.alone == 0.0
        model.observe(1, seconds)
    model.observe(4, 0.01)
    assert model.alone == 0.05


@given(st.lists(st.tuples(SIZES, st.floats(0, 10)), min_size=1, max_size=200), st.floats(0, 20))
def test_model_after_any_runs_has_a_rising_curve_with_consistent_values(runs, seconds):
    model, largest = LatencyModel(48), 0
    for size, taken in runs:
        model.observe(size, taken)
        largest = max(largest, size)
        assert 1 <= model.best_size <= min(48, 2 * largest)
    for predict in (model.predict, model.predict_mean):
        values = [predict(size) for size in range(1, 49)]
        assert values[0] > 0
        assert all(low <= high * (1 + 1e-9) for low, high in pairwise(values))
    within, tried = model.largest_within(seconds), min(48, 2 * largest)
    assert within <= tried
    assert within == 0 or model.predict(within) <= seconds
    assert within == tried or model.predict(within + 1) > seconds


@given(st.floats(0.0001, 1), st.floats(0.00001, 0.1), st.lists(SIZES, min_size=20, max_size=100))
def test_affine_law_is_recovered_and_continued_as_a_line(base, each, sizes):
    law: Law = lambda size: base + each * size  # noqa: E731 - it closes over what was drawn
    follows(learned(law, [*POWERS, *sizes], 64, times=3), law, tuple(range(1, 65)), within=0.1)
    follows(learned(law, [1, 2, 4, 8], 1024), law, (16, 1024))


def test_upper_quantile_is_above_the_usual_run_and_the_mean_is_not():
    model = LatencyModel(4)
    for run in range(60):
        model.observe(1, 0.020 if run % 4 == 0 else 0.010)
    assert model.predict(1) == pytest.approx(0.020, rel=0.01)
    assert 0.011 < model.predict_mean(1) < 0.013


@pytest.mark.parametrize("change", [0.2, 0.5, 2.0, 10.0])
@pytest.mark.parametrize("size", [1, 8, 64])
def test_changed_speed_is_followed_at_sizes_that_did_not_run_since(change, size):
    model = learned(accelerator, POWERS, 64, times=20)
    learn(model, scaled(change), [size], times=2 * TUNING.recent)
    follows(model, scaled(change), (1, 2, 8, 50, 64), within=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_noise_in_minutes_of_a_fast_function_changes_no_other_size(seed):
    model, random = learned(accelerator, POWERS, 64, times=20), Random(seed)
    for _ in range(20_000):
        model.observe(8, random.lognormvariate(0.0, 0.1) * accelerator(8))
    follows(model, accelerator, (1, 2, 8, 64))


@pytest.mark.parametrize("size", [1, 8, 64])
def test_stalled_batch_changes_no_prediction(size):
    model = learned(accelerator, POWERS, 64, times=TUNING.window)
    learn(model, scaled(100), [size])
    learn(model, accelerator, [size], times=TUNING.recent)
    follows(model, accelerator, (1, 8, 64))


def test_slow_first_runs_do_not_stop_a_size_from_being_tried_again():
    slow = dict.fromkeys(POWERS, 1.0)
    model = LatencyModel(64)
    for _ in range(400):
        size = model.best_size
        model.observe(size, accelerator(size) + slow.pop(size, 0.0))
    assert model.best_size == 64
    follows(model, accelerator, (64,))


@pytest.mark.parametrize(
    ("law", "limit", "low", "high"),
    [
        pytest.param(accelerator, 64, 64, 64, id="affine"),
        pytest.param(linear, 64, 1, 1, id="linear"),
        pytest.param(VISION, 64, 4, 4, id="vision"),
        pytest.param(noisy(VISION), 64, 4, 4, id="vision-noisy"),
        pytest.param(VISION_TUNED, 64, 8, 8, id="vision-tuned"),
        pytest.param(TEXT, 128, 32, 32, id="text"),
        pytest.param(TABULAR, 128, 64, 128, id="tabular"),
    ],
)
def test_best_size_is_found_by_doubling(law, limit, low, high):
    sizes = saturate(LatencyModel(limit), law, 400)
    assert low <= sorted(sizes[-100:])[50] <= high


def test_double_that_was_slower_is_tried_ever_more_seldom_until_it_is_faster():
    model = LatencyModel(64)
    often = [saturate(model, linear, 10 * TUNING.again).count(2) for _ in range(4)]
    assert often[0] > 1.5 * often[-1] > 0
    saturate(model, accelerator, 40 * TUNING.again)
    assert model.best_size == 64


def test_cpu_time_of_a_batch_that_doubles_is_followed_and_an_unknown_one_changes_nothing():
    model = LatencyModel(64)
    assert model.predict_cpu(8) == 0.0
    for cpu_seconds in (0.008, 0.016, 0.0):
        for _ in range(300):
            model.observe(8, 0.1, cpu_seconds)
    assert model.predict_cpu(8) == pytest.approx(0.016)


def test_own_times_are_without_waits_for_a_core_which_count_against_deadlines():
    model = learn(LatencyModel(64), accelerator, POWERS)
    for size in POWERS * 5:
        model.observe(size, 5 * accelerator(size), waited=4 * accelerator(size))
    for size in POWERS:
        assert model.own.predict_mean(size) == pytest.approx(accelerator(size), rel=0.05)
        assert model.predict(size) > 4 * accelerator(size)
    assert model.own.own is model.own


def test_own_times_lower_their_ceiling_with_the_others():
    model = learn(LatencyModel(64), accelerator, POWERS)
    model.out_of_memory(16)
    model.observe(8, 0.1, waited=0.05)
    assert model.own.ceiling == model.ceiling == 8


def test_batch_out_of_memory_halves_the_ceiling_which_full_batches_probe_ever_more_seldom():
    model = learned(accelerator, POWERS, 64)
    assert model.out_of_memory(64) == model.ceiling == model.best_size == model.largest_within(9.0) == 32
    for patience in (TUNING.probe_after, 2 * TUNING.probe_after, 4 * TUNING.probe_after):
        learn(model, accelerator, [16], times=9 * patience)  # these are not full
        learn(model, accelerator, [32], times=patience - 1)
        assert model.ceiling == 32
        learn(model, accelerator, [32])
        assert model.ceiling == 64
        assert model.out_of_memory(64) == 32


def test_ceiling_recovers_as_fast_from_each_neighbor_that_took_the_memory():
    model = learned(accelerator, [1, 2, 4, 8], 8)
    recoveries = []
    for _ in range(3):
        for size in (8, 4, 2):
            model.out_of_memory(size)
        batches = 0
        while model.ceiling < 8:
            learn(model, accelerator, [model.ceiling])
            batches += 1
        recoveries.append(batches)
        learn(model, accelerator, [8], times=TUNING.probe_after)
    assert recoveries == [3 * TUNING.probe_after] * 3


def test_ceiling_is_probed_early_again_once_a_raised_one_has_lasted():
    model = learned(accelerator, POWERS, 64)
    model.out_of_memory(64)
    for patience in (TUNING.probe_after, 2 * TUNING.probe_after):
        learn(model, accelerator, [32], times=patience)
        model.out_of_memory(64)
    learn(model, accelerator, [32], times=4 * TUNING.probe_after)
    learn(model, accelerator, [64], times=TUNING.probe_after)
    model.out_of_memory(64)
    learn(model, accelerator, [32], times=TUNING.probe_after - 1)
    assert model.ceiling == 32
    learn(model, accelerator, [32])
    assert model.ceiling == 64


def test_ceiling_is_never_below_one_request():
    model = LatencyModel(8)
    assert [model.out_of_memory(size) for size in (8, 4, 2, 1)] == [4, 2, 1, 1]

"""Every policy of POLICIES runs through the same properties: a new one gets its tests by being listed."""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.policy import (
    POLICIES,
    Aimd,
    BatchLimit,
    Fixed,
    Late,
    PolicySettings,
    QueueHead,
    Slo,
    Take,
    Unbatched,
    Wait,
)
from batching_watchdog.messages import DispatchReason
from watchdog.queues import MAX_BATCH_SIZE, NEVER_WAITS, WAITS, accelerator, learned, policy

TIMES = st.floats(0, 100)
HEADS = st.builds(
    lambda length, arrived, budget, late: QueueHead(length, arrived, arrived + budget, late),
    st.integers(1, 50),
    TIMES,
    st.floats(0, 1),
    st.booleans(),
)


def model_of(runs: list[tuple[int, float]]) -> LatencyModel:
    model = LatencyModel(MAX_BATCH_SIZE)
    for size, seconds in runs:
        model.observe(size, seconds)
    return model


RUNS = st.lists(st.tuples(st.integers(1, MAX_BATCH_SIZE), st.floats(0, 1)), max_size=30)
MODELS = st.builds(model_of, RUNS)
EVERY_POLICY = pytest.mark.parametrize("name", sorted(POLICIES))


def test_the_registry_is_closed():
    assert isinstance(POLICIES, MappingProxyType)
    assert {"aimd", "fixed", "slo", "unbatched"} <= set(POLICIES)


def test_a_policy_is_known_to_wait_or_to_be_work_conserving():
    assert set(POLICIES) == {*NEVER_WAITS, *WAITS}


@EVERY_POLICY
@given(head=HEADS, now=TIMES, model=MODELS)
def test_a_batch_is_never_empty_nor_larger_than_the_queue_or_the_limit(
    name: str, head: QueueHead, now: float, model: LatencyModel
):
    answer = policy(name).decide(head, now, model)
    if isinstance(answer, Take):
        assert 1 <= answer.size <= min(head.length, MAX_BATCH_SIZE)


@EVERY_POLICY
@given(head=HEADS, now=TIMES, runs=RUNS)
def test_whatever_it_has_observed_a_policy_keeps_within_the_queue_and_the_limit(
    name: str, head: QueueHead, now: float, runs: list[tuple[int, float]]
):
    learning = policy(name)
    for size, seconds in runs:
        learning.observe(size, seconds)
    answer = learning.decide(head, now, model_of(runs))
    if isinstance(answer, Take):
        assert 1 <= answer.size <= min(head.length, MAX_BATCH_SIZE)


@EVERY_POLICY
@given(head=HEADS, now=TIMES, model=MODELS)
def test_a_wait_ends_later_than_now(name: str, head: QueueHead, now: float, model: LatencyModel):
    answer = policy(name).decide(head, now, model)
    if isinstance(answer, Wait):
        assert answer.until > now


@EVERY_POLICY
@given(head=HEADS, now=TIMES, model=MODELS)
def test_an_answer_depends_on_the_arguments_alone(
    name: str, head: QueueHead, now: float, model: LatencyModel
):
    assert policy(name).decide(head, now, model) == policy(name).decide(head, now, model)


@pytest.mark.parametrize("name", NEVER_WAITS)
@given(head=HEADS, now=TIMES, model=MODELS)
def test_work_conserving_policies_never_wait(name: str, head: QueueHead, now: float, model: LatencyModel):
    assert not isinstance(policy(name).decide(head, now, model), Wait)


@given(HEADS, TIMES, MODELS)
def test_slo_takes_no_batch_that_is_predicted_to_miss_its_tightest_deadline(
    head: QueueHead, now: float, model: LatencyModel
):
    answer = policy("slo").decide(head, now, model)
    if isinstance(answer, Take):
        assert model.predict(answer.size) <= head.deadline - now


@given(HEADS, TIMES, MODELS)
def test_slo_gives_no_request_up_that_could_be_on_time_while_the_queue_fits_into_one_batch(
    head: QueueHead, now: float, model: LatencyModel
):
    answer = policy("slo").decide(head, now, model)
    if head.length <= model.best_size and model.predict(1) <= head.deadline - now:
        assert isinstance(answer, Take)


def test_slo_takes_all_that_waits_and_says_that_a_worker_was_idle():
    answer = Slo(8).decide(QueueHead(3, 0.0, 1.0), 0.0, learned(accelerator))
    assert answer == Take(3, DispatchReason.IDLE)


def test_slo_takes_no_more_than_the_largest_batch():
    answer = Slo(8).decide(QueueHead(20, 0.0, 1.0), 0.0, learned(accelerator))
    assert answer == Take(8, DispatchReason.FULL)


def test_slo_takes_no_more_than_the_best_size():
    model = learned(lambda size: 0.01 if size <= 4 else 0.04)
    assert Slo(8).decide(QueueHead(20, 0.0, 1.0), 0.0, model) == Take(4, DispatchReason.BEST_SIZE)


def test_slo_shrinks_the_batch_to_meet_the_tightest_deadline():
    # l(4) = 12 ms fits into the 12.5 ms that are left, l(5) = 13 ms does not.
    answer = Slo(8).decide(QueueHead(8, 0.0, 0.0125), 0.0, learned(accelerator))
    assert answer == Take(4, DispatchReason.DEADLINE)


def test_slo_gives_up_a_head_that_not_even_a_batch_of_one_can_save():
    assert Slo(8).decide(QueueHead(1, 0.0, 0.1), 0.095, learned(accelerator)) == Late()


def test_slo_gives_up_a_head_that_would_shrink_the_batch_while_more_than_a_full_one_waits():
    model = learned(accelerator)
    assert Slo(8).decide(QueueHead(8, 0.0, 0.1), 0.09, model) == Take(2, DispatchReason.DEADLINE)
    assert Slo(8).decide(QueueHead(9, 0.0, 0.1), 0.09, model) == Late()


def test_slo_keeps_some_of_the_budget_for_the_way_back_once_heads_go_late():
    model = learned(accelerator)
    left = model.predict(8) + 0.001
    head = QueueHead(9, 0.0, 0.1)
    assert Slo(8).decide(head, 0.1 - left, model) == Take(8, DispatchReason.FULL)
    assert Slo(8).decide(replace(head, late=True), 0.1 - left, model) == Late()
    assert isinstance(Slo(8).decide(replace(head, late=True), 0.0985 - left, model), Take)
    # Not for a queue that one batch empties.
    assert Slo(8).decide(replace(head, length=8, late=True), 0.1 - left, model) == Take(
        8, DispatchReason.FULL
    )


def test_slo_judges_by_the_batch_that_its_budget_allows_however_good_larger_ones_are():
    # 2 x l(4) is within the budget of 25 ms, so four are a full batch; 15 ms are left for seven.
    model = learned(accelerator)
    assert Slo(8).decide(QueueHead(50, 0.0, 0.025), 0.0095, model) == Take(7, DispatchReason.DEADLINE)
    assert Slo(8).decide(QueueHead(50, 0.0, 0.025), 0.0145, model) == Late()


def test_slo_starts_with_one_request_when_it_knows_nothing():
    assert Slo(8).decide(QueueHead(8, 0.0, 1.0), 0.0, LatencyModel(8)) == Take(1, DispatchReason.BEST_SIZE)


def test_unbatched_takes_one():
    answer = Unbatched().decide(QueueHead(9, 0.0, 0.0), 5.0, LatencyModel(8))
    assert answer == Take(1, DispatchReason.IDLE)


@pytest.mark.parametrize(
    ("length", "now", "expected"),
    [
        (8, 0.0, Take(8, DispatchReason.FULL)),
        (30, 0.0, Take(8, DispatchReason.FULL)),
        (7, 0.0, Wait(0.25)),
        (7, 0.125, Wait(0.25)),
        (7, 0.25, Take(7, DispatchReason.DELAY)),
        (1, 9.0, Take(1, DispatchReason.DELAY)),
    ],
)
def test_fixed_leaves_when_the_batch_is_full_or_the_delay_has_passed(
    length: int, now: float, expected: Take | Wait
):
    assert Fixed(8, 0.25).decide(QueueHead(length, 0.0, 0.1), now, LatencyModel(8)) == expected


def test_fixed_without_a_delay_takes_what_there_is():
    assert Fixed(8, 0.0).decide(QueueHead(3, 1.0, 2.0), 1.0, LatencyModel(8)) == Take(3, DispatchReason.IDLE)


def run_full(limit: BatchLimit, law: Callable[[int], float], batches: int) -> list[int]:
    """Run batches of the whole limit, as under load; their sizes."""
    sizes = []
    for _ in range(batches):
        sizes.append(limit.size)
        limit.observe(limit.size, law(limit.size))
    return sizes


def test_aimd_grows_by_one_until_a_batch_exceeds_the_budget_and_then_backs_off_by_a_tenth():
    # 8 ms + 1 ms each: 42 requests take 50 ms, 43 take longer.
    sizes = run_full(BatchLimit(64, 0.0505), accelerator, 200)
    assert sizes[:43] == list(range(1, 44))
    assert sizes[43] == int(43 * 0.9)
    assert min(sizes[43:]) >= 38
    assert max(sizes[43:]) == 43


def test_aimd_learns_nothing_from_batches_that_are_smaller_than_its_limit():
    limit = BatchLimit(64, 0.05)
    run_full(limit, accelerator, 9)
    for _ in range(100):
        limit.observe(3, accelerator(3))
    assert limit.size == 10


def test_aimd_shrinks_to_one_request_and_no_further():
    limit = BatchLimit(64, 0.05)
    run_full(limit, accelerator, 20)
    for _ in range(100):
        limit.observe(limit.size, 1.0)
    assert limit.size == 1


def test_aimd_takes_what_there_is_up_to_its_limit():
    limit = BatchLimit(64, 0.05)
    run_full(limit, accelerator, 3)
    late = QueueHead(9, 0.0, 0.0)
    assert Aimd(limit).decide(late, 5.0, LatencyModel(64)) == Take(4, DispatchReason.FULL)
    assert Aimd(limit).decide(QueueHead(2, 0.0, 0.0), 5.0, LatencyModel(64)) == Take(2, DispatchReason.IDLE)


def test_the_registry_passes_the_settings_on():
    settings = PolicySettings(max_batch_size=5, max_batch_delay=0.5, slo_latency=0.2)
    aimd = POLICIES["aimd"](settings)
    for _ in range(9):
        aimd.observe(5, 0.2)
    assert aimd.decide(QueueHead(9, 0.0, 0.0), 0.0, LatencyModel(5)).size == 5
    assert POLICIES["fixed"](settings) == Fixed(5, 0.5)
    assert POLICIES["slo"](settings) == Slo(5)
    assert POLICIES["unbatched"](settings) == Unbatched()

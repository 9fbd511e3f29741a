"""Every policy of POLICIES runs through the same properties: a new one gets its tests by being listed."""

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.latency import LatencyModel
from batching_watchdog.messages import DispatchReason
from batching_watchdog.policy import (
    POLICIES,
    Fixed,
    Late,
    PolicySettings,
    QueueHead,
    Slo,
    Take,
    Unbatched,
    Wait,
)
from watchdog.queues import MAX_BATCH_SIZE, NEVER_WAITS, WAITS, accelerator, learnt, policy

TIMES = st.floats(0, 100)
HEADS = st.builds(
    lambda length, arrived, budget: QueueHead(length, arrived, arrived + budget),
    st.integers(1, 50),
    TIMES,
    st.floats(0, 1),
)


def model_of(runs: list[tuple[int, float]]) -> LatencyModel:
    model = LatencyModel(MAX_BATCH_SIZE)
    for size, seconds in runs:
        model.observe(size, seconds)
    return model


MODELS = st.builds(
    model_of, st.lists(st.tuples(st.integers(1, MAX_BATCH_SIZE), st.floats(0, 1)), max_size=30)
)
EVERY_POLICY = pytest.mark.parametrize("name", sorted(POLICIES))


def test_the_registry_is_closed():
    assert isinstance(POLICIES, MappingProxyType)
    assert {"fixed", "slo", "unbatched"} <= set(POLICIES)


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
    answer = Slo(8).decide(QueueHead(3, 0.0, 1.0), 0.0, learnt(accelerator))
    assert answer == Take(3, DispatchReason.IDLE)


def test_slo_takes_no_more_than_the_largest_batch():
    answer = Slo(8).decide(QueueHead(20, 0.0, 1.0), 0.0, learnt(accelerator))
    assert answer == Take(8, DispatchReason.FULL)


def test_slo_takes_no_more_than_the_best_size():
    model = learnt(lambda size: 0.01 if size <= 4 else 0.04)
    assert Slo(8).decide(QueueHead(20, 0.0, 1.0), 0.0, model) == Take(4, DispatchReason.BEST_SIZE)


def test_slo_shrinks_the_batch_to_meet_the_tightest_deadline():
    # l(4) = 12 ms fits into the 12.5 ms that are left, l(5) = 13 ms does not.
    answer = Slo(8).decide(QueueHead(8, 0.0, 0.0125), 0.0, learnt(accelerator))
    assert answer == Take(4, DispatchReason.DEADLINE)


def test_slo_gives_up_a_head_that_not_even_a_batch_of_one_can_save():
    assert Slo(8).decide(QueueHead(1, 0.0, 0.1), 0.095, learnt(accelerator)) == Late()


def test_slo_gives_up_a_head_that_would_shrink_the_batch_while_more_than_a_full_one_waits():
    model = learnt(accelerator)
    assert Slo(8).decide(QueueHead(8, 0.0, 0.1), 0.09, model) == Take(2, DispatchReason.DEADLINE)
    assert Slo(8).decide(QueueHead(9, 0.0, 0.1), 0.09, model) == Late()


def test_slo_judges_by_the_batch_that_its_budget_allows_however_good_larger_ones_are():
    # 2 x l(4) is within the budget of 25 ms, so four are a full batch; 15 ms are left for seven.
    model = learnt(accelerator)
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


def test_the_registry_passes_the_settings_on():
    settings = PolicySettings(max_batch_size=5, max_batch_delay=0.5)
    assert POLICIES["fixed"](settings) == Fixed(5, 0.5)
    assert POLICIES["slo"](settings) == Slo(5)
    assert POLICIES["unbatched"](settings) == Unbatched()

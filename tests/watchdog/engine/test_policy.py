"""Every policy of POLICIES runs through the same properties: a new one gets its tests by being listed."""

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
from watchdog.engine.queues import MAX_BATCH_SIZE, NEVER_WAITS, WAITS, Law, accelerator, learned, policy

TIMES = st.floats(0, 100)
HEADS = st.builds(
    lambda length, arrived, budget, late: QueueHead(length, arrived, arrived + budget, late),
    st.integers(1, 50),
    TIMES,
    st.floats(0, 1),
    st.booleans(),
)
RUNS = st.lists(st.tuples(st.integers(1, MAX_BATCH_SIZE), st.floats(0, 1)), max_size=30)


def model_of(runs: list[tuple[int, float]]) -> LatencyModel:
    model = LatencyModel(MAX_BATCH_SIZE)
    for size, seconds in runs:
        model.observe(size, seconds)
    return model


def test_the_registry_is_closed_and_a_policy_is_known_to_wait_or_to_be_work_conserving():
    assert isinstance(POLICIES, MappingProxyType)
    assert set(POLICIES) == {*NEVER_WAITS, *WAITS}


@pytest.mark.parametrize("name", sorted(POLICIES))
@given(head=HEADS, now=TIMES, runs=RUNS)
def test_whatever_it_has_learned_a_policy_keeps_its_promises(
    name: str, head: QueueHead, now: float, runs: list[tuple[int, float]]
):
    learning, twin, model = policy(name), policy(name), model_of(runs)
    for size, seconds in runs:
        learning.observe(size, seconds)
        twin.observe(size, seconds)
    answer = learning.decide(head, now, model)
    assert answer == twin.decide(head, now, model)
    if isinstance(answer, Take):
        assert 1 <= answer.size <= min(head.length, MAX_BATCH_SIZE)
    if isinstance(answer, Wait):
        assert name in WAITS
        assert answer.until > now


@given(HEADS, TIMES, RUNS)
def test_slo_takes_no_batch_predicted_to_miss_its_deadline_and_gives_up_none_that_one_batch_could_save(
    head: QueueHead, now: float, runs: list[tuple[int, float]]
):
    model, left = model_of(runs), head.deadline - now
    answer = policy("slo").decide(head, now, model)
    if isinstance(answer, Take):
        assert model.predict(answer.size) <= left
    else:
        assert head.length > model.best_size or model.predict(1) > left


STEP: Law = lambda size: 0.01 if size <= 4 else 0.04  # noqa: E731 - the best size is 4
FULL, IDLE, DEADLINE = DispatchReason.FULL, DispatchReason.IDLE, DispatchReason.DEADLINE

SLO = {
    "all that waits": (accelerator, QueueHead(3, 0.0, 1.0), 0.0, Take(3, IDLE)),
    "no more than the largest": (accelerator, QueueHead(20, 0.0, 1.0), 0.0, Take(8, FULL)),
    "the best size": (STEP, QueueHead(20, 0.0, 1.0), 0.0, Take(4, DispatchReason.BEST_SIZE)),
    # l(4) = 12 ms fits into the 12.5 ms that are left, l(5) = 13 ms does not.
    "what meets the deadline": (accelerator, QueueHead(8, 0.0, 0.0125), 0.0, Take(4, DEADLINE)),
    "a head that nothing can save": (accelerator, QueueHead(1, 0.0, 0.1), 0.095, Late()),
    "a queue of one batch shrinks for its head": (
        accelerator,
        QueueHead(8, 0.0, 0.1),
        0.09,
        Take(2, DEADLINE),
    ),
    "a longer one does not": (accelerator, QueueHead(9, 0.0, 0.1), 0.09, Late()),
    # l(8) = 16 ms and 2.5 ms of reserve: only where heads go late, and not if one batch empties the queue.
    "no reserve": (accelerator, QueueHead(9, 0.0, 0.1), 0.083, Take(8, FULL)),
    "too little for the reserve": (accelerator, QueueHead(9, 0.0, 0.1, late=True), 0.083, Late()),
    "enough for the reserve": (accelerator, QueueHead(9, 0.0, 0.1, late=True), 0.0814, Take(8, FULL)),
    "no reserve for one batch": (accelerator, QueueHead(8, 0.0, 0.1, late=True), 0.083, Take(8, FULL)),
    # 2 x l(4) is within the budget of 25 ms, so four are a full batch; 15 ms are left for seven.
    "full is what the budget allows": (accelerator, QueueHead(50, 0.0, 0.025), 0.0095, Take(7, DEADLINE)),
    "just full": (accelerator, QueueHead(50, 0.0, 0.025), 0.0125, Take(4, DEADLINE)),
    "just one": (accelerator, QueueHead(2, 0.0, 0.0095), 0.0, Take(1, DEADLINE)),
    "less than full": (accelerator, QueueHead(50, 0.0, 0.025), 0.0145, Late()),
}
"""l(b), what waits, when, and the answer."""


@pytest.mark.parametrize(("law", "head", "now", "expected"), SLO.values(), ids=SLO)
def test_slo_by_hand(law: Law, head: QueueHead, now: float, expected: Take | Late):
    assert Slo(8).decide(head, now, learned(law)) == expected


def test_slo_starts_with_one_request_when_it_knows_nothing():
    answer = Slo(8).decide(QueueHead(8, 0.0, 1.0), 0.0, LatencyModel(8))
    assert answer == Take(1, DispatchReason.BEST_SIZE)


@pytest.mark.parametrize(
    ("delay", "length", "now", "expected"),
    [
        (0.25, 8, 0.0, Take(8, FULL)),
        (0.25, 30, 0.0, Take(8, FULL)),
        (0.25, 7, 0.0, Wait(0.25)),
        (0.25, 7, 0.125, Wait(0.25)),
        (0.25, 7, 0.25, Take(7, DispatchReason.DELAY)),
        (0.25, 1, 9.0, Take(1, DispatchReason.DELAY)),
        (0.0, 3, 0.0, Take(3, IDLE)),
    ],
)
def test_fixed_leaves_when_the_batch_is_full_or_the_delay_has_passed(
    delay: float, length: int, now: float, expected: Take | Wait
):
    assert Fixed(8, delay).decide(QueueHead(length, 0.0, 0.1), now, LatencyModel(8)) == expected


def test_unbatched_takes_one():
    assert Unbatched().decide(QueueHead(9, 0.0, 0.0), 5.0, LatencyModel(8)) == Take(1, IDLE)


def run_full(limit: BatchLimit, law: Law, batches: int) -> list[int]:
    """Run batches of the whole limit, as under load; their sizes."""
    sizes = []
    for _ in range(batches):
        sizes.append(limit.size)
        limit.observe(limit.size, law(limit.size))
    return sizes


def test_aimd_grows_by_one_until_a_batch_exceeds_the_budget_and_then_backs_off_by_a_tenth():
    # 8 ms + 1 ms each: 42 requests take 50 ms, 43 take longer.
    sizes = run_full(BatchLimit(64, 0.0505), accelerator, 200)
    assert sizes[:44] == [*range(1, 44), int(43 * 0.9)]
    assert 38 <= min(sizes[43:]) <= max(sizes[43:]) == 43


def test_aimd_learns_nothing_from_batches_smaller_than_its_limit_and_shrinks_to_one_and_no_further():
    limit = BatchLimit(64, 0.05)
    run_full(limit, accelerator, 9)
    for _ in range(100):
        limit.observe(3, accelerator(3))
    assert limit.size == 10
    run_full(limit, lambda _: 1.0, 100)
    assert limit.size == 1


@pytest.mark.parametrize(("length", "expected"), [(9, Take(4, FULL)), (2, Take(2, IDLE)), (4, Take(4, IDLE))])
def test_aimd_takes_what_there_is_up_to_its_limit(length: int, expected: Take):
    limit = BatchLimit(64, 0.05)
    run_full(limit, accelerator, 3)
    assert Aimd(limit).decide(QueueHead(length, 0.0, 0.0), 5.0, LatencyModel(64)) == expected


def test_the_registry_passes_the_settings_on():
    settings = PolicySettings(max_batch_size=5, max_batch_delay=0.5, slo_latency=0.2)
    assert POLICIES["fixed"](settings) == Fixed(5, 0.5)
    assert POLICIES["slo"](settings) == Slo(5)
    assert POLICIES["unbatched"](settings) == Unbatched()
    aimd = POLICIES["aimd"](settings)
    for _ in range(9):
        aimd.observe(5, 0.2)
    assert aimd.decide(QueueHead(9, 0.0, 0.0), 0.0, LatencyModel(5)) == Take(5, FULL)
    aimd.observe(5, 0.201)
    assert aimd.decide(QueueHead(9, 0.0, 0.0), 0.0, LatencyModel(5)) == Take(4, FULL)

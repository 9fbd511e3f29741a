"""Every policy of POLICIES runs through the same properties: a new one gets its tests by being listed."""

from types import MappingProxyType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batching_watchdog.engine.cost import Pool
from batching_watchdog.engine.lanes import Lane
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.policy import (
    POLICIES,
    RESERVE,
    Aimd,
    Fixed,
    Late,
    PolicySettings,
    Situation,
    Slo,
    Take,
    Wait,
)
from batching_watchdog.messages import DispatchReason
from watchdog.engine.queues import (
    BY_DEADLINE,
    MAX_BATCH_SIZE,
    NEVER_WAITS,
    SLO_LATENCY,
    WAITS,
    Law,
    accelerator,
    learn,
    learned,
    policy,
    request,
)

TIMES = st.floats(0, 10)
WAITING = st.lists(st.tuples(TIMES, st.floats(0, 1)), min_size=1, max_size=30)
"""(arrived, budget) of each request of a lane."""
RUNS = st.lists(st.tuples(st.integers(1, MAX_BATCH_SIZE), st.floats(0, 1)), max_size=30)
EIGHT = Slo(8, RESERVE * SLO_LATENCY)
FULL, IDLE, DEADLINE = DispatchReason.FULL, DispatchReason.IDLE, DispatchReason.DEADLINE


def at(now: float, *, workers: int = 1, overloaded: bool = False, following: float = 99.0):
    return Situation(now, workers, overloaded, following)


def lane_of(model: LatencyModel, waiting: list[tuple[float, float]], by_deadline: bool = True):
    lane = Lane(Pool(model, model), 0.0)
    for number, (arrived, budget) in enumerate(waiting):
        made = request(number, arrived, budget)
        lane.add(made, made.deadline if by_deadline else arrived)
    return lane


def alike(model: LatencyModel, count: int, budget: float, arrived: float = 0.0) -> Lane:
    return lane_of(model, [(arrived, budget)] * count)


def model_of(runs: list[tuple[int, float]]) -> LatencyModel:
    model = LatencyModel(MAX_BATCH_SIZE)
    for size, seconds in runs:
        model.observe(size, seconds)
    return model


def test_registry_is_closed_and_says_of_each_policy_whether_it_waits():
    assert isinstance(POLICIES, MappingProxyType)
    assert set(POLICIES) == {*NEVER_WAITS, *WAITS}
    assert {name for name in POLICIES if policy(name).by_deadline} == set(BY_DEADLINE)


@pytest.mark.parametrize("name", sorted(POLICIES))
@example(lanes=[([(0.0, 1.0)], [])], now=1.0, workers=1, overloaded=True)
@example(lanes=[([(2.0, 0.0), (2.0, 1.0), (2.0, 1.0)], [(1, 1.0)])], now=1.0, workers=1, overloaded=True)
@given(
    lanes=st.lists(st.tuples(WAITING, RUNS), min_size=1, max_size=4),
    now=TIMES,
    workers=st.integers(1, 4),
    overloaded=st.booleans(),
)
def test_policy_whatever_it_has_learned_takes_what_waits_or_waits_if_it_is_one_that_does(
    name, lanes, now, workers, overloaded
):
    chosen = policy(name)
    made = [lane_of(model_of(runs), waiting, chosen.by_deadline) for waiting, runs in lanes]
    before = [list(lane.on_time) for lane in made]
    answer = chosen.choose(made, at(now, workers=workers, overloaded=overloaded))
    assert before == [lane.on_time for lane in made]
    if isinstance(answer, Wait):
        assert name in WAITS or (overloaded and workers > 1)
        assert answer.until > now
        return
    keys, model = answer.lane.keys, answer.lane.model
    if isinstance(answer, Late):
        assert name == "slo"
        reserve = RESERVE * SLO_LATENCY if overloaded else 0.0
        # Late now, or alone after the longest batch that may go before it.
        longest = max(reserve, model.predict(min(len(keys), MAX_BATCH_SIZE)))
        assert keys[answer.number - 1] < now + longest + model.predict(1)
        return
    assert answer.size >= 1
    assert answer.start + answer.size <= len(keys)
    assert answer.size <= MAX_BATCH_SIZE
    if name == "slo":
        taken = keys[answer.start : answer.start + answer.size]
        tries = overloaded and model.untried(answer.size)
        assert tries or all(now + model.predict(answer.size) <= key for key in taken)
    else:
        assert answer.start == 0


STEP: Law = lambda size: 0.01 if size <= 4 else 0.04  # noqa: E731 - the best size is 4

# l(b) of ``accelerator`` is 8 ms + 1 ms x b; (requests, budget), when, situation -> (place, taken, why).
SLO = {
    "all that waits": (accelerator, 3, 1.0, at(0.0), (0, 3, IDLE)),
    "no more than the largest": (accelerator, 20, 1.0, at(0.0), (0, 8, FULL)),
    "the best size": (STEP, 20, 1.0, at(0.0), (0, 4, DispatchReason.BEST_SIZE)),
    "what meets the deadline": (accelerator, 8, 0.0125, at(0.0), (0, 4, DEADLINE)),
    "a queue of one batch shrinks for its head": (accelerator, 8, 0.1, at(0.09), (0, 2, DEADLINE)),
    "a longer one too if nothing better is there": (accelerator, 9, 0.1, at(0.09), (0, 2, DEADLINE)),
    "no reserve without an overload": (accelerator, 9, 0.1, at(0.083), (0, 8, FULL)),
    "too little for the reserve": (accelerator, 9, 0.1, at(0.083, overloaded=True), (0, 6, DEADLINE)),
    "enough for the reserve": (accelerator, 9, 0.1, at(0.0814, overloaded=True), (0, 8, FULL)),
    # 2 x l(4) is within the budget of 25 ms: four can be kept up.
    "at least what can be kept up": (accelerator, 50, 0.025, at(0.0125), (0, 4, DEADLINE)),
    "less if nothing better is there": (accelerator, 50, 0.025, at(0.0145), (0, 2, DEADLINE)),
    "just one": (accelerator, 2, 0.0095, at(0.0), (0, 1, DEADLINE)),
}


@pytest.mark.parametrize(("law", "count", "budget", "when", "expected"), SLO.values(), ids=SLO)
def test_slo_cut_by_hand(law, count, budget, when, expected):
    take = EIGHT.choose([alike(learned(law), count, budget)], when)
    assert isinstance(take, Take)
    assert (take.start, take.size, take.reason) == expected


def test_slo_request_that_cannot_be_on_time_even_alone_goes_late():
    lane = lane_of(learned(accelerator), [(0.0, 0.1), (0.0, 0.2)])
    assert EIGHT.choose([lane], at(0.095)) == Late(lane, 1)


def test_slo_under_overload_passes_over_the_first_for_the_largest_batch_on_time():
    # Ten that have 27 ms left, for a batch of 19, and thirty that have 40, for all of them.
    waiting = [(0.015, 0.052)] * 10 + [(0.028, 0.052)] * 30
    lane = lane_of(learned(lambda size: 0.008 + 0.001 * size, (1, 2, 4, 8, 16, 32), 32), waiting)
    calm, pressed = (
        Slo(32, RESERVE * SLO_LATENCY).choose([lane], at(0.04, workers=2, overloaded=over, following=0.041))
        for over in (False, True)
    )
    assert isinstance(calm, Take)
    assert isinstance(pressed, Take)
    assert calm.start == 0
    assert pressed.start == 10
    assert pressed.size > calm.size
    # They go late if no worker will be idle in time for them.
    assert Slo(32, RESERVE * SLO_LATENCY).choose([lane], at(0.04, overloaded=True)) == Late(lane, 10)


@pytest.mark.parametrize(
    ("overloaded", "workers", "count", "passed", "waits"),
    [
        (False, 4, 3, 0.0, False),
        (True, 1, 3, 0.0, False),
        (True, 4, 3, 0.0, True),
        (True, 4, 3, 0.003, False),  # l(3) is 11 ms
        (True, 4, 8, 0.0, False),  # the best size
    ],
)
def test_slo_batches_of_a_lane_leave_apart_under_overload_while_they_have_room(
    overloaded, workers, count, passed, waits
):
    lane = alike(learned(accelerator), count, 0.1)
    answer = EIGHT.choose([lane], at(passed, workers=workers, overloaded=overloaded))
    assert answer == Wait(pytest.approx(accelerator(3) / 4)) if waits else isinstance(answer, Take)


def test_slo_batch_with_room_leaves_under_overload_once_one_more_request_would_make_it_late():
    lane = alike(learned(accelerator), 3, 0.015)
    answer = EIGHT.choose([lane], at(0.0, workers=2, overloaded=True))
    assert answer == Wait(pytest.approx(0.015 - RESERVE * SLO_LATENCY - accelerator(4)))


def test_slo_lane_that_waits_under_overload_keeps_no_worker_from_another():
    waits, other = alike(learned(accelerator), 3, 0.1), alike(learned(accelerator), 3, 0.1)
    other.served = -1.0
    answer = EIGHT.choose([waits, other], at(0.0, workers=2, overloaded=True))
    assert answer == Take(other, 3, IDLE)


def test_slo_of_two_lanes_that_can_both_be_on_time_takes_the_one_that_gives_more_first():
    model = learned(accelerator)
    many, few = alike(model, 8, 0.1), alike(model, 1, 0.09)
    assert EIGHT.choose([few, many], at(0.0)) == Take(many, 8, FULL)
    # Once the others would make it late, it goes first.
    assert EIGHT.choose([few, many], at(0.07)) == Take(few, 1, IDLE)


def test_slo_of_more_work_than_there_is_time_for_leaves_out_what_gives_least():
    cheap, dear = learned(accelerator), learned(lambda size: 0.05 + 0.005 * size)
    lanes = [alike(dear, 8, 0.095), alike(cheap, 8, 0.1)]
    assert EIGHT.choose(lanes, at(0.0)).lane is lanes[1]  # type: ignore[union-attr]
    # Passed over for long enough it has its turn.
    lanes[0].served, lanes[1].served = -2.0, 0.0
    assert EIGHT.choose(lanes, at(0.0)).lane is lanes[0]  # type: ignore[union-attr]


def test_slo_starts_with_one_request_when_it_knows_nothing():
    take = EIGHT.choose([alike(LatencyModel(8), 8, 1.0)], at(0.0))
    assert isinstance(take, Take)
    assert take.size == 1


def test_slo_tries_the_double_of_the_best_size_under_overload_though_it_seems_no_better():
    model = learn(LatencyModel(8), lambda size: 0.005 * size, (1,), 8)
    lane = lane_of(model, [(0.0001 * number, 0.1) for number in range(300)])
    while isinstance(take := EIGHT.choose([lane], at(0.094, overloaded=True)), Late):
        lane.take(take.number)
    assert isinstance(take, Take)
    assert take.size == model.best_size == 2


@given(
    waiting=st.lists(st.tuples(TIMES, st.floats(0, 1), st.sampled_from("abc")), min_size=1, max_size=30),
    others=WAITING,
    runs=RUNS,
    overdue=st.dictionaries(st.sampled_from("abc"), TIMES, min_size=1),
    now=TIMES,
    overloaded=st.booleans(),
)
def test_slo_gives_a_class_that_is_overdue_the_next_batch_if_one_of_it_can_be_on_time(
    waiting, others, runs, overdue, now, overloaded
):
    lane, model = lane_of(model_of(runs), []), model_of(runs)
    for number, (arrived, budget, slo_class) in enumerate(waiting):
        made = request(number, arrived, budget)
        made.slo_class = slo_class
        lane.add(made, made.deadline)
    lane.overdue_at = overdue
    possible = {
        each.slo_class
        for each in lane.on_time
        if overdue.get(each.slo_class, 99) <= now
        and each.slot - now - RESERVE * SLO_LATENCY > model.predict(1)
    }
    other = lane_of(model, others)
    answer = EIGHT.choose([lane, other], at(now, overloaded=overloaded))
    while isinstance(answer, Late):
        answer.lane.take(answer.number)
        if not (lanes := [each for each in (lane, other) if each.on_time]):
            assert not possible
            return
        answer = EIGHT.choose(lanes, at(now, overloaded=overloaded))
    if possible:
        assert isinstance(answer, Take)
        taken = answer.lane.on_time[answer.start : answer.start + answer.size]
        assert answer.lane is lane
        assert any(overdue.get(each.slo_class, 99) <= now for each in taken)


@pytest.mark.parametrize(
    ("delay", "length", "now", "expected"),
    [
        (0.25, 8, 0.0, (8, FULL)),
        (0.25, 30, 0.0, (8, FULL)),
        (0.25, 7, 0.0, 0.25),
        (0.25, 7, 0.125, 0.25),
        (0.25, 7, 0.25, (7, DispatchReason.DELAY)),
        (0.25, 1, 9.0, (1, DispatchReason.DELAY)),
        (0.0, 3, 0.0, (3, IDLE)),
    ],
)
def test_fixed_leaves_when_the_batch_is_full_or_the_delay_has_passed(delay, length, now, expected):
    lane = lane_of(LatencyModel(8), [(0.0, 0.1)] * length, by_deadline=False)
    answer = Fixed(8, delay).choose([lane], at(now))
    assert answer == (Wait(expected) if isinstance(expected, float) else Take(lane, *expected))


def test_fixed_serves_another_lane_while_the_first_waits():
    first = lane_of(LatencyModel(8), [(0.0, 0.1)], by_deadline=False)
    full = lane_of(LatencyModel(8), [(0.1, 0.1)] * 8, by_deadline=False)
    assert Fixed(8, 0.25).choose([first, full], at(0.2)) == Take(full, 8, FULL)


def test_unbatched_takes_one_of_the_lane_that_came_first():
    lanes = [lane_of(LatencyModel(8), [(arrived, 0.1)] * 9, by_deadline=False) for arrived in (1.0, 0.5)]
    assert Fixed(1, 0.0).choose(lanes, at(5.0)) == Take(lanes[1], 1, FULL)


def run_full(limit: Aimd, law: Law, batches: int) -> list[int]:
    """Run batches of the whole limit, as under load; their sizes."""
    sizes = []
    for _ in range(batches):
        sizes.append(limit.size)
        limit.observe(limit.size, law(limit.size))
    return sizes


def test_aimd_grows_by_one_until_a_batch_exceeds_the_budget_and_then_backs_off_by_a_tenth():
    # 8 ms + 1 ms each: 42 requests take 50 ms, 43 take longer.
    sizes = run_full(Aimd(64, 0.0505), accelerator, 200)
    assert sizes[:44] == [*range(1, 44), int(43 * 0.9)]
    assert 38 <= min(sizes[43:]) <= max(sizes[43:]) == 43


def test_aimd_learns_nothing_from_batches_smaller_than_its_limit_and_shrinks_to_one_and_no_further():
    limit = Aimd(64, 0.05)
    run_full(limit, accelerator, 9)
    for _ in range(100):
        limit.observe(3, accelerator(3))
    assert limit.size == 10
    run_full(limit, lambda _: 1.0, 100)
    assert limit.size == 1


@pytest.mark.parametrize(("length", "expected"), [(9, (4, FULL)), (2, (2, IDLE)), (4, (4, IDLE))])
def test_aimd_takes_what_there_is_up_to_its_limit(length, expected):
    limit = Aimd(64, 0.05)
    run_full(limit, accelerator, 3)
    lane = lane_of(LatencyModel(64), [(0.0, 0.0)] * length, by_deadline=False)
    assert limit.choose([lane], at(5.0)) == Take(lane, *expected)


def test_registry_passes_the_settings_on():
    settings = PolicySettings(max_batch_size=5, max_batch_delay=0.5, slo_latency=0.2)
    assert POLICIES["fixed"](settings) == Fixed(5, 0.5)
    assert POLICIES["slo"](settings) == Slo(5, RESERVE * 0.2)
    assert POLICIES["unbatched"](settings) == Fixed(1, 0.0)
    aimd = POLICIES["aimd"](settings)
    lane = lane_of(LatencyModel(5), [(0.0, 0.0)] * 9, by_deadline=False)
    for _ in range(9):
        aimd.observe(5, 0.2)
    assert aimd.choose([lane], at(0.0)) == Take(lane, 5, FULL)
    aimd.observe(5, 0.201)
    assert aimd.choose([lane], at(0.0)) == Take(lane, 4, FULL)

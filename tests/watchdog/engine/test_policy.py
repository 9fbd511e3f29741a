"""Every policy of POLICIES runs through the same property: a new one gets its test by being listed."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batching_watchdog.engine.cost import Pool
from batching_watchdog.engine.lanes import Lane
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.policy import (
    POLICIES,
    Aimd,
    ByDeadline,
    Fixed,
    Late,
    Overload,
    PolicySettings,
    Situation,
    Take,
    Wait,
    cut,
)
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.function.messages import DispatchReason
from watchdog.engine.queues import MAX_BATCH_SIZE, SLO_LATENCY, Law, learn, learned, policy, request

TIMES = st.floats(0, 10)
WAITING = st.lists(st.tuples(TIMES, st.floats(0, 1)), min_size=1, max_size=30)
"""(arrived, budget) of each request of a lane."""
RUNS = st.lists(st.tuples(st.integers(1, MAX_BATCH_SIZE), st.floats(0, 1)), max_size=30)
EIGHT = ByDeadline(8, TUNING.reserve * SLO_LATENCY)
FULL, IDLE, DEADLINE = DispatchReason.FULL, DispatchReason.IDLE, DispatchReason.DEADLINE


def steady(size: int) -> float:
    return 0.008 + 0.001 * size


def at(now: float, *, overloaded: bool = False, following: float = 99.0) -> Situation:
    return Situation(now, overloaded, following)


def lane_of(model: LatencyModel, waiting: list[tuple[float, float]], *, by_deadline: bool = True) -> Lane:
    lane = Lane(Pool(model, model))
    for number, (arrived, budget) in enumerate(waiting):
        made = request(number, arrived, budget)
        lane.add(made, made.deadline if by_deadline else arrived)
    return lane


def alike(model: LatencyModel, count: int, budget: float) -> Lane:
    return lane_of(model, [(0.0, budget)] * count)


def arrived(count: int, at: float = 0.0, *, limit: int = 8) -> Lane:
    return lane_of(LatencyModel(limit), [(at, 0.1)] * count, by_deadline=False)


def model_of(runs: list[tuple[int, float]]) -> LatencyModel:
    model = LatencyModel(MAX_BATCH_SIZE)
    for size, seconds in runs:
        model.observe(size, seconds)
    return model


@pytest.mark.parametrize("name", sorted(POLICIES))
@example(lanes=[([(0.0, 1.0)], [])], now=1.0, overloaded=True)
@example(lanes=[([(2.0, 0.0), (2.0, 1.0), (2.0, 1.0)], [(1, 1.0)])], now=1.0, overloaded=True)
@given(
    lanes=st.lists(st.tuples(WAITING, RUNS), min_size=1, max_size=4),
    now=TIMES,
    overloaded=st.booleans(),
)
def test_policy_with_any_lanes_takes_what_waits_and_by_deadline_never_waits(name, lanes, now, overloaded):
    chosen = policy(name)
    made = [lane_of(model_of(runs), waiting, by_deadline=chosen.by_deadline) for waiting, runs in lanes]
    before = [list(lane.on_time) for lane in made]
    answer = chosen.choose(made, at(now, overloaded=overloaded))
    assert before == [lane.on_time for lane in made]
    if isinstance(answer, Wait):
        assert not chosen.by_deadline
        assert answer.until > now
        return
    keys, times = answer.lane.keys, answer.lane.times
    if isinstance(answer, Late):
        assert chosen.by_deadline
        # Late now, or alone after the longest batch that may go before it.
        longest = max(TUNING.reserve * SLO_LATENCY, times.predict(min(len(keys), MAX_BATCH_SIZE)))
        assert keys[answer.number - 1] <= now + longest + times.predict(1)
        return
    assert 1 <= answer.size <= min(MAX_BATCH_SIZE, times.ceiling)
    assert answer.start + answer.size <= len(keys)
    if chosen.by_deadline:
        taken = keys[answer.start : answer.start + answer.size]
        tries = overloaded and times.untried(answer.size)
        assert tries or all(now + times.predict(answer.size) <= key for key in taken)
    else:
        assert answer.start == 0


STEP: Law = lambda size: 0.01 if size <= 4 else 0.04  # noqa: E731 - the best size is 4


@pytest.mark.parametrize(
    ("law", "groups", "budget", "overloaded", "expected"),
    [  # l(b) of ``steady`` is 8 ms + 1 ms x b; groups of (requests, ms to their deadline) -> place, size.
        pytest.param(steady, [(3, 1000)], 1.0, False, (0, 3), id="all that waits"),
        pytest.param(steady, [(40, 1000)], 1.0, False, (0, 8), id="the largest batch"),
        pytest.param(STEP, [(20, 1000)], 1.0, False, (0, 4), id="the best size"),
        pytest.param(steady, [(8, 12.5)], 0.1, False, (0, 4), id="what meets the deadline"),
        pytest.param(steady, [(2, 10.5), (9, 50)], 0.1, False, (2, 8), id="early drop"),
        pytest.param(steady, [(2, 10.5), (7, 50)], 0.1, False, (0, 2), id="no better batch behind"),
        # A batch of four takes half of 25 ms: so many can be kept up.
        pytest.param(steady, [(2, 12.5), (50, 13)], 0.025, False, (0, 4), id="sustainable size"),
        pytest.param(steady, [(2, 10.5), (50, 12.5)], 0.025, False, (2, 4), id="sustainable behind"),
        pytest.param(steady, [(1, 10.5), (3, 13), (8, 16.5)], 0.1, True, (4, 8), id="densest"),
        pytest.param(steady, [(2, 9.5)], 0.1, True, (0, 1), id="just one"),
    ],
)
def test_cut_by_hand(law, groups, budget, overloaded, expected):
    deadlines = [5.0 + ms / 1000 for count, ms in groups for _ in range(count)]
    chosen = cut(deadlines, learned(law, times=9), 5.0, budget=budget, overloaded=overloaded)
    assert (chosen.start, chosen.size) == expected
    assert chosen.seconds == pytest.approx(law(chosen.size), rel=0.01)


def test_cut_under_overload_tries_a_double_that_seems_late():
    model = learn(LatencyModel(8), lambda size: 0.005 * size, (1,), 8)
    assert cut([0.006] * 300, model, 0.0, budget=0.1, overloaded=True).size == model.best_size == 2


@pytest.mark.parametrize(
    ("model", "count", "now", "expected"),
    [
        (learned(steady, times=9), 9, 0.0, (8, FULL)),
        (learned(steady, times=9), 8, 0.09, (2, DEADLINE)),
        (learned(steady, times=9), 3, 0.0, (3, IDLE)),
        (learned(STEP, times=9), 20, 0.0, (4, DispatchReason.BEST_SIZE)),
        (LatencyModel(8), 8, 0.0, (1, DispatchReason.BEST_SIZE)),
    ],
)
def test_slo_reports_why_its_batch_has_that_size(model, count, now, expected):
    lane = alike(model, count, 0.1)
    assert EIGHT.choose([lane], at(now)) == Take(lane, *expected)


def test_overload_is_forgotten_within_some_budgets():
    overload = Overload()
    overload.count(0.0, SLO_LATENCY, late=100)
    assert overload.now
    overload.count(10 * TUNING.overload_budgets * SLO_LATENCY, SLO_LATENCY, on_time=1)
    assert not overload.now


def test_slo_keeps_a_reserve_for_the_way_to_the_client_under_overload_only():
    lane = alike(learned(steady, times=9), 9, 0.1)
    sizes = [EIGHT.choose([lane], at(0.083, overloaded=overloaded)).size for overloaded in (False, True)]
    assert sizes == [8, 6]


def test_slo_request_that_cannot_be_on_time_goes_late_unless_the_next_worker_can_serve_it():
    lane = lane_of(learned(steady, times=9), [(0.0, 0.1)] + [(0.05, 0.1)] * 20)
    assert EIGHT.choose([lane], at(0.095)) == Late(lane, 1)
    # 11 ms are left for the first: alone it would do, but a batch of eight behind it serves more.
    assert EIGHT.choose([lane], at(0.089)) == Late(lane, 1)
    assert EIGHT.choose([lane], at(0.089, following=0.0895)) == Take(lane, 8, FULL, 1)


def test_slo_takes_the_earliest_deadline_of_several_lanes():
    model = learned(steady, times=9)
    many, few = alike(model, 8, 0.1), alike(model, 1, 0.09)
    assert EIGHT.choose([many, few], at(0.0)) == Take(few, 1, IDLE)


def test_slo_under_overload_takes_the_densest():
    cheap, dear = learned(steady, times=9), learned(lambda size: 0.05 + 0.005 * size, times=9)
    lanes = [alike(dear, 8, 0.095), alike(cheap, 8, 0.1)]
    assert [EIGHT.choose(lanes, at(0.0, overloaded=mode)).lane for mode in (False, True)] == lanes


@pytest.mark.parametrize(
    ("delay", "length", "now", "expected"),
    [
        (0.25, 8, 0.0, (8, FULL)),
        (0.25, 30, 0.0, (8, FULL)),
        (0.25, 7, 0.125, 0.25),
        (0.25, 7, 0.25, (7, DispatchReason.DELAY)),
        (0.0, 3, 0.0, (3, IDLE)),
    ],
)
def test_fixed_leaves_when_the_batch_is_full_or_the_delay_has_passed(delay, length, now, expected):
    lane = arrived(length)
    answer = Fixed(8, delay).choose([lane], at(now))
    assert answer == (Wait(expected) if isinstance(expected, float) else Take(lane, *expected))


def test_fixed_serves_another_lane_while_the_first_waits():
    first, full = arrived(1), arrived(8, 0.1)
    assert Fixed(8, 0.25).choose([first, full], at(0.2)) == Take(full, 8, FULL)


def test_baselines_keep_to_the_ceiling_of_memory():
    lane = arrived(9)
    lane.times.out_of_memory(8)
    assert Fixed(8, 0.0).choose([lane], at(0.0)) == Take(lane, 4, FULL)
    limit = Aimd(8, 1.0)
    run_full(limit, steady, 8)
    assert limit.choose([lane], at(0.0)) == Take(lane, 4, FULL)


def test_unbatched_takes_one_of_the_lane_that_came_first():
    lanes = [arrived(9, 1.0), arrived(9, 0.5)]
    assert policy("unbatched").choose(lanes, at(5.0)) == Take(lanes[1], 1, FULL)


def run_full(limit: Aimd, law: Law, batches: int) -> list[int]:
    """Run batches of the whole limit, as under load; return their sizes."""
    sizes = []
    for _ in range(batches):
        sizes.append(limit.size)
        limit.observe(limit.size, law(limit.size))
    return sizes


def test_aimd_grows_by_one_until_a_batch_exceeds_the_budget_and_then_backs_off_by_a_tenth():
    # 8 ms + 1 ms each: 42 requests take 50 ms, 43 take longer.
    sizes = run_full(Aimd(64, 0.0505), steady, 200)
    assert sizes[:44] == [*range(1, 44), int(43 * 0.9)]
    assert 38 <= min(sizes[43:]) <= max(sizes[43:]) == 43


def test_aimd_learns_nothing_from_batches_below_its_limit_and_shrinks_to_one():
    limit = Aimd(64, 0.05)
    run_full(limit, steady, 9)
    for _ in range(100):
        limit.observe(3, steady(3))
    assert limit.size == 10
    run_full(limit, lambda _: 1.0, 100)
    assert limit.size == 1


def test_registry_passes_the_settings_on():
    settings = PolicySettings(max_batch_size=5, max_batch_delay=0.5, slo_latency=0.2)
    assert POLICIES["fixed"](settings) == Fixed(5, 0.5)
    assert POLICIES["slo"](settings) == ByDeadline(5, TUNING.reserve * 0.2)
    aimd = POLICIES["aimd"](settings)
    for _ in range(9):
        aimd.observe(5, 0.2)
    lane = arrived(9)
    assert aimd.choose([lane], at(0.0)) == Take(lane, 5, FULL)
    aimd.observe(5, 0.201)
    assert aimd.choose([lane], at(0.0)) == Take(lane, 4, FULL)

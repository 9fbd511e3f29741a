"""Which batch the policy takes of the lanes that wait."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batching_watchdog.engine.cost import Pool
from batching_watchdog.engine.lanes import Lane
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.policy import Late, Overload, Situation, Take, choose, cut
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.function.messages import DispatchReason
from watchdog.engine.queues import MAX_BATCH_SIZE, SLO_LATENCY, Law, learn, learned, request

TIMES = st.floats(0, 10)
WAITING = st.lists(st.tuples(TIMES, st.floats(0, 1)), min_size=1, max_size=30)
"""(arrived, budget) of each request of a lane."""
RUNS = st.lists(st.tuples(st.integers(1, MAX_BATCH_SIZE), st.floats(0, 1)), max_size=30)
RESERVE = TUNING.reserve * SLO_LATENCY
FULL, IDLE, DEADLINE = DispatchReason.FULL, DispatchReason.IDLE, DispatchReason.DEADLINE


def steady(size: int) -> float:
    return 0.008 + 0.001 * size


def chosen(
    lanes: list[Lane], now: float, *, overloaded: bool = False, following: float = 99.0
) -> Take | Late:
    situation = Situation(now, overloaded, following)
    return choose(lanes, situation, reserve=RESERVE, max_batch_size=MAX_BATCH_SIZE)


def lane_of(model: LatencyModel, waiting: list[tuple[float, float]]) -> Lane:
    lane = Lane(Pool(model, model))
    for number, (arrived, budget) in enumerate(waiting):
        lane.add(request(number, arrived, budget))
    return lane


def alike(model: LatencyModel, count: int, budget: float) -> Lane:
    return lane_of(model, [(0.0, budget)] * count)


def model_of(runs: list[tuple[int, float]]) -> LatencyModel:
    model = LatencyModel(MAX_BATCH_SIZE)
    for size, seconds in runs:
        model.observe(size, seconds)
    return model


@example(lanes=[([(0.0, 1.0)], [])], now=1.0, overloaded=True)
@example(lanes=[([(2.0, 0.0), (2.0, 1.0), (2.0, 1.0)], [(1, 1.0)])], now=1.0, overloaded=True)
@given(
    lanes=st.lists(st.tuples(WAITING, RUNS), min_size=1, max_size=4),
    now=TIMES,
    overloaded=st.booleans(),
)
def test_policy_with_any_lanes_takes_what_waits_and_is_on_time(lanes, now, overloaded):
    made = [lane_of(model_of(runs), waiting) for waiting, runs in lanes]
    before = [list(lane.on_time) for lane in made]
    answer = chosen(made, now, overloaded=overloaded)
    assert before == [lane.on_time for lane in made]
    deadlines, times = answer.lane.deadlines, answer.lane.times
    if isinstance(answer, Late):
        # Late now, or alone after the longest batch that may go before it.
        longest = max(RESERVE, times.predict(min(len(deadlines), MAX_BATCH_SIZE)))
        assert deadlines[answer.number - 1] <= now + longest + times.predict(1)
        return
    assert 1 <= answer.size <= min(MAX_BATCH_SIZE, times.ceiling)
    assert answer.start + answer.size <= len(deadlines)
    taken = deadlines[answer.start : answer.start + answer.size]
    tries = overloaded and times.untried(answer.size)
    assert tries or all(now + times.predict(answer.size) <= deadline for deadline in taken)


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
    batch = cut(deadlines, learned(law, times=9), 5.0, budget=budget, overloaded=overloaded)
    assert (batch.start, batch.size) == expected
    assert batch.seconds == pytest.approx(law(batch.size), rel=0.01)


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
    assert chosen([lane], now) == Take(lane, *expected)


def test_overload_is_forgotten_within_some_budgets():
    overload = Overload()
    overload.count(0.0, SLO_LATENCY, late=100)
    assert overload.now
    overload.count(10 * TUNING.overload_budgets * SLO_LATENCY, SLO_LATENCY, on_time=1)
    assert not overload.now


def test_slo_keeps_a_reserve_for_the_way_to_the_client_under_overload_only():
    lane = alike(learned(steady, times=9), 9, 0.1)
    sizes = [chosen([lane], 0.083, overloaded=overloaded).size for overloaded in (False, True)]
    assert sizes == [8, 6]


def test_slo_request_that_cannot_be_on_time_goes_late_unless_the_next_worker_can_serve_it():
    lane = lane_of(learned(steady, times=9), [(0.0, 0.1)] + [(0.05, 0.1)] * 20)
    assert chosen([lane], 0.095) == Late(lane, 1)
    # 11 ms are left for the first: alone it would do, but a batch of eight behind it serves more.
    assert chosen([lane], 0.089) == Late(lane, 1)
    assert chosen([lane], 0.089, following=0.0895) == Take(lane, 8, FULL, 1)


def test_slo_takes_the_earliest_deadline_of_several_lanes():
    model = learned(steady, times=9)
    many, few = alike(model, 8, 0.1), alike(model, 1, 0.09)
    assert chosen([many, few], 0.0) == Take(few, 1, IDLE)


def test_slo_under_overload_takes_the_densest():
    cheap, dear = learned(steady, times=9), learned(lambda size: 0.05 + 0.005 * size, times=9)
    lanes = [alike(dear, 8, 0.095), alike(cheap, 8, 0.1)]
    assert [chosen(lanes, 0.0, overloaded=mode).lane for mode in (False, True)] == lanes

"""Policy ``slo``: what an observation teaches, and the count for it."""

import math
from dataclasses import replace

import pytest

from slo_autoscaler.law.base.budget import Budget
from slo_autoscaler.law.decide import assess
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.replica import late_share
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.model import Need, Scale
from slo_autoscaler.settings.spec import Boost
from support.builders import a_spec, remembering, seen


@pytest.mark.parametrize(
    ("changes", "late"),
    [
        ({"burn_short": 5.0}, 0.05),
        ({"burn_short": 500.0}, 1.0),
        ({"burn_short": None}, None),
        ({"burn_short": 0.0, "queue_mean": 0.0}, 0.0),
        ({"burn_short": 5.0, "queue_mean": 0.004}, None),  # they hardly waited: it was execution
        ({"burn_short": 5.0, "queue_mean": 0.02}, 0.05),
        ({"burn_short": 5.0, "queue_mean": 0.004, "slo_objective": 0.999}, 0.005),
    ],
)
def test_late_counts_what_more_replicas_would_have_answered_in_time(changes, late):
    assert late_share(seen(**changes)) == pytest.approx(late)


TWO = Scale(2, 2)
SPEC = a_spec(max_replicas=50)


def needed(at):
    """Return the need with this observation, and the memory after it."""
    found = assess(at)
    return found.need, found.at.memory


def count(need):
    return need.count if isinstance(need, Need) else TWO.desired


def observed(*observations, memory=None, scale=TWO, spec=SPEC, every=5.0):
    """Return what is recommended and remembered after observations of these."""
    found, memory = None, memory or Memory.initial(scale, 0.0)
    for observation in observations:
        found, memory = needed(Situation(spec, observation, scale, memory, memory.seen_at + every))
    return found, memory


def left(memory):
    return memory.need.budget.remaining(SPEC.budget_period)


def test_a_hang_earns_no_credit_and_each_request_of_it_is_late_once():
    hanging = seen(rate=0.0, in_flight=200.0, stalled=200.0, burn_short=None)
    _, before = observed(*[seen(burn_short=0.0)] * 20)
    _, once = observed(hanging, memory=before)
    _, long = observed(*[hanging, replace(hanging, stalled=None)] * 10, memory=once)
    _, slow = observed(*[replace(hanging, slo_latency=60.0)] * 20, memory=before)
    assert left(long) <= left(once) < left(before) - 0.05
    assert long.need.budget.spent <= once.need.budget.spent
    assert slow.need.budget.spent <= before.need.budget.spent, "within an SLO of a minute it is not late yet"


def test_one_sample_that_is_observed_often_counts_once():
    sample = seen(rate=150.0, burn_short=3.0)
    _, often = observed(*[sample] * 100, every=0.05)
    _, once = observed(sample, every=5.0)
    assert left(often) == pytest.approx(left(once), abs=1e-4)
    assert often.replica.calibration.factor == pytest.approx(once.replica.calibration.factor, rel=0.05)


def test_a_sudden_rise_is_believed_at_once_if_chance_does_not_explain_it():
    steady, _ = observed(*[seen()] * 10)
    chance, _ = observed(*[seen()] * 9, seen(rate_now=105.0))
    rise, _ = observed(*[seen()] * 9, seen(rate_now=400.0))
    assert count(chance) == count(steady)
    assert count(rise) >= 4


@pytest.mark.parametrize(("desired", "stuck"), [(10, 1), (10, 9)])
def test_one_of_the_replicas_that_never_serve_is_replaced(desired, stuck):
    scale = Scale(desired, desired - stuck)
    starting, found = (
        count(
            observed(
                seen(rate=900.0, burn_short=1.0),
                scale=scale,
                memory=remembering(Memory.initial(scale, 0.0), pending=((since, True),) * stuck),
            )[0]
        )
        for since in (0.0, -1000.0)
    )
    assert found == starting + 1


def test_replicas_for_which_no_node_has_room_are_not_replaced():
    scale = Scale(10, 8)
    memory = remembering(Memory.initial(scale, 0.0), pending=((-1000.0, True),) * 2)
    replaced, kept = (
        count(observed(seen(rate=900.0, burn_short=1.0), scale=each, memory=memory)[0])
        for each in (scale, replace(scale, unschedulable=2))
    )
    assert kept < replaced


def test_down_waits_for_what_may_come_before_a_replica_could_be_back():
    """A burst comes every minute, and never just one start-up after a calm moment."""
    high, low = (seen(rate=rate, burn_short=0.0) for rate in (400.0, 100.0))
    cycle = [*[high] * 3, *[low] * 10]
    spec = a_spec(max_replicas=50, start_up_time=60.0)
    found, memory = observed(*cycle * 30, *cycle[:8], spec=spec)
    assert count(found) <= 2
    assert memory.step.needs.highest(60.0) >= 3


def test_a_ramp_is_learned_from_every_reconcile_of_a_short_interval():
    spec, memory = a_spec(max_replicas=50, interval=1.0, start_up_time=3.0), Memory.initial(TWO, 0.0)
    for now in range(1, 31):
        rate = 20.0 if now <= 10 else 20.0 + 8.0 * (now - 10)
        found, memory = needed(Situation(spec, seen(rate=rate), TWO, memory, float(now)))
    assert len(memory.traffic.history.rates) == 30
    assert found.forecast.rate >= 1.02 * rate


def test_lateness_of_an_unknown_cause_spends_what_the_curve_predicts():
    unknown = seen(rate=195.0, burn_short=5.0, queue_mean=0.0)
    _, none_late = observed(*[replace(unknown, burn_short=0.0)] * 20)
    _, predicted = observed(*[unknown] * 20)
    assert left(predicted) < left(none_late) - 0.002


def test_a_start_during_an_overload_does_not_take_its_backlog_for_a_lower_capacity():
    _, memory = observed(*[seen(rate=150.0, burn_short=80.0)] * 8)
    assert memory.replica.calibration.factor == 1.0


def test_recommend_backlog_of_replicas_that_have_started_leaves_the_calibration():
    """The overload passed between two scrapes; the requests that it left are answered late."""
    waiting = seen(rate=100.0, queue_length=500.0, burn_short=0.0)
    _, memory = observed(*[seen(burn_short=0.0)] * 20, *[waiting] * 2)
    _, drained = observed(*[seen(rate=150.0, burn_short=20.0, queue_mean=0.1)] * 2, memory=memory)
    assert drained.replica.calibration.factor == pytest.approx(memory.replica.calibration.factor, rel=0.01)


def test_recommend_lateness_during_a_boost_leaves_the_calibration():
    late = seen(rate=150.0, burn_short=20.0, queue_mean=0.1)
    memory = remembering(Memory.initial(TWO, 0.0), overloaded_at=-math.inf)
    nominal, boosted = (
        observed(late, memory=remembering(memory, boosts=boosts))[1].replica.calibration.factor
        for boosts in ((), ((0.0, 2.0),))
    )
    assert nominal < boosted == 1.0


def test_few_requests_in_one_scrape_are_no_rise():
    """At 0.1/s, three end within a scrape of 5 s every other hour."""
    slow = seen(rate=0.1, rate_window=320.0, capacity=0.1, slo_latency=25.0, service_time_single=8.0)
    found, _ = observed(*[slow] * 9, replace(slow, rate_now=0.6))
    assert count(found) <= 3


def test_recommend_replicas_that_never_serve_and_are_not_needed_are_not_replaced():
    scale = Scale(10, 8)
    waiting = remembering(Memory.initial(scale, 0.0), pending=((-1000.0, True),) * 2)
    stuck, starting = (
        count(observed(seen(rate=90.0, up_replicas=8.0), scale=scale, memory=memory)[0])
        for memory in (waiting, Memory.initial(scale, 0.0))
    )
    assert stuck == starting < scale.available


def test_recommend_request_that_may_take_longer_than_the_window_does_not_hang():
    _, memory = observed(seen(slo_latency=60.0, stalled=5.0))
    assert memory.need.stalled == 0.0


def test_recommend_one_observation_after_a_gap_counts_for_the_longest_gap_alone():
    late = Situation(a_spec(longest_gap=20.0), seen(rate=100.0), TWO, Memory.initial(TWO, 0.0), 5000.0)
    _, memory = needed(late)
    assert memory.need.budget.served == pytest.approx(100.0 * 20.0)


def test_recommend_almost_no_traffic_is_none():
    _, memory = observed(*[seen()] * 30)
    none, almost = (observed(seen(rate=rate), memory=memory)[0].forecast.rate for rate in (0.0, 1e-6))
    assert almost == pytest.approx(none)


BOOST = replace(SPEC, boost=Boost(max_factor=3.0))
BURSTS = [seen(rate=rate, up_replicas=2.0, burn_short=0.0) for rate in (100.0, 100.0, 100.0, 400.0)] * 40


def test_recommend_where_a_boost_bridges_fewer_replicas_stand_by():
    """Every fourth moment is a burst, and the recommendation comes just before one."""
    _, memory = observed(*BURSTS[:-1])
    even, overspent = (remembering(memory, budget=Budget(3600.0, 1e6, spent)) for spent in (0.9e6, 1.1e6))
    nominal, _ = observed(BURSTS[0], memory=even)
    bridged, _ = observed(BURSTS[0], memory=even, spec=BOOST)
    missed, _ = observed(BURSTS[0], memory=overspent, spec=BOOST)
    assert count(bridged) < count(nominal) <= count(missed)
    assert bridged.forecast.unbridged() == count(nominal)
    assert nominal.forecast.unbridged is missed.forecast.unbridged is None


def test_recommend_start_up_of_minutes_is_not_bridged():
    quick, slow = (
        observed(*BURSTS[:-1], spec=replace(BOOST, start_up_time=seconds))[0] for seconds in (60.0, 180.0)
    )
    assert quick.forecast.unbridged is not None
    assert slow.forecast.unbridged is None

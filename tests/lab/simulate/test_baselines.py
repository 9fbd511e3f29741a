"""Other scalers' laws, step by step against what they give by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.model import Observation, Scale
from tailbound_lab.simulate.baselines import (
    Alert,
    Bounds,
    HpaSettings,
    Kpa,
    KpaSettings,
    KpaState,
    OpenFaas,
    OpenFaasRule,
    RayServe,
    RaySettings,
    Threshold,
    ThresholdSettings,
    hpa_cpu,
    hpa_limit,
    hpa_on_pods,
    hpa_on_value,
    keda_value,
    kpa,
    openfaas,
    ray,
)

FIVE = Bounds(1, 5)


class Seen:
    """A view with given numbers."""

    def __init__(self, desired: int = 1, available: int | None = None, **numbers: float) -> None:
        self.scale = Scale(desired, desired if available is None else available)
        self._numbers = numbers

    def observe(self) -> Observation | None:
        return Observation(p99=self._numbers["p99"], slo_latency=0.2) if "p99" in self._numbers else None

    def concurrency(self, span: float) -> float:
        return self._numbers["concurrency"]

    def successes(self, span: float) -> float:
        return self._numbers["successes"]

    def utilization(self, span: float) -> float | None:
        return self._numbers.get("utilization")


def openfaas_counts(rates: list[float], rule: OpenFaasRule) -> list[int]:
    """The count after each second."""
    count, alert, counts = 1, Alert(), []
    for now, rate in enumerate(rates):
        count, alert = openfaas(rule, FIVE, count, rate, alert, float(now))
        counts.append(count)
    return counts


def test_openfaas_takes_two_minutes_from_one_to_five():
    counts = openfaas_counts([10.0] * 130, OpenFaasRule())
    # Evaluated at 0 (pending) and 15 s (firing), 5 s of group wait, then a repeat every 30 s.
    changes = [(now, counts[now]) for now in range(1, 130) if counts[now] != counts[now - 1]]
    assert changes == [(20, 2), (50, 3), (80, 4), (110, 5)]


def test_openfaas_falls_to_the_minimum_at_once_when_the_alert_is_resolved():
    counts = openfaas_counts([10.0] * 111 + [0.0] * 40, OpenFaasRule())
    assert counts[119] == 5
    assert counts[120] == 1


def test_openfaas_does_nothing_at_five_per_second():
    assert set(openfaas_counts([5.0] * 200, OpenFaasRule())) == {1}


def test_openfaas_steps_by_a_share_of_the_maximum():
    assert max(openfaas_counts([10.0] * 40, OpenFaasRule(factor=50))) == 1 + 3


def test_kpa_sizes_by_the_stable_window():
    assert kpa(KpaSettings(target=10), 3, 35.0, 35.0, KpaState(), 0.0) == (4, KpaState())


def test_kpa_panics_when_the_short_window_wants_twice_what_is_ready():
    count, state = kpa(KpaSettings(target=10), 2, 15.0, 35.0, KpaState(), 0.0)
    assert (count, state) == (4, KpaState(0.0, 4))


def test_kpa_in_panic_never_falls_and_ends_it_a_stable_window_later():
    settings, panic = KpaSettings(target=10), KpaState(0.0, 8)
    assert kpa(settings, 8, 12.0, 12.0, panic, 60.0) == (8, panic)
    assert kpa(settings, 8, 12.0, 12.0, panic, 62.0) == (4, KpaState()), "half of 8 ready is the least"


def test_kpa_falls_by_half_at_most():
    assert kpa(KpaSettings(target=10), 10, 5.0, 5.0, KpaState(), 0.0)[0] == 5


def test_kpa_begins_in_panic_when_there_is_more_than_one_pod():
    scaler = Kpa(Bounds(1, 20), KpaSettings(target=10))
    assert scaler.scale(Seen(6, concurrency=1.0), 0.0) == 6
    assert scaler.scale(Seen(6, concurrency=1.0), 61.0) == 3


def test_kpa_with_a_delay_falls_only_to_the_most_that_was_wanted_in_it():
    scaler = Kpa(Bounds(1, 20), KpaSettings(target=10, down_delay=30.0))
    assert scaler.scale(Seen(1, concurrency=15.0), 0.0) == 2
    assert scaler.scale(Seen(2, concurrency=5.0), 61.5) == 1
    assert scaler.scale(Seen(1, concurrency=15.0), 100.0) == 2
    assert scaler.scale(Seen(2, concurrency=5.0), 129.0) == 2


@pytest.mark.parametrize(
    ("usage", "target", "current", "ready", "wanted"),
    [
        (0.9, 0.6, 4, 4, 6),
        (0.63, 0.6, 4, 4, 4),  # within a tenth
        (0.3, 0.6, 4, 4, 2),
        (0.9, 0.6, 6, 4, 6),  # with the two that start at nothing it is 0.6 on average
        (0.9, 0.5, 6, 4, 8),  # 3.6 / 6 = 0.6; 6 x 0.6 / 0.5 = 7.2
        (0.7, 0.6, 8, 4, 8),  # the direction turns: nothing
        (0.9, 0.6, 1, 0, 1),
    ],
)
def test_the_hpa_on_pods(usage, target, current, ready, wanted):
    assert hpa_on_pods(usage, target, current, ready) == wanted


@pytest.mark.parametrize(
    ("value", "current", "ready", "wanted"), [(0.4, 3, 3, 6), (0.21, 3, 3, 3), (0.1, 4, 4, 2), (0.0, 3, 3, 0)]
)
def test_the_hpa_on_an_external_value(value, current, ready, wanted):
    assert hpa_on_value(value, 0.2, current, ready) == wanted


@pytest.mark.parametrize(
    ("wanted", "current", "highest", "allowed"),
    [(30, 3, 30, 7), (30, 6, 30, 12), (2, 5, 4, 4), (2, 5, 9, 5), (0, 2, 0, 1), (99, 30, 99, 40)],
)
def test_the_hpa_goes_up_by_four_or_twofold_and_down_to_the_highest_wish(wanted, current, highest, allowed):
    assert hpa_limit(wanted, current, highest, Bounds(1, 40)) == allowed


def test_the_hpa_on_cpu_stays_for_the_down_window():
    scaler = hpa_cpu(Bounds(1, 20), HpaSettings(target=0.5, down_window=60.0))
    assert scaler.scale(Seen(4, utilization=0.2), 0.0) == 4
    assert scaler.scale(Seen(4, utilization=0.2), 15.0) == 4
    assert scaler.scale(Seen(4, utilization=0.2), 80.0) == 2


def test_the_hpa_without_a_metric_changes_nothing():
    assert hpa_cpu(FIVE).scale(Seen(4), 0.0) is None


def test_keda_takes_no_data_for_zero():
    scaler = keda_value(Bounds(1, 20), HpaSettings(target=0.2, down_window=0.0))
    assert scaler.scale(Seen(4, p99=0.4), 0.0) == 8
    assert scaler.scale(Seen(8), 15.0) == 1


def test_ray_scales_up_when_the_wish_has_lasted():
    settings = RaySettings(target=2, up_delay=2.0)
    assert ray(settings, 12.0, 3, 3, 0, 1.0) == (3, 1)
    assert ray(settings, 12.0, 3, 3, 1, 1.0) == (3, 2)
    assert ray(settings, 12.0, 3, 3, 2, 1.0) == (6, 0)


def test_ray_begins_to_wait_again_when_the_wish_turns():
    settings = RaySettings(target=2, up_delay=5.0, down_delay=5.0)
    assert ray(settings, 2.0, 3, 3, 4, 1.0) == (3, -1)
    assert ray(settings, 6.0, 3, 3, 4, 1.0) == (3, 0)


def test_ray_scales_down_when_the_wish_has_lasted():
    assert ray(RaySettings(target=2, down_delay=2.0), 2.0, 3, 3, -2, 1.0) == (1, 0)


def test_ray_that_is_stuck_on_its_way_down_takes_one_away():
    settings = RaySettings(target=2, down_delay=0.0, down_factor=0.5)
    assert ray(settings, 5.9, 3, 3, 0, 1.0) == (2, 0)


def test_ray_leaves_zero_at_once_and_waits_for_what_starts():
    assert ray(RaySettings(target=2), 3.0, 0, 0, 0, 1.0) == (2, 0)
    assert ray(RaySettings(target=2), 3.0, 0, 2, 7, 1.0) == (2, 7)


numbers = st.floats(0.0, 1e4)


@given(
    desired=st.integers(1, 30), available=st.integers(0, 30), load=numbers, share=st.floats(0, 1), p99=numbers
)
def test_whatever_is_seen_the_bounds_hold(desired, available, load, share, p99):
    bounds = Bounds(2, 9)
    seen = Seen(desired, available, concurrency=load, successes=load, utilization=share, p99=p99)
    scalers = [Kpa(bounds), hpa_cpu(bounds), keda_value(bounds, HpaSettings(0.2)), RayServe(bounds)]
    for scaler in scalers:
        for now in range(0, 120, 15):
            count = scaler.scale(seen, float(now))
            assert count is None or 2 <= count <= 9


def test_openfaas_leaves_a_count_that_nothing_is_said_about():
    assert OpenFaas(FIVE).scale(Seen(3, successes=1.0), 0.0) == 3


@pytest.mark.parametrize(
    ("p99", "starting", "count"), [(0.21, 0, 3), (0.2, 0, 2), (0.1, 0, 2), (0.09, 0, 1), (0.5, 1, None)]
)
def test_threshold_when_settled_steps_by_one(p99, starting, count):
    scaler = Threshold(FIVE, ThresholdSettings(down_window=1.0))
    assert scaler.scale(Seen(2, 2 - starting, p99=p99), 100.0) == count


def test_threshold_after_a_change_waits_until_it_has_settled():
    scaler = Threshold(FIVE, ThresholdSettings(settle=40.0))
    counts = [scaler.scale(Seen(2, p99=0.5), now) for now in (0.0, 39.0, 40.0)]
    assert counts == [3, None, 3]

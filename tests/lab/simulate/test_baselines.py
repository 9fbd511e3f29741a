"""Other scalers' laws, step by step against what they give by hand."""

import pytest

from slo_autoscaler.model import Scale
from slo_autoscaler.signals.record import Observation
from tailbound_lab.simulate.baselines import (
    AlertGroup,
    Bounds,
    HpaSettings,
    Kpa,
    KpaSettings,
    KpaState,
    Llmd,
    LlmdSettings,
    LlmdSlo,
    LlmdSloSettings,
    OpenFaas,
    OpenFaasRule,
    hpa_cpu,
    hpa_limit,
    hpa_on_pods,
    hpa_on_value,
    keda_value,
    kpa,
    llmd,
    llmd_slo,
    notify,
)
from tailbound_lab.simulate.function import Function, Service, Streaming

TWENTY = Bounds(1, 20)
STREAMS = Function(
    Service.affine(0.01, 0.01, 8), slo_latency=3.0, streaming=Streaming(0.01, 0.1, fewest=9, most=9)
)


class Seen:
    """A view with given numbers."""

    def __init__(self, desired=1, available=None, **numbers):
        self.scale = Scale(desired, desired if available is None else available)
        self._numbers = numbers

    def observe(self):
        return Observation(p99=self._numbers["p99"], slo_latency=0.2) if "p99" in self._numbers else None

    def concurrency(self, span):
        return self._numbers["concurrency"]

    def successes(self, span):
        return self._numbers["successes"]

    def utilization(self, span):
        return self._numbers.get("utilization")

    def peaks(self, span):
        return self._numbers["peaks"]

    def pieces(self, span):
        return self._numbers["firsts"], self._numbers["gaps"]


def counts(scaler, *polls):
    """The scaler's answers to (now, view)."""
    return [scaler.scale(view, float(now)) for now, view in polls]


@pytest.mark.parametrize(
    ("rates", "factor", "changes"),
    [
        # Evaluated at 0 (pending) and 15 s (firing), 5 s of group wait, then a repeat every 30 s; to the
        # minimum at once when it is resolved.
        ([10.0] * 111 + [0.0] * 40, 20, [(20, 2), (50, 3), (80, 4), (110, 5), (120, 1)]),
        ([5.0] * 200, 20, []),
        ([10.0] * 40, 50, [(20, 4)]),
    ],
    ids=["up and down", "at the threshold", "a larger step"],
)
def test_openfaas_steps_with_each_notification(rates, factor, changes):
    scaler, count, changed = OpenFaas(Bounds(1, 5), OpenFaasRule(factor=factor)), 1, []
    for now, rate in enumerate(rates):
        before, count = count, scaler.scale(Seen(count, successes=rate), float(now))
        changed += [(now, count)] if count != before else []
    assert changed == changes


A, AB, NONE = frozenset("a"), frozenset("ab"), frozenset()


def notifications(polls):
    """Feed (now, firing) polls to the law; what goes out as (now, firing, resolved)."""
    group, sent = AlertGroup(), []
    for now, firing in polls:
        group, notification = notify(OpenFaasRule(), group, firing, now)
        sent += [(now, notification.firing, notification.resolved)] if notification else []
    return sent


@pytest.mark.parametrize(
    ("firing", "seconds", "sent"),
    [
        (lambda t: A if t < 8 else AB, 20, [(5, A, NONE), (15, AB, NONE)]),
        (lambda t: A if t < 3 else NONE, 30, []),
        (lambda t: A if t < 8 or t >= 50 else NONE, 60, [(5, A, NONE), (15, NONE, A), (55, A, NONE)]),
    ],
    ids=["news of one is sent for all", "ended within the group wait", "waits again after a quiet time"],
)
def test_a_notification_goes_out_when_alertmanager_would_send_it(firing, seconds, sent):
    assert notifications((t, firing(t)) for t in range(seconds)) == sent


@pytest.mark.parametrize(
    ("ready", "stable", "panic", "state", "now", "count", "after"),
    [
        (3, 35.0, 35.0, KpaState(), 0.0, 4, KpaState()),
        (10, 5.0, 5.0, KpaState(), 0.0, 5, KpaState()),
        (2, 15.0, 35.0, KpaState(), 0.0, 4, KpaState(0.0, 4)),
        (8, 12.0, 12.0, KpaState(0.0, 8), 60.0, 8, KpaState(0.0, 8)),
        (8, 12.0, 12.0, KpaState(0.0, 8), 62.0, 4, KpaState()),
    ],
    ids=["stable window", "half at most", "panic at twice", "never down in panic", "panic ends"],
)
def test_kpa_counts_by_window_and_panic(ready, stable, panic, state, now, count, after):
    assert kpa(KpaSettings(target=10), state, now, ready=ready, stable=stable, panic=panic) == (count, after)


def test_kpa_begins_in_panic_with_more_than_one_pod():
    few = Seen(6, concurrency=1.0)
    assert counts(Kpa(TWENTY, KpaSettings(target=10)), (0, few), (61, few)) == [6, 3]


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
def test_hpa_on_pods(usage, target, current, ready, wanted):
    assert hpa_on_pods(usage, target, current, ready) == wanted


@pytest.mark.parametrize(
    ("value", "current", "ready", "wanted"), [(0.4, 3, 3, 6), (0.21, 3, 3, 3), (0.1, 4, 4, 2), (0.0, 3, 3, 0)]
)
def test_hpa_on_an_external_value(value, current, ready, wanted):
    assert hpa_on_value(value, 0.2, current, ready) == wanted


@pytest.mark.parametrize(
    ("wanted", "current", "highest", "allowed"),
    [(30, 3, 30, 7), (30, 6, 30, 12), (2, 5, 4, 4), (2, 5, 9, 5), (0, 2, 0, 1), (99, 30, 99, 40)],
)
def test_hpa_goes_up_by_four_or_twofold_and_down_to_the_highest_wish(wanted, current, highest, allowed):
    assert hpa_limit(wanted, current, highest, Bounds(1, 40)) == allowed


def test_hpa_on_cpu_stays_for_the_down_window_and_without_a_metric():
    scaler, idle = hpa_cpu(TWENTY, HpaSettings(target=0.5, down_window=60.0)), Seen(4, utilization=0.2)
    assert counts(scaler, (0, idle), (15, idle), (80, idle), (95, Seen(4))) == [4, 4, 2, None]


def test_keda_takes_no_data_for_zero():
    scaler = keda_value(TWENTY, HpaSettings(target=0.2, down_window=0.0))
    assert counts(scaler, (0, Seen(4, p99=0.4)), (15, Seen(8))) == [8, 1]


@pytest.mark.parametrize(
    ("peaks", "current", "asked", "wanted"),
    [
        ([(0.1, 2.0), (0.1, 2.0)], 2, 2, 2),
        ([(0.1, 2.0), (0.1, 2.5)], 2, 2, 3),
        ([(0.71, 0.0), (0.71, 0.0)], 2, 2, 3),
        ([(0.1, 1.0), (0.1, 0.9)], 2, 2, 1),
        ([(0.4, 0.0), (0.4, 0.0)], 2, 2, 2),
        ([(0.1, 9.0), (0.1, 1.0)], 2, 2, 2),
        ([(0.1, 9.0), (0.9, 1.0)], 2, 2, 3),
        ([(0.1, 9.0)], 2, 2, 2),
        ([(0.1, 9.0), (0.1, 9.0)], 2, 3, 3),
        ([(0.1, 9.0), (0.1, 9.0)], 2, 0, 3),
        ([(0.0, 0.0)], 1, 1, 1),
        ([], 2, 0, 2),
    ],
    ids=[
        *("enough", "little queue to spare", "few slots to spare", "one would do", "one would not do"),
        *("a saturated one is no reason", "all are", "one does not report", "not yet carried out"),
        *("first poll", "never to none", "no data"),
    ],
)
def test_llmd_steps_by_one_by_what_replicas_have_to_spare(peaks, current, asked, wanted):
    assert llmd(LlmdSettings(), peaks, current, asked) == wanted


def test_llmd_analyzes_once_a_minute_and_its_hpa_waits_for_the_window():
    busy = [(9.0, 1.0)] * 2
    scaler = Llmd(TWENTY, LlmdSettings(window=45.0), slots=4)
    polls = [(now, Seen(2, peaks=busy)) for now in (0, 15, 30, 45)]
    assert counts(scaler, *polls) == [2, 2, 2, 3]
    assert counts(scaler, (60, Seen(3, peaks=[(0.0, 0.0)] * 3)), (105, Seen(3, peaks=[]))) == [3, 2]


@pytest.mark.parametrize(
    ("saturation", "current", "ready", "wanted"),
    [
        (0.5, 4, 4, 4),
        (0.56, 4, 4, 5),
        (1.1, 4, 4, 8),
        (1.1, 4, 2, 4),
        (0.39, 4, 4, 4),
        (0.28, 4, 4, 3),
        (0.0, 4, 2, 0),
    ],
    ids=["in the band", "above it", "twice", "with half on the way", "just below", "below", "no traffic"],
)
def test_llmd_slo_follows_the_saturation(saturation, current, ready, wanted):
    assert llmd_slo(LlmdSloSettings(), saturation, current, ready) == wanted


def test_llmd_slo_takes_the_larger_saturation_and_its_hpa_doubles_each_minute_and_falls_by_one_in_two():
    scaler = LlmdSlo(TWENTY, LlmdSloSettings(), STREAMS)

    def polls(begin, end, count, **pieces):
        counts = []
        for now in range(begin, end, 15):
            count = scaler.scale(Seen(count, **pieces), float(now))
            counts.append(count)
        return counts

    late = {"firsts": [1.0] * 8 + [9.0] * 2, "gaps": [0.01]}
    assert polls(0, 105, 3, **late) == [3, 3, 7, 7, 7, 7, 14]
    assert set(polls(105, 240, 14, firsts=[], gaps=[])) == {14}
    assert polls(240, 420, 14, firsts=[], gaps=[])[-9:] == [14, 13, 13, 13, 13, 13, 13, 13, 13]

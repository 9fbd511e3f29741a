"""The prediction over the rates to come, and the choice of a count by it."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.base.curve import Curve, curve
from slo_autoscaler.law.foresight.price import Prediction
from slo_autoscaler.law.foresight.scenarios import RATIOS, Followed

MOST = 60
NOTHING = 1e-3
WINDOW = 20.0


@st.composite
def predictions(draw: st.DrawFn) -> Prediction:
    """Rates to come around a base, as a memory of some moments tells them."""
    base = draw(st.floats(1e-3, 1e4))
    ratios = draw(st.lists(st.sampled_from(RATIOS), max_size=20))
    followed = Followed().plus([(base, base * ratio) for ratio in ratios], NOTHING)
    requests = draw(st.floats(0.5, 1000.0))
    replica = curve(requests * base / draw(st.floats(0.2, 40.0)), draw(st.floats(0.05, 2.0)), 0.99)
    return Prediction(base, followed.odds(base, NOTHING, WINDOW), replica)


ALLOWED = st.floats(1e-4, 0.5)


@given(predictions())
def test_the_late_share_falls_in_replicas(prediction):
    shares = [prediction.late(count) for count in range(MOST)]
    assert all(0.0 <= share <= 1.0 for share in shares)
    assert shares == sorted(shares, reverse=True)
    assert prediction.late(10**9) < 0.01


@given(predictions(), ALLOWED, st.integers(1, MOST), st.integers(1, MOST), st.integers(1, MOST))
def test_the_fewest_is_what_a_scan_from_one_replica_on_finds(prediction, allowed, start, one, other):
    worth, lowest, highest = prediction.replica.saved(allowed), min(one, other), max(one, other)
    late = [prediction.rate * prediction.late(count) for count in range(lowest, highest + 1)]
    saved = [before - after for before, after in pairwise(late)]
    scanned = next((count for count, each in enumerate(saved, lowest) if each < worth), highest)
    assert prediction.fewest(worth, start, lowest, highest) == scanned


@given(predictions(), ALLOWED, st.floats(1.0, 100.0), st.floats(0.01, 1.0))
def test_more_load_or_less_allowed_never_needs_fewer(prediction, allowed, more, less):
    worth, stricter = prediction.replica.saved(allowed), prediction.replica.saved(less * allowed)
    fewest = prediction.fewest(worth, 1, 1, MOST)
    assert replace(prediction, base=more * prediction.base).fewest(worth, 1, 1, MOST) >= fewest
    assert prediction.fewest(stricter, 1, 1, MOST) >= fewest


@given(predictions(), ALLOWED, st.floats(1.0, 3.0))
def test_count_lets_no_more_than_the_allowed_share_be_late_at_the_median(prediction, allowed, gain):
    count = replace(prediction, gain=gain).count(allowed)

    def in_time(replicas: int) -> float:
        """Return the share of the odds at which no more than ``allowed`` is late, at nominal capacity."""
        rates = zip(prediction.odds, RATIOS, strict=True)
        shares = (
            (odds, prediction.replica.late(prediction.base * ratio / replicas)) for odds, ratio in rates
        )
        return sum(odds for odds, share in shares if share <= allowed * (1.0 + 1e-6)) / sum(prediction.odds)

    assert in_time(count) >= 0.5 - 1e-6


@given(predictions(), st.floats(1.0, 3.0).filter(lambda gain: gain > 1.0))
def test_capacity_for_jumps_hides_no_late_share_of_the_median(prediction, gain):
    bridged = replace(prediction, gain=gain)
    for count in (1, 2, 10):
        assert bridged.late(count) >= prediction.replica.late(prediction.median / count)


@pytest.mark.parametrize("replicas", [1, 10, 1000])
def test_a_fleet_of_any_size_is_found_from_any_overload(replicas):
    replica, rate = Curve(100.0, 0.1), 100.0 * replicas
    prediction = Prediction(rate, Followed().odds(rate, NOTHING, WINDOW), replica)
    found = {
        prediction.fewest(replica.saved(0.01), start, 1, 10**5) for start in (1, replicas, 10 * replicas)
    }
    assert len(found) == 1
    assert replicas <= found.pop() <= 2 * replicas + 1

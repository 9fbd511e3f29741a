"""One replica of a function that streams. Its decisions are the engine's: tests/watchdog/engine."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.simulate.function import Function, Service, Streaming
from tailbound_lab.simulate.streams import StreamReplica

STREAMING = Streaming(start=0.01, interval=0.05, fewest=3, most=3)
FUNCTION = Function(Service.affine(0.01, 0.01, 8), slo_latency=0.2, streaming=STREAMING)


def replica(streaming=STREAMING, **changes):
    function = replace(FUNCTION, streaming=streaming, **changes)
    return StreamReplica(function, streaming, 0.0)


def order(replica):
    """Arrivals in the order in which streams ended."""
    return [arrived for stream in replica.served.answered for arrived in stream.arrived]


def test_stream_is_started_and_gets_a_piece_with_each_step():
    one = replica()
    one.serve([1.0], 2.0)
    served = one.take()
    ((_, end, judged, arrived),) = served.answered
    assert (arrived, served.lost) == ([1.0], [])
    assert served.firsts == [(pytest.approx(1.03), pytest.approx(0.03))]
    assert (end, judged) == (pytest.approx(1.07), pytest.approx(1.03))
    assert served.gaps == [(pytest.approx(1.07), pytest.approx(0.02))]


def test_request_joins_a_running_worker_after_its_step():
    one = replica()
    one.serve([1.0, 1.035], 2.0)
    first, second = (at for at, _ in one.served.firsts)
    assert (first, second) == (pytest.approx(1.03), pytest.approx(1.05 + 0.01 + 0.03))


def test_late_request_starts_before_later_ones_only_in_order_of_arrival():
    arrivals = [0.0] * 8 + [0.001 * number for number in range(1, 40)]
    longer = replace(STREAMING, fewest=40, most=40)
    by_deadline, in_order = (
        replica(replace(longer, in_order=in_order), timeout=60.0) for in_order in (False, True)
    )
    for served in (by_deadline, in_order):
        served.serve(list(arrivals), math.inf)
        assert sorted(order(served)) == arrivals
    assert order(in_order) == arrivals


@given(
    gaps=st.lists(st.floats(0.0, 0.2), max_size=60),
    workers=st.integers(1, 2),
    timeout=st.floats(0.3, 2.0) | st.just(30.0),
    cuts=st.lists(st.floats(0.0, 5.0), max_size=6).map(sorted),
)
def test_every_stream_ends_once_or_is_lost_however_time_is_cut_up(gaps, workers, timeout, cuts):
    arrivals = [sum(gaps[: number + 1]) for number in range(len(gaps))]
    streaming = replace(STREAMING, fewest=1, most=30)
    whole, parts = (replica(streaming, workers=workers, timeout=timeout) for _ in range(2))
    whole.serve(list(arrivals), math.inf)
    assert len(order(whole)) + len(whole.served.lost) == len(arrivals)
    assert whole.pending == 0
    for cut in [*cuts, math.inf]:
        now = [arrival for arrival in arrivals if arrival < cut]
        arrivals = arrivals[len(now) :]
        parts.serve(now, cut)
    assert parts.served == whole.served

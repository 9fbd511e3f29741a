"""Arrivals from counters: what pages say, what resets and gaps do, and how sure a rate is."""

import random
import subprocess
import sys
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.signals import counters
from slo_autoscaler.signals.counters import (
    SHORTEST,
    SPANS,
    WHOLE,
    Page,
    arrived,
    identity,
    inside,
    observed,
    started,
    surely,
    told,
    unfinished,
)
from support.fuzzing import fuzzed


@pytest.mark.parametrize(
    ("page", "found"),
    [
        (b"", {}),
        (b'gateway_function_invocation_started{function_name="a.fn"} 1.5e+06', {"a.fn": 1.5e6}),
        (
            b'x 1\ngateway_function_invocation_started{code="1",function_name="a.fn",z="2"} 3\ny 2\n'
            b'gateway_function_invocation_started{function_name="b-2.fn"} 4\n',
            {"a.fn": 3.0, "b-2.fn": 4.0},
        ),
        (b'gateway_function_invocation_started{function_name="a.fn"} NaN\n', {}),
        (b'gateway_function_invocation_started{function_name="a.fn"} soon\n', {}),
        (b"gateway_function_invocation_started{} 3\n", {}),
        (b"<html>gateway_function_invocation_started{</html>", {}),
    ],
)
def test_started_takes_whole_samples_alone(page, found):
    assert started(page) == found


def test_arrived_is_what_is_done_and_what_is_inside():
    page = b"""# TYPE slo_requests_total counter
slo_requests_total{outcome="good",slo_class="default"} 40
slo_requests_total{outcome="shed",slo_class="fast"} 2.0
slo_requests_created{outcome="good"} 1.7e9
http_requests_in_flight 3
"""
    assert arrived(page) == {WHOLE: 45.0}
    assert arrived(b"something else") == {}


def test_function_that_ended_more_than_it_started_has_nothing_inside():
    page = b"""gateway_function_invocation_started{function_name="a.fn"} 1
gateway_function_invocation_started{function_name="b.fn"} 9
gateway_function_invocation_total{code="200",function_name="a.fn"} 2
gateway_function_invocation_total{code="200",function_name="b.fn"} 4
gateway_function_invocation_total{code="500",function_name="b.fn"} 2
"""
    assert unfinished(page) == {"a.fn": 0.0, "b.fn": 3.0}


def test_told_takes_the_known_numbers_of_the_default_class():
    page = b"""slo_latency_seconds{slo_class="fast"} 0.01
slo_latency_seconds{slo_class="default"} 0.1
slo_objective_ratio{slo_class="default"} 0.99
watchdog_service_seconds_predicted{size="16"} 0.08
watchdog_service_seconds_predicted{size="1"} 0.02
watchdog_capacity_requests_per_second NaN
"""
    assert told(page) == {"slo_latency": 0.1, "slo_objective": 0.99, "service_time_single": 0.02}


def test_observed_is_the_load_of_all_and_the_median_of_what_replicas_know():
    pages = [{"capacity": capacity, "slo_latency": 0.1} for capacity in (10.0, 90.0, 100.0)]
    seen = observed(300.0, 7.0, [*pages, {"slo_latency": 0.1}])
    assert (seen.rate, seen.in_flight, seen.up_replicas) == (300.0, 7.0, 4.0)
    assert (seen.capacity, seen.slo_latency, seen.slo_objective) == (90.0, 0.1, None)


@fuzzed(60)
@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.integers(0, 500)), min_size=1, max_size=20),
    st.sampled_from(SPANS),
)
def test_arrivals_are_those_since_the_newest_sample_that_is_old_enough(steps, span):
    page, now, count, moments = Page(), 0.0, 0.0, []
    for passed, came in steps:
        now, count = now + passed, count + came
        moments.append((now, count))
        page.add(now, {"a.fn": count})
        found = page.arrivals(span).get("a.fn")
        if found is None:
            continue
        begins = [(moment, at) for moment, at in moments if now - moment == found[1]]
        assert found[0] == count - begins[-1][1]
        between = [moment for moment, _ in moments if begins[-1][0] < moment < now]
        assert all(now - moment < span for moment in between), "no longer than it must be"


def test_samples_that_are_too_close_to_each_other_give_no_arrivals():
    page = Page()
    page.add(0.0, {"a.fn": 0.0})
    page.add(SHORTEST / 2, {"a.fn": 50.0})
    assert page.arrivals(SPANS[0]) == {}
    page.add(SHORTEST, {"a.fn": 60.0})
    assert page.arrivals(SPANS[0]) == {"a.fn": (60.0, SHORTEST)}


def test_arrivals_after_a_restart_count_from_the_next_sample_on():
    page = Page()
    for now, count in ((0.0, 900.0), (1.0, 1000.0), (2.0, 10.0)):
        page.add(now, {"a.fn": count})
    assert page.arrivals(SPANS[0]) == {}
    page.add(3.0, {"a.fn": 60.0})
    assert page.arrivals(SPANS[-1]) == {"a.fn": (50.0, 1.0)}


def test_arrivals_of_a_function_that_appears_count_from_zero():
    page = Page()
    page.add(0.0, {"a.fn": 7.0})
    page.add(1.0, {"a.fn": 7.0, "b.fn": 30.0})
    assert page.arrivals(SPANS[0]) == {"a.fn": (0.0, 1.0), "b.fn": (30.0, 1.0)}


@pytest.mark.parametrize("rate", [2.0, 30.0])
def test_surely_exceeds_the_rate_of_a_poisson_process_less_than_once_in_a_hundred_looks(rate):
    draws, reads, above = random.Random(3), 2000, 0
    for _ in range(reads):
        count, passed = 0, draws.expovariate(rate)
        while passed < 3.0:
            count, passed = count + 1, passed + draws.expovariate(rate)
        above += surely([(count, 3.0)]) > rate
    assert above < reads / 100


def test_inside_gateway_counts_started_less_ended_of_every_status():
    page = (
        b'gateway_function_invocation_started{function_name="a.fn"} 7\n'
        b'gateway_function_invocation_started{function_name="b.fn"} 3\n'
        b'gateway_function_invocation_total{code="200",function_name="a.fn"} 4\n'
        b'gateway_function_invocation_total{code="500",function_name="a.fn"} 1\n'
    )
    assert unfinished(page) == {"a.fn": 2.0, "b.fn": 3.0}


READERS = (started, arrived, inside, unfinished, identity, told)


@fuzzed(200)
@given(
    st.lists(
        st.sampled_from(
            [
                *(
                    b"slo_requests_total{",
                    b"http_requests_in_flight ",
                    b"watchdog_identity ",
                    b"\n",
                    b" ",
                    b"}",
                ),
                *(
                    b"gateway_function_invocation_started{",
                    b'function_name="',
                    b'"',
                    b",",
                    b"\\",
                    b"\xff",
                    b"\0",
                ),
                *(
                    b"NaN",
                    b"-Inf",
                    b"1e400",
                    b"-5",
                    b"1_0",
                    b"9" * 5000,
                    b'a.fn"} 3\n',
                    b'slo_class="default"} ',
                ),
            ]
        ),
        max_size=40,
    ).map(b"".join)
    | st.binary()
)
def test_any_page_gives_finite_counts_of_at_least_zero(page):
    for read in READERS:
        found = read(page)
        values = found.values() if isinstance(found, dict) else [] if found is None else [found]
        assert all(0.0 <= value < inf for value in values)


@pytest.mark.parametrize(
    "line",
    [
        "slo_requests_total{\n",
        'gateway_function_invocation_started{function_name="a\n',
        "gateway_function_invocation_started{,\n",
        'gateway_function_invocation_total{function_name="a\n',
        "http_requests_in_flight\n",
        'gateway_function_invocation_started{,function_name="x' + ',function_name="x' * 2,
    ],
)
def test_page_of_lines_that_do_not_end_is_read_in_linear_time(line):
    # A quadratic pattern takes minutes and holds the interpreter, so another process tries it.
    read = "started(page), arrived(page), inside(page), unfinished(page), identity(page), told(page)"
    code = f"from {counters.__name__} import *; page = {line.encode()!r} * 50_000; {read}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_page_whose_counter_was_missing_and_is_lower_gives_no_arrivals():
    page = Page()
    for now, counts in ((0.0, {"a.fn": 900.0}), (0.4, {}), (0.8, {"a.fn": 1.0}), (1.2, {"a.fn": 2.0})):
        page.add(now, counts)
    assert page.arrivals(1.0) == {}
    assert not page.rises()


def test_inside_watchdog_is_its_gauge():
    assert inside(b'slo_requests_total{outcome="good"} 9\nhttp_requests_in_flight 4\n') == {WHOLE: 4.0}


def test_inside_gateway_that_ended_more_than_it_started_has_none():
    page = (
        b'gateway_function_invocation_started{function_name="a.fn"} 7\n'
        b'gateway_function_invocation_total{code="200",function_name="a.fn"} 9\n'
    )
    assert unfinished(page) == {"a.fn": 0.0}


def test_arrivals_between_samples_that_are_too_close_are_none():
    page = Page()
    page.add(0.0, {"a.fn": 0.0})
    page.add(0.1, {"a.fn": 1.0})
    assert page.arrivals(SPANS[0]) == {}


def a_page(*steps):
    """Return a page with one function's counts: (seconds since the sample before, arrivals since then)."""
    page, now, count = Page(), 0.0, 0
    page.add(now, {"a.fn": count})
    for seconds, arrivals in steps:
        now, count = now + seconds, count + arrivals
        page.add(now, {"a.fn": count})
    return page


@pytest.mark.parametrize(
    ("steps", "rises"),
    [
        ([(1.0, 22), (1.0, 22), (1.0, 81)], True),
        ([(1.0, 22), (0.3, 42)], True),
        ([(1.0, 0), (1.0, 0), (1.0, 5)], True),
        ([(1.0, 22), (1.0, 22), (1.0, 36)], False),
        ([(1.0, 140), (0.3, 42), (0.3, 42)], False),
        ([(1.0, 22), (1.0, 22), (1.0, 0)], False),
        ([(1.0, 140)], False),
        ([], False),
        ([(0.0, 0), (1.0, 140)], False),
    ],
    ids=[
        *("straddled step", "read again", "first requests", "chance", "steady", "fall"),
        *("one interval", "one sample", "twice at once"),
    ],
)
def test_load_rises_where_the_newest_interval_has_more_than_chance(steps, rises):
    assert a_page(*steps).rises() is rises


@pytest.mark.parametrize("functions", [1, 1000])
@pytest.mark.parametrize("rate", [0.5, 20.0, 400.0])
def test_steady_loads_seldom_rise_however_many_there_are(functions, rate):
    draw = random.Random(functions)
    counts = [0] * functions
    page, rose, rounds = Page(), 0, 100
    for second in range(rounds):
        page.add(float(second), {str(index): count for index, count in enumerate(counts)})
        rose += page.rises()
        # The normal approximation of a Poisson count has lighter tails at low rates only.
        counts = [count + max(0, round(draw.gauss(rate, rate**0.5))) for count in counts]
    assert rose <= 0.05 * rounds

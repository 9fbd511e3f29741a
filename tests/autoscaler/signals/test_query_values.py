"""What the queries give, by Prometheus' own engine on series that are known: ``promtool test rules``."""

import pytest
import yaml

from slo_autoscaler.settings.spec import GatewaySlos, Slo
from slo_autoscaler.signals import charts, queries
from slo_autoscaler.signals.record import ON_PAGE, SIGNALS, Summed
from support.promtool import promtool

# Every 5 s for 150 s, judged at 120 s.
WATCHDOGS = {
    'slo_requests_total{function_name="a.fn",replica="0",outcome="good"}': "0+50x30",
    'slo_requests_total{function_name="a.fn",replica="1",outcome="good"}': "0+50x21 50+50x8",  # restarted
    'slo_requests_total{function_name="a.fn",replica="0",outcome="slow"}': "0+10x30",
    'gateway_function_invocation_started{function_name="a.fn"}': "0+125x30",
    'http_requests_in_flight{function_name="a.fn",replica="0"}': "2+1x30",
    'http_requests_in_flight{function_name="a.fn",replica="1"}': "3x30",
    'watchdog_queue_length{function_name="a.fn",replica="0"}': "4x30",
    'watchdog_concurrency{function_name="a.fn",replica="0"}': "NaN " * 30,
    'watchdog_capacity_requests_per_second{function_name="a.fn",replica="0"}': "40x30",
    'watchdog_capacity_requests_per_second{function_name="a.fn",replica="1"}': "60x30",
    'watchdog_capacity_requests_per_second{function_name="a.fn",replica="2"}': "_x22 1x8",  # started
    'watchdog_capacity_requests_per_second{function_name="hangs.fn",replica="2"}': "_x22 7x8",
    'http_request_duration_seconds_bucket{function_name="a.fn",replica="0",code="200",le="0.1"}': "0+90x30",
    'http_request_duration_seconds_bucket{function_name="a.fn",replica="0",code="200",le="0.2"}': "0+100x30",
    'http_request_duration_seconds_bucket{function_name="a.fn",replica="0",code="200",le="+Inf"}': "0+100x30",
    'http_request_duration_seconds_bucket{function_name="a.fn",replica="0",code="503",le="0.1"}': "0+999x30",
    'http_request_duration_seconds_bucket{function_name="a.fn",replica="0",code="503",le="+Inf"}': "0+999x30",
    'watchdog_service_seconds_predicted{function_name="a.fn",replica="0",size="1"}': "0.03x30",
    'watchdog_service_seconds_predicted{function_name="a.fn",replica="1",size="1"}': "0.05x30",
    'watchdog_service_seconds_predicted{function_name="a.fn",replica="1",size="4"}': "9x30",
    'watchdog_service_seconds_sum{function_name="a.fn",replica="0"}': "0+1x30",
    'watchdog_service_seconds_count{function_name="a.fn",replica="0"}': "0+50x30",
    'watchdog_queue_seconds_sum{function_name="a.fn",replica="0"}': "0+0.25x30",
    'watchdog_queue_seconds_count{function_name="a.fn",replica="0"}': "0+50x30",
    'slo_latency_seconds{function_name="a.fn",replica="0"}': "0.1x30",
    'slo_latency_seconds{function_name="a.fn",replica="1"}': "0.2x30",
    'slo_objective_ratio{function_name="a.fn",replica="0"}': "0.9x30",
    'slo_objective_ratio{function_name="a.fn",replica="1"}': "0.95x30",
    'watchdog_start_up_seconds{function_name="a.fn",replica="0"}': "80x30",
    'watchdog_start_up_seconds{function_name="a.fn",replica="1"}': "90x30",
    'watchdog_start_up_seconds{function_name="a.fn",replica="2"}': "_x22" + " NaN" * 8,  # starting
    'watchdog_start_up_seconds{function_name="idle.fn",replica="0"}': "NaN " * 30,
    'up{function_name="a.fn",replica="0"}': "1x30",
    'up{function_name="a.fn",replica="1"}': "0x30",
    'slo:error_budget_remaining:ratio{function_name="a.fn"}': "0.4x30",
    **{f'slo_autoscaler_info{{instance="{instance}"}}': "1x30" for instance in ("one", "two", "")},
    'slo_autoscaler_start_up_seconds{function_name="a.fn",instance="one"}': "25x30",
    'slo_autoscaler_start_up_seconds{function_name="a.fn",instance="two"}': "10x30",
    'slo_autoscaler_new_node_start_up_seconds{function_name="a.fn",instance="one"}': "90x30",
    'slo_autoscaler_correction_ratio{function_name="a.fn",instance="one"}': "0.8x30",
    'slo_autoscaler_correction_ratio{function_name="a.fn",instance="two"}': "1x30",
    'slo_autoscaler_spending_window_unspent_ratio{function_name="a.fn"}': "-0.5x30",
    # Per second: 10 interactive ones, of which 1 misses where 0.1 may; 30 of batch, 2 where 3 may. Another
    # class has none, and the function's own is idle.
    **{
        f'slo_requests_total{{function_name="classes.fn",slo_class="{name}",outcome="{outcome}"}}': (
            f"0+{each}x30"
        )
        for name, good, slow in (("default", 0, 0), ("fast", 45, 5), ("batch", 140, 10), ("unused", 0, 0))
        for outcome, each in (("good", good), ("slow", slow))
    },
    **{
        f'slo_objective_ratio{{function_name="classes.fn",slo_class="{name}"}}': f"{objective}x30"
        for name, objective in (("default", 0.5), ("fast", 0.99), ("batch", 0.9), ("unused", 0.999))
    },
    **{
        f'slo_latency_seconds{{function_name="classes.fn",slo_class="{name}"}}': f"{latency}x30"
        for name, latency in (("default", 0.5), ("fast", 0.1), ("batch", 2.0), ("unused", 0.01))
    },
    'slo:error_budget_remaining:ratio{function_name="classes.fn",slo_class="fast"}': "-3x30",
    'slo:error_budget_remaining:ratio{function_name="classes.fn",slo_class="batch"}': "0.3x30",
    # Idle is not absent, with classes or without.
    'slo_requests_total{function_name="quiet.fn",slo_class="fast",outcome="good"}': "7x30",
    'slo_objective_ratio{function_name="quiet.fn",slo_class="fast"}': "0.99x30",
    'slo_objective_ratio{function_name="quiet.fn",slo_class="default"}': "0.9x30",
    'slo_requests_total{function_name="idle.fn",outcome="good"}': "7x30",
    'slo_objective_ratio{function_name="idle.fn"}': "0.9x30",
    # Errors are misses, and not late.
    'slo_requests_total{function_name="failing.fn",outcome="good"}': "0+90x30",
    'slo_requests_total{function_name="failing.fn",outcome="error"}': "0+9x30",
    'slo_requests_total{function_name="failing.fn",outcome="shed"}': "0+1x30",
    'slo_objective_ratio{function_name="failing.fn"}': "0.9x30",
    # The last samples are a minute old and no marker ended the series, as after a crash of Prometheus.
    **{
        f'{gauge}{{function_name="a.fn",replica="gone"{labels}}}': "700x12"
        for gauge, labels in (
            ("http_requests_in_flight", ""),
            ("watchdog_queue_length", ""),
            ("watchdog_capacity_requests_per_second", ""),
            ("watchdog_service_seconds_predicted", ',size="1"'),
            ("up", ""),
        )
    },
    # Ended in order, five seconds ago.
    'http_requests_in_flight{function_name="a.fn",replica="left"}': "7x22 stale",
    # One replica hangs beside one that does not, and one that has started with ten at once.
    'http_requests_in_flight{function_name="hangs.fn",replica="0"}': "9x30",
    'http_requests_in_flight{function_name="hangs.fn",replica="1"}': "3x30",
    'http_requests_in_flight{function_name="hangs.fn",replica="2"}': "_x22 10x8",
    'http_requests_in_flight{function_name="hangs.fn",replica="left"}': "4x22 stale",
    'slo_requests_total{function_name="hangs.fn",replica="0",outcome="good"}': "100x30",
    'slo_requests_total{function_name="hangs.fn",replica="0",outcome="slow"}': "100x30",
    'slo_requests_total{function_name="hangs.fn",replica="1",outcome="good"}': "0+100x30",
    'slo_requests_total{function_name="hangs.fn",replica="2",outcome="good"}': "_x22 0x8",
    'slo_requests_total{function_name="hangs.fn",replica="left",outcome="good"}': "0x22 stale",
    # Of 17 requests 14 are streams, which run for longer than the window.
    'http_requests_in_flight{function_name="streams.fn",replica="0"}': "17x30",
    'watchdog_streams{function_name="streams.fn",replica="0"}': "14x30",
    'slo_requests_total{function_name="streams.fn",replica="0",outcome="good"}': "0x30",
    'watchdog_concurrency{function_name="streams.fn",replica="0"}': "50x30",
    'watchdog_concurrency{function_name="streams.fn",replica="1"}': "60x30",
    **{
        f'watchdog_streams{{function_name="{name}",replica="{replica}"}}': "0x30"
        for name in ("a.fn", "hangs.fn")
        for replica in "01"
    },
}
# A gauge whose query is made from its record needs no series here: the contract has it answered.
BY_THE_WATCHDOG = {name: dict[str, float]() for name in ON_PAGE} | {
    "rate": {
        "a.fn": 22.0,
        "classes.fn": 40.0,
        "idle.fn": 0.0,
        "quiet.fn": 0.0,
        "hangs.fn": 20.0,
        "failing.fn": 20.0,
        "streams.fn": 0.0,
    },
    "gateway_rate": {"a.fn": 25.0},
    "in_flight_growth": {"a.fn": 0.2, "hangs.fn": 0.0, "streams.fn": 0.0},
    "rate_now": {"a.fn": 22.2, "hangs.fn": 20.0, "streams.fn": 0.0},
    "gateway_rate_now": {"a.fn": 25.0},
    "in_flight": {"a.fn": 29.0, "hangs.fn": 22.0, "streams.fn": 17.0},
    "stalled": {"a.fn": 0.0, "hangs.fn": 9.0, "streams.fn": 3.0},
    "queue_length": {"a.fn": 4.0},
    "capacity": {"a.fn": 50.0, "hangs.fn": 7.0},
    "concurrency": {"streams.fn": 55.0},
    "interval_p99": {},
    "p95": {"a.fn": 0.15},
    "p99": {"a.fn": 0.19},
    "attainment": {"a.fn": 0.909, "classes.fn": 0.925, "hangs.fn": 1.0, "failing.fn": 0.9},
    "burn_short": {"a.fn": 1.818, "classes.fn": 0.968, "failing.fn": 0.1},
    "budget_remaining": {"a.fn": 0.4, "classes.fn": -3},
    "samples": {
        "a.fn": 660.0,
        "classes.fn": 1200.0,
        "idle.fn": 0.0,
        "quiet.fn": 0.0,
        "hangs.fn": 600.0,
        "failing.fn": 600.0,
        "streams.fn": 0.0,
    },
    "service_time_single": {"a.fn": 0.04},
    # A replica that is not ready has none.
    "process_start_up": {"a.fn": 85.0},
    "service_mean": {"a.fn": 0.02},
    "queue_mean": {"a.fn": 0.005},
    "slo_latency": {"a.fn": 0.1, "classes.fn": 0.5},
    "slo_objective": {
        "a.fn": 0.95,
        "classes.fn": 0.923,
        "idle.fn": 0.9,
        "quiet.fn": 0.9,
        "failing.fn": 0.9,
    },
    "up_replicas": {"a.fn": 1.0},
    "rated_replicas": {"a.fn": 2.0, "classes.fn": 1.0},
    "sample_age": {"a.fn": 0.0, "classes.fn": 0.0},
    "sampled_at": {"a.fn": 120.0, "classes.fn": 120.0},
}

GATEWAY = {
    'gateway_function_invocation_started{function_name="plain.fn"}': "3+120x30",
    'gateway_function_invocation_total{function_name="plain.fn",code="200"}': "0+90x30",
    'gateway_function_invocation_total{function_name="plain.fn",code="500"}': "0+10x30",
    'gateway_function_invocation_total{function_name="plain.fn",code="404"}': "0+20x30",
    'gateway_functions_seconds_bucket{function_name="plain.fn",code="200",le="0.1"}': "0+45x30",
    'gateway_functions_seconds_bucket{function_name="plain.fn",code="200",le="0.25"}': "0+81x30",
    'gateway_functions_seconds_bucket{function_name="plain.fn",code="200",le="0.5"}': "0+90x30",
    'gateway_functions_seconds_bucket{function_name="plain.fn",code="200",le="+Inf"}': "0+90x30",
    'gateway_functions_seconds_bucket{function_name="plain.fn",code="500",le="0.1"}': "0+10x30",
    'gateway_service_count{function_name="plain.fn"}': "2x30",
    # An SLO of one second, as both generations of Prometheus write the edge.
    'gateway_function_invocation_total{function_name="whole.fn",code="200"}': "0+100x30",
    'gateway_functions_seconds_bucket{function_name="whole.fn",code="200",le="1.0"}': "0+70x30",
    'gateway_functions_seconds_bucket{function_name="whole.fn",code="200",le="+Inf"}': "0+100x30",
    'gateway_function_invocation_total{function_name="dead.fn",code="502"}': "0+100x30",
    'gateway_functions_seconds_bucket{function_name="dead.fn",code="502",le="+Inf"}': "0+100x30",
    'gateway_function_invocation_total{function_name="moved.fn",code="302"}': "0+100x30",
    'gateway_functions_seconds_bucket{function_name="moved.fn",code="302",le="0.25"}': "0+100x30",
    'gateway_functions_seconds_bucket{function_name="moved.fn",code="302",le="+Inf"}': "0+100x30",
    # A histogram without the edge of the SLO, and none.
    'gateway_function_invocation_total{function_name="edgeless.fn",code="200"}': "0+100x30",
    'gateway_functions_seconds_bucket{function_name="edgeless.fn",code="200",le="0.1"}': "0+100x30",
    'gateway_functions_seconds_bucket{function_name="edgeless.fn",code="200",le="+Inf"}': "0+100x30",
    'gateway_function_invocation_total{function_name="bare.fn",code="200"}': "0+100x30",
    # Its first requests hang.
    'gateway_function_invocation_started{function_name="hangs.fn"}': "3x20 4x10",
    # A gateway that crashed with a minute-old scrape, and one that is asked too seldom.
    'gateway_service_count{function_name="plain.fn",instance="gone"}': "9x12",
    'gateway_function_invocation_started{function_name="plain.fn",instance="gone"}': "900x12",
    'gateway_function_invocation_total{function_name="plain.fn",instance="gone",code="200"}': "100x12",
    'gateway_service_count{function_name="plain.fn",instance="seldom"}': "2 _x22 2 _x7",
    'gateway_function_invocation_total{function_name="ours.fn",code="200"}': "0+100x30",
}
NAMED = GatewaySlos(
    {
        "plain.fn": Slo(0.2, 0.99),
        "whole.fn": Slo(1.0, 0.99),
        "dead.fn": Slo(60.0, 0.99),
        "moved.fn": Slo(0.2, 0.99),
        "edgeless.fn": Slo(0.2, 0.99),
        "bare.fn": Slo(0.2, 0.99),
        "hangs.fn": Slo(0.2, 0.99),
        "ours.fn": None,
    }
)
MOST = GatewaySlos({"ours.fn": None, "whole.fn": Slo(1.0, 0.9), "dead.fn": None}, Slo(0.2, 0.99))
RATES = dict.fromkeys(("whole.fn", "dead.fn", "moved.fn", "edgeless.fn", "bare.fn"), 20.0)
# 200 ms cannot be judged: 250 ms is the edge above it. Errors are misses, a client's faults are not, and a
# redirection is an answer. Without the edge nothing is known.
SHARES = {"plain.fn": 0.81, "whole.fn": 0.7, "dead.fn": 0.0, "moved.fn": 1.0}
BY_THE_GATEWAY = {
    "rate": RATES | {"plain.fn": 24.0, "hangs.fn": 0.0},
    "gateway_rate": {"plain.fn": 24.0, "hangs.fn": 0.05},
    "gateway_rate_now": {"plain.fn": 24.0, "hangs.fn": 0.0},
    "in_flight": {"plain.fn": 3.0, "hangs.fn": 4.0},
    "stalled": {"plain.fn": 0.0, "hangs.fn": 3.0},
    "p95": {"plain.fn": 0.375, "whole.fn": 1.0, "moved.fn": 0.238, "edgeless.fn": 0.095},
    "p99": {"plain.fn": 0.475, "whole.fn": 1.0, "moved.fn": 0.248, "edgeless.fn": 0.099},
    "samples": {"plain.fn": 600.0, **{name: 30.0 * rate for name, rate in RATES.items()}},
    "up_replicas": {"plain.fn": 2.0},
    "rated_replicas": {"plain.fn": 1.0},
    "sample_age": {"plain.fn": 0.0},
    "sampled_at": {"plain.fn": 120.0},
    "attainment": SHARES,
    "burn_short": SHARES,
}
EVERY_RATE = {"rate": BY_THE_WATCHDOG["rate"] | BY_THE_GATEWAY["rate"]}
BUT_THE_DEAD = {
    signal: {name: value for name, value in expected.items() if name != "dead.fn"}
    for signal, expected in BY_THE_GATEWAY.items()
}


SIGNALS_ASKED = {
    name: text for name, text in queries.fill(queries.WATCHDOG, 20.0, 30.0).items() if name != queries.SELDOM
}
CORRECTIONS = queries.fill({"": queries.CORRECTIONS}, 20.0)


def of_gateway(slos):
    return {name: text for name, text in queries.gateway(slos, 20.0, 30.0).items() if name != queries.SELDOM}


def as_new(*names):
    return queries.fill(queries.NEW, 20.0, functions=queries.matching(names))


AS_NEW = as_new("a.fn")


def test_a_function_has_new_replicas_for_a_window_after_their_first_scrape(tmp_path):
    texts = CORRECTIONS
    for at, expected in ((105, {}), (110, {"a.fn": 2}), (125, {"a.fn": 2}), (130, {})):
        run_promtool(tmp_path, a_test(joined(), texts, {"": expected}, f"{at}s"))


def test_capacity_counts_new_replicas_until_two_have_known_theirs_for_a_window(tmp_path):
    stories = {
        # The old one has learned too little in an overload.
        "one-old.fn": ("60x20 8x10", "_x22 55x8", "_x22 57x8"),
        "one-of-each.fn": ("60x20 8x10", "_x22 56x8"),
        "two-old.fn": ("60x30", "50x30", "_x22 7x8", "_x22 7x8", "_x22 7x8"),
        "all-new.fn": ("_x22 20x8", "_x22 40x8"),
        # What knows nothing yet counts neither as old nor as new.
        "unlearned.fn": ("60x20 8x10", "55x30", f"{'NaN ' * 30}"),
    }
    series = {
        f'watchdog_capacity_requests_per_second{{function_name="{name}",replica="{index}"}}': points
        for name, replicas in stories.items()
        for index, points in enumerate(replicas)
    }
    expected = {
        "one-old.fn": 55.0,
        "one-of-each.fn": 32.0,
        "two-old.fn": 55.0,
        "all-new.fn": 30.0,
        "unlearned.fn": 31.5,
    }
    texts = {"capacity": SIGNALS_ASKED["capacity"]}
    run_promtool(tmp_path, a_test(series, texts, {"capacity": expected}))


def test_rated_replicas_after_a_pause_of_prometheus_are_none_while_rates_are_half_of_the_load(tmp_path):
    """One missed scrape does no harm."""
    declared, requests = 'slo_latency_seconds{function_name="%s"}', 'slo_requests_total{function_name="%s"}'
    series = {
        declared % "paused.fn": "1x12 _x8 1x10",
        requests % "paused.fn": "0+50x12 _x8 1050+50x10",
        declared % "missed.fn": "1x18 _ 1x10",
        requests % "missed.fn": "0+50x18 _ 1000+50x10",
    }
    texts = {signal: SIGNALS_ASKED[signal] for signal in ("rate", "rated_replicas")}
    stories = (("111s", 4.25, 6.75, 0.0), ("116s", 6.75, 10.0, 1.0), ("121s", 10.0, 10.0, 1.0))
    for at, of_paused, of_missed, rated in stories:
        expected = {
            "rate": {"missed.fn": of_missed, "paused.fn": of_paused},
            "rated_replicas": {"missed.fn": 1.0, "paused.fn": rated},
        }
        run_promtool(tmp_path, a_test(series, texts, expected, at))


def test_queries_for_new_replicas_agree_without_new_replicas(tmp_path):
    texts = as_new("a.fn", "classes.fn", "failing.fn", "idle.fn", "quiet.fn", "hangs.fn", "streams.fn")
    run_promtool(tmp_path, a_test(WATCHDOGS, texts, {name: BY_THE_WATCHDOG[name] for name in texts}))


def scraped_by(job, series):
    return {name.replace("{", f'{{job="{job}",', 1): points for name, points in series.items()}


@pytest.mark.parametrize(
    ("series", "texts", "once", "single"),
    [
        (WATCHDOGS, SIGNALS_ASKED, BY_THE_WATCHDOG, {Summed.NO}),
        (GATEWAY, of_gateway(NAMED), BY_THE_GATEWAY, {Summed.NO, Summed.WATCHDOGS}),
    ],
    ids=["watchdog", "gateway"],
)
def test_queries_of_pages_that_two_jobs_scrape_double_each_summed_signal(
    tmp_path, series, texts, once, single
):
    expected = {
        signal: {
            name: value * (1 if SIGNALS[signal].summed in single else 2) for name, value in values.items()
        }
        for signal, values in once.items()
    }
    run_promtool(tmp_path, a_test(scraped_by("one", series) | scraped_by("two", series), texts, expected))


def test_corrections_are_of_pages_that_several_jobs_scraped_in_the_window_of_rates(tmp_path):
    start = "process_start_time_seconds"
    series = {
        # A node's address is that of two replicas, and replicas start at the same time.
        f'{start}{{function_name="twice.fn",job="one",instance="node:1",replica="0"}}': "7x30",
        f'{start}{{function_name="twice.fn",job="two",instance="node:1",pod="0"}}': "7x30",
        f'{start}{{function_name="once.fn",job="one",instance="node:2",replica="0"}}': "7x30",
        f'{start}{{function_name="once.fn",job="one",instance="node:2",replica="1"}}': "8x30",
        f'{start}{{function_name="once.fn",job="one",instance="node:3",replica="2"}}': "8x30",
        # The second job ended by a restart of Prometheus, which leaves no marker.
        f'{start}{{function_name="ended.fn",job="one",instance="a:2"}}': "7x30",
        f'{start}{{function_name="ended.fn",job="two",instance="a:2"}}': "7x12",
        **{
            f'{metric}{{job="{job}",instance="gateway:1"{label}}}': "7x30"
            for metric, label in ((start, ""), ("gateway_service_count", ',function_name="once.fn"'))
            for job in ("one", "two")
        },
        f'{start}{{job="node",instance="gateway:1"}}': "7x30",
    }
    identity = "watchdog_identity"
    series |= {
        f'{identity}{{function_name="moved.fn",job="one",instance="10.0.0.1:8081"}}': "5x30",
        f'{identity}{{function_name="moved.fn",job="two",instance="moved.svc:metrics"}}': "5x30",
        # Replicas that were restored from one snapshot have the same number, and one job scrapes both.
        f'{identity}{{function_name="copies.fn",job="one",instance="b:1"}}': "6x30",
        f'{identity}{{function_name="copies.fn",job="one",instance="b:2"}}': "6x30",
        # Each has a job of its own.
        f'{identity}{{function_name="apart.fn",job="one",instance="c:1"}}': "8x30",
        f'{identity}{{function_name="apart.fn",job="two",instance="c:2"}}': "9x30",
    }
    expected = {"": {"twice.fn": -2, "moved.fn": -2, queries.GATEWAY_PAGES: -2}}
    run_promtool(tmp_path, a_test(series, CORRECTIONS, expected))


def counted(function, replica, started, *points, inside=2):
    """A replica's series from its first scrape on, at times and counts; before that there are none."""
    labels = f'function_name="{function}",instance="{replica}",replica="{replica}"'
    (first, _), *_ = points
    before = f"_x{first // 5} " if first else ""
    values = before + " ".join(str(count) for _, count in points)
    here = before + "{}x" + str(len(points) - 1)
    return {
        f'slo_requests_total{{{labels},outcome="good",slo_class="default"}}': values,
        f'slo_requests_total{{{labels},outcome="slow",slo_class="default"}}': here.format(0),
        f'slo_latency_seconds{{{labels},slo_class="default"}}': here.format(0.1),
        f"http_requests_in_flight{{{labels}}}": here.format(inside),
        f"process_start_time_seconds{{{labels}}}": here.format(started),
    }


def joined():
    """30/s, of one replica until 106 s, and of three from then on; two started at 105 s."""
    first = [(at, 30 * min(at, 106) + 10 * max(0, at - 106)) for at in range(0, 151, 5)]
    others = [(at, 10 * (at - 106)) for at in range(110, 151, 5)]
    series = counted("a.fn", 0, -100, *first)
    for replica in (1, 2):
        series |= counted("a.fn", replica, 105, *others, inside=5)
    return series


@pytest.mark.parametrize("at", [110, 115, 120, 125, 130, 140])
def test_the_load_that_new_replicas_take_over_is_seen_from_their_first_scrape_on(tmp_path, at):
    texts = {name: AS_NEW[name] for name in ("rate", "rate_now", "rated_replicas")}
    # What is in flight on the new ones has come as well.
    more = 2.0 if at == 110 else 0.0
    expected = {"rate": {"a.fn": 30.0}, "rate_now": {"a.fn": 30.0 + more}, "rated_replicas": {"a.fn": 3.0}}
    run_promtool(tmp_path, a_test(joined(), texts, expected, f"{at}s", digits=1))


@pytest.mark.parametrize("started", [-5000, 85])
def test_count_before_the_window_is_no_present_load(tmp_path, started):
    """Prometheus was away, or found the replica late: its counter is of a longer time than the window."""
    points = [(at, 10 * (at - max(started, 0)) + (started < 0) * 50_000) for at in range(110, 151, 5)]
    texts = {"rate": AS_NEW["rate"]}
    expected = {"rate": {"a.fn": 6.3 if started < 0 else 10.0}}
    series = counted("a.fn", 0, started, *points)
    run_promtool(tmp_path, a_test(series, texts, expected, "120s", digits=1))


def a_test(series, texts, expected, at="2m", digits=3):
    return {
        "interval": "5s",
        "input_series": [{"series": name, "values": points} for name, points in series.items()],
        "promql_expr_test": [
            {
                # NaN, which is no data, satisfies no comparison.
                "expr": f"round({text}, {10**-digits}) > -1000",
                "eval_time": at,
                "exp_samples": [
                    {"labels": f'{{function_name="{name}"}}', "value": value}
                    for name, value in expected[signal].items()
                ],
            }
            for signal, text in texts.items()
        ],
    }


@pytest.mark.parametrize(
    ("series", "texts", "expected"),
    [
        (WATCHDOGS, SIGNALS_ASKED, BY_THE_WATCHDOG),
        (
            WATCHDOGS,
            {"rate": queries.arrivals(20.0, GatewaySlos()), **queries.fill(queries.RESTORED, 20.0)},
            {
                "rate": BY_THE_WATCHDOG["rate"],
                "start_up": {"a.fn": 25.0},
                "new_node_start_up": {"a.fn": 90.0},
                "correction": {"a.fn": 0.8},
                "unspent": {"a.fn": -0.5},
            },
        ),
        (WATCHDOGS | GATEWAY, {"rate": queries.arrivals(20.0, NAMED)}, EVERY_RATE),
        (GATEWAY, of_gateway(NAMED), BY_THE_GATEWAY),
        (GATEWAY, of_gateway(MOST), BUT_THE_DEAD),
    ],
    ids=["watchdog", "history", "history of all", "gateway, named", "gateway, all but some"],
)
def test_every_query_gives_what_the_series_say(tmp_path, series, texts, expected):
    run_promtool(tmp_path, a_test(series, texts, expected))


def test_a_second_autoscaler_counts_only_after_a_minute_beside_the_first(tmp_path):
    # A rollout at 60 s, where Prometheus keeps the series of the old pod for two scrapes; and two that stay.
    series = {
        'slo_autoscaler_desired_replicas{function_name="upgraded.fn",instance="old"}': "3x18 stale",
        'slo_autoscaler_desired_replicas{function_name="upgraded.fn",instance="new"}': "_x12 3x17",
        'slo_autoscaler_desired_replicas{function_name="shared.fn",instance="a"}': "3x30",
        'slo_autoscaler_desired_replicas{function_name="shared.fn",instance="b"}': "_x12 4x17",
    }
    texts = {"": queries.SEVERAL_LEADERS}
    for at, expected in ((75, {}), (90, {}), (120, {"shared.fn": 2})):
        run_promtool(tmp_path, a_test(series, texts, {"": expected}, f"{at}s"))


def test_targets_that_nobody_can_meet_are_none(tmp_path):
    declared = {"fine.fn": (0.1, 0.9), "never.fn": (0, 0), "absurd.fn": (-1, 7), "all.fn": (0.1, 1)}
    series = {
        f'{metric}{{function_name="{name}",slo_class="default"}}': f"{values[index]}x30"
        for name, values in declared.items()
        for index, metric in enumerate(("slo_latency_seconds", "slo_objective_ratio"))
    }
    texts = {name: SIGNALS_ASKED[name] for name in ("slo_latency", "slo_objective")}
    expected = {"slo_latency": {"fine.fn": 0.1, "all.fn": 0.1}, "slo_objective": {"fine.fn": 0.9}}
    run_promtool(tmp_path, a_test(series, texts, expected))


def test_narrowed_every_selector_of_every_query_has_the_matchers():
    some = [queries.WATCHDOG, queries.NEW, queries.LEARNED]
    named = queries.matching(["up.slo_x", "watchdog_y"])
    texts = [
        text for each in some for text in queries.fill(each, 20.0, 20.0, functions=named, SLO="1").values()
    ]
    shown = [*charts.CHARTS, *charts.STREAM_CHARTS, *charts.GATEWAY_CHARTS]
    texts += charts.filled(shown, "up.slo_x", Slo(1.0, 0.9), 20.0, 20.0).values()
    texts += queries.gateway(GatewaySlos({"up.fn": Slo(0.2, 0.99)}), 20.0, 20.0).values()
    more = [queries.CORRECTIONS, queries.EXPORTED_AT, queries.GATEWAYS]
    more += [queries.SEVERAL_CLUSTERS, queries.SEVERAL_LEADERS]
    asked = {str(index): text for index, text in enumerate(more)} | queries.RESTORED
    texts += queries.fill(asked, 20.0).values()
    every = " or ".join(f"({text})" for text in texts)
    cluster = 'eu "1" \\'
    narrowed = queries.narrowed(every, {"cluster": cluster})

    def promql(*arguments):
        done = promtool("--experimental", "promql", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    all_set = promql("label-matchers", "set", every, "cluster", cluster)
    assert narrowed.count("cluster=") == all_set.count("cluster=")
    assert promql("label-matchers", "delete", narrowed, "cluster") == promql("format", every)


def run_promtool(tmp_path, test):
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "5s", "tests": [test]}))
    run = promtool("test", "rules", file)
    assert run.returncode == 0, run.stdout + run.stderr

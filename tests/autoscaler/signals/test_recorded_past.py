"""The source on what Prometheus recorded: a block of known samples, made by promtool, in the real program."""

import logging
import time

import pytest

from slo_autoscaler.settings.spec import GatewaySlos, Slo
from slo_autoscaler.signals.prometheus import PrometheusSource
from slo_autoscaler.signals.queries import RESTORED
from slo_autoscaler.signals.source import Settings as PrometheusSettings
from support.doubles import a_prometheus
from support.promtool import promtool
from support.waits import until

pytestmark = pytest.mark.e2e

HOUR, DAY = 3600.0, 86400.0
NOW = float(int(time.time()) // 7200 * 7200 - 1800)
"""Within the last hours, and a block of two hours holds the hour before it."""


def counted(rate, start, end, step=5.0, born=0.0):
    """Return the samples of a counter that grows by ``rate`` per second: {seconds from NOW: value}."""
    count = int((end - start) / step)
    return {start + index * step: born + rate * index * step for index in range(count + 1)}


def held(value, start, end, step=5.0):
    return dict.fromkeys(counted(0.0, start, end, step), value)


def a_block(folder, series):
    """Write {series: {seconds from NOW: value}} into Prometheus' storage."""
    lines = [
        f"{name} {value} {NOW + when:.3f}"
        for name, samples in series.items()
        for when, value in samples.items()
    ]
    (folder / "series").write_text("\n".join([*lines, "# EOF", ""]))
    made = promtool("tsdb", "create-blocks-from", "openmetrics", folder / "series", folder / "data")
    assert made.returncode == 0, made.stdout + made.stderr


def good(name):
    return f'slo_requests_total{{function_name="{name}",outcome="good"}}'


@pytest.fixture
def recorded(tmp_path):
    """Give a function that records series and returns the source that reads them at NOW."""
    opened = []

    def record(series, gateway=None, identity="", **settings):
        a_block(tmp_path, series)
        running = a_prometheus(tmp_path, {})
        prometheus = running.__enter__()
        source = PrometheusSource(
            PrometheusSettings(url=prometheus.url, **settings), gateway, lambda: NOW, identity
        )
        opened.extend([running, source])
        return source

    yield record
    running, source = opened
    source.close()
    running.__exit__(None, None, None)


def test_earlier_gives_the_arrivals_around_each_moment_that_is_recorded(recorded):
    start, end = -HOUR - 400.0, -HOUR + 400.0
    source = recorded(
        {
            good("a.fn"): counted(10.0, start, -HOUR)
            | counted(30.0, -HOUR + 5.0, end, born=10.0 * 400.0 + 150.0),
            good("b.fn"): counted(5.0, -7 * DAY - 400.0, -7 * DAY + 400.0),
            'gateway_function_invocation_total{function_name="plain.fn",code="200"}': counted(
                7.0, start, end
            ),
        },
        GatewaySlos({"plain.fn": Slo(0.25, 0.99)}),
    )
    found = source.earlier([HOUR, DAY, 7 * DAY], 120.0)
    assert {name: set(ages) for name, ages in found.items()} == {
        "a.fn": {HOUR},
        "b.fn": {7 * DAY},
        "plain.fn": {HOUR},
    }
    around = found["a.fn"][HOUR]
    assert [after for after, _ in around] == [float(second) for second in range(-120, 121, 20)]
    rates = dict(around)
    assert (rates[-60.0], rates[60.0]) == (pytest.approx(10.0, rel=0.01), pytest.approx(30.0, rel=0.01))
    assert dict(found["b.fn"][7 * DAY])[0.0] == pytest.approx(5.0, rel=0.01)
    assert dict(found["plain.fn"][HOUR])[0.0] == pytest.approx(7.0, rel=0.01)


EXPORTED = {
    'slo_autoscaler_replicas{function_name="a.fn",state="desired"}': 4.0,
    'slo_autoscaler_replicas{function_name="a.fn",state="available"}': 4.0,
    **{f'{text.split("(")[2].split()[0]}{{function_name="a.fn"}}': 7.0 for text in RESTORED.values()},
}


def exported(instance, identity, value, *span):
    """Return the series of an autoscaler whose restored numbers are all ``value``."""
    labels = f'job="slo-autoscaler",instance="{instance}"'
    series = {name.replace("}", f",{labels}}}"): held(value, *span, 15.0) for name in EXPORTED}
    return series | {f'slo_autoscaler_info{{{labels},identity="{identity}"}}': held(1.0, *span, 15.0)}


def test_history_knows_what_the_last_autoscaler_exported_twenty_minutes_ago(recorded):
    stopped = exported("last", "", 7.0, -2400.0, -1200.0)
    # One that stopped earlier is not asked.
    older = exported("first", "", 99.0, -3500.0, -2700.0)
    source = recorded(stopped | older | {good("a.fn"): counted(10.0, -200.0, 0.0)})
    past = source.history(60.0)["a.fn"]
    assert RESTORED
    for field in RESTORED:
        ((ago, value),) = getattr(past, field)
        assert value == 7.0
        assert 1200.0 <= ago <= 1220.0
    assert past.rate[-1] == (0.0, pytest.approx(10.0, rel=0.01))


def test_history_beside_a_running_autoscaler_is_of_the_own_identity(recorded):
    own = exported("own", "kubernetes, all namespaces", 7.0, -2400.0, -1200.0)
    other = exported("other", "openfaas", 99.0, -3500.0, 0.0)
    source = recorded(own | other, identity="kubernetes, all namespaces")
    past = source.history(60.0)["a.fn"]
    assert {getattr(past, field)[0][1] for field in RESTORED} == {7.0}


def of_two_clusters():
    series = {}
    for cluster, rate in (("eu", 10.0), ("us", 50.0)):
        labels = f'function_name="a.fn",cluster="{cluster}"'
        series[f'slo_requests_total{{{labels},outcome="good"}}'] = counted(rate, -200.0, 0.0)
        series[f'slo_latency_seconds{{{labels},slo_class="default"}}'] = held(0.1, -200.0, 0.0)
    return series


def test_observe_with_matchers_counts_one_cluster_alone(recorded, caplog):
    source = recorded(of_two_clusters(), matchers={"cluster": "eu"})
    for _ in range(3):
        assert source.observe()["a.fn"].rate == pytest.approx(10.0, rel=0.01)
    assert source.history(60.0)["a.fn"].rate[-1][1] == pytest.approx(10.0, rel=0.01)
    assert "matchers" not in caplog.text


def test_observe_function_of_two_clusters_is_named_with_the_label(recorded, caplog):
    source = recorded(of_two_clusters())
    until(lambda: source.observe() and "matchers" in caplog.text, "the warning")
    for word in ("a.fn", "cluster", "'eu'", "'us'"):
        assert word in caplog.text


def test_observe_function_that_two_autoscalers_size_is_named(recorded, caplog):
    exported = {
        f'slo_autoscaler_desired_replicas{{function_name="{name}",instance="{instance}"}}': held(
            2.0, -200.0, 0.0
        )
        for name, instance in (("a.fn", "one"), ("a.fn", "two"), ("b.fn", "one"))
    }
    source = recorded(exported)
    until(lambda: source.observe() is not None and "autoscalers" in caplog.text, "the warning")
    assert "2 autoscalers size a.fn:" in caplog.text


def scraped(step, start=-500.0, end=0.0):
    # Not at the edges of the windows in which scrapes are counted.
    return held(1.0, start + 1.3, end, step)


def test_observe_longer_scrape_interval_than_configured_is_measured_and_said_once(recorded, caplog):
    caplog.set_level(logging.WARNING, "slo_autoscaler")
    source = recorded(
        {
            'up{function_name="slow.fn"}': scraped(15.0),
            'up{function_name="right.fn"}': scraped(5.0),
            # Deleted and created again: neither life fills a window.
            'up{function_name="again.fn",instance="one"}': scraped(5.0, start=-170.0, end=-125.0),
            'up{function_name="again.fn",instance="two"}': scraped(5.0, start=-30.0),
            # Prometheus was down for some minutes.
            'up{function_name="paused.fn"}': scraped(5.0, end=-200.0) | scraped(5.0, start=-30.0),
        }
    )
    until(lambda: known(source), "scrapes are counted")
    assert known(source) == {
        "slow.fn": pytest.approx(3.0),
        "right.fn": pytest.approx(1.0, rel=0.1),
        "paused.fn": pytest.approx(1.0, rel=0.1),
    }
    (said,) = {record.getMessage() for record in caplog.records}
    assert len(caplog.records) == 1
    for word in ("slow.fn", "scrape_interval to 15s", "window to at least 60s", "max_age to at least 30s"):
        assert word in said


def known(source):
    seen = source.observe()
    return {name: each.scrape_ratio for name, each in seen.items() if each.scrape_ratio is not None}

from functools import partial

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from batching_watchdog.engine.capacity import Capacity, sustained
from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.function.messages import BEST_EFFORT, DispatchReason, Target
from batching_watchdog.observe.metrics import (
    DEFAULT_BUCKETS,
    GAUGE,
    UNCONNECTED,
    Exposition,
    Metrics,
    Row,
    Traced,
)
from watchdog.engine.streaming import Streaming


def make(slo_latency: float = 0.2, largest: int = 8, **classes: Target) -> tuple[Metrics, LatencyModel]:
    times = CostModel(largest)
    capacity = Capacity(times, 1, slo_latency, 0.95, cpus=8.0)
    metrics = Metrics({"default": Target(slo_latency, 0.95), **classes}, capacity)
    return metrics, times.overall


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = Exposition(metrics).scrape()[0].decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def test_every_outcome_and_reason_is_there_from_the_start_so_that_rates_see_the_first_one():
    metrics, _ = make()
    for outcome in ("good", "slow", "error", "shed", "expired"):
        assert value(metrics, "slo_requests_total", slo_class="default", outcome=outcome) == 0
    for reason in DispatchReason:
        assert value(metrics, "watchdog_dispatch_total", reason=reason) == 0
    for refusal in ("queue_full", "predicted_late", "expired", "body_too_large", "shutting_down"):
        assert value(metrics, "watchdog_refusals_total", reason=refusal) == 0


def test_gauges_are_read_when_scraped_and_what_does_not_apply_has_no_series():
    metrics, _ = make()
    names = ("queue_length", "batch_ceiling", "log_lines_dropped")
    metrics.gauges = {**UNCONNECTED, **{name: partial(int, number) for number, name in enumerate(names)}}
    shown = ("watchdog_queue_length", "watchdog_batch_ceiling", "watchdog_log_lines_dropped_total")
    assert [value(metrics, name) for name in shown] == list(range(len(names)))
    optional = ("slo_request_duration_seconds", "watchdog_spans")  # of classes, and of traces
    assert not [name for name, _ in samples(metrics) if name.startswith(optional)]


def test_row_that_names_neither_a_field_nor_a_gauge_is_an_error():
    metrics, _ = make()
    with pytest.raises(AttributeError, match="no_such_field"):
        Row("watchdog_no_such_field", GAUGE, "Nothing.").family(metrics)


def test_one_bucket_edge_lies_exactly_on_the_slo_and_the_stock_ones_are_kept():
    metrics, _ = make(slo_latency=0.18)
    metrics.request_finished(200, b"POST", 0.18, "good")
    metrics.request_finished(200, b"POST", 0.181, "slow")
    edges = {
        dict(labels)["le"]
        for name, labels in samples(metrics)
        if name == "http_request_duration_seconds_bucket"
    }
    assert {"0.18", "+Inf", *map(str, DEFAULT_BUCKETS)} <= edges
    bucket = "http_request_duration_seconds_bucket"
    assert value(metrics, bucket, code="200", le="0.18") == 1
    assert value(metrics, bucket, code="200", le="+Inf") == 2
    assert value(metrics, "http_request_duration_seconds_sum", code="200") == 0.361


def test_latency_of_a_status_is_one_histogram_and_its_requests_count_by_method():
    metrics, _ = make()
    for method in (b"POST", b"GET", b"POST"):
        metrics.request_finished(200, method, 0.1, "good")
    assert value(metrics, "http_request_duration_seconds_count", code="200") == 3
    assert [value(metrics, "http_requests_total", code="200", method=name) for name in ("post", "get")] == [
        2,
        1,
    ]


def test_unusual_methods_share_one_label_so_that_clients_can_not_make_series():
    metrics, _ = make()
    metrics.request_finished(404, b"BREW", 0.1, None)
    metrics.request_finished(404, b"FETCH", 0.1, None)
    assert value(metrics, "http_requests_total", code="404", method="unknown") == 2


def test_classes_have_targets_outcomes_and_latencies_of_their_own():
    metrics, _ = make(fast=Target(0.1, 0.999), batch=Target(2.0, 0.9))
    metrics.request_finished(200, b"post", 0.05, "good", "fast")
    metrics.request_finished(200, b"post", 0.15, "slow", "fast")
    metrics.request_finished(503, b"post", 0.0, "shed", "fast")
    metrics.request_finished(200, b"post", 0.15, "good", "batch")
    targets = {name: value(metrics, "slo_latency_seconds", slo_class=name) for name in metrics.slos}
    assert targets == {"default": 0.2, "fast": 0.1, "batch": 2.0}
    assert value(metrics, "slo_objective_ratio", slo_class="fast") == 0.999
    counted = {
        tuple(sorted(labels)): number
        for (name, labels), number in samples(metrics).items()
        if name == "slo_requests_total" and number
    }
    assert counted == {
        (("outcome", outcome), ("slo_class", name)): 1
        for name, outcome in (("fast", "good"), ("fast", "slow"), ("fast", "shed"), ("batch", "good"))
    }
    bucket = "slo_request_duration_seconds_bucket"
    assert value(metrics, bucket, slo_class="fast", le="0.1") == 1, "an edge is the target"
    assert value(metrics, bucket, slo_class="fast", le="+Inf") == 2, "a quick refusal is no latency"
    assert value(metrics, bucket, slo_class="batch", le="0.2") == 1


def test_capacity_is_nan_until_learned_and_then_follows_the_model():
    metrics, model = make()
    model.observe(1, 0.05)
    capacity = value(metrics, "watchdog_capacity_requests_per_second")
    assert capacity != capacity, "no scrape waits for a search"
    assert list(metrics.capacity.estimate())
    assert (
        value(metrics, "watchdog_capacity_requests_per_second")
        == sustained([(1.0, model)], 1, 0.2, 0.95)[0]
        > 0
    )
    assert value(metrics, "watchdog_service_seconds_predicted", size="1") == 0.05


def test_capacity_after_more_batches_is_that_of_the_next_search():
    metrics, model = make()
    model.observe(1, 0.05)
    assert list(metrics.capacity.estimate())
    first = value(metrics, "watchdog_capacity_requests_per_second")
    for _ in range(20):
        model.observe(1, 0.01)
    assert value(metrics, "watchdog_capacity_requests_per_second") == first
    assert list(metrics.capacity.estimate()), "in steps, between which requests are served"
    assert value(metrics, "watchdog_capacity_requests_per_second") > 1.5 * first
    assert not list(metrics.capacity.estimate()), "no batch has finished since"


def test_capacity_after_a_change_of_the_cores_stays_with_those_that_it_was_estimated_on():
    metrics, model = make()
    model.observe(1, 0.05)
    assert list(metrics.capacity.estimate())
    names = ("watchdog_capacity_requests_per_second", "watchdog_capacity_cores")
    before = [value(metrics, name) for name in names]
    metrics.capacity.resize(2, 16.0)
    assert (
        [value(metrics, name) for name in names]
        == before
        == [sustained([(1.0, model)], 1, 0.2, 0.95)[0], 8.0]
    )
    assert list(metrics.capacity.estimate())
    assert [value(metrics, name) for name in names] == [sustained([(1.0, model)], 2, 0.2, 0.95)[0], 16.0]


@pytest.mark.parametrize(("search", "front"), [(0.0, 5.0), (3.0, 2.0)])
def test_capacity_is_no_more_than_the_cpu_time_of_the_front_without_its_search_allows(search, front):
    metrics, model = make(largest=1)
    for _ in range(8):
        model.observe(1, 0.001)
    assert list(metrics.capacity.estimate())
    cpu = iter([(0.0, 0.0), (10.0, 5.0)])
    metrics.cpu = lambda: next(cpu)
    assert (
        value(metrics, "watchdog_capacity_requests_per_second") == sustained([(1.0, model)], 1, 0.2, 0.95)[0]
    )
    for _ in range(100):
        metrics.request_finished(200, b"POST", 0.01, "good")
        metrics.service_seconds.observe(0.001)
    metrics.capacity.search_seconds += search
    assert value(metrics, "watchdog_capacity_requests_per_second") == pytest.approx(100 / front)


def test_streams_are_no_more_than_the_front_end_can_send_pieces_of():
    metrics, _ = make(bulk=BEST_EFFORT)
    world = Streaming(lambda size: 0.01, lambda size: 0.01 + 0.001 * size, lengths=lambda _: 20)
    world.run(5.0, 2.0)
    metrics.stream(world.engine)
    of_workers, names = (
        world.engine.steady(),
        ("watchdog_capacity_requests_per_second", "watchdog_concurrency"),
    )
    cpu = iter([(0.0, 0.0), (5.0, 0.0), (10.0, 5.0), (15.0, 5.0)])
    metrics.cpu = lambda: next(cpu)
    assert [value(metrics, name) for name in names] == [of_workers.rate, of_workers.concurrency]
    for slo_class in 500 * ("default", "bulk"):
        metrics.piece_sent(0.01, slo_class, first=False)
    rate, concurrency = (value(metrics, name) for name in names)
    assert rate == pytest.approx(200 / 20), "5 ms of CPU for each piece"
    assert concurrency / of_workers.concurrency == pytest.approx(rate / of_workers.rate)


# As Prometheus 2.53 asks.
OPENMETRICS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


NO_VERSION = ("application/openmetrics-text; version=abc", "text/plain; version=1.x")


def test_scraper_that_asks_for_openmetrics_gets_it_whole_with_units():
    metrics, model = make(fast=Target(0.1, 0.999))
    model.observe(1, 0.05)
    metrics.request_finished(200, b"post", 0.05, "good", "fast")
    own = {"worker_resident_bytes": lambda: {0: 4096}, "spans": lambda: {"exported": 3}}
    metrics.gauges = {**UNCONNECTED, **own}
    text, content_type = Exposition(metrics).scrape(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    # A strict parser: it wants # EOF, _total, units that end names, and buckets written as numbers are.
    families = {family.name: family for family in openmetrics.text_string_to_metric_families(text.decode())}
    assert families["http_requests"].type == "counter"
    assert [sample.name for sample in families["watchdog_spans"].samples] == ["watchdog_spans_total"]
    assert {families[name].unit for name in ("http_request_duration_seconds", "watchdog_queue_seconds")} == {
        "seconds"
    }
    assert families["watchdog_worker_resident_bytes"].unit == "bytes"
    assert families["slo_objective_ratio"].unit == "ratio"
    assert families["watchdog_service_seconds_predicted"].unit == ""


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=0.0.4", "application/json", *NO_VERSION])
def test_scraper_that_does_not_gets_the_text_format_of_prometheus(accept):
    metrics, _ = make()
    metrics.request_finished(200, b"post", 0.05, "good")
    metrics.request_traced(200, b"post", 0.05, Traced("a" * 32, 1.5))
    text, content_type = Exposition(metrics).scrape(accept)
    assert content_type.startswith("text/plain; version=0.0.4")
    assert b"# EOF" not in text
    assert b"trace_id" not in text


def test_newest_traced_request_of_each_bucket_is_its_exemplar():
    metrics, _ = make()
    for trace, seconds in (("a", 0.05), ("b", 0.04), (None, 0.045), ("c", 20.0)):
        metrics.request_finished(200, b"post", seconds, "good")
        if trace:
            metrics.request_traced(200, b"post", seconds, Traced(trace * 32, 1700000000.1239))
    text = Exposition(metrics).scrape(OPENMETRICS)[0].decode()
    exemplars = {
        sample.labels["le"]: (sample.exemplar.labels, sample.exemplar.value, float(sample.exemplar.timestamp))
        for family in openmetrics.text_string_to_metric_families(text)
        for sample in family.samples
        if sample.exemplar
    }
    assert exemplars == {
        "0.05": ({"trace_id": "b" * 32}, 0.04, 1700000000.124),
        "+Inf": ({"trace_id": "c" * 32}, 20.0, 1700000000.124),
    }

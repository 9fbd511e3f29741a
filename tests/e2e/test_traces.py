"""A trace through real processes: from a client to the handler's own spans, a collector and Prometheus."""

from pathlib import Path

import pytest

from support.otlp import Received, Receiver, a_receiver
from support.processes import ECHO, import_path, watchdog
from support.waits import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

TRACES = """
from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

def load():
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider.get_tracer("my-model")

def handle(event, context):
    with context.model.start_as_current_span("tokenize", propagate.extract(event.headers)):
        return event.body
"""
"""Makes a span of its own, as docs/howto/trace-a-request.md says."""

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01", "tracestate": "a=1"}


def exporting(receiver: Receiver, **environ: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_SERVICE_NAME": "my-model",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        **environ,
    }


def came(receiver: Receiver, *names: str) -> dict[str, Received]:
    """The spans of a trace, by their names, once these have come."""
    until(lambda: set(names) <= receiver.of_trace(TRACE).keys(), f"{names} have come")
    return receiver.of_trace(TRACE)


def test_collector_sees_a_request_wait_and_run_in_a_batch_that_links_to_it_and_the_handlers_own_span():
    with a_receiver() as receiver, watchdog(TRACES, **exporting(receiver)) as dog:
        headers = SAMPLED | {"X-Call-Id": "2a7b"}
        assert dog.call("PUT", "/p?a=1", b"body", headers).body == b"body"
        spans = came(receiver, "PUT", "queue", "execution", "tokenize")
        until(lambda: receiver.named("batch"), "the batch has come")
        (batch,) = receiver.named("batch")
        server, queue, execution = spans["PUT"], spans["queue"], spans["execution"]
        assert (server.kind, server.parent_id, server.error) == ("SERVER", "00f067aa0ba902b7", False)
        assert {
            "http.request.method": "PUT",
            "http.response.status_code": 200,
            "url.path": "/p",
            "url.query": "a=1",
            "url.scheme": "http",
            "network.protocol.version": "1.1",
            "tailbound.call_id": "2a7b",
            "tailbound.outcome": "good",
        }.items() <= server.attributes.items()
        assert (queue.parent_id, execution.parent_id) == (server.span_id, server.span_id)
        assert spans["tokenize"].parent_id == execution.span_id
        assert server.start <= queue.start <= queue.end <= execution.start <= execution.end <= server.end
        assert execution.start <= spans["tokenize"].start <= spans["tokenize"].end <= execution.end
        assert (batch.parent_id, batch.links) == ("", [(TRACE, server.span_id)])
        assert batch.trace_id != TRACE
        assert execution.links == [(batch.trace_id, batch.span_id)]
        assert execution.attributes["tailbound.batch.number"] == batch.attributes["tailbound.batch.number"]
        assert batch.start <= batch.end <= server.end
        assert {span.tracestate for span in spans.values()} == {"a=1"}
        assert {span.service for span in receiver.spans} == {"my-model"}


def test_spans_that_wait_are_sent_when_the_watchdog_ends():
    with a_receiver() as receiver:
        with watchdog(ECHO, **exporting(receiver, OTEL_BSP_SCHEDULE_DELAY="3600000")) as dog:
            assert dog.call(body=b"x", headers=SAMPLED).status == 200
            assert dog.stop() == 0
        assert receiver.of_trace(TRACE).keys() == {"POST", "queue", "execution"}


def test_collector_that_is_away_costs_no_request_and_its_spans_are_counted():
    # The spans of one request fill the queue.
    full = dict.fromkeys(("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"), "4")
    with a_receiver(status=400) as receiver, watchdog(ECHO, **exporting(receiver, **full)) as dog:
        assert dog.call(body=b"x", headers=SAMPLED).status == 200
        until(lambda: dog.metric('watchdog_spans_total{result="failed"}') == 4, "they were sent")
        assert dog.metric('watchdog_spans_total{result="exported"}') == 0
        assert dog.call(body=b"x", headers=SAMPLED).status == 200
        until(lambda: dog.metric('watchdog_spans_total{result="failed"}') == 8, "so were these")
        assert dog.stop() == 0
        assert dog.log.count("spans batch") == 1, "it is not said again and again"


def without(module: str, folder: Path) -> dict[str, str]:
    """An environment in which importing the module fails, as where it is not installed."""
    (folder / "sitecustomize.py").write_text(f"import sys\nsys.modules[{module!r}] = None\n")
    return {"PYTHONPATH": import_path(folder)}


def test_watchdog_without_the_extra_serves_and_says_once_that_it_sends_no_spans(tmp_path):
    environ = without("opentelemetry", tmp_path) | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with watchdog(ECHO, access_log="true", **environ) as dog:
        assert dog.call(body=b"x", headers=SAMPLED).body == b"x"
        (line,) = [line for line in dog.log.splitlines() if "OTEL" in line]
        assert "batching-watchdog[otel]" in line
        until(lambda: f"trace {TRACE}" in dog.log, "the log needs no extra")


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_BSP_MAX_QUEUE_SIZE": "many"},
    ],
)
def test_watchdog_that_cannot_do_as_the_variables_say_serves_and_says_so(environ):
    (name,) = environ
    with a_receiver() as receiver, watchdog(ECHO, **exporting(receiver, **environ)) as dog:
        assert dog.call(body=b"x", headers=SAMPLED).status == 200
        assert name in dog.log or "OTEL_* variables" in dog.log
        assert dog.stop() == 0
        assert receiver.spans == []


def test_opentelemetry_is_not_loaded_if_nothing_asks_for_it():
    with watchdog(ECHO) as dog:
        assert "/google/" not in Path(f"/proc/{dog.process.pid}/maps").read_text()
        assert "watchdog_spans_total{" not in dog.call("GET", "/metrics", port=dog.metrics_port).body.decode()

"""OpenTelemetry's real SDK; what goes over the wire is in e2e/test_traces.py."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from batching_watchdog.observe.otel import OpenTelemetry
from batching_watchdog.observe.spans import Span
from batching_watchdog.observe.trace_context import SAMPLED, SpanContext

PARENT = SpanContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", SAMPLED)
UNSAMPLED = PARENT._replace(flags=0)


class Gated(SpanExporter):
    """Takes no batch to its end before the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.gate.wait()
        return SpanExportResult.SUCCESS


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., OpenTelemetry]]:
    """Start one with these variables and this exporter; it is closed afterwards."""
    closing = []

    def start(exporter: SpanExporter | None = None, **environ: str) -> OpenTelemetry:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        telemetry = OpenTelemetry(time.monotonic, environ, exporter or InMemorySpanExporter())
        closing.append(telemetry)
        return telemetry

    yield start
    for each in closing:
        each.close()


LINKS = [SpanContext(f"{number:032x}", f"{number:016x}", SAMPLED) for number in range(1, 10)]


def a_span(number: int = 1, *, failed: bool = False) -> Span:
    own = PARENT._replace(span_id=f"{number:016x}")
    return Span("POST", own, PARENT, 1.0, 2.5, {"a": 1}, LINKS, failed, "x=1", server=True)


@pytest.mark.parametrize(
    ("sampler", "parent", "recorded"),
    [
        ("parentbased_always_on", None, True),
        ("parentbased_always_off", None, False),
        ("parentbased_always_on", UNSAMPLED, False),
        ("always_on", UNSAMPLED, True),
    ],
)
def test_sampler_of_the_environment_decides_about_what_its_caller_did_not_record(
    started, sampler, parent, recorded
):
    telemetry = started(OTEL_TRACES_SAMPLER=sampler)
    trace = telemetry.begin(parent, "", "POST", {})
    assert (trace is not None and trace.server.sampled) == recorded
    if parent is not None:
        assert telemetry.ignores(parent) != recorded


def test_span_is_exported_as_it_was_with_wall_clock_times(started):
    exporter = InMemorySpanExporter()
    telemetry = started(exporter, OTEL_SERVICE_NAME="my-model", OTEL_SPAN_LINK_COUNT_LIMIT="3")
    before = time.time_ns() - time.monotonic_ns()
    telemetry.record([a_span(failed=True), a_span(2)._replace(server=False, parent=None)])
    after = time.time_ns() - time.monotonic_ns()
    telemetry.close()
    first, second = exporter.get_finished_spans()
    assert (first.name, first.kind.name, first.status.status_code.name) == ("POST", "SERVER", "ERROR")
    assert (second.kind.name, second.status.status_code.name, second.parent) == ("INTERNAL", "UNSET", None)
    assert f"{first.context.trace_id:032x}" == f"{first.parent.trace_id:032x}" == PARENT.trace_id
    assert (first.context.span_id, f"{first.parent.span_id:016x}") == (1, PARENT.span_id)
    assert (first.parent.is_remote, first.context.is_remote) == (True, False)
    assert first.context.trace_state.to_header() == "x=1"
    assert first.resource.attributes["service.name"] == "my-model"
    assert [link.context.span_id for link in first.links] == [1, 2, 3]
    assert first.end_time - first.start_time == 1_500_000_000
    slack = 1_000_000_000  # the wall clock may be slewed
    assert before - slack <= first.start_time - 1_000_000_000 <= after + slack
    assert telemetry.counts() == {"exported": 2, "failed": 0, "dropped": 0}


def test_spans_that_find_no_room_are_dropped_and_counted(started):
    exporter = Gated()
    telemetry = started(exporter, OTEL_BSP_MAX_QUEUE_SIZE="8", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="4")
    for number in range(1, 101):
        telemetry.record([a_span(number)])
    # Four at most are in the exporter's hands, and eight wait.
    dropped = telemetry.counts()["dropped"]
    assert dropped >= 88
    exporter.gate.set()
    telemetry.close()
    assert telemetry.counts() == {"exported": 100 - dropped, "failed": 0, "dropped": dropped}


def test_close_waits_for_no_exporter_that_hangs(started, monkeypatch):
    monkeypatch.setattr("batching_watchdog.observe.otel.FLUSH_SECONDS", 0.01)
    exporter = Gated()
    telemetry = started(exporter)
    telemetry.record([a_span()])
    telemetry.close()
    assert telemetry.counts()["exported"] == 0
    exporter.gate.set()

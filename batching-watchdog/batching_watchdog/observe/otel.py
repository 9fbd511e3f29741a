"""Samples requests and sends their spans to an OTLP/HTTP receiver. Needs the extra ``otel``.

Owns the SDK: no other module imports it, and ``app`` imports this one only if the environment enables spans.
The SDK reads OTEL_* itself: sampler, resource, limits, endpoint, headers. Its own thread encodes and sends. A
span costs the event loop some microseconds, because it is made at its end, as the value that an exporter
reads. The SDK's tracers, with locks and events for open spans, take nine times as long.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace import SpanContext as OtelContext

from batching_watchdog import __version__
from batching_watchdog.observe.spans import Attributes, RequestTrace, Span
from batching_watchdog.observe.trace_context import RANDOM, SAMPLED, SpanContext

MAX_QUEUE_SIZE: Final = 2048
"""Default of OTEL_BSP_MAX_QUEUE_SIZE: maximum number of spans that wait to be sent."""
FLUSH_SECONDS: Final = 2.0
"""Time limit for sending the last spans when the watchdog ends."""
QUIET_SECONDS: Final = 60.0
"""Minimum time between two lines of the exporter: it writes one for each attempt, and a receiver may be away
for days."""
SWITCH_SECONDS: Final = 0.0005
"""Time after which the encoding thread must yield to the event loop; Python's default is 5 ms."""

_SCOPE: Final = InstrumentationScope("batching_watchdog", __version__)
_UNSET, _FAILED = Status(StatusCode.UNSET), Status(StatusCode.ERROR)
_NO_STATE: Final = TraceState()


class _Seldom:
    """A filter of a logger that passes one record per ``QUIET_SECONDS``."""

    def __init__(self) -> None:
        self._passed_at = float("-inf")

    def __call__(self, record: logging.LogRecord) -> bool:
        if record.created - self._passed_at < QUIET_SECONDS:
            return False
        self._passed_at = record.created
        return True


class _Counting:
    """Counts the spans that it passes to an exporter. Runs in the processor's thread; any thread may read."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.taken = self.exported = self.failed = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """SpanExporter: pass on and count."""
        self.taken += len(spans)
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            if result is SpanExportResult.SUCCESS:
                self.exported += len(spans)
            else:
                self.failed += len(spans)
        return result

    def shutdown(self) -> None:
        """SpanExporter: end."""
        self._exporter.shutdown()


class OpenTelemetry:
    """A ``spans.Tracer`` by the SDK, as OTEL_* variables configure it."""

    def __init__(
        self,
        clock: Callable[[], float],
        environ: Mapping[str, str] = os.environ,
        exporter: SpanExporter | None = None,
    ) -> None:
        """Start the sending thread. ``exporter``: OTLP/HTTP by default.

        Raises ``ValueError`` for a value that the SDK rejects.
        """
        # This logger writes a line for every malformed tracestate, and clients choose those.
        logging.getLogger("opentelemetry.trace.span").setLevel(logging.ERROR)
        logging.getLogger(OTLPSpanExporter.__module__).addFilter(_Seldom())
        provider = TracerProvider(shutdown_on_exit=False)
        self._sampler, self._ids, self._resource = provider.sampler, provider.id_generator, provider.resource
        # The description of a sampler (SDK specification, "GetDescription"); all parentbased_* contain this.
        self._follows_parent = "remoteParentNotSampled:AlwaysOffSampler" in self._sampler.get_description()
        self._max_links = SpanLimits().max_links
        self._clock = clock
        self._max_queued = int(environ.get("OTEL_BSP_MAX_QUEUE_SIZE") or MAX_QUEUE_SIZE)
        self._exporter = _Counting(exporter or OTLPSpanExporter())
        self._processor = BatchSpanProcessor(
            cast("SpanExporter", self._exporter), max_queue_size=self._max_queued
        )
        self._queued = self._dropped = 0
        sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))

    def counts(self) -> dict[str, int]:
        """Return the numbers of spans that were exported, failed at the receiver, and were dropped."""
        exporter = self._exporter
        return {"exported": exporter.exported, "failed": exporter.failed, "dropped": self._dropped}

    def ignores(self, parent: SpanContext) -> bool:
        """``spans.Tracer``: return whether the sampler follows the caller, and the caller did not sample."""
        return self._follows_parent and not parent.sampled

    def begin(
        self, parent: SpanContext | None, state: str, name: str, attributes: Attributes
    ) -> RequestTrace | None:
        """``spans.Tracer``: sample a request by OTEL_TRACES_SAMPLER."""
        ids, tracestate = self._ids, _tracestate(state)
        context = Context()
        if parent is None:
            trace_id, flags = ids.generate_trace_id(), SAMPLED | RANDOM
        else:
            trace_id, flags = int(parent.trace_id, 16), parent.flags | SAMPLED
            caller = NonRecordingSpan(_otel_context(parent, tracestate, remote=True))
            context = set_span_in_context(caller, context)
        sampled = self._sampler.should_sample(
            context, trace_id, name, SpanKind.SERVER, attributes, trace_state=tracestate
        )
        if not sampled.decision.is_sampled():
            return None
        if sampled.attributes:
            attributes = {**attributes, **sampled.attributes}
        hexadecimal = format_trace_id(trace_id)
        server, queue, execution = (
            SpanContext(hexadecimal, format_span_id(ids.generate_span_id()), flags) for _ in range(3)
        )
        kept = sampled.trace_state.to_header() if sampled.trace_state else ""
        return RequestTrace(name, parent, server, queue, execution, kept, attributes)

    def new_trace(self) -> SpanContext:
        """``spans.Tracer``: return the first span of a new trace."""
        trace_id, span_id = self._ids.generate_trace_id(), self._ids.generate_span_id()
        return SpanContext(format_trace_id(trace_id), format_span_id(span_id), SAMPLED | RANDOM)

    def record(self, spans: Sequence[Span]) -> None:
        """``spans.Tracer``: queue spans to be sent, or count them as dropped."""
        if self._queued - self._exporter.taken + len(spans) > self._max_queued:
            self._dropped += len(spans)
            return
        self._queued += len(spans)
        # Computed each time, because the clocks drift apart and the wall clock may be set.
        offset = time.time_ns() - round(self._clock() * 1e9)
        for span in spans:
            self._processor.on_end(self._readable(span, offset))

    def close(self) -> None:
        """Send the waiting spans; wait for at most ``FLUSH_SECONDS``."""
        closing = threading.Thread(target=self._processor.shutdown, name="flush-spans", daemon=True)
        closing.start()
        closing.join(FLUSH_SECONDS)

    def _readable(self, span: Span, offset: int) -> ReadableSpan:
        state = _tracestate(span.tracestate)
        parent = span.parent
        return ReadableSpan(
            name=span.name,
            context=_otel_context(span.context, state),
            parent=None if parent is None else _otel_context(parent, state, remote=span.server),
            resource=self._resource,
            attributes=span.attributes,
            links=[Link(_otel_context(linked, _NO_STATE)) for linked in span.links[: self._max_links]],
            kind=SpanKind.SERVER if span.server else SpanKind.INTERNAL,
            status=_FAILED if span.failed else _UNSET,
            start_time=round(span.start * 1e9) + offset,
            end_time=round(span.end * 1e9) + offset,
            instrumentation_scope=_SCOPE,
        )


def _otel_context(context: SpanContext, state: TraceState, *, remote: bool = False) -> OtelContext:
    trace_id, span_id = int(context.trace_id, 16), int(context.span_id, 16)
    return OtelContext(trace_id, span_id, remote, TraceFlags(context.flags), state)


def _tracestate(header: str) -> TraceState:
    return TraceState.from_header([header]) if header else _NO_STATE

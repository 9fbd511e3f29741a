"""A receiver of OTLP/HTTP: what any collector has at /v1/traces, and a list of what came."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from support.doubles import Server, send


@dataclass(frozen=True)
class Received:
    """One span as it came over the wire; ids are hexadecimal, times nanoseconds since 1970."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    start: int
    end: int
    attributes: dict[str, Any]
    links: list[tuple[str, str]]
    error: bool
    tracestate: str


@dataclass
class Receiver:
    """``status``: of the answer to each export."""

    status: int = 200
    url: str = ""
    spans: list[Received] = field(default_factory=list)

    def named(self, name: str) -> list[Received]:
        return [span for span in self.spans if span.name == name]

    def of_trace(self, trace_id: str) -> dict[str, Received]:
        return {span.name: span for span in self.spans if span.trace_id == trace_id}


@contextmanager
def a_receiver(status: int = 200) -> Iterator[Receiver]:
    receiver = Receiver(status)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        assert (handler.path, handler.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
        if receiver.status == 200:
            receiver.spans += decoded(body)
        said = ExportTraceServiceResponse().SerializeToString()
        send(handler, receiver.status, said, Content_Type="application/x-protobuf")

    with closing(Server(answer)) as server:
        receiver.url = f"http://{server.address}"
        yield receiver


def decoded(body: bytes) -> list[Received]:
    """The spans of an export."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Received(
            _plain(resource.resource.attributes)["service.name"],
            span.name,
            Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            _plain(span.attributes),
            [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
            span.status.code == Status.STATUS_CODE_ERROR,
            span.trace_state,
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}

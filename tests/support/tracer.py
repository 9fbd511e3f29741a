"""A tracer that keeps what it is given."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

from batching_watchdog.observe.spans import Attributes, RequestTrace, Span
from batching_watchdog.observe.trace_context import SAMPLED, SpanContext


@dataclass
class KeepsSpans:
    """Records as its caller did, and what has no caller if it ``samples`` that."""

    samples: bool = True
    spans: list[Span] = field(default_factory=list)
    ids: Iterator[int] = field(default_factory=lambda: count(1))

    def ignores(self, parent: SpanContext) -> bool:
        return not parent.sampled

    def begin(
        self, parent: SpanContext | None, state: str, name: str, attributes: Attributes
    ) -> RequestTrace | None:
        if parent is None and not self.samples:
            return None
        trace_id = self.new_trace().trace_id if parent is None else parent.trace_id
        server, queue, execution = (self._span(trace_id) for _ in range(3))
        return RequestTrace(name, parent, server, queue, execution, state, attributes)

    def new_trace(self) -> SpanContext:
        return self._span(f"{next(self.ids):032x}")

    def record(self, spans: Sequence[Span]) -> None:
        self.spans += spans

    def named(self) -> dict[str, Span]:
        """Each span by its name; a name came once."""
        found = {span.name: span for span in self.spans}
        assert len(found) == len(self.spans)
        return found

    def _span(self, trace_id: str) -> SpanContext:
        return SpanContext(trace_id, f"{next(self.ids):016x}", SAMPLED)

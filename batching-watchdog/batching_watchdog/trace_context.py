"""The W3C headers by which a request belongs to a trace: read, and written anew. [P]

Owns the rules of W3C Trace Context for ``traceparent``: Level 1, 3.2.2 "traceparent Header Field Values" and
3.2.4 "Versioning of traceparent", and Level 2's flag "Random Trace ID". ``tracestate`` is passed on and never
looked into. Used by ``front.routes`` and, for its error lines, by ``worker.handler``.
"""

import re
from typing import Final, NamedTuple

TRACEPARENT: Final = b"traceparent"
SAMPLED: Final = 0x01
RANDOM: Final = 0x02
"""Of a trace id whose last seven bytes were drawn at random (Level 2)."""
MAX_STATE: Final = 512
"""Bytes of a ``tracestate`` that is looked at: those that every system should pass on (3.3.1.5 "Limits")."""

_VALUE: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
# Header blocks are searched as bytes: a regular expression that ignores case takes ten times as long.
_PARENT_LINE: Final = b"\ntraceparent: "
_STATE_LINE: Final = b"\ntracestate: "


class SpanContext(NamedTuple):
    """Which span of which trace. Both ids are in lower-case hexadecimal, of 32 and 16 digits, and not 0."""

    trace_id: str
    span_id: str
    flags: int
    """``SAMPLED`` and ``RANDOM``."""

    @property
    def sampled(self) -> bool:
        """Whether the spans of this trace are recorded, as far as the process that passed it on knows."""
        return bool(self.flags & SAMPLED)


def parse_traceparent(value: bytes) -> SpanContext | None:
    """Return the caller's span; None for a value that must be ignored.

    Of a later version than 00 the four fields are read that it must begin with; flags that are not known yet
    are left out.
    """
    match = _VALUE.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if rest is not None and version == b"00":
        return None
    return SpanContext(trace_id.decode(), span_id.decode(), int(flags, 16) & (SAMPLED | RANDOM))


def may_be_sampled(value: bytes) -> bool:
    """Tell a ``traceparent`` that may be valid and sampled from one that is not, in no time."""
    return value[54:55] in b"13579bdf"


def format_traceparent(context: SpanContext) -> bytes:
    """Return the header's value, of version 00."""
    return f"00-{context.trace_id}-{context.span_id}-{context.flags:02x}".encode()


def received_context(value: bytes, header_block: bytes) -> SpanContext | None:
    """Return the span that a request's ``traceparent`` names; None if the header came more than once.

    ``value``: of its last line. Lines of one name are one value, joined by commas (RFC 9110, 5.3), and such a
    value is not a valid one. ``header_block`` may be empty, if it is not known.
    """
    return None if header_block.lower().count(_PARENT_LINE) > 1 else parse_traceparent(value)


def with_context(header_block: bytes, context: SpanContext, *, restarted: bool) -> bytes:
    """Return a request's headers with ``context`` as the calling span.

    ``restarted``: the trace begins here, so a ``tracestate`` belongs to another one and is removed.
    """
    left = _without(header_block, _PARENT_LINE)
    if restarted:
        left = _without(left, _STATE_LINE)
    return b"%btraceparent: %b\r\n" % (left, format_traceparent(context))


def tracestate(header_block: bytes) -> str:
    """Return the request's ``tracestate``, its lines joined by commas; empty without, or for a long one."""
    lower, values, at = header_block.lower(), [], 0
    while (at := lower.find(_STATE_LINE, at)) >= 0:
        start, at = at + len(_STATE_LINE), lower.index(b"\n", at + 1)
        values.append(header_block[start:at].rstrip())
    joined = b",".join(values)
    return joined.decode("latin-1") if len(joined) <= MAX_STATE else ""


def _without(header_block: bytes, line: bytes) -> bytes:
    """Return the headers but for those of one name; ``line``: as each begins, in lower case."""
    lower = header_block.lower()
    while (at := lower.find(line)) >= 0:
        end = lower.index(b"\n", at + 1)
        header_block, lower = (block[:at] + block[end:] for block in (header_block, lower))
    return header_block

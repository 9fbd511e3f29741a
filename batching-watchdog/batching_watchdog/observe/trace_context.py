"""Reads and writes the W3C headers of a trace. [P]

Owns the rules of W3C Trace Context for ``traceparent``: Level 1, 3.2.2 "traceparent Header Field Values" and
3.2.4 "Versioning of traceparent", and Level 2's flag "Random Trace ID". ``tracestate`` is passed on without
parsing. Used by ``front.tracing``, ``front.endings`` and, for its error lines, ``worker.handler``.
"""

import re
from typing import Final, NamedTuple

TRACEPARENT: Final = b"traceparent"
SAMPLED: Final = 0x01
RANDOM: Final = 0x02
"""Flag of a trace id whose last seven bytes are random (Level 2)."""
MAX_STATE: Final = 512
"""Maximum bytes of a ``tracestate`` in a span: every system passes on as many (3.3.1.5 "Limits")."""

_VALUE: Final = re.compile(
    rb"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
_PARENT, _STATE = b"traceparent:", b"tracestate:"


class SpanContext(NamedTuple):
    """Ids of a span and its trace, in lower-case hexadecimal of 16 and 32 digits, and not 0."""

    trace_id: str
    span_id: str
    flags: int
    """``SAMPLED`` and ``RANDOM``."""

    @property
    def sampled(self) -> bool:
        """Whether the sender of the header records this trace."""
        return bool(self.flags & SAMPLED)


def parse_traceparent(value: bytes) -> SpanContext | None:
    """Return the caller's span; None for a value that must be ignored.

    A later version than 00 is read by its first four fields. Unknown flags are cleared.
    """
    match = _VALUE.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if rest is not None and version == b"00":
        return None
    return SpanContext(trace_id.decode(), span_id.decode(), int(flags, 16) & (SAMPLED | RANDOM))


def may_be_sampled(value: bytes) -> bool:
    """Return whether a ``traceparent`` may be valid and sampled; a cheap test of one digit."""
    return value[54:55] in b"13579bdf"


def format_traceparent(context: SpanContext) -> bytes:
    """Return the header's value, of version 00."""
    return f"00-{context.trace_id}-{context.span_id}-{context.flags:02x}".encode()


def received_context(value: bytes, header_block: bytes) -> SpanContext | None:
    """Return the span that a request's ``traceparent`` names; None if it is invalid or repeated.

    ``value``: of the last line. Repeated lines are one value, joined by commas (RFC 9110, 5.3), which is
    invalid. ``header_block`` may be empty if it is unknown.
    """
    return None if header_block.lower().count(b"\n" + _PARENT) > 1 else parse_traceparent(value)


def with_context(header_block: bytes, context: SpanContext, *, restarted: bool) -> bytes:
    """Return a request's headers with ``context`` as the calling span.

    ``restarted``: the trace begins here, so a ``tracestate`` belongs to another one and is removed.
    """
    dropped = (_PARENT, _STATE) if restarted else (_PARENT,)
    line, *headers = header_block.splitlines(keepends=True)
    kept = [header for header in headers if not header.lower().startswith(dropped)]
    return b"%b%btraceparent: %b\r\n" % (line, b"".join(kept), format_traceparent(context))


def tracestate(header_block: bytes) -> str:
    """Return the request's ``tracestate``, its lines joined by commas; empty without, or for a long one."""
    lines = header_block.splitlines()[1:]
    joined = b",".join(line[len(_STATE) :].strip() for line in lines if line.lower().startswith(_STATE))
    return joined.decode("latin-1") if len(joined) <= MAX_STATE else ""

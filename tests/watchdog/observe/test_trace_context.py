import pytest

from batching_watchdog.observe.trace_context import (
    MAX_STATE,
    RANDOM,
    SAMPLED,
    SpanContext,
    format_traceparent,
    parse_traceparent,
    tracestate,
    with_context,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01".encode()
OURS = SpanContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", SAMPLED | RANDOM)


@pytest.mark.parametrize(
    ("flags", "read", "sampled"),
    [("00", 0, False), ("01", 1, True), ("02", 2, False), ("03", 3, True), ("fe", 2, False), ("ff", 3, True)],
)
def test_flags_are_a_bit_field_of_which_only_those_known_are_kept(flags, read, sampled):
    context = parse_traceparent(f"00-{TRACE}-{SPAN}-{flags}".encode())
    assert context == (TRACE, SPAN, read)
    assert context.sampled == sampled


IDS = f"{TRACE}-{SPAN}"


@pytest.mark.parametrize(
    "value",
    [
        *(f"ff-{IDS}-01", f"0-{IDS}-01", f"00-{IDS}-0", f"00-{IDS}-001", f"00-{IDS}-0G", f"00-{IDS}-01-"),
        *(f"00-{IDS}-01-what", f"cc-{IDS}-01.what", f"cc-{IDS}-", f" 00-{IDS}-01", f"00-{IDS}-01\n"),
        *(f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE[1:]}-{SPAN}-01"),
        *(f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN.upper()}-01", f"00-{TRACE}0-{SPAN}-01"),
        *(f"00-{TRACE}-{SPAN[1:]}-01", f"00_{TRACE}_{SPAN}_01", f"00-{IDS}-01, 00-{IDS}-01", "", "-" * 55),
    ],
)
def test_value_that_breaks_a_rule_is_ignored(value):
    assert parse_traceparent(value.encode()) is None


@pytest.mark.parametrize("rest", ["", "-", "-what-the-future-will-be-like"])
def test_later_version_is_read_by_its_first_four_fields(rest):
    assert parse_traceparent(f"cc-{IDS}-01{rest}".encode()) == (TRACE, SPAN, SAMPLED)


def test_context_takes_the_place_of_the_callers_and_keeps_its_state():
    block = b"POST /?traceparent: \r\nTraceParent: %b\r\ntracestate: a=1\r\nX-A: b\r\n" % VALID
    changed = with_context(block, OURS, restarted=False)
    value = format_traceparent(OURS)
    assert changed == b"POST /?traceparent: \r\ntracestate: a=1\r\nX-A: b\r\ntraceparent: %b\r\n" % value
    assert tracestate(changed) == "a=1"


def test_trace_that_begins_here_has_nothing_of_another_ones_state():
    block = b"POST /\r\ntraceparent: wrong\r\nTraceState: a=1\r\ntracestate: b=2\r\nX-A: b\r\n"
    assert with_context(block, OURS, restarted=True) == b"POST /\r\nX-A: b\r\ntraceparent: %b\r\n" % (
        format_traceparent(OURS)
    )


def test_lines_of_a_state_are_one_in_their_order():
    block = b"POST /\r\ntracestate: a=1,b=2\r\nX-A: b\r\nTracestate: c=3\r\n"
    assert tracestate(block) == "a=1,b=2,c=3"
    assert tracestate(b"POST /\r\nX-A: b\r\n") == ""


def test_state_that_is_longer_than_must_be_passed_on_is_not_looked_at():
    longest = b"a=" + b"x" * (MAX_STATE - 2)
    assert tracestate(b"POST /\r\ntracestate: %b\r\n" % longest) == longest.decode()
    assert tracestate(b"POST /\r\ntracestate: %bx\r\n" % longest) == ""

import io

from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.trial.command import PRINTED_LINES, Printed


@given(st.integers(0, 4 * PRINTED_LINES), st.integers(1, 7))
def test_output_shows_its_first_and_its_last_lines_and_counts_the_others(count, together):
    sink = io.StringIO()
    printed, lines = Printed(sink), [f"{number}\n" for number in range(count)]
    for begin in range(0, count, together):
        printed.write("".join(lines[begin : begin + together]))
    shown = sink.getvalue().splitlines(keepends=True)
    printed.close()
    assert shown == lines[:PRINTED_LINES]
    kept = [line for line in sink.getvalue().splitlines(keepends=True) if "left out" not in line]
    left_out = count - len(kept)
    assert kept == [
        line for place, line in enumerate(lines) if place < PRINTED_LINES or place >= count - PRINTED_LINES
    ]
    assert (f" {left_out} lines" in sink.getvalue()) == (left_out > 0)

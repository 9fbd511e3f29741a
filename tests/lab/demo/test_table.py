"""What the terminal shows, live and in the end."""

import io
import math

import pytest
from rich.console import Console

from lab.demo.results import comparison, ledger
from tailbound_lab.demo.table import (
    BASELINE,
    TAILBOUND,
    Display,
    Frame,
    lines,
    milliseconds,
    number,
    percent,
    picture,
    row,
    verdict,
)
from tailbound_lab.load.records import Ledger


def printed(renderable, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def frame(elapsed=9.5):
    ours = row("accelerator", TAILBOUND, ledger(), objective=0.99, rate=1234, elapsed=elapsed)
    theirs = row("accelerator", BASELINE, ledger(misses=40), objective=0.99, rate=1234, elapsed=elapsed)
    return Frame(elapsed, 10, "base again", (ours, theirs))


def test_the_live_table_fits_80_columns_with_every_column_whole():
    text = printed(picture(frame()))
    for word in (
        "function",
        "served by",
        "rate/s",
        "p95 ms",
        "p99 ms",
        "attained",
        "replicas",
        "batch",
        "queue",
    ):
        assert word in text
    assert "1,234" in text
    assert "SLO 100 ms" in text
    assert "…" not in text


def test_the_bar_says_how_far_the_run_is():
    assert "10 of 10 s" in printed(picture(frame(elapsed=11)))


def test_misses_are_endless_and_lost_requests_counted():
    text = printed(picture(frame(elapsed=13)))
    assert "∞" in text
    assert "40" in text


def test_plain_lines_carry_the_same_numbers():
    found = lines(frame())
    assert len(found) == 2
    assert "attained 100.00 %" in found[0]
    assert "lost 40" in found[1]


def test_before_anything_has_come_in_there_are_dashes():
    empty = row("tabular", TAILBOUND, Ledger(0.1), objective=0.99, rate=1, elapsed=0)
    assert "attained        -" in lines(Frame(0, 10, "base", (empty,)))[0]


def test_replicas_that_are_not_ready_yet_are_shown_as_such():
    found = ledger()
    found.samples[-1] = found.samples[-1].__class__(9, 3, 1, 1.0, 0)
    assert (
        "1 of 3"
        in lines(Frame(9, 10, "peak", (row("a", TAILBOUND, found, objective=0.9, rate=1, elapsed=9),)))[0]
    )


def test_the_verdict_counts_the_functions_that_met_their_slo():
    text = printed(verdict([comparison(), comparison("vision", twin=False, misses=9)]), width=80)
    assert "Tailbound met the SLO on 1 of 2 functions." in text
    assert BASELINE in text
    assert "…" not in text


def test_lines_come_every_few_seconds_where_there_is_no_terminal():
    console = Console(file=io.StringIO(), width=200)
    with Display(console) as display:
        for tenth in range(120):
            display.update(frame(elapsed=tenth / 10))
    assert len(console.file.getvalue().splitlines()) == 2 * 3  # at 0, 5 and 10 s


def test_a_terminal_is_redrawn_and_left_clean():
    console = Console(file=io.StringIO(), width=90, force_terminal=True)
    with Display(console) as display:
        display.say("starting")
        display.update(frame())
    assert "accelerator" in console.file.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (math.inf, "∞"), (0.0124, "12"), (1.5, "1,500")])
def test_latencies_read_as_whole_milliseconds(seconds, text):
    assert milliseconds(seconds) == text


@pytest.mark.parametrize(("share", "text"), [(None, "-"), (1.0, "100.00 %"), (0.99999, "99.99 %")])
def test_a_share_with_a_miss_never_reads_as_100(share, text):
    assert percent(share) == text


def test_a_gap_reads_as_a_dash():
    assert (number(None), number(2.25, 1)) == ("-", "2.2")

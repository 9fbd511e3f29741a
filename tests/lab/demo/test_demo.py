"""What the demo shows: the terminal, the page, the results, and its command line."""

import io
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from lab.demo.results import DURATION, comparison, ledger, outcome
from tailbound_lab.demo.__main__ import main
from tailbound_lab.demo.report import page, write
from tailbound_lab.demo.table import Terminal, lines, milliseconds, number, percent, picture, verdict
from tailbound_lab.demo.traffic import TRAFFIC
from tailbound_lab.live.session import Deployed
from tailbound_lab.live.twins import twin
from tailbound_lab.load.arrivals import peak
from tailbound_lab.load.records import Ledger, Sample, reduce
from tailbound_lab.local.specs import FunctionSpec


def deployed(**ours):
    spec = FunctionSpec("tabular", "image")
    one = Deployed(spec, TRAFFIC[0], peak(100, 1234, DURATION), 1, ledger(**ours), 0.99)
    return [one, replace(one, spec=twin(spec), ledger=ledger(misses=40))]


def printed(renderable, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "shown",
    [
        picture(5.0, DURATION, deployed()),
        verdict([comparison(), comparison("accelerator", twin=False, misses=9)]),
    ],
    ids=["live", "verdict"],
)
def test_a_table_fits_80_columns_with_nothing_cut_off(shown):
    text = printed(shown)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_line_holds_a_function_and_its_twin():
    (line,) = lines(13.0, DURATION, deployed())
    assert line.count("tabular") == 1
    assert "100.00%" in line
    assert "∞" in line  # the twin's misses


def test_replicas_that_are_not_ready_yet_are_shown_as_such():
    both = deployed()
    both[0].ledger.samples[-1] = Sample(9, 3, 1)
    assert "1 of 3" in lines(9, DURATION, both)[0]


@pytest.mark.parametrize("elapsed", [0, 5, 20])
def test_a_picture_can_be_made_before_anything_has_come_in(elapsed):
    assert lines(elapsed, DURATION, [replace(deployed()[0], ledger=Ledger(0.1))])


def test_lines_come_every_ten_seconds_where_there_is_no_terminal():
    console = Console(file=io.StringIO(), width=200)
    with Terminal(console, 30.0) as terminal:
        for half_seconds in range(80):
            terminal.update(half_seconds / 2, deployed())
    assert len(console.file.getvalue().splitlines()) == 3  # at the beginning, at 10 and 20 s


def test_a_terminal_shows_the_table():
    console = Console(file=io.StringIO(), width=90, force_terminal=True)
    with Terminal(console, 30.0) as terminal:
        terminal.starting()
        terminal.update(1.0, deployed())
    assert "tabular" in console.file.getvalue()


def test_the_verdict_is_the_last_line_and_counts_the_functions_that_met_their_slo():
    last = printed(verdict([comparison(), comparison("vision", misses=9)])).splitlines()[-1]
    assert "1 of 2" in last


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (milliseconds(None), "-"),
        (milliseconds(math.inf), "∞"),
        (milliseconds(1.5), "1,500"),
        (percent(0.99999), "99.99%"),  # a miss never reads as 100
        (percent(1.0), "100.00%"),
        (percent(None), "-"),
        (number(None), "-"),
        (number(2.25, 1), "2.2"),
    ],
)
def test_a_number_reads_as_text(shown, text):
    assert shown == text


class Balance(HTMLParser):
    """Checks that what is opened is closed, in order."""

    VOID = frozenset({"meta", "path", "use", "rect", "line", "br"})

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, _):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_well_formed_escaped_and_whole_in_itself():
    html = page(outcome())
    parser = Balance()
    parser.feed(html)
    assert parser.open == []
    assert html.count("<svg") == 2
    assert "<b>" in html
    assert "vision &lt;b&gt;" in html
    assert "vision <b>" not in html
    assert all(url.startswith("#") for url in re.findall(r'(?:src|href)="([^"]+)"', html))
    assert "<script" not in html
    assert "<code>LoadAboveCapacity</code>" in html


@pytest.mark.parametrize(
    ("shown", "kind"),
    [
        (outcome(), "good"),
        (outcome(comparison(misses=5)), "bad"),
        (
            replace(outcome(replace(comparison(), tailbound=reduce(Ledger(0.1), 10))), usage=None),
            "bad",
        ),  # not a single request or sample
    ],
    ids=["met", "missed", "nothing"],
)
def test_the_headline_says_whether_the_slo_was_met(shown, kind):
    assert f'<h1 class="{kind}">' in page(shown)


def test_a_generator_that_lagged_too_much_is_said_to_spoil_the_tails():
    def judgment(lag):
        return re.search(r"every latency contains it\. (\w+)", page(outcome(comparison(), lag=lag)))[1]

    assert judgment(0.001) != judgment(0.05)


def test_the_results_stand_beside_the_page(tmp_path):
    target = write(outcome(), tmp_path / "deep" / "folder")
    assert target.read_text(encoding="utf-8") == page(outcome())
    results = json.loads((target.parent / "result.json").read_text())
    assert [(item["function"], item["met"]) for item in results] == [("tabular", True), ("vision <b>", True)]


@pytest.mark.parametrize(
    "arguments", [["--duration", "4"], ["--duration", "long"], ["--rate", "0"], ["--rate", "nan"], ["--fast"]]
)
def test_a_wrong_argument_ends_with_status_2(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_a_missing_stack_ends_with_one_line_and_status_1(tmp_path, capsys):
    assert main(["--stack", str(tmp_path / "stack.yml"), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "stack.yml" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("traffic", TRAFFIC, ids=lambda item: item.function)
def test_traffic_has_a_peak_and_bodies(traffic):
    assert traffic.peak > traffic.base > 0
    assert all(traffic.bodies())

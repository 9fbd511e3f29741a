"""What the demo shows: the terminal, the page, the results, and its command line."""

import io
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from rich.console import Console

from tailbound_lab.demo.__main__ import main
from tailbound_lab.demo.report import write
from tailbound_lab.demo.session import Deployed, Outcome
from tailbound_lab.demo.table import Terminal, picture, verdict
from tailbound_lab.demo.traffic import TRAFFIC
from tailbound_lab.demo.twins import twin
from tailbound_lab.demo.watch import Decision
from tailbound_lab.load.arrivals import peak
from tailbound_lab.load.machine import Usage
from tailbound_lab.load.openloop import Lag
from tailbound_lab.load.records import TIMED_OUT, Comparison, Ledger, Record, Sample, reduce
from tailbound_lab.local.specs import FunctionSpec

DURATION = 10


def ledger(*, latency=0.02, misses=0, replicas=(1, 2, 1)):
    found = Ledger(0.1)
    for i in range(100):
        found.add(Record(i / 10, latency, 200))
    for i in range(misses):
        found.add(Record(i / 10, 10.0, TIMED_OUT))
    found.samples += [Sample(i * 3.0, count, count, 1.5, 0) for i, count in enumerate(replicas)]
    return found


def comparison(function="tabular", *, has_twin=True, **ours):
    theirs = reduce(ledger(latency=0.4, misses=30, replicas=(1, None, 2)), DURATION) if has_twin else None
    return Comparison(function, 0.1, 0.99, (10.0,) * DURATION, reduce(ledger(**ours), DURATION), theirs)


def outcome(*comparisons):
    """With everything in it: a peak, misses, gaps, a function with a twin and one without."""
    return Outcome(
        comparisons=comparisons or (comparison(), comparison("vision <b>", has_twin=False)),
        duration=DURATION,
        seed=7,
        lag=Lag(0.0001, 0.0005, 0.001, 0.01),
        host="2 cores (a processor)",
        usage=(Usage(own=0.4, others=0.1, stolen=0.01),) * DURATION,
        decisions=(Decision(4, "tabular.openfaas-fn", 1, 2, "LoadAboveCapacity"),),
        finished="2026-01-01 00:00:00 UTC",
    )


def deployed(ours, theirs):
    spec = FunctionSpec("tabular", "image")
    one = Deployed(
        spec, traffic=TRAFFIC[0], profile=peak(100, 1234, DURATION, 0.2), seed=1, ledger=ours, objective=0.99
    )
    return [one, replace(one, spec=twin(spec), ledger=theirs)]


def printed(renderable):
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("shown", "parts"),
    [
        (picture(5.0, DURATION, deployed(ledger(), ledger(misses=40))), {"100.00%", "∞"}),
        (picture(0.0, DURATION, deployed(Ledger(0.1), Ledger(0.1))), {"-"}),
        (
            picture(20.0, DURATION, deployed(replace(ledger(), samples=[Sample(9, 3, 1)]), ledger())),
            {"1 of 3"},
        ),
        (verdict([comparison(), comparison("vision", has_twin=False, misses=9)]), {"1 of 2"}),
    ],
    ids=["live", "nothing yet", "starting replicas", "verdict"],
)
def test_a_table_fits_80_columns_with_nothing_cut_off(shown, parts):
    text = printed(shown)
    assert all(part in text for part in {"tabular", *parts})
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(("is_terminal", "shown"), [(True, 80), (False, 2)])
def test_run_shows_a_live_table_on_a_terminal_and_one_every_ten_seconds_elsewhere(is_terminal, shown):
    console = Console(file=io.StringIO(), width=90, force_terminal=is_terminal)
    with Terminal(console, 30.0) as terminal:
        for half_seconds in range(80):
            terminal.update(half_seconds / 2, deployed(ledger(), ledger()))
    assert min(console.file.getvalue().count("tabular"), 80) == shown  # the last table is repeated


@pytest.mark.parametrize(
    ("shown", "kind"),
    [
        (outcome(), "good"),
        (outcome(comparison(misses=5)), "bad"),
        # Not a single request or sample.
        (outcome(replace(comparison(), tailbound=reduce(Ledger(0.1), 10))), "bad"),
    ],
    ids=["met", "missed", "nothing"],
)
def test_the_page_is_whole_in_itself_beside_its_results(tmp_path, shown, kind):
    html = write(shown, tmp_path / "deep" / "folder").read_text(encoding="utf-8")
    assert f'<h1 class="{kind}">' in html
    # Well-formed, as far as HTML may leave an element open.
    ElementTree.fromstring(re.sub(r"<!DOCTYPE html>|<meta [^>]*>", "", html))
    assert html.count("<svg") == 1 + len(shown.comparisons)  # an overview, and each in detail
    assert "vision <b>" not in html
    assert all(url.startswith("#") for url in re.findall(r'(?:src|href)="([^"]+)"', html))
    assert "LoadAboveCapacity" in html
    # The target of each function, with a baseline or without.
    assert html.count("within 100 ms") == len(shown.comparisons)
    results = json.loads((tmp_path / "deep" / "folder" / "result.json").read_text())
    assert [item["met"] for item in results] == [item.met for item in shown.comparisons]


@pytest.mark.parametrize("has_twin", [True, False])
def test_the_page_speaks_of_the_baseline_only_where_there_was_one(tmp_path, has_twin):
    html = write(outcome(comparison(has_twin=has_twin)), tmp_path).read_text(encoding="utf-8")
    assert ("copy" in html) is ("OpenFaaS" in html) is has_twin


def test_a_missing_stack_ends_with_one_line_and_status_1(tmp_path, capsys):
    assert main(["--stack", str(tmp_path / "stack.yml"), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "stack.yml" in error
    assert error.count("\n") == 1

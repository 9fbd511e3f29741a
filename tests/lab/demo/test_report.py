"""The page: whole in itself, every section in it, nothing unescaped."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from lab.demo.results import comparison, outcome
from tailbound_lab.demo.report import page, write
from tailbound_lab.load.records import Ledger, reduce


@pytest.fixture(scope="module")
def html():
    return page(outcome())


class Balance(HTMLParser):
    """Checks that what is opened is closed, in order."""

    VOID = frozenset({"meta", "path", "use", "rect", "line", "br"})

    def __init__(self):
        super().__init__()
        self.open = []
        self.text = []

    def handle_starttag(self, tag, _):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_well_formed(html):
    parser = Balance()
    parser.feed(html)
    assert parser.open == []


@pytest.mark.parametrize(
    "words",
    [
        "Tailbound met the SLO on 2 of 2 functions",
        "How to read this",
        "What the baseline is",
        "no Alertmanager runs",
        "group wait 5 s, group interval 10 s",
        "Conditions of this run",
        "p99.9 1.0 ms",
        "2 cores (a processor)",
        "50% of all CPU time at work",
        "replicas: 2 s",
        "no coordinated omission",
        "1 to 2 at 4 s (<code>LoadAboveCapacity</code>)",
        "The autoscaler changed nothing here",
    ],
)
def test_the_page_says(html, words):
    assert words in " ".join(html.split())


def test_the_page_has_a_plot_for_each_function_and_refers_to_nothing_outside(html):
    assert html.count("<svg") == 2
    urls = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert all(url.startswith("#") for url in urls)
    assert "<script" not in html


def test_names_are_escaped(html):
    assert "vision &lt;b&gt;" in html
    assert "vision <b>" not in html


def test_a_missed_slo_is_the_headline():
    html = page(outcome(comparison(misses=5)))
    assert "met the SLO on 0 of 1" in html
    assert '<h1 class="bad">' in html


def test_a_generator_that_lagged_too_much_is_said_so():
    assert "Tails look worse than they were" in page(outcome(comparison(), lag=0.05))


def test_a_run_without_a_single_request_or_sample_can_be_reported():
    empty = reduce(Ledger(0.1), 10)
    html = page(replace(outcome(replace(comparison(), tailbound=empty, baseline=empty)), usage=None))
    assert "met the SLO on 0 of 1" in html
    assert "unknown" in html


def test_the_results_stand_beside_the_page(tmp_path):
    target = write(outcome(), tmp_path / "deep" / "folder")
    assert target.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    results = json.loads((target.parent / "result.json").read_text())
    assert [item["function"] for item in results] == ["tabular", "vision <b>"]
    assert [item["met"] for item in results] == [True, True]

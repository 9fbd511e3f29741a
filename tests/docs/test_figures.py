"""Measured figures stand only in sections that are made from docs/benchmarks/*.json, with commit and machine.

tests/lab/bench checks that these sections are current.
"""

import re

import pytest
from docs.generate_benchmarks import SECTION

from support.pages import NAMES, ROOT, prose

MEASURED = re.compile(
    r"\d (?:requests/s|replica-seconds|CPU-seconds|MB)\b"  # a load that a page sets is "per second"
    r"|\d\.\d\d%|\d\d\.\d%"  # rules are rounder
    r"|\d% (?:less|fewer|are left)|\d\.\d times as"  # a comparison
    r"|\b\d{1,2} [A-Z][a-z]+ 20\d\d\b"  # a date
)
CURRENT = [name for name in NAMES if name != "CHANGELOG.md"]


def measured(text: str) -> list[str]:
    """The measured figures of a page outside of generated sections and code."""
    return MEASURED.findall(re.sub(r"`[^`\n]*`", "", prose(SECTION.sub("", text))))


@pytest.mark.parametrize("name", CURRENT)
def test_page_has_no_measured_figure_without_a_record(name):
    assert measured((ROOT / name).read_text()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "It serves 1,300 requests/s.",
        "98.37% were on time.",
        "On 30 November 2026 all were.",
        "27 MB",
        "It used 2% less time.",
        "It was late 2.6 times as often.",
    ],
)
def test_measured_figure_in_a_sentence_is_found(wrong):
    made = "<!-- soak: begin -->\n539,694 requests/s\n<!-- soak: end -->\n"
    assert len(measured(f"{made}{wrong}\n")) == 1

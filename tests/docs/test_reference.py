"""docs/reference/ and the figures say what the code says now."""

from collections.abc import Mapping

import pytest
from docs.figures import draw

from docs import generate_reference as reference

AGAIN = "out of date: run make reference"


@pytest.fixture(scope="module")
def pages() -> Mapping[str, str]:
    return reference.pages()


@pytest.mark.parametrize("name", ["watchdog.md", "autoscaler.md", "metrics.md", "reasons.md", "signals.md"])
def test_a_page_is_what_the_code_would_write_now(pages: Mapping[str, str], name: str):
    assert (reference.FOLDER / name).read_text() == pages[name], AGAIN


def test_heading_without_its_part_and_part_without_its_heading_are_named():
    text = "# Title\n\nWords.\n\n## A\n\nMore.\n\n| a |\n"
    assert reference.filled(text, {"A": "| b |\n"}) == text.replace("| a |", "| b |")
    for parts in ({}, {"A": "", "B": ""}):
        with pytest.raises(KeyError, match=r"A|B"):
            reference.filled(text, parts)


def test_every_page_is_written_and_no_row_is_without_a_meaning(pages: Mapping[str, str]):
    written = {path.name for path in reference.FOLDER.glob("*.md") if path.read_text().startswith("<!--")}
    assert written == set(pages)
    assert not [line for text in pages.values() for line in text.splitlines() if line.endswith("|  |")]


def test_no_page_of_the_reference_names_a_place_of_this_machine(pages: Mapping[str, str]):
    assert not [name for name, text in pages.items() if str(reference.ROOT) in text]


def test_rules_and_defaults_are_in_the_reference_as_the_code_has_them(pages: Mapping[str, str]):
    page = pages["autoscaler.md"]
    assert "| `utilization_target` | `0.8` | a number, above 0, at most 1 |" in page
    assert "| `prometheus.window` | `30s` | a duration, above 0 |" in page
    assert "| `web_port` |" not in page
    assert "| `slo_latency` | `500ms` |" in pages["watchdog.md"]


@pytest.mark.parametrize("name", draw.FIGURES)
def test_a_figure_shows_the_numbers_that_the_code_gives_now(name: str):
    assert draw.digest(draw.FIGURES[name]()) in (draw.FOLDER / f"{name}.svg").read_text(), AGAIN

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
def test_a_page_is_what_the_code_would_write_now(pages, name):
    assert (reference.FOLDER / name).read_text() == pages[name], AGAIN


def test_every_page_is_written_and_no_row_is_without_a_meaning(pages):
    written = {path.name for path in reference.FOLDER.glob("*.md") if path.read_text().startswith("<!--")}
    assert written == set(pages)
    assert not [line for text in pages.values() for line in text.splitlines() if line.endswith("|  |")]


@pytest.mark.parametrize("name", draw.FIGURES)
def test_a_figure_shows_the_numbers_that_the_code_gives_now(name):
    assert draw.digest(draw.FIGURES[name]()) in (draw.FOLDER / f"{name}.svg").read_text(), AGAIN

"""docs/reference/ says what the code says now."""

from collections.abc import Mapping

import pytest

from docs import generate_reference as reference


@pytest.fixture(scope="module")
def pages() -> Mapping[str, str]:
    return reference.pages()


@pytest.mark.parametrize("name", ["watchdog.md", "autoscaler.md", "metrics.md", "signals.md", "keys.md"])
def test_reference_page_is_current(pages, name):
    assert (reference.FOLDER / name).read_text() == pages[name], "out of date: run make reference"


def test_no_row_of_the_reference_is_without_a_meaning(pages):
    assert not [line for text in pages.values() for line in text.splitlines() if line.endswith("|  |")]

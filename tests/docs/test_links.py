"""Every link of the documentation leads to a file, and to a heading that is in it."""

import re
from types import SimpleNamespace
from typing import Any

import pytest
from docs.site_hooks import anchor, on_page_content, on_page_markdown

from support.pages import NAMES, ROOT, prose

LINK = re.compile(r"\]\(([^)\s]+)\)")
ELSEWHERE = ("http://", "https://", "mailto:")
HERE = "https://github.com/tailbound/tailbound/blob/main/"
"""Of pages that are also read elsewhere, such as the template's in a project of a user."""


def links(text: str) -> list[str]:
    """The targets of a page's links; those in code are not links."""
    return LINK.findall(re.sub(r"`[^`\n]*`", "", prose(text)))


def anchors(text: str) -> set[str]:
    return {anchor(title) for title in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_of_a_page_leads_somewhere(name):
    page = ROOT / name
    for link in links(page.read_text()):
        if link.startswith(ELSEWHERE) and not link.startswith(HERE):
            continue
        path, _, heading = link.removeprefix(HERE).partition("#")
        target = ((ROOT if link.startswith(HERE) else page.parent) / path).resolve() if path else page
        assert target.exists(), f"{name}: {link}"
        assert ROOT in target.parents, f"{name}: {link} leaves the repository"
        if heading:
            assert heading in anchors(target.read_text()), f"{name}: {link}"


@pytest.mark.parametrize("name", ["autoscaler", "batching-watchdog"])
def test_links_of_a_readme_that_ships_in_a_wheel_work_outside_of_the_repository(name):
    targets = links((ROOT / name / "README.md").read_text())
    assert targets
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []


def site_page(source: str) -> Any:
    """What mkdocs tells of a page."""
    return SimpleNamespace(file=SimpleNamespace(src_uri=source))


def test_on_the_site_links_that_leave_docs_go_to_the_repository_and_others_stay():
    text = (
        "[a](../../deploy/autoscaler.yaml) [b](../slo.md#x) [c](../../functions) [d](https://x.y/z) [e](#f)"
    )
    source = "https://github.com/tailbound/tailbound"
    assert on_page_markdown(text, site_page("howto/gpu.md")) == (
        f"[a]({source}/blob/main/deploy/autoscaler.yaml) [b](../slo.md#x) [c]({source}/tree/main/functions)"
        " [d](https://x.y/z) [e](#f)"
    )


def test_on_the_site_a_bar_in_a_tables_code_needs_no_backslash_and_lists_in_lists_are_indented():
    assert on_page_content(r"<td><code>a\|b</code></td><p>\|</p>") == r"<td><code>a|b</code></td><p>\|</p>"
    assert on_page_markdown("1. a\n   - b\n", site_page("x.md")) == "1. a\n    - b\n"


def test_anchors_are_those_of_github():
    assert anchor("Two at once (`--max-mode MODE`, `SLO_AUTOSCALER_MAX_MODE`)") == (
        "two-at-once---max-mode-mode-slo_autoscaler_max_mode"
    )

"""Rules of writing that a program can check: terms, spelling, length of sentences, facts that stand once."""

import re
from collections.abc import Iterator

import pytest

from batching_watchdog.config import DESCRIPTIONS
from docs import generate_reference as reference
from docs.test_code import sources
from support.exposed import rules
from support.pages import NAMES, ROOT, prose

CURRENT = [name for name in NAMES if name != "CHANGELOG.md"]
"""The changelog names what is gone."""
LONGEST = 40
"""Words in a sentence."""
REPEATED = 13
"""Words from which a sentence is a fact, which one page states and others link to."""

SPELLING = {
    r"can not": "cannot",
    r"head room": "headroom",
    r"learnt": "learned",
    r"\w*(?:util|stabil|optim|normal|initial|recogn|minim|summar|organ|serial)is(?:e[ds]?|ing|ation)": "-iz-",
    r"(?:behaviour|colour|favour|honour|neighbour)\w*": "-or",
    r"(?:licence|centre|artefact)s?|analys(?:ed|ing)": "license, center, artifact, analyze",
}
"""Spelling that is gone (a regular expression of whole words) -> the one to use; of code too."""
TERMS = {
    r"\d+ %": "99%, without a space",
    r"(?:regret|knee|rhythm)": "avoidable overspend, saturation, period",
    r"in hand": "unspent",
    r"rides? along": "backfill",
    r"(?:sits? out|sitting out|put off)": "back off, deferred",
    r"(?:nobody|somebody|anybody|whoever)": "the actor: client, leader, operator, process",
    r"second scaler": "conflicting scaler",
    r"works again": "recovered",
}
"""Likewise, terms of the glossary; of pages and of what programs say."""


def _words(table: dict[str, str]) -> re.Pattern[str]:
    return re.compile(r"(?<![\w-])(?:" + "|".join(table) + r")(?![\w-])", re.IGNORECASE)


_SPELLING, _GONE = _words(SPELLING), _words(SPELLING | TERMS)


def texts(page: str) -> Iterator[str]:
    """The paragraphs, items and cells of a page: code counts as a word, a link as its text."""
    text = prose(page)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"(?m)^ {4,}.*$", "", text)
    text = re.sub(r"`[^`\n]*`", "code", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*] |\d+\. |\||#))", text):
        if block.lstrip().startswith("|"):
            yield from (cell.strip() for cell in re.split(r"(?<!\\)\|", block))
        else:
            yield " ".join(re.sub(r"^\s*(?:[-*#>]+|\d+\.) ", "", block).split())


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])[)\"*]* +(?=[A-Z\"(*]|code)", text)


def texts_of_programs() -> Iterator[tuple[str, str]]:
    """(name, what it means) of every variable, key, signal, metric, program and alert."""
    yield from DESCRIPTIONS.items()
    yield from reference.meanings()
    yield from ((family.name, family.documentation) for family in reference.families())
    yield from reference.helps().items()
    yield from ((rule["alert"], text) for rule in rules() for text in rule.get("annotations", {}).values())


@pytest.mark.parametrize("page", CURRENT)
def test_page_uses_the_terms_of_the_glossary(page):
    assert [_GONE.findall(text) for text in texts((ROOT / page).read_text()) if _GONE.search(text)] == []


def test_code_uses_the_spelling_of_the_glossary():
    kinds = {".py", ".c", ".yml", ".yaml", ".sh", ".js", ".html"}
    wrong = [
        (name, found[0])
        for name, path in sources().items()
        if path.suffix in kinds and name != "tests/docs/test_prose.py" and "/uplot/" not in name
        for found in _SPELLING.finditer(path.read_text())
    ]
    assert wrong == []


@pytest.mark.parametrize("page", CURRENT)
def test_sentence_of_a_page_is_short(page):
    found = [each for text in texts((ROOT / page).read_text()) for each in sentences(text)]
    assert [each for each in found if len(each.split()) > LONGEST] == []


def test_no_sentence_or_cell_stands_on_two_pages():
    pages: dict[str, set[str]] = {}
    for page in CURRENT:
        if page.startswith("docs/"):
            for text in texts((ROOT / page).read_text()):
                for each in sentences(text):
                    pages.setdefault(each, set()).add(page)
    assert {
        each: where for each, where in pages.items() if len(where) > 1 and len(each.split()) >= REPEATED
    } == {}


def test_program_and_alert_use_the_terms_of_the_glossary():
    found = list(texts_of_programs())
    assert len(found) > 150
    assert [(name, _GONE.findall(text)) for name, text in found if _GONE.search(text)] == []


@pytest.mark.parametrize(
    "wrong",
    ["It can not.", "99 % of it", "The behaviour", "Nobody knows", "utilisation", "the budget in hand"],
)
def test_term_that_is_gone_is_found(wrong):
    assert _GONE.search(next(texts(wrong)))


def test_long_sentence_is_found_in_paragraphs_items_and_cells():
    long = "word " * 41 + "end."
    for page in (long, f"- {long}", f"| a | {long} |", f"Short. {long} Short."):
        assert max(len(each.split()) for text in texts(page) for each in sentences(text)) > LONGEST

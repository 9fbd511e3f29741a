"""The sections of docs/benchmarks.md that the bench rewrites: each stands between two marks of its name.

Owns how a section is found and replaced; what stands in it is the caller's.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from tailbound_lab.bench.workloads import ROOT
from tailbound_lab.load.records import BenchError

PAGE: Final = ROOT / "docs" / "benchmarks.md"


def marks(name: str) -> tuple[str, str]:
    """The lines before and after the section ``name``."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def rewrite(page: Path, name: str, content: Callable[[], str]) -> None:
    """Put ``content()`` into ``page`` between the marks of ``name``, in place of what is there.

    Raises ``BenchError`` if the marks are not there, before it asks for the content, which may draw plots.
    """
    begin, end = marks(name)
    text = page.read_text()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise BenchError(f"{page}: it needs one line {begin!r} and after it one {end!r}")
    before, after = text.split(begin)[0], text.split(end)[1]
    page.write_text(f"{before}{begin}\n\n{content()}\n\n{end}{after}")

"""Writes the tables and pictures that are made from docs/benchmarks/*.json: ``make reference``.

Owns what stands between two marks of a page; the page holds the sentences around them.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

from tailbound_lab.bench import node, peers
from tailbound_lab.bench.__main__ import COMMANDS
from tailbound_lab.bench.rig.record import PUBLISHED, Record, read
from tailbound_lab.bench.workloads import ROOT

PAGE: Final = PUBLISHED.with_suffix(".md")
SECTION: Final = re.compile(r"(<!-- ([\w-]+): begin -->)\n.*?(<!-- \2: end -->)", re.DOTALL)
PAGES: Final = (PAGE, ROOT / "README.md")
SECTIONS: Final[Mapping[str, tuple[str, Callable[[Record], str]]]] = {
    **{name: (name, question.table) for name, (question, _) in COMMANDS.items()},
    "overload": ("peers", peers.overload),
}
"""Name of the marks -> the question whose record they show, and the table that is made of it."""
PICTURES: Final = {"peers": peers.pictures, "node": node.pictures}


def records() -> dict[str, Record]:
    """Return the published record of each question that has one."""
    return {name: read(file) for name in COMMANDS if (file := PUBLISHED / f"{name}.json").exists()}


def page(text: str, found: Mapping[str, Record]) -> str:
    """Return the page with each section written anew. Raises ``KeyError`` for an unknown section."""

    def section(marks: re.Match[str]) -> str:
        begin, name, end = marks.groups()
        question, table = SECTIONS[name]
        if question not in found:
            return f"{begin}\nNot measured with this version.\n{end}"
        pictures = f"\n\n{_pictures(found[name])}" if name in PICTURES else ""
        return f"{begin}\n{found[question].origin}\n\n{table(found[question])}{pictures}\n{end}"

    return SECTION.sub(section, text)


def _pictures(record: Record) -> str:
    return " ".join(f"![{name}]({PUBLISHED.name}/{name}.png)" for name in PICTURES[record.question](record))


if __name__ == "__main__":
    published = records()
    for each in PAGES:
        each.write_text(page(each.read_text(), published))
    for old in PUBLISHED.glob("*.png"):
        old.unlink()
    for question, pictures in PICTURES.items():
        if question in published:
            for name, drawn in pictures(published[question]).items():
                drawn.savefig(PUBLISHED / f"{name}.png", dpi=110, metadata={"Software": None})

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
PICTURES: Final = {"node": node.picture}
"""By question."""


def records() -> dict[str, Record]:
    """Return the published record of each question that has one."""
    return {name: read(file) for name in COMMANDS if (file := PUBLISHED / f"{name}.json").exists()}


def page(text: str, records: Mapping[str, Record]) -> str:
    """Return the page with each section written anew. Raises ``KeyError`` for an unknown section."""

    def section(marks: re.Match[str]) -> str:
        begin, name, end = marks.groups()
        question, table = SECTIONS[name]
        if question not in records:
            return f"{begin}\nNot measured with this version.\n{end}"
        picture = f"\n\n![{name}]({PUBLISHED.name}/{name}.png)" if name in PICTURES else ""
        return f"{begin}\n{records[question].origin}\n\n{table(records[question])}{picture}\n{end}"

    return SECTION.sub(section, text)


if __name__ == "__main__":
    published = records()
    for file in PAGES:
        file.write_text(page(file.read_text(), published))
    for name, picture in PICTURES.items():
        if name in published:
            picture(published[name]).savefig(PUBLISHED / f"{name}.png", dpi=110, metadata={"Software": None})

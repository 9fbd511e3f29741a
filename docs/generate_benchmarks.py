"""Writes the tables of docs/benchmarks.md and their pictures from docs/benchmarks/*.json: ``make reference``.

Owns what stands between the marks of a question; the page holds the sentences around them.
"""

import re
from typing import Final

from tailbound_lab.bench import peers
from tailbound_lab.bench.__main__ import COMMANDS
from tailbound_lab.bench.rig.record import PUBLISHED, Record, read

PAGE: Final = PUBLISHED.with_suffix(".md")


def records() -> dict[str, Record]:
    """Return the published record of each question that has one."""
    return {name: read(file) for name in COMMANDS if (file := PUBLISHED / f"{name}.json").exists()}


def page(text: str, found: dict[str, Record]) -> str:
    """Return the page with each section written anew. Raises ``KeyError`` for an unknown section."""

    def section(marks: re.Match[str]) -> str:
        begin, name, end = marks.groups()
        question, _ = COMMANDS[name]
        if name not in found:
            return f"{begin}\nNot measured with this version.\n{end}"
        pictures = f"\n\n{_pictures(found[name])}" if name == "peers" else ""
        return f"{begin}\n{found[name].origin}\n\n{question.table(found[name])}{pictures}\n{end}"

    marks = r"(<!-- ([\w-]+): begin -->)\n.*?(<!-- \2: end -->)"
    return re.sub(marks, section, text, flags=re.DOTALL)


def _pictures(record: Record) -> str:
    return "\n".join(f"![{name}]({PUBLISHED.name}/{name}.png)" for name in peers.pictures(record))


if __name__ == "__main__":
    published = records()
    PAGE.write_text(page(PAGE.read_text(), published))
    for old in PUBLISHED.glob("*.png"):
        old.unlink()
    if "peers" in published:
        for name, drawn in peers.pictures(published["peers"]).items():
            drawn.savefig(PUBLISHED / f"{name}.png", dpi=110, metadata={"Software": None})

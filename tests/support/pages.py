"""The pages of the documentation, and the code in them."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("*", "docs/**/*", "autoscaler/*", "batching-watchdog/*", "lab/**/*", "deploy/**/*", "template/*/*")
PAGES = sorted({path for folder in FOLDERS for path in ROOT.glob(f"{folder}.md")})
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_INLINE = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    language: str
    title: str | None
    text: str


def blocks(text: str) -> Iterator[Block]:
    for fence in _FENCE.finditer(text):
        language, _, rest = fence["info"].partition(" ")
        title = re.fullmatch(r'title="(.*)"', rest)
        yield Block(language, title and title[1], textwrap.dedent(fence["text"]))


def prose(text: str) -> str:
    """Without the fenced blocks."""
    return _FENCE.sub("", text)


def inline(text: str) -> list[str]:
    """What stands as code in sentences and tables."""
    return [code.replace("\\|", "|") for code in _INLINE.findall(prose(text))]


def lines_of_code(text: str) -> list[str]:
    """Commands and names: every line of the blocks, continued ones joined, and every inline code.

    A block of ``text`` is what a program has said.
    """
    found = inline(text)
    for block in blocks(text):
        if block.language != "text":
            found += [line.strip() for line in block.text.replace("\\\n", " ").splitlines()]
    return found

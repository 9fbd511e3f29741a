"""Makes GitHub's links and anchors work on the site; mkdocs calls these hooks (mkdocs.yml).

The pages are read in the repository too, so they are written for GitHub.
"""

import posixpath
import re
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCE: Final = "https://github.com/tailbound/tailbound"

_NESTED: Final = re.compile(r"^   (?=[-*] )", re.MULTILINE)
_LINK: Final = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)#\s]+)(#[^)\s]*)?(?=\))")


def on_config(config: Any) -> Any:
    """Give headings the anchors that they have on GitHub."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = anchor
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links that leave docs/ to the repository; indent nested lists as mkdocs' Markdown needs."""
    markdown = _NESTED.sub("    ", markdown)
    return _LINK.sub(lambda link: _outward(page.file.src_uri, link[1]) + (link[2] or ""), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Remove the backslash of a bar in a table's code, which GitHub needs and the site does not."""
    return re.sub(r"<td>.*?</td>", lambda cell: cell[0].replace("\\|", "|"), html, flags=re.DOTALL)


def anchor(title: str, _separator: str = "-") -> str:
    """The anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _outward(page: str, target: str) -> str:
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    if path.startswith("docs/"):
        return target
    return f"{SOURCE}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}"

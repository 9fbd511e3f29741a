"""Makes the page that a browser gets where it looks for the function: how to call it. [P]"""

import re
import shlex
from html import escape
from typing import Final

PATHS: Final = frozenset((b"/", b"/docs"))
"""Targets at which people look first. At any other a function may read what is asked of it from the path."""
MAX_EXAMPLE: Final = 500
"""Bytes of an example() that is shown."""
_ACCEPTS_HTML: Final = re.compile(rb"^accept:[^\r\n]*\btext/html\b", re.IGNORECASE | re.MULTILINE)


def is_browser(method: bytes, target: bytes, header_block: bytes) -> bool:
    """Return whether a person's browser asks where people look first; the request has no body."""
    return method == b"GET" and target in PATHS and _ACCEPTS_HTML.search(header_block) is not None


def page(name: str, example: bytes | None) -> bytes:
    """Return the page. ``name``: the function's, empty if unknown; ``example``: a typical body."""
    name = escape(name or "This function")
    body = "--data-binary @FILE"
    if example is not None and len(example) <= MAX_EXAMPLE and example.isascii():
        text = example.decode()
        body = f"--data {shlex.quote(text)}" if text.isprintable() else body
    # Without the icon the browser would ask for one, and the model would get that request.
    return (
        f'<!doctype html><title>{name}</title><link rel="icon" href="data:,">'
        f"<p>{name} answers requests that have a body, at this address:"
        f"<pre>curl {escape(body)} ADDRESS</pre>\n"
    ).encode()

"""The one way to wait for other threads and processes: ask until the answer is yes."""

import contextlib
import http.client
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
PATIENCE = 100.0
"""Seconds for what takes one on an idle machine."""


def until(condition: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """Return the first true value of ``condition``; fail with ``what`` after ``seconds``.

    A connection that fails counts as not yet.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if value := condition():
                return value
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")

"""How long the fuzzers run: a few examples, the same in every run, or FUZZ_EXAMPLES new ones."""

import os
from typing import Any

from hypothesis import settings

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))


def fuzzed(examples: int, **more: Any) -> settings:
    """Return settings for ``examples``, or for as many as the environment says."""
    return settings(max_examples=_EXAMPLES or examples, derandomize=not _EXAMPLES, **more)

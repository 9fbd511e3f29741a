"""Tests of your function: run ``pytest`` in this folder. They also run when the image is built.

Function serves as production does: load() and the handler run in a worker process, and results are encoded.
This test holds for every handler. Add your own: that a batch answers each request as if it were alone.
"""

from pathlib import Path

from batching_watchdog.testing import Function

FUNCTION = Function(Path(__file__).parent)


def test_each_example_is_answered():
    for answer in FUNCTION.batch(FUNCTION.examples):
        assert answer.status == 200

"""The modules that name ``speedups`` run twice: with the compiled part and without it."""

from collections.abc import Iterator

import pytest

from batching_watchdog.speedups import compiled
from support.connection import without_c


@pytest.fixture(params=["C", "Python"], scope="module")
def speedups(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "Python":
        with without_c():
            yield
    elif compiled is None:
        pytest.skip("built without a C compiler")
    else:
        yield

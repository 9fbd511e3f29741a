"""The function's own weight(event): loading weight.py, and what its numbers and failures lead to."""

import logging
import math
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.engine.capacity import Capacity
from batching_watchdog.engine.cost import CostModel
from batching_watchdog.errors import HandlerNotLoaded
from batching_watchdog.front.weight import WeightFunction, load_weight
from batching_watchdog.function.messages import Target
from batching_watchdog.observe.metrics import Metrics

HEADER_BLOCK = b"POST /a?b=c\r\nX-Tokens: 7\r\n"
WEIGHTS = st.floats(min_value=0.0, exclude_min=True, allow_infinity=False)


def weighing(weight: Callable[..., object]):
    metrics = Metrics({"default": Target(0.1, 0.99)}, Capacity(CostModel(8), 1, 0.1, 0.99, 1.0))
    return WeightFunction(weight, metrics), metrics


@given(st.lists(WEIGHTS, min_size=2, max_size=2))
def test_weights_share_a_bucket_between_powers_of_two_and_none_with_a_length(weights):
    buckets = [weighing(lambda _, weight=weight: weight)[0].bucket(HEADER_BLOCK, b"") for weight in weights]
    exponents = [math.frexp(weight)[1] for weight in weights]
    assert buckets[1] - buckets[0] == exponents[1] - exponents[0]
    assert min(buckets) > (2**32).bit_length()


def test_weight_is_asked_with_the_event_that_the_handler_gets():
    seen = []
    weighing(lambda event: seen.append(event) or 1.0)[0].bucket(HEADER_BLOCK, b"[1, 2]")
    (event,) = seen
    assert (event.method, event.path, event.query["b"]) == ("POST", "/a", "c")
    assert (event.headers["x-tokens"], event.json()) == ("7", [1, 2])


@pytest.mark.parametrize("answer", [0, -1.0, math.nan, math.inf, 10**400, "many", None, [1.0]])
def test_length_decides_where_the_weight_is_no_positive_finite_number(answer):
    weight, metrics = weighing(lambda event: answer)
    assert weight.bucket(HEADER_BLOCK, b"x" * 100) == (100).bit_length()
    assert metrics.weight_failures == 1


@pytest.mark.parametrize("error", [KeyError("no tokens"), SystemExit(3)])
def test_weight_that_raises_is_counted_each_time_and_logged_once(error, caplog):
    def fails(event: object) -> float:
        raise error

    weight, metrics = weighing(fails)
    with caplog.at_level(logging.ERROR):
        assert {weight.bucket(HEADER_BLOCK, b"x") for _ in range(3)} == {1}
    assert metrics.weight_failures == 3
    assert [type(error).__name__ in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("siblings", ["import sizes", "from function import sizes", "from . import sizes"])
def test_load_lets_weight_import_its_siblings_and_leaves_the_path_as_it_was(tmp_path, siblings):
    (tmp_path / "sizes.py").write_text("LARGE = 9.0\n")
    (tmp_path / "weight.py").write_text(f"{siblings}\n\ndef weight(event):\n    return sizes.LARGE\n")
    sys.modules.pop("sizes", None)
    before = list(sys.path)
    weight = load_weight(tmp_path)
    assert weight is not None
    assert weight(None) == 9.0
    assert sys.path == before


@pytest.mark.parametrize(
    "source",
    ["weight = 3.0\n", "", "def weight(event)\n", "import no_such_module\n", "raise SystemExit(1)\n"],
)
def test_load_of_a_file_without_a_function_weight_is_an_error_that_names_it(tmp_path, source):
    (tmp_path / "weight.py").write_text(source)
    with pytest.raises(HandlerNotLoaded, match=r"weight\.py"):
        load_weight(tmp_path)
    assert str(tmp_path) not in sys.path

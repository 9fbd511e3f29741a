"""The function's own cost(event): loading cost.py, and what its numbers and failures lead to."""

import logging
import math
import sys
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.errors import HandlerNotLoaded
from batching_watchdog.front.cost import CostFunction, load_cost
from batching_watchdog.metrics import Metrics

HEADER_BLOCK = b"POST /a?b=c\r\nX-Tokens: 7\r\n"
COSTS = st.floats(min_value=0.0, exclude_min=True, allow_infinity=False)


def costing(cost: Callable[..., object], *, times: tuple[float, ...] = (0.0, 0.0)):
    metrics = Metrics(slo_latency=0.1, slo_objective=0.99, workers=1, model=LatencyModel(8))
    clock = iter(times * 9)
    return CostFunction(cost, metrics, lambda: next(clock)), metrics


@given(st.lists(COSTS, min_size=2, max_size=2))
def test_costs_share_a_bucket_between_powers_of_two_and_none_with_a_length(costs):
    buckets = [costing(lambda _, cost=cost: cost)[0].bucket(HEADER_BLOCK, b"") for cost in costs]
    exponents = [math.frexp(cost)[1] for cost in costs]
    assert buckets[1] - buckets[0] == exponents[1] - exponents[0]
    assert min(buckets) > (2**32).bit_length()


def test_cost_is_asked_with_the_event_that_the_handler_gets():
    seen = []
    costing(lambda event: seen.append(event) or 1.0)[0].bucket(HEADER_BLOCK, b"[1, 2]")
    (event,) = seen
    assert (event.method, event.path, event.query["b"]) == ("POST", "/a", "c")
    assert (event.headers["x-tokens"], event.json()) == ("7", [1, 2])


@pytest.mark.parametrize("answer", [0, -1.0, math.nan, math.inf, 10**400, "many", None, [1.0]])
def test_length_decides_where_the_cost_is_no_positive_finite_number(answer):
    cost, metrics = costing(lambda event: answer)
    assert cost.bucket(HEADER_BLOCK, b"x" * 100) == (100).bit_length()
    assert metrics.cost_failures == 1


@pytest.mark.parametrize("error", [KeyError("no tokens"), SystemExit(3)])
def test_cost_that_raises_is_counted_each_time_and_logged_once(error, caplog):
    def fails(event: object) -> float:
        raise error

    cost, metrics = costing(fails)
    with caplog.at_level(logging.ERROR):
        assert {cost.bucket(HEADER_BLOCK, b"x") for _ in range(3)} == {1}
    assert metrics.cost_failures == 3
    assert [type(error).__name__ in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("siblings", ["import sizes", "from function import sizes", "from . import sizes"])
def test_load_lets_cost_import_its_siblings_and_leaves_the_path_as_it_was(tmp_path, siblings):
    (tmp_path / "sizes.py").write_text("LARGE = 9.0\n")
    (tmp_path / "cost.py").write_text(f"{siblings}\n\ndef cost(event):\n    return sizes.LARGE\n")
    sys.modules.pop("sizes", None)
    before = list(sys.path)
    cost = load_cost(tmp_path)
    assert cost is not None
    assert cost(None) == 9.0
    assert sys.path == before


@pytest.mark.parametrize(
    "source", ["cost = 3.0\n", "", "def cost(event)\n", "import no_such_module\n", "raise SystemExit(1)\n"]
)
def test_load_of_a_file_without_a_function_cost_is_an_error_that_names_it(tmp_path, source):
    (tmp_path / "cost.py").write_text(source)
    with pytest.raises(HandlerNotLoaded, match=r"cost\.py"):
        load_cost(tmp_path)
    assert str(tmp_path) not in sys.path

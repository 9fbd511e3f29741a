"""What is seen each second, the gaps where nothing can be, and the decisions in the autoscaler's log."""

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from support import doubles
from support.doubles import a_gateway
from tailbound_lab.live import machine
from tailbound_lab.live.watch import Decision, NoAnswerError, Watch, by_function, decisions
from tailbound_lab.load.records import Ledger, Sample

OURS, TWIN = "tabular.openfaas-fn", "vision.baseline"
QUERY = "GET /api/v1/query"
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


def answers(document):
    return doubles.status(200, json.dumps(document).encode())


def results(**series):
    """Prometheus' answer by the metric that a query names."""

    def answer(handler):
        found = next((values for name, values in series.items() if name in handler.path), {})
        rows = [{"metric": {"function_name": name}, "value": [0, value]} for name, value in found.items()]
        answers({"data": {"result": rows}})(handler)

    return answer


@pytest.fixture
def prometheus():
    """A server with values of a function and of a twin."""
    with a_gateway() as server:
        server.faults[QUERY] = results(batch_size={OURS: "3.5", TWIN: "NaN"}, queue_length={OURS: "7"})
        yield server


def sample(prometheus):
    async def main():
        ledgers = {OURS: Ledger(0.1), TWIN: Ledger(0.1)}
        counts = {OURS: (2, 1), TWIN: (0, 0)}
        async with aiohttp.ClientSession() as session:
            await Watch(session, prometheus.url, ledgers, counts.__getitem__).sample(3.0)
        return [*ledgers[OURS].samples, *ledgers[TWIN].samples]

    return asyncio.run(main())


def test_sample_holds_replicas_batch_size_and_queue_of_every_function(prometheus):
    assert sample(prometheus) == [Sample(3.0, 2, 1, 3.5, 7), Sample(3.0, 0, 0, None, None)]


def test_prometheus_that_is_gone_leaves_gaps(prometheus):
    prometheus.faults[QUERY] = doubles.status(500)
    assert sample(prometheus) == [Sample(3.0, 2, 1), Sample(3.0, 0, 0)]


@pytest.mark.parametrize("document", [{}, {"data": {}}, {"data": {"result": [{}]}}, []])
def test_an_answer_of_another_shape_is_no_answer(prometheus, document):
    prometheus.faults[QUERY] = answers(document)

    async def main():
        async with aiohttp.ClientSession() as session:
            for address in (prometheus.url, "http://127.0.0.1:1"):
                with pytest.raises(NoAnswerError):
                    await by_function(session, address, "x")

    asyncio.run(main())


def line(seconds, before=1, after=2, **more):
    time = (BEGUN + timedelta(seconds=seconds)).isoformat()
    item = {"time": time, "function_name": OURS, "from": before, "to": after, "reason": "Load", "inputs": {}}
    return json.dumps(item | more)


def test_decisions_within_the_run_are_found_in_their_order():
    within = [line(3.5), "{broken", line(4, 2, 2, reason="NoData"), line(9, 2, 1)]
    lines = ["started", line(-5), *within, line(61)]
    up, hold, down = (
        Decision(3.5, OURS, 1, 2, "Load"),
        Decision(4, OURS, 2, 2, "NoData"),
        Decision(9, OURS, 2, 1, "Load"),
    )
    assert decisions(lines, BEGUN, 60) == (up, down)
    assert decisions(lines, BEGUN, 60, holds=True) == (up, hold, down)


def test_usage_is_the_share_of_cpu_time_that_was_not_idle():
    before, after = (100, 0, 100, 1000, 0, 0, 0, 0), (160, 0, 120, 1100, 10, 0, 0, 10)
    assert machine.usage(before, after) == machine.Usage(busy=pytest.approx(0.45), stolen=pytest.approx(0.05))
    assert len(machine.cpu_ticks()) == 8
    assert machine.describe().startswith(f"{len(os.sched_getaffinity(0))} cores")

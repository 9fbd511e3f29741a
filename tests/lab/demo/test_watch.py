"""What is seen each second, the gaps where nothing can be, and the decisions in the autoscaler's log."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from support import doubles
from support.doubles import a_gateway
from tailbound_lab.demo.watch import Decision, Watch, decisions
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


@pytest.mark.parametrize(
    "answer", [doubles.status(500), answers({}), answers({"data": {"result": [{}]}}), answers([])]
)
def test_sample_without_an_answer_of_prometheus_has_gaps(prometheus, answer):
    prometheus.faults[QUERY] = answer
    assert sample(prometheus) == [Sample(3.0, 2, 1), Sample(3.0, 0, 0)]


def line(seconds, before=1, after=2, **more):
    time = (BEGUN + timedelta(seconds=seconds)).isoformat()
    item = {"time": time, "function_name": OURS, "from": before, "to": after, "reason": "Load", "inputs": {}}
    return json.dumps(item | more)


def test_decisions_are_the_changes_within_the_run_in_their_order():
    within = [line(3.5), "{broken", line(4, 2, 2, reason="NoData"), line(9, 2, 1)]
    lines = ["started", line(-5), *within, line(61)]
    up, down = Decision(3.5, OURS, 1, 2, "Load"), Decision(9, OURS, 2, 1, "Load")
    assert decisions(lines, BEGUN, 60) == (up, down)

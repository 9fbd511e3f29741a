"""What is seen each second, the gaps where nothing can be, and the decisions in the autoscaler's log."""

import asyncio
import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.live.cluster import Cluster
from tailbound_lab.live import machine
from tailbound_lab.live.watch import Decision, NoAnswerError, Watch, by_function, decisions
from tailbound_lab.load.records import Ledger, Sample

OURS, TWIN = "tabular.openfaas-fn", "tabular.baseline"
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)


def sample(cluster):
    async def main():
        ledgers = {OURS: Ledger(0.1), TWIN: Ledger(0.1)}
        async with cluster.run() as (session, address):
            watch = Watch(session, address, address, ledgers)
            await watch.sample(3.0)
        return ledgers[OURS].samples, ledgers[TWIN].samples

    return asyncio.run(main())


def test_a_sample_holds_replicas_batch_size_and_queue_of_every_function():
    cluster = Cluster({OURS: 2, TWIN: 0})
    cluster.results = {"batch_size": {OURS: "3.5", TWIN: "NaN"}, "queue_length": {OURS: "7"}}
    ours, twin = sample(cluster)
    assert ours == [Sample(3.0, 2, 2, 3.5, 7)]
    assert twin == [Sample(3.0, 0, 0, None, None)]


@pytest.mark.parametrize(("broken", "seen"), [("/api", Sample(3.0, 2, 2)), ("/system", Sample(3.0))])
def test_a_server_that_is_gone_leaves_gaps(broken, seen):
    cluster = Cluster({OURS: 2})
    cluster.broken = {broken}
    ours, _ = sample(cluster)
    assert ours == [seen]


def test_the_watch_goes_on_until_it_is_cancelled():
    async def main():
        ledger = Ledger(0.1)
        async with Cluster({OURS: 1}).run() as (session, address), asyncio.timeout(30):
            watching = asyncio.create_task(Watch(session, address, address, {OURS: ledger}).run(lambda: 1.5))
            while not ledger.samples:  # noqa: ASYNC110 - a list has no event
                await asyncio.sleep(0.01)
            assert not watching.done()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        return ledger.samples

    assert asyncio.run(main())[0] == Sample(1.5, 1, 1)


@pytest.mark.parametrize("answer", [{}, {"data": {}}, {"data": {"result": [{}]}}, []])
def test_an_answer_of_another_shape_is_no_answer(answer):
    async def main():
        cluster = Cluster({})
        cluster.document = answer
        async with cluster.run() as (session, address):
            with pytest.raises(NoAnswerError):
                await by_function(session, address, "x")
            with pytest.raises(NoAnswerError):
                await by_function(session, "http://127.0.0.1:1", "x")

    asyncio.run(main())


def line(seconds, before=1, after=2, **more):
    time = (BEGUN + timedelta(seconds=seconds)).isoformat()
    item = {"time": time, "function_name": OURS, "from": before, "to": after, "reason": "Load"}
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


@given(st.lists(st.text() | st.recursive(st.none() | st.integers(), st.lists).map(json.dumps)))
def test_no_line_stops_the_reading(lines):
    assert decisions(["{}", '{"time": 1}', line(1, time="now"), *lines], BEGUN, 60) == ()


def test_usage_is_the_share_of_cpu_time_that_was_not_idle():
    before, after = (100, 0, 100, 1000, 0, 0, 0, 0), (160, 0, 120, 1100, 10, 0, 0, 10)
    assert machine.usage(before, after) == machine.Usage(busy=pytest.approx(0.45), stolen=pytest.approx(0.05))
    assert len(machine.cpu_ticks()) == 8
    assert machine.describe().startswith(f"{len(os.sched_getaffinity(0))} cores")

"""What is seen each second, and the gaps where nothing can be."""

import asyncio

import pytest

from lab.demo.cluster import Cluster
from tailbound_lab.live import queries
from tailbound_lab.live.watch import Watch
from tailbound_lab.load.records import Ledger, Sample

OURS, TWIN = "tabular.openfaas-fn", "tabular.baseline"


def sample(cluster):
    async def main():
        ledgers = {OURS: Ledger(0.1), TWIN: Ledger(0.1)}
        async with cluster.run() as (session, address):
            watch = Watch(session, address, address, ledgers)
            await watch.sample(3.0)
        return ledgers[OURS].samples, ledgers[TWIN].samples, watch.gaps

    return asyncio.run(main())


def test_a_sample_holds_replicas_batch_size_and_queue_of_every_function():
    cluster = Cluster({OURS: 2, TWIN: 0})
    cluster.results = {"batch_size": {OURS: "3.5", TWIN: "NaN"}, "queue_length": {OURS: "7"}}
    ours, twin, gaps = sample(cluster)
    assert ours == [Sample(3.0, 2, 2, 3.5, 7)]
    assert twin == [Sample(3.0, 0, 0, None, None)]
    assert not gaps


def test_a_prometheus_that_is_gone_leaves_gaps_and_the_replicas_are_still_seen():
    cluster = Cluster({OURS: 2, TWIN: 1})
    cluster.broken = {"/api"}
    ours, _, gaps = sample(cluster)
    assert ours == [Sample(3.0, 2, 2, None, None)]
    assert gaps == {"batch size": 1, "queue length": 1}


def test_a_provider_that_is_gone_leaves_gaps():
    cluster = Cluster({OURS: 2})
    cluster.broken = {"/system"}
    ours, _, gaps = sample(cluster)
    assert ours == [Sample(3.0)]
    assert gaps == {"replicas": 1}


def test_the_watch_goes_on_until_it_is_cancelled():
    async def main():
        ledger = Ledger(0.1)
        async with Cluster({OURS: 1}).run() as (session, address):
            watching = asyncio.create_task(Watch(session, address, address, {OURS: ledger}).run(lambda: 1.5))
            await asyncio.wait((watching,), timeout=0.5)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        return ledger.samples

    assert asyncio.run(main()) == [Sample(1.5, 1, 1)]


@pytest.mark.parametrize("answer", [{}, {"data": {}}, {"data": {"result": [{}], "alerts": [{}]}}, []])
def test_an_answer_of_another_shape_is_no_answer(answer, monkeypatch):
    async def given(*_):
        return answer

    monkeypatch.setattr(queries, "get_json", given)
    for question in (queries.by_function, queries.firing):
        with pytest.raises(queries.NoAnswerError):
            asyncio.run(question(None, "http://prometheus", "x"))


def test_a_server_that_is_not_there_is_no_answer():
    async def main():
        async with Cluster({}).run() as (session, _):
            await queries.get_json(session, "http://127.0.0.1:1/x", {})

    with pytest.raises(queries.NoAnswerError, match=r"127\.0\.0\.1:1"):
        asyncio.run(main())

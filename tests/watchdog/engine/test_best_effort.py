"""Requests without a deadline: they fill idle workers, and nothing else."""

from math import inf

import pytest

from batching_watchdog.engine.effects import Answer
from batching_watchdog.engine.streams import Streams
from batching_watchdog.errors import QueueFull, ShuttingDown
from batching_watchdog.function.messages import DEFAULT_CLASS, Target
from watchdog.engine.queues import accelerator, request
from watchdog.engine.simulation import Part, Simulation

HIGHEST = 1500.0
"""Requests per second that one worker of ``accelerator`` serves within 0.1 s, about."""
BULK = Part(0.8, budget=inf, slo_class="bulk")
INTERACTIVE = Part(0.2, slo_class="")


class Busy:
    """A law that adds up what its batches took."""

    def __init__(self, law):
        self.law = law
        self.seconds = 0.0

    def __call__(self, size):
        self.seconds += self.law(size)
        return self.law(size)


def with_bulk(law=accelerator, **changes):
    usual = {"workers": 1, "mix": (BULK, INTERACTIVE), "max_inflight": 256, "lead": 0.003}
    return Simulation(law, **(usual | changes))


def test_best_effort_fills_the_worker_and_costs_the_others_nothing():
    alone = Simulation(accelerator, workers=1, lead=0.003).run(0.4 * HIGHEST, 20.0).attainment()
    law = Busy(accelerator)
    simulation = with_bulk(law)
    outcome = simulation.run(0.4 * HIGHEST / INTERACTIVE.share, 20.0, to_the_end=False)
    assert outcome.attainment(slo_class="") >= alone - 0.002
    assert law.seconds >= 0.9 * 20.0
    served = sum(ended.kind == "good" and ended.request.slo_class == "bulk" for ended in outcome.ended)
    assert served >= 300.0 * 20.0, "those with a deadline gather to larger batches meanwhile"


def test_batch_never_mixes_best_effort_with_others():
    kinds = set()

    def look(_, __, requests):
        kinds.add(tuple({request.deadline == inf for request in requests}))

    with_bulk(fault=look).run(1000.0, 10.0)
    assert kinds == {(False,), (True,)}


def test_full_queue_of_best_effort_refuses_no_other():
    outcome = with_bulk(max_inflight=64).run(3000.0, 5.0)
    refused = [ended.request for ended in outcome.ended if ended.kind == "QueueFull"]
    assert refused
    assert all(request.deadline == inf for request in refused)


def test_best_effort_that_fails_fails_alone():
    def bad(_, __, requests):
        return ("raised", 0.01) if any(request.client.bad for request in requests) else None

    mix = (Part(0.1, budget=inf, slo_class="bulk", bad=True), BULK, INTERACTIVE)
    outcome = with_bulk(mix=mix, fault=bad).run(0.4 * HIGHEST / INTERACTIVE.share, 10.0)
    assert {ended.request.client.bad for ended in outcome.ended if ended.kind == "failed"} == {True}
    assert outcome.attainment(slo_class="") >= 0.99


def test_best_effort_gets_what_an_overload_leaves():
    outcome = with_bulk(mix=(Part(0.2, budget=inf, slo_class="bulk"), Part(0.8))).run(2 * HIGHEST, 10.0)
    served = [ended for ended in outcome.ended if ended.kind == "good" and ended.request.slo_class == "bulk"]
    before_the_end = [ended for ended in served if ended.request.arrived + ended.waited < 9.0]
    assert len(before_the_end) < 0.02 * len(outcome.ended)


def test_best_effort_that_costs_more_has_no_part_in_the_cost_of_others():
    def by_lengths(lengths):
        return accelerator(len(lengths)) * (4.0 if max(lengths) == 5000 else 1.0)

    mix = (BULK._replace(length=5000), INTERACTIVE._replace(length=10))
    simulation = with_bulk(mix=mix, by_lengths=by_lengths)
    simulation.run(1000.0, 10.0)
    ((share, times),) = simulation.cost.mix
    assert share == 1.0
    assert times.predict_mean(4) == pytest.approx(accelerator(4), rel=0.1)


def test_best_effort_that_waits_for_a_retry_is_no_demand():
    waiting = []

    def fails(simulation, _, requests):
        waiting.append(simulation.engine.queued)
        return ("raised", 0.01) if len(requests) > 1 else None

    with_bulk(mix=(BULK._replace(share=1.0),), fault=fails).run(1000.0, 2.0)
    assert set(waiting) == {0}


@pytest.fixture
def full():
    """An engine without workers, with two requests of best effort and two others, and room for no fifth."""
    engine = Simulation(accelerator, workers=0, max_inflight=4).engine
    for number, budget in enumerate((inf, inf, 9.0, 9.0), 1):
        assert not engine.offer(request(number, budget=budget), 0.0)
    return engine


@pytest.mark.parametrize(("most", "bulk"), [(1, 1), (2, 1), (5, 2)])
def test_best_effort_has_half_of_the_places_for_what_runs_cannot_be_replaced(most, bulk):
    engines = [
        Simulation(accelerator, workers=0, max_inflight=most).engine,
        Streams({DEFAULT_CLASS: Target(0.1, 0.99)}, max_inflight=most, max_streams=1, workers=1),
    ]
    for engine in engines:
        for number in range(bulk):
            assert engine.refusal(inf, 0.0) is None
            engine.offer(request(number, budget=inf), 0.0)
        assert engine.refusal(inf, 0.0).status == 429
        with pytest.raises(QueueFull):
            engine.offer(request(bulk, budget=inf), 0.0)


def test_offer_of_another_replaces_the_newest_of_best_effort(full):
    (answer,) = full.offer(request(5, budget=0.1), 0.0)
    assert isinstance(answer, Answer)
    assert (answer.request.id, answer.outcome.status) == (2, 429)


def test_offer_of_best_effort_replaces_none(full):
    with pytest.raises(QueueFull):
        full.offer(request(5, budget=inf), 0.0)
    assert full.refusal(inf, 0.0).status == 429
    assert full.refusal(0.1, 0.0) is None


def test_best_effort_is_no_demand(full):
    assert (full.queued, full.admitted) == (2, 4)


def test_give_up_of_best_effort_answers_what_waits_and_leaves_the_others():
    engine = Simulation(accelerator, workers=0).engine
    engine.offer(request(1, budget=inf), 0.0)
    engine.offer(request(2, budget=0.1), 0.0)
    (answer,) = engine.give_up(ShuttingDown("soon"), best_effort=True)
    assert answer.request.id == 1
    assert engine.queued == 1

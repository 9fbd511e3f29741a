"""Traffic of several kinds on one replica. The engine's decisions are tested in tests/watchdog/engine."""

import math
import random

import pytest

from tailbound_lab.simulate.function import Function, Service
from tailbound_lab.simulate.mix import Mix, Part
from tailbound_lab.simulate.replica import Replica

FUNCTION = Function(Service.affine(0.01, 0.001, 16), slo_latency=0.1)


def served(parts, law, arrivals, *, function=FUNCTION, **options):
    mix = Mix(function, parts, law, random.Random(1).random, **options)
    replica = Replica(function, 0.0, traffic=mix)
    replica.serve(arrivals, math.inf)
    return mix, replica


def test_parts_are_drawn_by_share_and_judged_by_their_own_budget():
    parts = [Part(3.0, "patient", budget=1.0), Part(1.0, "hasty", budget=0.005)]
    mix, _ = served(parts, lambda batch: 0.01, [0.1 * number for number in range(1000)])
    assert mix.sent.total() == 1000
    assert mix.sent["patient"] == pytest.approx(750, abs=50)
    assert mix.good == {"patient": mix.sent["patient"]}


def test_engine_is_told_key_path_and_length_of_a_part():
    mix, _ = served([Part(1.0, path=b"GET /", batch_key=b"a", length=500)], lambda batch: 0.01, [])
    assert mix.request(1, 0.0).cost_class == (b"a", b"GET /", 9)


def test_batch_takes_what_the_law_says_of_its_parts():
    parts = [Part(1.0, cost=1.0), Part(1.0, cost=5.0)]
    mix, replica = served(parts, lambda batch: 0.01 * max(part.cost for part in batch), [0.0, 0.2, 0.4, 0.6])
    took = [end - begin for end, begin in zip(replica.ends, replica.order, strict=True)]
    assert sorted({round(seconds, 9) for seconds in took}) == [0.01, 0.05]
    assert mix.work == pytest.approx(sum(took))


def test_late_work_is_the_share_of_each_batch_that_ends_after_its_deadline():
    mix, _ = served([Part(1.0, budget=0.03)], lambda batch: 0.02, [0.0, 0.001])
    assert mix.good.total() == 1
    assert (mix.work, mix.late_work) == (pytest.approx(0.04), pytest.approx(0.02))


def test_overhead_outside_the_replica_counts_towards_the_budget():
    function = Function(FUNCTION.service, slo_latency=0.1, overhead=0.095)
    mix, _ = served([Part(1.0)], lambda batch: 0.01, [0.0], function=function)
    assert (mix.sent.total(), mix.good.total()) == (1, 0)


def test_worker_that_has_its_next_batch_early_runs_it_when_it_is_done():
    arrivals = [0.01 * number for number in range(300)]
    mix, replica = served([Part(1.0, budget=1.0)], lambda batch: 0.05, arrivals, lead=0.003)
    begins = [end - 0.05 for end in replica.ends]
    assert begins[1:] == pytest.approx(replica.ends[:-1]), "one after the other, without a pause"
    assert sum(replica.sizes) == mix.good.total() == len(arrivals)
    assert replica.inside(math.inf) == 0

"""What the policies, the queue, the retries and the latency model reach together, in virtual time."""

from collections.abc import Sequence

import pytest

from batching_watchdog.engine.tuning import TUNING
from watchdog.engine.queues import accelerator
from watchdog.engine.simulation import TIMEOUT, Part, Simulation

# Seconds of computing, whatever the machine does besides.
pytestmark = pytest.mark.timeout(600)


def paths(count: int) -> list[Part]:
    return [Part(1.0, b"POST /%d" % number) for number in range(count)]


def twice(size: int) -> float:
    return 2 * accelerator(size)


@pytest.mark.parametrize(("lead", "holds"), [(0.0, False), (TUNING.lead, True)])
def test_devices_lose_nothing_to_the_pause_between_batches_if_the_next_is_sent_early(lead, holds):
    # The bench's accelerator with what JSON takes, at 0.91 of what two of them do with no server.
    simulation = Simulation(
        lambda size: 0.0085 + 0.000512 * size, max_inflight=4096, lead=lead, turnaround=0.0024
    )
    simulation.run(0.91 * 3520 / 3, 3)
    simulation.run(0.91 * 3520, 2)
    assert (simulation.run(0.91 * 3520, 6).attainment() >= 0.99) is holds


@pytest.mark.parametrize("count", [4, 16])
@pytest.mark.parametrize("rate", [1400, 2500])
def test_paths_that_cost_alike_serve_as_much_as_one(count, rate):
    goodput = []
    for mix in (paths(1), paths(count)):
        simulation = Simulation(accelerator, workers=1, mix=mix)
        simulation.run(100, 3)
        goodput.append(simulation.run(rate, 6).count("good"))
    assert goodput[1] > 0.95 * goodput[0]


@pytest.mark.parametrize(("count", "rate", "share"), [(4, 700, 0.98), (4, 1400, 0.75), (16, 700, 0.55)])
def test_paths_in_batches_of_their_own_serve_what_these_allow(count, rate, share):
    """Each class needs a batch of its own within the SLO: k of them serve (k + 1) l(b) <= SLO."""
    simulation = Simulation(accelerator, workers=1, mix=paths(count), mix_paths=False)
    simulation.run(100, 3)
    assert simulation.run(rate, 6).attainment(5) > share


def test_lengths_that_a_model_pads_are_told_apart_with_nothing_set():
    """Ten short texts for one long one: as good as with keys made by hand, and much better than as one."""
    lengths = {10: 8, 11: 24, 12: 60, 1: 512}
    kinds = [Part(share, length=length) for share, length in lengths.items()]
    by_hand = [kind._replace(batch_key=b"long" if kind.length > 64 else b"short") for kind in kinds]
    goodput = {}
    for name, mix in (("nothing set", kinds), ("by hand", by_hand), ("as one", kinds)):
        simulation = Simulation(accelerator, workers=1, slo_latency=0.2, mix=mix, max_inflight=4096)
        simulation.by_lengths = lambda lengths: 0.005 + 0.00001 * len(lengths) * max(lengths)
        simulation.by_length = name != "as one"
        simulation.run(500, 8)
        goodput[name] = simulation.run(1200, 8).count("good")
    assert goodput["nothing set"] > 0.95 * goodput["by hand"]
    assert goodput["nothing set"] > 1.3 * goodput["as one"]


@pytest.mark.parametrize(("longest", "rate", "share"), [(128, 1200, 0.8), (256, 800, 0.7)])
def test_lengths_that_a_model_pads_are_told_apart_under_load_from_the_start(longest, rate, share):
    """In one queue 62 and 46 % are on time. Mixed batches show no class's cost."""
    mix = [Part(0.5, length=16), Part(0.5, length=longest)]
    simulation = Simulation(accelerator, workers=1, slo_latency=0.2, mix=mix, max_inflight=4096)
    simulation.by_lengths = lambda lengths: 0.005 + 0.00001 * len(lengths) * max(lengths)
    simulation.run(rate, 5, to_the_end=False)
    assert simulation.run(rate, 5).attainment(5) > share


def test_late_requests_of_lengths_that_were_told_apart_since_share_no_batch():
    lengths = (40, 60, 90, 50, 70, 45, 600, 80, 55, 900)
    late: list[set[int]] = []

    def seconds(batch: Sequence[int]) -> float:
        if simulation.now > 10.0:
            late.append({length.bit_length() == 10 for length in batch})
        return 0.005 + 1e-5 * len(batch) * max(batch)

    simulation = Simulation(
        accelerator,
        workers=1,
        slo_latency=0.3,
        mix=[Part(0.1, length=length) for length in lengths],
        by_lengths=seconds,
    )
    # Many of the first seconds go late together, and wait until there is time for them.
    simulation.run(320, 60)
    assert {True} in late
    assert {False} in late
    assert {False, True} not in late


def test_dear_inputs_whose_costs_add_are_on_time_as_the_others_are():
    kinds = [Part(0.9, length=16), Part(0.1, length=128)]
    simulation = Simulation(accelerator, workers=1, mix=kinds, max_inflight=4096)
    simulation.by_lengths = lambda lengths: 0.008 + 0.0005 * sum(lengths) / 16
    rate = 0.72 / (0.0005 * 1.7)
    simulation.run(rate, 5)
    outcome = simulation.run(rate, 8)
    for kind in kinds:
        ends = [ended.kind for ended in outcome.ended if ended.request.client is kind]
        assert ends.count("good") >= 0.97 * len(ends)


CLASSES = [Part(1.0, budget=0.1 * wider, slo_class=f"{wider}") for wider in (1, 3, 10)]


@pytest.mark.parametrize(("fixed", "per_request", "workers", "rate"), [(10, 2, 2, 800), (8, 0.5, 1, 1500)])
def test_classes_meet_their_targets_at_capacity_and_the_widest_is_not_starved_at_twice_that(
    fixed, per_request, workers, rate
):
    simulation = Simulation(
        lambda size: (fixed + per_request * size) / 1000, workers=workers, mix=CLASSES, max_inflight=4096
    )
    simulation.run(rate / 3, 6)
    grown = simulation.now + 2  # to the batches of this rate
    outcome = simulation.run(rate, 8)
    assert [outcome.attainment(grown, slo_class=part.slo_class) > 0.99 for part in CLASSES] == [True] * 3
    assert simulation.run(2 * rate, 6).attainment(slo_class="10") > 0.75


def test_overloaded_queue_leaves_its_answers_time_for_their_way_to_the_client():
    goodput = []
    for way_back in (0.0, 0.002):
        simulation = Simulation(twice, way_back=way_back, max_batch_size=64)
        simulation.run(1000, 2)
        goodput.append(simulation.run(2500, 3).count("good"))
    assert goodput[1] > 0.98 * goodput[0]


@pytest.mark.parametrize("shed_late", [False, True])
def test_late_requests_keep_no_fresh_ones_out(shed_late):
    simulation = Simulation(twice, max_inflight=400, max_batch_size=64, shed_late=shed_late)
    simulation.run(1000, 2)
    assert simulation.run(2500, 2).count("good") > 2 * 1200


@pytest.mark.parametrize(
    ("before", "after", "rates", "shed_late"),
    [(2, 4, (350, 300), False), (2, 4, (350, 300), True), (4, 2, (300, 1000), False)],
    ids=["slower", "slower, shed", "faster"],
)
def test_model_that_becomes_slower_or_faster_is_followed_within_seconds(before, after, rates, shed_late):
    simulation = Simulation(lambda size: before * accelerator(size), shed_late=shed_late)
    assert simulation.run(rates[0], 5).attainment() > 0.98
    simulation.law = lambda size: after * accelerator(size)
    changed = simulation.now
    assert simulation.run(rates[1], 8).attainment(changed + 2) > 0.99


@pytest.mark.parametrize("shed_late", [False, True])
def test_model_that_takes_half_of_the_slo_alone_learns_that_batches_cost_little_more(shed_late):
    simulation = Simulation(
        lambda size: 0.118 + 0.0009 * size, workers=3, slo_latency=0.244, shed_late=shed_late
    )
    simulation.run(20, 5.0)
    assert simulation.run(55, 60.0).attainment() > 0.98


def test_stall_under_overload_is_forgotten():
    """By what it taught nothing can be on time, and only late requests are served."""

    def law(size: int) -> float:
        stalls = 100 < simulation.batches <= 130
        return 0.008 + 0.004 * size + 0.8 * stalls

    simulation = Simulation(law, max_batch_size=64, slo_latency=0.4)
    outcome = simulation.run(1000, 50)
    assert min(outcome.attainment(second, second + 1) for second in range(8, 30)) == 0.0
    assert outcome.attainment(38, 50) > 0.9 * outcome.attainment(2, 8) > 0.2


@pytest.mark.parametrize(
    ("fault", "ends", "workers", "bad", "rate", "least"),
    [("raised", "failed", 1, 0.005, 1005, 0.95), ("died", "WorkerDied", 2, 0.5 / 600, 600, 0.93)],
)
def test_inputs_that_fail_their_batch_cost_the_others_little(fault, ends, workers, bad, rate, least):
    simulation = Simulation(accelerator, workers=workers, mix=[Part(1.0), Part(bad, bad=True)])
    simulation.fault = lambda _, worker, batch: (
        (fault, 0.0) if any(request.client.bad for request in batch) else None
    )
    outcome = simulation.run(rate, 16)
    assert outcome.attainment() >= least
    assert {ended.request.client.bad for ended in outcome.ended if ended.kind == ends} == {True}


def test_model_out_of_memory_serves_nearly_as_much_as_with_the_largest_batch_set():
    goodput = []
    for largest in (16, 256):
        simulation = Simulation(accelerator, workers=1, max_batch_size=largest)
        simulation.fault = lambda _, worker, batch: ("out of memory", 0.01) if len(batch) > 16 else None
        goodput.append(simulation.run(800, 12).count("good"))
    assert goodput[1] >= 0.9 * goodput[0]


def test_poisoned_worker_is_found_before_it_takes_the_load():
    simulation = Simulation(accelerator)
    simulation.fault = lambda _, worker, batch: ("raised", 0.0) if worker in simulation.sick else None
    simulation.run(100, 1)
    simulation.sick.add(simulation.crew[0])
    outcome = simulation.run(100, 10)
    assert outcome.attainment() >= 0.9
    assert not simulation.sick, "it was checked and replaced"


@pytest.mark.parametrize("rate", [40, 400])
def test_dependency_that_was_down_is_served_again_at_once(rate):
    simulation = Simulation(accelerator, workers=1)
    simulation.run(rate, 5)
    simulation.fault = lambda _, worker, batch: ("raised", 0.3)
    outcome = simulation.run(rate, 20, to_the_end=False)
    assert outcome.count("failed") > 20 / 0.3 / 2
    simulation.fault = lambda *_: None
    up = simulation.now
    assert simulation.run(rate, 6).attainment(up + 2) > 0.99


def test_requests_that_a_stall_made_late_are_answered_while_others_are_on_time():
    simulation = Simulation(
        lambda size: 1.0 if simulation.batches == 100 else accelerator(size), workers=1, max_inflight=4096
    )
    outcome = simulation.run(1000, 25)
    assert max(ended.waited for ended in outcome.ended) < 0.6 * TIMEOUT


def test_input_out_of_memory_each_second_costs_the_others_little():
    simulation = Simulation(accelerator, workers=1, slo_latency=0.2, mix=[Part(0.999), Part(0.001, bad=True)])
    simulation.fault = lambda _, worker, batch: (
        ("out of memory", accelerator(len(batch))) if any(request.client.bad for request in batch) else None
    )
    assert simulation.run(1000, 20).attainment(5) >= 0.9
    simulation.mix = [Part(1.0)]
    assert simulation.run(1000, 15).attainment() >= 0.95


@pytest.mark.parametrize("share", [0.1, 0.4, 0.67])
def test_any_share_of_inputs_that_raise_fails_no_other_request(share):
    simulation = Simulation(
        lambda size: 0.004 + 0.0002 * size, workers=1, mix=[Part(1 - share), Part(share, bad=True)]
    )
    simulation.fault = lambda _, worker, batch: (
        ("raised", simulation.law(len(batch))) if any(request.client.bad for request in batch) else None
    )
    outcome = simulation.run(450, 10)
    assert {ended.request.client.bad for ended in outcome.ended if ended.kind == "failed"} == {True}
    assert outcome.attainment() >= 0.3

"""What the policies, the queue and the latency model reach together, in virtual time (see ``simulation``)."""

import statistics

import pytest

from batching_watchdog.engine.capacity import sustained
from batching_watchdog.engine.prefetch import LEAD
from watchdog.engine.queues import TABULAR, TEXT
from watchdog.engine.simulation import Part, Simulated, Simulation, paths

# Seconds of computing, whatever the machine does besides.
pytestmark = pytest.mark.timeout(600)


def accelerator(size: int) -> float:
    return 0.016 + 0.001 * size


@pytest.mark.parametrize(("lead", "holds"), [(0.0, False), (LEAD, True)])
def test_devices_lose_nothing_to_the_pause_between_batches_if_the_next_is_sent_early(lead, holds):
    # The bench's accelerator with what JSON takes, at 0.91 of what two of them do with no server.
    simulation = Simulation(
        lambda size: 0.0085 + 0.000512 * size, max_batch_size=1024, lead=lead, turnaround=0.0024
    )
    simulation.run(0.91 * 3520 / 3, 3)
    simulation.run(0.91 * 3520, 2)
    assert (simulation.run(0.91 * 3520, 40).attainment() >= 0.99) is holds


@pytest.mark.parametrize("law", [TEXT, TABULAR], ids=["text", "tabular"])
def test_batches_that_are_sent_early_are_no_smaller_near_the_maximum_rate(law):
    sizes = []
    for lead in (0.0, LEAD):
        simulation = Simulation(law, lead=lead)
        simulation.run(1000, 2)
        simulation.run(0.8 * 2 * 64 / law(64), 2)
        sizes.append(statistics.fmean(simulation.sizes[-200:]))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)


@pytest.mark.parametrize("rate", [1200, 2500])
def test_refusing_at_the_header_costs_no_goodput(rate):
    outcomes = []
    for early in (False, True):
        simulation = Simulation(lambda size: 2 * accelerator(size), shed_late=True, early=early)
        simulation.run(100, 5)
        # Long enough that a batch more or less is no hundredth.
        outcomes.append(simulation.run(rate, 40))
    shed, refused = outcomes
    assert len(refused.good) >= 0.95 * len(shed.good)
    assert refused.refused
    assert len(refused.shed) < len(shed.shed)
    assert not shed.refused


def test_nothing_is_refused_early_below_the_maximum_rate():
    simulation = Simulation(accelerator, shed_late=True, early=True)
    simulation.run(1000, 2)
    outcome = simulation.run(1100, 3)
    assert not outcome.refused
    assert outcome.attainment() > 0.99


def test_late_requests_that_are_served_never_keep_fresh_ones_out():
    simulation = Simulation(accelerator, max_inflight=400)
    simulation.run(1000, 2)
    outcome = simulation.run(2500, 4)
    assert not outcome.refused
    assert len(outcome.good) > 4 * 1200


@pytest.mark.parametrize(
    ("count", "rate", "share"), [(4, 700, 0.98), (4, 1400, 0.8), (16, 700, 0.6), (16, 2500, 0.35)]
)
def test_goodput_of_many_cost_classes_is_near_what_batches_of_one_class_allow(count, rate, share):
    """Each class needs a batch of its own within the SLO: k of them serve (k + 1) l(b) <= SLO."""
    simulation = Simulation(
        lambda size: 0.008 + 0.0005 * size, workers=1, mix=paths(count), max_batch_size=256, mix_paths=False
    )
    simulation.run(100, 3)
    outcome = simulation.run(rate, 6)
    assert outcome.attainment(5) > share


@pytest.mark.parametrize("rate", [1400, 2500])
def test_paths_that_cost_alike_serve_as_much_as_one(rate):
    goodput = []
    for count in (1, 16):
        simulation = Simulation(
            lambda size: 0.008 + 0.0005 * size, workers=1, mix=paths(count), max_batch_size=256
        )
        simulation.run(100, 3)
        goodput.append(len(simulation.run(rate, 10).good))
    assert goodput[1] > 0.95 * goodput[0]


def test_lengths_that_a_model_pads_are_told_apart_with_nothing_set():
    """Ten short texts for one long one: as good as with keys made by hand, and much better than as one."""
    lengths = {10: 8, 11: 24, 12: 60, 1: 512}
    kinds = [Part(share, length=length) for share, length in lengths.items()]
    by_hand = [kind._replace(batch_key=b"long" if kind.length > 64 else b"short") for kind in kinds]
    goodput = {}
    for name, mix in (("nothing set", kinds), ("by hand", by_hand), ("as one", kinds)):
        simulation = Simulation(accelerator, workers=1, slo_latency=0.2, mix=mix, max_batch_size=256)
        simulation.padded = lambda size, longest: 0.005 + 0.00001 * size * longest
        simulation.by_length = name != "as one"
        simulation.run(500, 10)
        goodput[name] = len(simulation.run(1200, 20).good)
    assert goodput["nothing set"] > 0.95 * goodput["by hand"]
    assert goodput["nothing set"] > 1.3 * goodput["as one"]


CLASSES = [Part(1.0, budget=0.1 * wider, slo_class=f"{wider}") for wider in (1, 3, 10)]


@pytest.mark.parametrize(("fixed", "each", "workers", "rate"), [(10, 2, 2, 800), (8, 0.5, 1, 1600)])
def test_classes_meet_their_targets_at_capacity_and_the_widest_is_not_starved_at_twice_that(
    fixed, each, workers, rate
):
    simulation = Simulation(
        lambda size: (fixed + each * size) / 1000, workers=workers, max_batch_size=256, mix=CLASSES
    )
    simulation.run(rate / 3, 10)
    attained = {name: found.attainment() for name, found in simulation.run(rate, 20).classes.items()}
    assert len(attained) == 3
    assert min(attained.values()) > 0.99, attained
    assert simulation.run(2 * rate, 20).classes["10"].attainment() > 0.75


def test_an_overloaded_queue_leaves_its_answers_time_for_their_way_to_the_client():
    goodput = []
    for way_back in (0.0, 0.002):
        simulation = Simulation(accelerator, way_back=way_back)
        simulation.run(1000, 2)
        goodput.append(len(simulation.run(2500, 4).good))
    assert goodput[1] > 0.985 * goodput[0]


@pytest.mark.parametrize("span", [0.064, 0.12], ids=["the largest batch fits", "it does not"])
def test_a_stall_under_overload_is_forgotten_though_by_what_it_taught_nothing_can_be_on_time(span):
    """While that is believed only late requests are served, and in the largest batches."""

    def law(size: int) -> float:
        stalls = 400 < len(simulation.sizes) <= 430
        return 0.002 + span * size / 64 + 0.2 * stalls

    simulation = Simulation(law)
    outcome = simulation.run(2.5 * 2 * 64 / (0.002 + span), 40)
    assert min(outcome.attainment(second, second + 1) for second in range(6, 20)) == 0.0
    assert outcome.attainment(25, 40) > 0.9 * outcome.attainment(2, 6) > 0.3


@pytest.mark.parametrize(
    ("before", "after", "rates", "shed_late"),
    [(1, 2, (350, 300), False), (1, 2, (350, 300), True), (2, 1, (300, 1000), False)],
    ids=["slower", "slower, shed", "faster"],
)
def test_a_model_that_becomes_slower_or_faster_is_followed_within_seconds(before, after, rates, shed_late):
    simulation = Simulation(lambda size: before * accelerator(size), shed_late=shed_late, early=shed_late)
    assert simulation.run(rates[0], 5).attainment() > 0.98
    simulation.law = lambda size: after * accelerator(size)
    changed = simulation.now
    assert simulation.run(rates[1], 10).attainment(changed + 2) > 0.99
    assert simulation.model.predict(16) == pytest.approx(after * accelerator(16), rel=0.15)


@pytest.mark.parametrize("shed_late", [False, True])
@pytest.mark.parametrize("rate", [30.0, 55.0, 110.0])
def test_a_model_that_takes_half_of_the_slo_alone_finds_out_that_batches_cost_little_more(rate, shed_late):
    simulation = Simulation(
        lambda size: 0.118 + 0.0009 * size, workers=3, slo_latency=0.244, shed_late=shed_late
    )
    simulation.run(rate / 3, 5.0)
    assert simulation.run(rate, 120.0).attainment() > 0.98


@pytest.mark.parametrize("seconds", [0.0, 10.0])
def test_the_first_overload_is_served_as_well_as_later_ones(seconds):
    simulation = Simulation(accelerator, workers=1, slo_latency=0.2, max_batch_size=1024)
    simulation.run(600.0, seconds)
    first, later = simulation.run(1300.0, 2.0), simulation.run(1300.0, 10.0)
    assert len(first.good) / 2.0 >= 0.9 * len(later.good) / 10.0


def test_a_lost_batch_is_tried_again_within_seconds_though_workers_get_their_next_batch_early():
    simulation = Simulation(
        lambda size: 0.0085 + 0.000512 * size, max_batch_size=256, lead=LEAD, turnaround=0.0024
    )
    simulation.run(1000.0, 3.0)
    simulation.run(2100.0, 3.0, to_the_end=False)
    simulation.lose_worker()
    assert simulation.engine.suspects
    simulation.run(2100.0, 0.3, to_the_end=False)
    simulation.engine.worker_ready(Simulated(2))
    simulation.run(2100.0, 2.0, to_the_end=False)
    assert not simulation.engine.suspects


def test_late_requests_after_an_overload_are_answered_while_their_clients_wait():
    simulation = Simulation(lambda size: 0.1 + 0.01 * size, slo_latency=1.0, clients_wait=10.0)
    simulation.run(350.0, 20.0, to_the_end=False)
    # Oldest first they would be served just after their clients have gone: 114.
    assert len(simulation.run(100.0, 10.0).slow) > 250


@pytest.mark.parametrize("rate", [30, 120])
@pytest.mark.parametrize("slow", [3, 6, 12, 20, 40])
@pytest.mark.parametrize("factor", [10, 50])
def test_capacity_of_a_replica_whose_first_batches_were_slow_recovers_within_seconds(rate, slow, factor):
    begun = [0]

    def law(size: int) -> float:
        begun[0] += 1
        return (factor if begun[0] <= slow else 1) * (0.02 + 0.004 * size)

    simulation = Simulation(law, slo_latency=0.2)
    while begun[0] < slow or simulation.model.runs < begun[0]:
        simulation.run(rate, 1)
    simulation.run(rate, 12)
    settled = Simulation(lambda size: 0.02 + 0.004 * size, slo_latency=0.2)
    settled.run(30, 60)
    usual, _ = sustained(settled.model, 2, 0.2, 0.99)
    rate, _ = sustained(simulation.model, 2, 0.2, 0.99)
    assert usual / 2 < rate < 1.5 * usual

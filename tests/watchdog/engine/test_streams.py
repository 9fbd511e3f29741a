import random
from math import inf, isnan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching_watchdog.engine.effects import Join
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.streams import Streams, steady
from batching_watchdog.errors import QueueFull
from batching_watchdog.function.messages import BEST_EFFORT, DEFAULT_CLASS, Iteration, Output, Reply, Target
from watchdog.engine.queues import request
from watchdog.engine.streaming import FAULTS, Streaming


def start_law(size: int) -> float:
    return 0.004 + 0.004 * size


def step_law(size: int) -> float:
    return 0.012 + 0.001 * size


def quick_law(size: int) -> float:
    return 0.006 + 0.0003 * size


def slow_law(size: int) -> float:
    return 0.03 + 0.002 * size


def long_tailed(draws: random.Random) -> int:
    return min(400, max(20, int(draws.lognormvariate(4.0, 0.8))))


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    rate=st.sampled_from([2.0, 20.0, 80.0]),
    workers=st.integers(1, 3),
    closed=st.booleans(),
    memory=st.sampled_from([3, 12, 1000]),
)
def test_admitted_stream_ends_exactly_once_whatever_clients_workers_and_memory_do(
    data, rate, workers, closed, memory
):
    seed = data.draw(st.integers(0, 10_000))
    draws = random.Random(seed)
    world = Streaming(
        start_law, step_law, workers=workers, closed=closed, memory=memory, noise=0.2, seed=seed,
        lengths=lambda its: its.choice([1, 5, 60]), timeout=draws.choice([0.4, 60.0]),
    )  # fmt: skip
    for _ in range(data.draw(st.integers(0, 6))):
        moment = draws.uniform(0.0, 2.0)
        world.at(moment, lambda: world.leave(draws.choice(world.requests)) if world.requests else None)
        world.at(moment, lambda: world.kill(draws.choice(world.crew)))
    world.run(rate, 2.0)
    assert all(len(request.client.ends) == 1 for request in world.requests)
    assert (world.engine.admitted, world.engine.queued, world.engine.running) == (0, 0, 0)
    assert not any(worker.left or worker.joins for worker in world.crew)
    assert world.idle_while_waiting == 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rate=st.floats(5.0, 60.0),
    workers=st.integers(1, 3),
    interval=st.sampled_from([0.03, 0.05, 0.2]),
)
def test_join_at_exact_predictions_breaks_no_due_time_of_a_running_stream(seed, rate, workers, interval):
    world = Streaming(
        start_law, step_law, workers=workers, interval=interval, noise=0.0, seed=seed, lengths=long_tailed
    )
    world.run(rate, 4.0)
    served = [
        request
        for request in world.requests
        if request.client.ends == ["end"] and request.id not in world.joined_late
    ]
    assert served
    assert all(world.on_time(request) for request in served)


def test_request_joins_a_running_batch_at_the_next_boundary():
    world = Streaming(start_law, step_law, lengths=lambda _: 40, noise=0.0)
    world.at(0.0, world.arrive)
    world.at(0.1, world.arrive)
    world.to_the_end()
    first, second = world.requests
    assert second.client.came[0] < first.client.came[-1]
    assert second.client.came[0] - 0.1 < step_law(1) + start_law(1) + step_law(2) + 1e-9


def test_closed_batches_are_joined_by_no_request():
    world = Streaming(start_law, step_law, lengths=lambda _: 10, noise=0.0, closed=True)
    world.at(0.0, world.arrive)
    world.at(0.05, world.arrive)
    world.to_the_end()
    first, second = world.requests
    assert second.client.came[0] > first.client.came[-1]


def test_worker_holds_the_streams_whose_step_stays_within_the_interval():
    world = Streaming(start_law, slow_law, lengths=lambda _: 100, noise=0.0, latency=5.0)
    world.run(rate=30.0, seconds=3.0)
    assert 8 <= world.most <= 10  # slow_law(10) is the interval


def test_stream_with_a_short_interval_bounds_those_beside_it():
    world = Streaming(
        start_law, slow_law, intervals={"chat": 0.036}, lengths=lambda _: 100, noise=0.0, latency=5.0
    )
    world.at(0.0, lambda: world.arrive("chat"))
    for number in range(20):
        world.at(0.01 * number, world.arrive)
    world.to_the_end()
    assert world.on_time(world.requests[0])


def test_first_piece_may_be_due_before_an_interval_has_passed():
    world = Streaming(start_law, step_law, latency=0.05, interval=0.2)
    world.at(0.0, world.arrive)
    world.to_the_end()
    assert world.on_time(world.requests[0])
    assert not world.joined_late


def test_goodput_at_two_and_a_half_times_the_load_is_kept():
    rates = {}
    for rate in (20.0, 50.0):
        world = Streaming(start_law, step_law, workers=2, lengths=long_tailed, timeout=10.0, noise=0.1)
        world.run(rate, 20.0)
        offered = [request for request in world.requests if 5.0 <= request.arrived < 15.0]
        rates[rate] = world.good(5.0, 15.0) * len(offered) / 10.0
    assert rates[50.0] > 0.9 * rates[20.0]


def test_late_request_joins_only_while_none_on_time_waits():
    world = Streaming(start_law, slow_law, lengths=lambda _: 30, noise=0.0, max_streams=1, latency=2.0)
    for moment, latency in ((0.0, 2.0), (0.1, 0.2), (0.5, 3.0)):  # the second is late while the first runs
        world.at(moment, lambda latency=latency: world.arrive(latency=latency))
    world.to_the_end()
    first, late, on_time = world.requests
    assert world.on_time(first)
    assert world.on_time(on_time)
    assert late.client.came[0] > on_time.client.came[-1]


def test_best_effort_takes_half_of_the_places_and_costs_the_others_nothing():
    def good(bulk):
        world = Streaming(start_law, step_law, workers=2, lengths=long_tailed, noise=0.1)
        for place in range(bulk):
            world.at(place / 20, lambda: world.arrive("bulk", latency=inf))
        world.run(8.0, 20.0)
        kept = [request for request in world.requests if request.slo_class == "default"]
        ended = [request for request in world.requests if request.slo_class == "bulk"]
        return sum(world.on_time(request) for request in kept) / len(kept), ended

    alone, _ = good(0)
    beside, ended = good(200)
    assert beside >= alone - 0.002
    assert all(request.client.ends == ["end"] for request in ended)


def test_best_effort_without_room_is_told_the_time_of_half_of_its_own_queue():
    targets = {DEFAULT_CLASS: Target(0.1, 0.99, 0.05), "bulk": BEST_EFFORT}
    engine = Streams(targets, max_inflight=82, max_streams=9, workers=1)
    worker: Any = object()
    engine.worker_ready(worker)
    engine.offer(request(0), 0.0)
    engine.tick(0.0)
    engine.stepped(worker, Iteration([Output(0, Reply(200, b"", b""), True)], 1, 0.0, 1, 0.5, 0.0), 0.5)
    for number in range(1, 42):
        engine.offer(request(number, budget=inf), 0.5)
    with pytest.raises(QueueFull) as refused:
        engine.offer(request(42, budget=inf), 0.5)
    assert [error.retry_after for error in (engine.refusal(inf, 0.5), refused.value)] == [10, 10]


def test_request_at_the_limit_displaces_a_late_one_unless_it_is_late_itself():
    engine = Streams({DEFAULT_CLASS: Target(0.1, 0.99, 0.05)}, max_inflight=1, max_streams=1, workers=1)
    late = request(0)
    engine.offer(late, 0.0)
    engine.tick(0.2)
    with pytest.raises(QueueFull):
        engine.offer(request(1, 0.2, budget=0.0), 0.2)
    (answer,) = engine.offer(request(2, 0.2), 0.2)
    assert (answer.request, type(answer.outcome)) == (late, QueueFull)


def test_stream_that_was_late_once_keeps_no_other_out():
    engine = Streams({DEFAULT_CLASS: Target(0.5, 0.99, 0.05)}, max_inflight=9, max_streams=9, workers=1)
    engine.start.observe(1, 0.3)
    for size in (1, 2):
        engine.step.observe(size, 0.001)
    worker: Any = object()
    engine.worker_ready(worker)
    engine.offer(request(0, budget=0.5), 0.0)
    engine.tick(0.0)
    for _ in range(12):  # the first ones are late, the last one is early
        engine.stepped(
            worker, Iteration([Output(0, Reply(200, b"", b""), False)], 0, 0.0, 1, 0.001, 0.0), 1.0
        )
    engine.offer(request(1, 1.0, budget=1.0), 1.0)
    (joined,) = [effect.batch for effect in engine.tick(1.0) if isinstance(effect, Join)]
    assert [each.id for each in joined.requests] == [1]


def test_late_request_is_refused_if_asked_but_not_while_nothing_runs():
    world = Streaming(start_law, slow_law, lengths=lambda _: 30, noise=0.0, shed_late=True, max_streams=1)
    for moment in (0.0, 0.1, 0.2):
        world.at(moment, lambda: world.arrive(latency=0.001))
    world.to_the_end()
    assert [request.client.ends for request in world.requests] == [
        ["end"],
        ["PredictedLate"],
        ["PredictedLate"],
    ]


def test_streams_that_do_not_fit_into_memory_are_started_again_and_fewer_run():
    world = Streaming(start_law, step_law, lengths=lambda _: 30, memory=6, noise=0.0)
    world.at(0.0, lambda: [world.arrive() for _ in range(12)])
    world.to_the_end()
    assert [request.client.ends for request in world.requests] == [["end"]] * 12
    assert world.engine.step.ceiling == 6


def with_faults(world: Streaming, *faults: str, until: float) -> float:
    """The share of good streams before ``until``, with one of each fault a second."""
    for second in range(int(until)):
        for place, fault in enumerate(faults):
            moment = second + (place + 1) / (len(faults) + 1)
            world.at(moment, lambda fault=fault: world.arrive(fault=fault))
    world.run(15.0, until + 15.0)
    return world.good(0.0, until)


@pytest.mark.parametrize("fault", FAULTS)
def test_one_stream_a_second_that_fails_by_itself_leaves_the_others_on_time(fault):
    def made() -> Streaming:
        return Streaming(start_law, quick_law, latency=0.3, interval=0.06, lengths=lambda _: 40)

    alone, world = made(), made()
    alone.run(15.0, 35.0)
    assert with_faults(world, fault, until=20.0) >= 0.9 * alone.good(0.0, 20.0)
    assert world.good(20.0) >= 0.95
    assert world.engine.step.ceiling == world.max_streams


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    share=st.floats(0.0, 1.0),
    rate=st.sampled_from([5.0, 20.0, 60.0]),
    workers=st.integers(1, 3),
    closed=st.booleans(),
    workspace=st.sampled_from([3, inf]),
)
def test_no_stream_gets_the_error_of_another_whatever_share_fails(
    seed, share, rate, workers, closed, workspace
):
    draws = random.Random(seed)
    world = Streaming(
        start_law, step_law, workers=workers, closed=closed, workspace=workspace, seed=seed,
        faults=lambda: draws.choice(FAULTS) if draws.random() < share else "",
    )  # fmt: skip
    world.run(rate, 3.0)
    clients = [each.client for each in world.requests]
    assert all(client.ends == (["Reply"] if client.fault else ["end"]) for client in clients)


def test_streams_that_fit_into_memory_in_halves_lose_nothing_and_fewer_start_and_run():
    world = Streaming(start_law, step_law, lengths=lambda _: 30, workspace=6, noise=0.0)
    for moment in (0.0, 2.0):
        world.at(moment, lambda: [world.arrive() for _ in range(12)])
    world.to_the_end()
    assert [len(request.client.came) for request in world.requests] == [30] * 24
    assert 3 <= world.engine.step.ceiling <= 6
    assert max(len(join.batch.requests) for join in world.joins[1:]) <= 6


def test_no_more_streams_start_together_than_memory_suffices_for():
    world = Streaming(start_law, quick_law, latency=5.0, interval=1.0, workspace=4, noise=0.0)
    world.engine.start.out_of_memory(8)
    world.at(0.0, lambda: [world.arrive() for _ in range(12)])
    world.to_the_end()
    assert len(world.joins[0].batch.requests) == world.engine.start.ceiling


def test_ceiling_of_memory_rises_again_once_more_streams_fit():
    world = Streaming(start_law, step_law, lengths=lambda _: 10, memory=6, noise=0.0)
    for memory, number in ((6, 12), (inf, 800)):
        world.memory = memory
        world.at(world.now, lambda number=number: [world.arrive() for _ in range(number)])
        world.to_the_end()
    assert world.most > 6
    assert world.engine.step.ceiling > 6


def test_stream_is_started_again_only_if_its_worker_died_before_its_first_piece():
    world = Streaming(start_law, step_law, lengths=lambda _: 30, noise=0.0)
    world.at(0.0, world.arrive)
    world.at(0.2, world.arrive)
    world.at(0.201, lambda: world.kill(world.crew[0]))
    world.to_the_end()
    assert [request.client.ends for request in world.requests] == [["WorkerDied"], ["end"]]


def test_stream_whose_worker_dies_twice_before_its_first_piece_fails():
    world = Streaming(start_law, step_law, noise=0.0)
    world.at(0.0, world.arrive)
    for moment in (0.001, 0.002):
        world.at(moment, lambda: world.kill(world.crew[0]))
    world.to_the_end()
    assert world.requests[0].client.ends == ["WorkerDied"]


def test_stream_that_exceeds_its_timeout_ends_and_its_worker_drops_it():
    world = Streaming(start_law, step_law, lengths=lambda _: 1000, timeout=0.3)
    world.at(0.0, world.arrive)
    world.to_the_end()
    assert world.requests[0].client.ends == ["Expired"]
    assert not world.crew[0].left
    assert world.now < 0.4


def test_worker_whose_stream_has_left_is_joined_only_after_its_step_has_ended():
    world = Streaming(start_law, lambda _: 0.5, workers=2, interval=5.0, latency=5.0, lengths=lambda _: 1)
    world.at(0.0, world.arrive)
    world.at(0.1, lambda: world.leave(world.requests[0]))
    world.at(0.2, world.arrive)
    world.to_the_end()
    assert world.requests[1].client.came[0] < 0.8


def test_worker_that_is_to_end_gets_no_further_stream():
    world = Streaming(start_law, step_law, workers=2, lengths=lambda _: 5)
    world.engine.worker_gone(world.crew[0])
    world.run(20.0, 1.0)
    assert {join.worker for join in world.joins} == {world.crew[1]}


def test_steady_is_unknown_without_a_step_and_zero_where_one_exceeds_the_interval():
    start, step, target = LatencyModel(64), LatencyModel(64), Target(0.5, 0.99, 0.05)
    assert isnan(steady(start, step, lengths=(10,), target=target, workers=2).rate)
    step.observe(1, 0.06)
    assert steady(start, step, lengths=(10,), target=target, workers=2).rate == 0.0


@pytest.mark.parametrize(
    ("start", "step", "lengths", "more"),
    [
        (start_law, step_law, long_tailed, {}),
        (start_law, step_law, lambda _: 20, {"workers": 2}),
        (start_law, step_law, long_tailed, {"max_streams": 16}),
        (
            lambda size: 0.02 + 0.02 * size,
            step_law,
            lambda _: 30,
            {},
        ),  # a start and a step exceed the interval
        (lambda size: 0.1 * size, lambda size: 0.01 + 0.0005 * size, lambda _: 100, {}),
        (lambda size: 0.05 + 0.0005 * size, lambda size: 0.01 + 0.0002 * size, lambda _: 40, {}),
    ],
    ids=["long_tail", "short", "few", "costly_starts", "starts_beyond_the_interval", "starts_together"],
)
def test_exported_capacity_is_sustained_and_at_least_half_of_the_possible(start, step, lengths, more):
    profiled = Streaming(start, step, **more).engine
    draws = [lengths(random.Random(seed)) for seed in range(400)]
    target = Target(0.5, 0.99, 0.05)
    workers = more.get("workers", 1)
    rate = steady(profiled.start, profiled.step, lengths=draws, target=target, workers=workers).rate
    good = {}
    for times in (1, 2):
        world = Streaming(start, step, lengths=lengths, noise=0.05, timeout=10.0, **more)
        world.run(times * rate, 30.0)
        good[times] = world.good(6.0, 24.0)
    assert good[1] > 0.95 > good[2]


@pytest.mark.parametrize(
    ("lengths", "latency", "workers"),
    [(long_tailed, 0.5, 4), (long_tailed, 5.0, 1), (lambda _: 20, 2.0, 1), (lambda _: 5, 0.5, 1)],
    ids=["longer_than_the_target", "long_tail", "short", "shorter"],
)
def test_exported_capacity_of_closed_batches_is_sustained(lengths, latency, workers):
    def made() -> Streaming:
        return Streaming(
            start_law, step_law, closed=True, lengths=lengths, latency=latency, workers=workers, noise=0.05
        )

    profiled, target = made().engine, Target(latency, 0.99, 0.05)
    draws = [lengths(random.Random(seed)) for seed in range(400)]
    rate = steady(
        profiled.start, profiled.step, lengths=draws, target=target, workers=workers, closed=True
    ).rate
    world = made()
    world.run(rate, max(20.0, 100 / rate))
    assert world.good() > 0.95


def test_capacity_is_unknown_until_a_stream_has_ended():
    world = Streaming(start_law, step_law, lengths=lambda _: 20)
    assert isnan(world.engine.steady().rate)
    world.run(5.0, 1.0)
    assert world.engine.steady().rate > 0


@pytest.mark.parametrize(("budget", "reply"), [(inf, Reply(200, b"", b"")), (0.1, None)])
def test_stream_of_best_effort_or_without_a_piece_tells_no_length(budget, reply):
    targets = {DEFAULT_CLASS: Target(0.1, 0.99, 0.05), "bulk": BEST_EFFORT}
    engine, worker = Streams(targets, max_inflight=9, max_streams=9, workers=1), object()
    engine.worker_ready(worker)
    engine.offer(request(0, budget=budget), 0.0)
    engine.tick(0.0)
    for done in (False, True):
        engine.stepped(worker, Iteration([Output(0, reply, done)], not done, 0.0, 1, 0.01, 0.0), 0.01)
    assert engine.admitted == 0
    assert isnan(engine.steady().rate)


def test_first_streams_weigh_alike_in_the_capacity():
    pieces = iter((10, 30))
    world = Streaming(start_law, step_law, lengths=lambda _: next(pieces), noise=0.0)
    world.at(0.0, world.arrive)
    world.at(0.0, world.arrive)
    world.to_the_end()
    engine, target = world.engine, Target(0.5, 0.99, 0.05)
    assert engine.steady() == steady(engine.start, engine.step, lengths=(10, 30), target=target, workers=1)

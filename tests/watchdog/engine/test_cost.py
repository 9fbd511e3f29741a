"""Which cost classes share batches: mixed ones must take no longer than the shares of their classes."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from batching_watchdog.engine.cost import KNOWN, CostModel
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.function.messages import CostClass
from watchdog.engine.queues import request

SHORT: CostClass = (b"", b"POST /", 4)
LONG: CostClass = (b"", b"POST /", 10)


def model(*, mix_paths: bool = True) -> CostModel:
    made = CostModel(64)
    if mix_paths:
        made.mix_paths()
    return made


def run(cost: CostModel, kinds: list[CostClass], seconds: float, times: int = 1) -> None:
    batch = [
        request(number, key=key, path=path, length=bits) for number, (key, path, bits) in enumerate(kinds)
    ]
    for _ in range(times):
        cost.learn(batch, seconds)


def padded(kinds: list[CostClass]) -> float:
    return 0.005 + 0.00001 * len(kinds) * float(1 << max(kind[2] for kind in kinds))


def flat(kinds: list[CostClass]) -> float:
    return 0.005 + 0.0005 * len(kinds)


def added(kinds: list[CostClass]) -> float:
    return 0.005 + 0.00001 * sum(float(1 << kind[2]) for kind in kinds)


def mixed_then_alone(cost: CostModel, law: Callable[[list[CostClass]], float], times: int = 20) -> None:
    for _ in range(times):
        for kinds in ([SHORT] * 28 + [LONG] * 4, [SHORT] * 28, [LONG] * 4):
            run(cost, kinds, law(kinds))


def test_cpu_time_is_learned_of_each_pool():
    cost = model()
    for _ in range(2 * KNOWN):
        for key, cpu_seconds in ((b"a", 0.01), (b"b", 0.1)):
            one = request(0, key=key)
            cost.pool(one.cost_class)
            cost.learn([one], 0.2, cpu_seconds)
    assert sorted(times.predict_cpu(1) for _, times in cost.mix) == pytest.approx([0.01, 0.1])


def test_classes_without_runs_share_a_pool():
    cost = model()
    assert len({cost.pool((b"", b"POST /%d" % path, bits)) for path in range(4) for bits in range(10)}) == 1


@pytest.mark.parametrize(
    ("one", "other", "mix_paths"),
    [((b"a", b"POST /", 4), (b"b", b"POST /", 4), True), ((b"", b"POST /a", 4), (b"", b"POST /b", 4), False)],
    ids=["batch key", "path, if the handler says so"],
)
def test_incompatible_requests_never_share_a_batch(one, other, mix_paths):
    cost = model(mix_paths=mix_paths)
    for kind in (one, other):
        run(cost, [kind] * 4, 0.01, 3 * KNOWN)
    assert cost.pool(one) is not cost.pool(other)


@pytest.mark.parametrize(("law", "together"), [(padded, False), (flat, True), (added, True)])
def test_classes_share_batches_unless_mixing_costs_more(law, together):
    cost = model()
    mixed_then_alone(cost, law)
    short, long = cost.pool(SHORT), cost.pool(LONG)
    assert (short is long) is together
    if not together:
        assert short.times.predict_mean(28) == pytest.approx(padded([SHORT] * 28), rel=0.1)
        assert long.times.predict_mean(4) == pytest.approx(padded([LONG] * 4), rel=0.1)
        assert cost.pool((b"", b"POST /", 11)) is long, "the nearest"
        assert cost.pool((b"", b"POST /", 3)) is short


def test_mix_is_the_share_of_the_recent_requests_of_each_pool():
    cost = model()
    mixed_then_alone(cost, padded)
    for kind in [SHORT, SHORT, SHORT, LONG] * 100:
        pool = cost.pool(kind)
    assert sorted(share for share, _ in cost.mix) == pytest.approx([0.25, 0.75])
    for _ in range(4000):
        cost.pool(LONG)
    assert max(cost.mix, key=lambda part: part[0]) == (pytest.approx(1.0, abs=0.01), pool.times)


def test_mix_of_classes_that_cost_alike_is_one_curve():
    cost = model()
    assert cost.mix == [(1.0, cost.overall)]
    mixed_then_alone(cost, flat)
    assert cost.mix == [(1.0, cost.overall)]


def test_mix_keeps_the_times_of_the_mixed_batches_until_separated_classes_have_their_own():
    cost = model()
    for size in [1, 2, 4, 8, 16, 32, 64] * KNOWN:
        cost.learn_any(size, padded([SHORT] * size))
    for kind in [SHORT, LONG] * 100:
        cost.pool(kind)
    for _ in range(20 * KNOWN):
        for kinds in ([SHORT] * 8, [LONG] * 8, [SHORT, LONG] * 4):
            if cost.pool(SHORT) is cost.pool(LONG):
                run(cost, kinds, padded(kinds))
    assert cost.pool(SHORT) is not cost.pool(LONG)
    assert all(times.predict_mean(8) > padded([LONG] * 8) / 2 for _, times in cost.mix)


def test_class_that_leaves_its_pool_keeps_the_ceiling_of_memory():
    cost = model()
    assert cost.pool(LONG).times.out_of_memory(64) == 32
    mixed_then_alone(cost, padded)
    assert cost.pool(SHORT) is not cost.pool(LONG)
    assert cost.pool(SHORT).times.ceiling == cost.pool(LONG).times.ceiling == 32
    cost.pool(LONG).times.out_of_memory(32)
    assert cost.pool(SHORT).times.ceiling == 32, "its batches fit"


def test_classes_that_clients_make_up_are_forgotten_before_those_with_a_cost():
    cost = model()
    mixed_then_alone(cost, padded)
    known = cost.pool(SHORT), cost.pool(LONG)
    made_up: CostClass = (b"key", b"GET /", 4)
    run(cost, [made_up], 0.01)
    pool = cost.pool(made_up)
    for number in range(4 * TUNING.max_classes):
        run(cost, [(b"", b"GET /%d" % number, 4)], 0.01)
        run(cost, [(b"key %d" % number, b"GET /", 4)], 0.01)
        mixed_then_alone(cost, padded, 1 if number % 10 == 0 else 0)
    assert (cost.pool(SHORT), cost.pool(LONG)) == known
    assert cost.pool(made_up) is not pool


def test_classes_of_a_batch_key_that_is_forgotten_share_batches_when_it_comes_back():
    cost = model()
    first, other = (b"key", b"GET /", 4), (b"key", b"GET /", 5)
    run(cost, [(b"", b"GET /", 4)], 0.01)
    run(cost, [first], 0.01, times=KNOWN)
    for number in range(TUNING.max_classes):
        cost.pool((b"key %d" % number, b"GET /", 4))
    assert cost.pool(other) is cost.pool(first)


def test_pools_of_one_batch_key_are_few_however_many_of_its_classes_differ():
    cost = model()
    kinds: list[CostClass] = [(b"", b"POST /", bits) for bits in range(4, 18)]
    for _ in range(60):
        for short, long in pairwise(kinds):
            for batch in ([short] * 14 + [long] * 2, [short] * 16, [long] * 16):
                run(cost, batch, padded(batch))
    assert len({id(cost.pool(kind)) for kind in kinds}) == TUNING.max_lanes

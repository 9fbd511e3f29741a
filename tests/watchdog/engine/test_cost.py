"""Which cost classes share batches: told by what their batches alone take, against what the pool's do."""

from collections.abc import Callable

import pytest

from batching_watchdog.engine.cost import KNOWN, MAX_CLASSES, CostModel
from batching_watchdog.messages import CostClass
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


def mixed_then_alone(cost: CostModel, law: Callable[[list[CostClass]], float], times: int = 20) -> None:
    for _ in range(times):
        for kinds in ([SHORT] * 28 + [LONG] * 4, [SHORT] * 28, [LONG] * 4):
            run(cost, kinds, law(kinds))


def test_classes_begin_in_one_pool_whatever_their_path_and_length():
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


def test_class_that_costs_other_than_its_pool_leaves_it_until_they_have_come_to_cost_alike():
    cost = model()
    mixed_then_alone(cost, padded)
    short, long = cost.pool(SHORT), cost.pool(LONG)
    assert short is not long
    assert short.times.predict_mean(28) == pytest.approx(padded([SHORT] * 28), rel=0.1)
    assert long.times.predict_mean(4) == pytest.approx(padded([LONG] * 4), rel=0.1)
    for _ in range(80):
        for kind in (SHORT, LONG):
            for size in (4, 28):
                run(cost, [kind] * size, 0.005 + 0.0005 * size)
    assert cost.pool(SHORT) is cost.pool(LONG)


def test_classes_that_cost_alike_stay_together():
    cost = model()
    mixed_then_alone(cost, lambda kinds: 0.005 + 0.0005 * len(kinds))
    assert cost.pool(SHORT) is cost.pool(LONG)


def test_class_that_ran_alone_before_leaves_when_its_pool_has_become_more_expensive():
    cost = model()
    for _ in range(4):
        run(cost, [SHORT] * 8, 0.01)
        run(cost, [SHORT] * 7 + [LONG], 0.01)
    assert cost.pool(SHORT) is cost.pool(LONG)
    run(cost, [SHORT] * 7 + [LONG], 0.04, 10 * KNOWN)
    assert cost.pool(SHORT) is not cost.pool(LONG)


def test_pool_forgets_the_batches_of_a_class_that_has_left():
    cost, middle = model(), (b"", b"POST /", 5)
    for _ in range(20):
        run(cost, [SHORT] * 4 + [middle] * 4, 0.01)
        run(cost, [SHORT] * 4 + [LONG] * 4, 0.04)
    run(cost, [LONG] * 8, 0.06, 4)
    assert cost.pool(LONG) is not cost.pool(SHORT)
    run(cost, [SHORT] * 4 + [middle] * 4, 0.01, KNOWN)
    assert cost.pool(SHORT).times.predict_mean(8) == pytest.approx(0.01)


def test_class_of_a_body_length_not_seen_yet_begins_with_its_nearest():
    cost = model()
    mixed_then_alone(cost, padded)
    assert cost.pool((b"", b"POST /", 11)) is cost.pool(LONG)
    assert cost.pool((b"", b"POST /", 3)) is cost.pool(SHORT)


def test_batch_of_one_class_is_asked_for_until_it_is_known():
    cost = model()
    waiting = [request(number, length=4 if number % 4 else 10) for number in range(32)]
    pool = cost.pool(SHORT)
    cost.pool(LONG)
    asked = [kind for _ in range(200) if (kind := cost.alone(pool, waiting, 32))]
    assert asked
    assert set(asked) <= {SHORT, LONG}
    for _ in range(20):
        run(cost, [SHORT] * 24 + [LONG] * 8, 0.03)
        for kind, size in ((SHORT, 24), (LONG, 8)):
            run(cost, [kind] * size, 0.005 + 0.001 * size)
    again = [kind for _ in range(200) if (kind := cost.alone(pool, waiting, 32))]
    assert len(again) < len(asked) / 4


def test_classes_that_clients_make_up_are_bounded_and_leave_the_known_ones_alone():
    cost = model()
    mixed_then_alone(cost, padded)
    apart = cost.pool(SHORT), cost.pool(LONG)
    for number in range(10 * MAX_CLASSES):
        run(cost, [(b"", b"GET /%d" % number, 4)], 0.01)
        run(cost, [(b"key %d" % number, b"GET /", 4)], 0.01)
        mixed_then_alone(cost, padded, 1 if number % 50 == 0 else 0)
    assert (cost.pool(SHORT), cost.pool(LONG)) == apart
    assert len(cost._new) + len(cost._known) <= 2 * MAX_CLASSES
    assert len(cost._keys) <= MAX_CLASSES

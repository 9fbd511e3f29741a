from batching_watchdog.engine.cost import KNOWN, CostModel
from watchdog.engine.queues import request


def test_ceiling_that_is_shown_is_the_least_of_all_pools():
    cost = CostModel(64)
    small, large = request(0, path=b"POST /small"), request(1, path=b"POST /large")
    for _ in range(KNOWN):
        for kind in (small, large):
            cost.learn([kind] * 4, 0.01)
    cost.pool(large.cost_class).times.out_of_memory(32)
    assert [cost.pool(kind.cost_class).times.ceiling for kind in (small, large)] == [64, 16]
    assert cost.ceiling == 16

from batching_watchdog.engine.cost import Pool
from batching_watchdog.engine.lanes import Queues
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.messages import DEFAULT_CLASS
from watchdog.engine.queues import request


def test_class_with_a_late_request_is_overdue_some_of_its_budgets_later():
    queues, model, late = Queues(8, by_deadline=True), LatencyModel(8), request(0, budget=0.1)
    pool = Pool(model, model)
    queues.admit(late, pool)
    queues.go_late(late.lane, 1, 0.2)
    assert pool.overdue_at == {DEFAULT_CLASS: 0.2 + TUNING.age * 0.1}

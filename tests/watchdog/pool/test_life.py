from batching_watchdog.pool.life import Draining, Ended, Serving, Starting


def test_first_worker_that_serves_ends_the_start():
    assert Starting().came_up() == Serving()


def test_drain_that_begins_during_the_start_continues_once_a_worker_serves():
    starting = Starting().drain()
    assert isinstance(starting, Starting)
    assert starting.came_up() == Draining()


def test_pool_that_serves_drains():
    assert Serving().drain() == Draining()


def test_pool_that_has_ended_does_not_drain():
    assert Ended().drain() == Ended()

"""Every policy of POLICIES, with late requests served and shed, runs through the same state machine."""

import gc
import weakref
from collections import Counter
from itertools import pairwise, takewhile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.policy import POLICIES
from batching_watchdog.engine.scheduler import _ON_TIME as ON_TIME
from batching_watchdog.engine.scheduler import TRY_ALONE_EVERY, Dispatch, Expire, Scheduler, Shed, Sleep
from batching_watchdog.errors import QueueFull
from batching_watchdog.messages import Batch, DispatchReason, Request
from watchdog.engine.queues import (
    DEADLINE_ORDER,
    MAX_BATCH_SIZE,
    NEVER_WAITS,
    accelerator,
    learned,
    policy,
    request,
)

MAX_INFLIGHT = 12
WORKERS = 2
GROUPS = [b"a", b"a", b"b", b"c"]
TIMEOUTS = [0.05, 0.1, 0.25, 1.0]
MILLISECONDS = st.integers(0, 400).map(lambda number: number / 1000)


class SchedulerMachine(RuleBasedStateMachine):
    """Requests, workers and time in any order; what became of each request is kept beside the scheduler."""

    name: str
    shed_late: bool

    @initialize(known=st.booleans())
    def start(self, known: bool) -> None:
        self.now = 1.0
        self.model = learned(accelerator) if known else LatencyModel(MAX_BATCH_SIZE)
        self.scheduler = Scheduler(
            policy(self.name), self.model, max_inflight=MAX_INFLIGHT, shed_late=self.shed_late
        )
        self.next_id = 0
        self.idle = WORKERS
        self.waiting: dict[int, Request] = {}
        self.retrying: dict[int, Request] = {}
        self.running: dict[int, Request] = {}
        self.batches: list[Batch] = []
        self.tried: Counter[int] = Counter()
        self.left: Counter[int] = Counter()
        self.slept: float | None = None
        self.slowest = self.model.predict(MAX_BATCH_SIZE)
        """The longest prediction so far: what was found late by it is shed, whatever is learned since."""

    @rule(
        budget=MILLISECONDS,
        timeout=st.sampled_from(TIMEOUTS),
        upstream=st.sampled_from([0.0, 0.0, 0.03]),
        group=st.sampled_from(GROUPS),
    )
    def offer(self, budget: float, timeout: float, upstream: float, group: bytes) -> None:
        arrived = self.now - upstream
        fresh = Request(self.next_id, b"", b"", arrived, arrived + budget, arrived + timeout, group)
        self.next_id += 1
        if len(self._admitted()) < MAX_INFLIGHT:
            assert not self.scheduler.full
            assert self.scheduler.offer(fresh, WORKERS) is None
            self.waiting[fresh.id] = fresh
        elif self.scheduler.full or not budget:
            with pytest.raises(QueueFull):
                self.scheduler.offer(fresh, WORKERS)
        else:
            displaced = self.scheduler.offer(fresh, WORKERS)
            assert self.name in DEADLINE_ORDER
            assert displaced is not None
            self._leave(self.waiting, displaced)
            self.waiting[fresh.id] = fresh

    @rule(steps=st.integers(1, 3) | st.just(4 * MAX_INFLIGHT))
    def act(self, steps: int) -> None:
        for _ in range(steps):
            if self._act():
                return
        assert steps < MAX_INFLIGHT, "next_action never sleeps"

    @rule(seconds=MILLISECONDS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.slept is not None)
    @rule()
    def sleep_as_told(self) -> None:
        assert self.slept is not None
        self.now = max(self.now, self.slept)

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        batch = self._take_batch(data)
        seconds = max(0.0, self.now - batch.dispatched)
        self.model.observe(len(batch.requests), seconds)
        self.slowest = max(self.slowest, self.model.predict(MAX_BATCH_SIZE))
        self.scheduler.observe(len(batch.requests), seconds)
        awaited = self.scheduler.finish(batch.requests)
        assert awaited == [each for each in batch.requests if each.id in self.running]
        for each in awaited:
            self._leave(self.running, each)

    @precondition(lambda self: self.batches)
    @rule(data=st.data())
    def worker_dies(self, data: st.DataObject) -> None:
        batch = self._take_batch(data)
        lost = self.scheduler.worker_died(batch)
        for each in batch.requests:
            if each in lost:
                assert self.tried[each.id] == 2
                self._leave(self.running, each)
            elif each.id in self.running:
                assert self.tried[each.id] == 1
                self.retrying[each.id] = self.running.pop(each.id)

    @rule(budget=MILLISECONDS, workers=st.integers(0, 3))
    def predict(self, budget: float, workers: int) -> None:
        late = self.scheduler.predicts_late(self.now + budget, self.now, workers)
        if budget and not any(each.deadline <= self.now + budget for each in self.waiting.values()):
            assert not late

    @precondition(lambda self: self.next_id > 0)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, self.next_id))
        admitted = self._admitted()
        assert self.scheduler.withdraw(number) == (number in admitted)
        if number in admitted:
            self._leave(self._place_of(number), admitted[number])

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        assert self.scheduler.admitted == len(self._admitted()) <= MAX_INFLIGHT
        assert self.scheduler.queued == len(self.waiting) + len(self.retrying)
        assert all(times == 1 for times in self.left.values())

    def teardown(self) -> None:
        """Whatever is left leaves in the end, once each, and nothing stays behind."""
        if not hasattr(self, "scheduler"):
            return
        self.now += 10.0
        while not self._act():
            pass
        assert not self._admitted()
        assert self.scheduler.admitted == self.scheduler.queued == 0
        assert self.scheduler.next_action(self.now, 1) == Sleep(None)
        assert sum(self.left.values()) == len(self.left)

    def _act(self) -> bool:
        """Do one action, having checked it; True if it is to sleep."""
        due = {number for number, each in self._admitted().items() if each.expires <= self.now}
        action = self.scheduler.next_action(self.now, self.idle)
        self.slept = None
        if isinstance(action, Expire):
            assert {each.id for each in action.requests} == due
            assert len(action.requests) == len(due)
            for each in action.requests:
                self._leave(self._place_of(each.id), each)
            return False
        assert not due
        if isinstance(action, Dispatch):
            self._check(action.batch)
            return False
        if isinstance(action, Shed):
            assert self.shed_late
            assert action.requests
            for each in action.requests:
                assert each.deadline - self.now < self.slowest
                self._leave(self.waiting, each)
            return False
        self._check_sleep(action)
        return True

    def _check(self, batch: Batch) -> None:
        assert self.idle > 0
        assert 1 <= len(batch.requests) <= MAX_BATCH_SIZE
        assert batch.dispatched == self.now
        assert len({each.group for each in batch.requests}) == 1
        if self.retrying:
            assert batch.reason is DispatchReason.RETRY
            assert len(batch.requests) == 1
            assert batch.requests[0].id in self.retrying
        else:
            assert batch.reason is not DispatchReason.RETRY
            assert all(each.id in self.waiting for each in batch.requests)
        if batch.reason not in (DispatchReason.RETRY, DispatchReason.LATE):
            self._check_order(batch)
        for each in batch.requests:
            self.tried[each.id] += 1
            self.running[each.id] = self._place_of(each.id).pop(each.id)
        self.idle -= 1
        self.batches.append(batch)

    def _check_order(self, batch: Batch) -> None:
        first, *_ = batch.requests
        if self.name in DEADLINE_ORDER:
            keys = [(each.deadline, each.id) for each in batch.requests]
            assert keys[0][0] - self.now >= self.model.predict(len(batch.requests))
            on_time = 1 + len([*takewhile(lambda pair: pair[0] < pair[1], pairwise(keys))])
            if on_time < len(keys):
                assert not self.shed_late, "late requests ride along"
                assert not self.scheduler._counts[ON_TIME], "where nobody on time could have the room"
            keys = keys[:on_time]
        else:
            keys = [(each.arrived, each.id) for each in batch.requests]
            # No policy in order of arrival has a late lane, so none that came before is passed over.
            everyone = self.waiting.values()
            waiting = sorted((each.arrived, each.id) for each in everyone if each.group == first.group)
            assert keys == waiting[: len(keys)]
            if self.name in NEVER_WAITS:
                assert keys[0] == min((each.arrived, each.id) for each in everyone)
        assert keys == sorted(keys)

    def _check_sleep(self, sleep: Sleep) -> None:
        self.slept = sleep.until
        admitted = self._admitted().values()
        if admitted:
            assert sleep.until is not None
            assert self.now < sleep.until <= min(each.expires for each in admitted)
        else:
            assert sleep.until is None
        if self.idle:
            assert not self.retrying
            assert not self.waiting or self.name not in NEVER_WAITS

    def _take_batch(self, data: st.DataObject) -> Batch:
        self.idle += 1
        return self.batches.pop(data.draw(st.integers(0, len(self.batches) - 1)))

    def _admitted(self) -> dict[int, Request]:
        return self.waiting | self.retrying | self.running

    def _place_of(self, number: int) -> dict[int, Request]:
        return next(place for place in (self.waiting, self.retrying, self.running) if number in place)

    def _leave(self, place: dict[int, Request], leaver: Request) -> None:
        assert place.pop(leaver.id) is leaver
        self.left[leaver.id] += 1


def machine(policy_name: str, late: str) -> type:
    kind = type(
        f"{policy_name.title()}{late.title()}Machine",
        (SchedulerMachine,),
        {"name": policy_name, "shed_late": late == "shed"},
    )
    kind.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
    return kind.TestCase


for _name in sorted(POLICIES):
    for _late in ("serve", "shed"):
        globals()[f"Test{_name.title()}{_late.title()}"] = machine(_name, _late)


def scheduler(
    name: str = "slo", *, model: LatencyModel | None = None, max_inflight: int = 64, shed_late: bool = False
):
    return Scheduler(
        policy(name), model or learned(accelerator), max_inflight=max_inflight, shed_late=shed_late
    )


def act(queue: Scheduler, now: float, idle: int = 0) -> list[Dispatch | Expire | Shed]:
    actions = []
    while not isinstance(action := queue.next_action(now, idle), Sleep):
        actions.append(action)
        idle -= isinstance(action, Dispatch)
    return actions


def ids(requests: tuple[Request, ...] | list[Request]) -> list[int]:
    return [each.id for each in requests]


def told(actions: list[Dispatch | Expire | Shed]) -> list[tuple[str, list[int]]]:
    """Why and which, in short."""
    return [
        (each.batch.reason.value, ids(each.batch.requests))
        if isinstance(each, Dispatch)
        else (type(each).__name__, ids(each.requests))
        for each in actions
    ]


EIGHT = list(range(8))
LATE, FRESH = (0.0, b"a"), (1.0, b"a")
COURSES = {
    "the earliest deadline has its turn however many of another group wait": (
        [(1.0 + number / 1000, b"many") for number in range(40)] + [(1.0005, b"few")],
        (0.0, 3),
        [("full", EIGHT), ("idle", [40]), ("full", list(range(8, 16)))],
    ),
    "late ones go by group in the order in which they fell late": (
        [(number / 1000, b"ababc"[number : number + 1]) for number in range(5)],
        (0.5, 3),
        [("late", [0, 2]), ("late", [1, 3]), ("late", [4])],
    ),
    "late ones after those on time": (
        [LATE, LATE, (1.0, b"b")],
        (0.5, 2),
        [("idle", [2]), ("late", [0, 1])],
    ),
    "late ones leave half of their budget": (
        [(0.021, b"a")] * 4,
        (0.5, 2),
        [("late", [0, 1]), ("late", [2, 3])],
    ),
    "room beside those on time": ([LATE, LATE, FRESH], (0.5, 1), [("idle", [2, 0, 1])]),
    "none that others on time could have": (
        [FRESH] * 9 + [LATE],
        (0.5, 2),
        [("full", EIGHT), ("idle", [8, 9])],
    ),
    # Up to four fit: before the deadline of the one on time, or into half of its budget.
    "none to be late for": ([LATE] * 6 + [(0.5 + accelerator(4), b"a")], (0.5, 1), [("idle", [6, 0, 1, 2])]),
    "none beyond half of a budget": ([LATE] * 6 + [(0.025, b"a")], (0.002, 1), [("idle", [6, 0, 1, 2])]),
}
"""Budgets and groups of requests that came at 0; the time and the idle workers; what is done."""


@pytest.mark.parametrize(("offers", "when", "done"), COURSES.values(), ids=COURSES)
def test_late_requests_and_groups_have_their_turns(offers: list, when: tuple[float, int], done: list):
    queue = scheduler()
    for number, (budget, group) in enumerate(offers):
        queue.offer(request(number, budget=budget, group=group))
    assert told(act(queue, *when)) == done


SHED = {
    "at once though every worker is busy": ([0.05, 0.5], (0.05, 0), [("Shed", [0])]),
    "and nobody rides along": ([0.0, 1.0], (0.5, 1), [("idle", [1]), ("Shed", [0])]),
    "though late already and a worker is idle": ([0.0625], (0.0625, 1), [("Shed", [0])]),
}


@pytest.mark.parametrize(("budgets", "when", "done"), SHED.values(), ids=SHED)
def test_late_requests_are_shed_when_asked(budgets: list[float], when: tuple[float, int], done: list):
    queue = scheduler(shed_late=True)
    for number, budget in enumerate(budgets):
        queue.offer(request(number, budget=budget))
    assert told(act(queue, *when)) == done


def test_the_queue_wakes_when_the_first_can_be_shed():
    queue = scheduler(shed_late=True)
    queue.offer(request(0, budget=0.05))
    assert queue.next_action(0.0, 0) == Sleep(0.05)


def test_a_full_batch_of_one_group_does_not_wait_for_the_delay_of_another():
    queue = scheduler("fixed")
    for number in range(MAX_BATCH_SIZE + 1):
        queue.offer(request(number, group=b"b" if number else b"a"))
    assert told(act(queue, 0.0, 2)) == [("full", list(range(1, MAX_BATCH_SIZE + 1)))]


def test_a_group_whose_first_has_left_still_has_its_turn_by_what_is_left():
    queue = scheduler()
    for number, budget in enumerate([0.5, 0.9, 0.7, 0.6, 0.8]):
        queue.offer(request(number, budget=budget, group=b"b" if number == 2 else b"a"))
    queue.withdraw(0)
    queue.withdraw(4)
    assert told(act(queue, 0.0, 2)) == [("idle", [3, 1]), ("idle", [2])]


def test_a_lost_batch_is_tried_again_one_by_one_before_anything_else_and_then_given_up():
    queue = scheduler()
    for number in range(3):
        queue.offer(request(number))
    (together,) = act(queue, 0.0, 1)
    queue.offer(request(9))
    assert queue.worker_died(together.batch) == []
    alone = act(queue, 0.01, 4)
    assert told(alone) == [("retry", [0]), ("retry", [1]), ("retry", [2]), ("idle", [9])]
    assert ids(queue.worker_died(alone[1].batch)) == [1]
    assert ids(queue.finish(alone[0].batch.requests)) == [0]
    assert queue.admitted == 2


def test_mixed_timeouts_expire_exactly_when_they_are_due():
    queue, now, expired = scheduler(), 0.0, []
    for number, timeout in enumerate([9.0, 1.0, 5.0, 0.5, 9.5, 5.0, 0.5]):
        queue.offer(request(number, timeout=timeout))
    while queue.admitted:
        sleep = queue.next_action(now, 0)
        assert queue.next_action(sleep.until - 1e-6, 0) == sleep
        now = sleep.until
        ((_, numbers),) = told(act(queue, now))
        expired.append((now, sorted(numbers)))
    assert expired == [(0.5, [3, 6]), (1.0, [1]), (5.0, [2, 5]), (9.0, [0]), (9.5, [4])]


def test_a_late_request_can_be_withdrawn():
    queue = scheduler()
    for number in range(4):
        queue.offer(request(number, budget=0.0))
    queue.offer(request(4, budget=1.0, group=b"another"))
    act(queue, 0.5, 1)
    assert [queue.withdraw(number) for number in (0, 2, 2)] == [True, True, False]
    assert told(act(queue, 0.5, 1)) == [("late", [1, 3])]


def test_shedding_never_locks_out_a_model_that_was_slow_once():
    queue = scheduler(model=(model := learned(lambda _: 60.0, (1,), times=1)), shed_late=True)
    for number in range(30):
        queue.offer(request(number, arrived=float(number)))
        (action,) = act(queue, float(number), 1)
        queue.finish(action.batch.requests)
        model.observe(1, 0.01)
    assert action.batch.reason is DispatchReason.IDLE
    assert model.predict(1) == pytest.approx(0.01)


def test_an_idle_worker_tries_the_latest_of_the_predicted_late_and_sheds_the_rest():
    queue = scheduler(model=learned(lambda _: 60.0, (1,)), shed_late=True)
    for number in range(4):
        queue.offer(request(number, budget=0.1 + number / 10))
    queue.withdraw(3)
    assert told(act(queue, 0.0, 1)) == [("late", [2]), ("Shed", [0, 1])]


def test_late_requests_by_prediction_go_in_the_best_size_and_at_times_alone():
    model = learned(lambda size: 1.0 + size / 100)
    queue = scheduler(model=model, max_inflight=1000)
    for number in range(200):
        queue.offer(request(number))
    sizes = [len(action.batch.requests) for action in act(queue, 0.0, 2 * TRY_ALONE_EVERY)]
    assert sizes == ([8] * (TRY_ALONE_EVERY - 1) + [1]) * 2


def test_a_fresh_request_takes_the_place_of_the_one_that_has_been_late_for_longest():
    queue = scheduler(max_inflight=4)
    for number in range(3):
        queue.offer(request(number, budget=0.01 * (3 - number)))
    queue.offer(request(3, arrived=0.5, budget=0.5, group=b"another"))
    act(queue, 0.5, 1)
    assert (queue.full, queue.at_limit) == (False, True)
    assert queue.offer(request(4, arrived=0.5)) == request(2, budget=0.01)
    assert queue.offer(request(5, arrived=0.5)) == request(1, budget=0.02)
    with pytest.raises(QueueFull):
        queue.offer(request(6, arrived=0.5, budget=0.0))
    assert queue.admitted == 4


def test_requests_on_time_and_with_a_worker_are_never_displaced():
    queue = scheduler(max_inflight=2)
    queue.offer(request(1, budget=0.0))
    queue.offer(request(2, budget=1.0, group=b"another"))
    sent, _ = act(queue, 0.5, 2)
    assert queue.full
    with pytest.raises(QueueFull, match="2 requests"):
        queue.offer(request(3, arrived=0.5))
    queue.finish(sent.batch.requests)
    assert queue.offer(request(3, arrived=0.5)) is None


@pytest.mark.parametrize(
    ("queued", "seconds", "workers", "retry_after"),
    # In batches of 8: half of 160 requests take 20 s with one worker, with two 10 s.
    [(0, 2.0, 1, 1), (160, 2.0, 1, 20), (160, 2.0, 2, 10), (160, 2.0, 0, 20), (160, 100.0, 1, 60)],
)
def test_a_refusal_tells_when_half_the_queue_will_be_worked_off_but_at_most_a_minute(
    queued: int, seconds: float, workers: int, retry_after: int
):
    queue = scheduler(model=learned(lambda _: seconds, (8,)), max_inflight=1000)
    for number in range(queued):
        queue.offer(request(number))
    assert queue.refusal(workers).retry_after == retry_after


@pytest.mark.parametrize(
    ("budget", "step", "deadline", "now", "workers", "late"),
    [
        # 24 at 8 for each 16 ms, then a batch of one, which takes 9 ms.
        (0.1, 0.0, 0.1, 0.042, 1, False),
        (0.1, 0.0, 0.1, 0.044, 1, True),
        (0.1, 0.0, 0.1, 0.066, 2, False),
        (0.1, 0.0, 0.1, 0.068, 2, True),
        (0.1, 0.0, 0.1, 0.100, 9, True),
        # Spread from 0.2 to 0.223: a deadline before those of the queue is not behind them.
        (0.2, 0.001, 0.03, 0.0, 1, False),
        (0.2, 0.001, 0.2, 0.15, 1, False),
        (0.2, 0.001, 0.223, 0.2, 1, True),
    ],
)
def test_lateness_is_predicted_from_what_is_ahead_and_the_learned_throughput(
    budget: float, step: float, deadline: float, now: float, workers: int, late: bool
):
    queue = scheduler()
    assert not queue.predicts_late(deadline, deadline - 0.001, workers), "nothing waits"
    assert queue.predicts_late(deadline, deadline, workers)
    for number in range(24):
        queue.offer(request(number, budget=budget + step * number))
    assert queue.predicts_late(deadline, now, workers) is late


def test_policies_that_know_no_deadlines_predict_nothing():
    for name in set(POLICIES) - set(DEADLINE_ORDER):
        queue = scheduler(name)
        queue.offer(request(0))
        assert not queue.predicts_late(0.0, 1.0, 1)


def held(queue: Scheduler) -> int:
    """How much the queue holds on to."""
    lanes = (queue._admitted, queue._heads, queue._late, queue._retry, queue._early, queue._groups)
    groups = queue._groups.values()
    return sum(map(len, lanes)) + sum(len(group.on_time) + len(group.late) for group in groups)


@pytest.mark.parametrize(("groups", "shed_late"), [(1, False), (1, True), (3000, False)])
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_nothing_piles_up_when_requests_expire(name: str, groups: int, shed_late: bool):
    queue = scheduler(name, max_inflight=50, shed_late=shed_late)
    largest = 0
    for number in range(3000):
        now, group = number / 100, b"%d" % (number % groups)
        queue.offer(request(number, arrived=now, timeout=0.3 if number % 3 else 0.2, group=group))
        for action in act(queue, now, number % 2 if groups > 1 else 0):
            if isinstance(action, Dispatch):
                queue.finish(action.batch.requests)
        largest = max(largest, held(queue))
    act(queue, 100.0)
    assert queue.admitted == len(queue._groups) == 0
    assert largest < 500


def test_nothing_piles_up_when_a_long_request_outlives_many_short_ones_that_are_answered():
    queue = scheduler("unbatched")
    # The second is the first to end among those with a shorter timeout: it blocks their heap.
    for number, timeout in enumerate((1000.0, 100.0)):
        queue.offer(request(number, timeout=timeout))
        act(queue, 0.0, 1)
    for number in range(2, 3000):
        queue.offer(request(number, timeout=500.0))
        (sent,) = act(queue, 0.0, 1)
        queue.finish(sent.batch.requests)
    assert queue.admitted == 2
    assert held(queue) < 500


def test_nothing_piles_up_while_one_group_waits_and_another_is_served():
    queue = scheduler("fixed")
    queue.offer(request(0, group=b"waits"))
    for number in range(1, 4000, MAX_BATCH_SIZE):
        for each in range(MAX_BATCH_SIZE):
            queue.offer(request(number + each))
        (sent,) = act(queue, 0.0, 1)
        queue.finish(sent.batch.requests)
    assert queue.admitted == 1
    assert held(queue) < 300


def test_nothing_piles_up_when_clients_go_away_from_the_late_lane_and_from_the_retries():
    queue = scheduler()
    for number in range(0, 6000, 3):
        for each in range(3):
            queue.offer(request(number + each, budget=0.0 if each else 1.0))
        (sent,) = act(queue, 0.5, 1)
        queue.worker_died(sent.batch)
        for each in range(3):
            assert queue.withdraw(number + each)
    assert queue.admitted == 0
    assert held(queue) < 500


class Body(bytearray):
    """A body that a weak reference can watch."""


def test_a_request_that_leaves_from_the_middle_of_the_queue_is_freed_at_once():
    queue, body = scheduler(), Body(b"x" * 1000)
    seen = weakref.ref(body)
    queue.offer(request(1))
    queue.offer(Request(2, b"", body, 0.0, 0.1, 1.0))
    del body
    queue.withdraw(2)
    gc.collect()
    assert seen() is None

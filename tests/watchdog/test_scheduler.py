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
from batching_watchdog.engine.scheduler import Dispatch, Expire, Scheduler, Shed, Sleep
from batching_watchdog.errors import QueueFull
from batching_watchdog.messages import Batch, DispatchReason, Request
from watchdog.queues import DEADLINE_ORDER, MAX_BATCH_SIZE, NEVER_WAITS, accelerator, learned, policy, request

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

    @rule()
    def act_until_it_sleeps(self) -> None:
        for _ in range(4 * MAX_INFLIGHT):
            if self._act():
                return
        raise AssertionError("next_action never sleeps")

    @rule(steps=st.integers(1, 3))
    def act_a_little(self, steps: int) -> None:
        for _ in range(steps):
            if self._act():
                return

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


def test_deadlines_decide_who_goes_first_under_slo_and_arrival_under_the_others():
    for name in POLICIES:
        queue = scheduler(name)
        queue.offer(request(1, arrived=0.0, budget=0.3))
        queue.offer(request(2, arrived=0.01, budget=0.2))
        first = queue.next_action(0.1, 1)
        assert isinstance(first, Dispatch)
        assert first.batch.requests[0].id == (2 if name in DEADLINE_ORDER else 1)


def test_requests_of_different_groups_never_share_a_batch():
    for name in POLICIES:
        queue = scheduler(name)
        for number in range(12):
            queue.offer(request(number, budget=1.0, group=b"ab"[number % 2 : number % 2 + 1]))
        batches = [action.batch for action in act(queue, 0.5, 20)]
        assert sorted(each.id for batch in batches for each in batch.requests) == list(range(12))
        assert all(len({each.id % 2 for each in batch.requests}) == 1 for batch in batches)


def test_the_group_with_the_earliest_deadline_has_its_turn_however_many_of_another_wait():
    queue = scheduler()
    for number in range(40):
        queue.offer(request(number, budget=1.0 + number / 1000, group=b"many"))
    queue.offer(request(40, budget=1.0005, group=b"few"))
    first, second, third = (action.batch for action in act(queue, 0.0, 3))
    assert ids(first.requests) == list(range(8))
    assert ids(second.requests) == [40]
    assert ids(third.requests) == list(range(8, 16))


def test_a_group_whose_first_has_left_still_has_its_turn_by_what_is_left():
    queue = scheduler()
    for number, (budget, group) in enumerate([(0.5, b"a"), (0.9, b"a"), (0.7, b"b"), (0.6, b"a")]):
        queue.offer(request(number, budget=budget, group=group))
    queue.withdraw(0)
    assert [ids(action.batch.requests) for action in act(queue, 0.0, 2)] == [[3, 1], [2]]


def test_late_requests_are_batched_by_group_in_the_order_in_which_they_fell_late():
    queue = scheduler()
    for number, group in enumerate([b"a", b"b", b"a", b"b", b"c"]):
        queue.offer(request(number, budget=number / 1000, group=group))
    late = [action.batch for action in act(queue, 0.5, 3)]
    assert [(ids(batch.requests), batch.reason) for batch in late] == [
        ([0, 2], DispatchReason.LATE),
        ([1, 3], DispatchReason.LATE),
        ([4], DispatchReason.LATE),
    ]


def test_a_full_batch_of_one_group_does_not_wait_for_the_delay_of_another():
    queue = scheduler("fixed")
    queue.offer(request(0, group=b"a"))
    for number in range(1, MAX_BATCH_SIZE + 1):
        queue.offer(request(number, group=b"b"))
    (full,) = (action.batch for action in act(queue, 0.0, 2))
    assert (full.reason, len(full.requests)) == (DispatchReason.FULL, MAX_BATCH_SIZE)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_groups_leave_nothing_behind_though_every_request_has_its_own(name: str):
    queue = scheduler(name, max_inflight=50)
    largest = 0
    for number in range(3000):
        now = number / 100
        queue.offer(request(number, arrived=now, budget=0.1, timeout=0.3, group=b"%d" % number))
        for action in act(queue, now, number % 2):
            if isinstance(action, Dispatch):
                queue.finish(action.batch.requests)
        largest = max(largest, sizes(queue))
    act(queue, 100.0)
    assert queue.admitted == 0
    assert not queue._groups
    assert largest < 500


def test_a_lost_batch_is_tried_again_one_by_one_before_anything_else_and_then_given_up():
    queue = scheduler()
    for number in range(3):
        queue.offer(request(number))
    (together,) = act(queue, 0.0, 1)
    queue.offer(request(9))
    assert queue.worker_died(together.batch) == []
    alone = act(queue, 0.01, 4)
    assert [(ids(each.batch.requests), each.batch.reason.value) for each in alone] == [
        ([0], "retry"),
        ([1], "retry"),
        ([2], "retry"),
        ([9], "idle"),
    ]
    assert ids(queue.worker_died(alone[1].batch)) == [1]
    assert ids(queue.finish(alone[0].batch.requests)) == [0]
    assert queue.admitted == 2


def test_a_worker_that_dies_under_requests_which_have_expired_or_left_queues_nothing():
    queue = scheduler()
    queue.offer(request(1, timeout=0.05))
    queue.offer(request(2))
    (sent,) = act(queue, 0.0, 1)
    queue.withdraw(2)
    assert [ids(action.requests) for action in act(queue, 0.05)] == [[1]]
    assert queue.worker_died(sent.batch) == []
    assert queue.finish(sent.batch.requests) == []
    assert queue.admitted == 0


def test_mixed_timeouts_expire_exactly_when_they_are_due():
    queue = scheduler()
    timeouts = [9.0, 1.0, 5.0, 0.5, 9.5, 5.0, 0.5, 30.0, 7.0]
    for number, timeout in enumerate(timeouts):
        queue.offer(request(number, timeout=timeout))
    now = 0.0
    expired: list[tuple[float, list[int]]] = []
    while queue.admitted:
        sleep = queue.next_action(now, 0)
        assert isinstance(sleep, Sleep)
        assert sleep.until is not None
        just_before = queue.next_action(sleep.until - 1e-6, 0)
        assert just_before == sleep
        now = sleep.until
        action = queue.next_action(now, 0)
        assert isinstance(action, Expire)
        expired.append((now, sorted(ids(action.requests))))
    assert expired == [
        (0.5, [3, 6]),
        (1.0, [1]),
        (5.0, [2, 5]),
        (7.0, [8]),
        (9.0, [0]),
        (9.5, [4]),
        (30.0, [7]),
    ]


def test_a_request_may_expire_while_a_worker_has_it():
    queue = scheduler()
    queue.offer(request(1, timeout=0.05))
    (sent,) = act(queue, 0.0, 1)
    assert queue.queued == 0
    (expire,) = act(queue, 0.05)
    assert ids(expire.requests) == [1]
    assert queue.finish(sent.batch.requests) == []


def test_late_requests_are_served_when_nothing_on_time_wants_the_worker():
    queue = scheduler()
    for number in range(3):
        queue.offer(request(number, budget=0.0))
    queue.offer(request(3, budget=1.0, group=b"another"))
    first, second = act(queue, 0.5, 2)
    assert (ids(first.batch.requests), first.batch.reason) == ([3], DispatchReason.IDLE)
    assert (ids(second.batch.requests), second.batch.reason) == ([0, 1, 2], DispatchReason.LATE)


def test_late_requests_have_the_room_beside_those_on_time():
    queue = scheduler()
    for number in range(3):
        queue.offer(request(number, budget=0.0))
    queue.offer(request(3, budget=1.0))
    (first,) = act(queue, 0.5, 1)
    assert (ids(first.batch.requests), first.batch.reason) == ([3, 0, 1, 2], DispatchReason.IDLE)


def test_late_requests_have_no_room_that_somebody_on_time_could_have():
    queue = scheduler()
    queue.offer(request(0, budget=0.0))
    for number in range(1, MAX_BATCH_SIZE + 2):
        queue.offer(request(number, budget=1.0))
    first, second = act(queue, 0.5, 2)
    assert ids(first.batch.requests) == list(range(1, MAX_BATCH_SIZE + 1))
    assert ids(second.batch.requests) == [MAX_BATCH_SIZE + 1, 0]


def test_late_requests_have_no_room_that_those_on_time_would_be_late_for():
    queue = scheduler()
    for number in range(6):
        queue.offer(request(number, budget=0.0))
    queue.offer(request(6, budget=0.5 + accelerator(4)))
    (first,) = act(queue, 0.5, 1)
    assert ids(first.batch.requests) == [6, 0, 1, 2]


def test_nobody_rides_along_when_late_requests_are_shed():
    queue = scheduler(shed_late=True)
    queue.offer(request(0, budget=0.0))
    queue.offer(request(1, budget=1.0))
    first, *_ = act(queue, 0.5, 1)
    assert ids(first.batch.requests) == [1]


def test_a_late_request_can_be_withdrawn():
    queue = scheduler()
    for number in range(4):
        queue.offer(request(number, budget=0.0))
    queue.offer(request(4, budget=1.0, group=b"another"))
    act(queue, 0.5, 1)
    assert queue.withdraw(0)
    assert queue.withdraw(2)
    assert not queue.withdraw(2)
    (late,) = act(queue, 0.5, 1)
    assert ids(late.batch.requests) == [1, 3]


def test_late_requests_are_shed_at_once_though_every_worker_is_busy():
    queue = scheduler(shed_late=True)
    queue.offer(request(1, budget=0.05))
    queue.offer(request(2, budget=0.5))
    assert queue.next_action(0.0, 0) == Sleep(0.05)
    (shed,) = act(queue, 0.05)
    assert isinstance(shed, Shed)
    assert ids(shed.requests) == [1]
    assert queue.admitted == 1


def test_requests_found_late_while_a_batch_is_cut_are_shed_though_no_worker_is_left():
    queue = scheduler(shed_late=True)
    queue.offer(request(1, budget=0.05))
    queue.offer(request(2, budget=0.5))
    sent, shed = act(queue, 0.1, 1)
    assert ids(sent.batch.requests) == [2]
    assert ids(shed.requests) == [1]


def test_shedding_never_locks_out_a_model_that_was_slow_once():
    model = LatencyModel(MAX_BATCH_SIZE)
    model.observe(1, 60.0)
    queue = scheduler(model=model, shed_late=True)
    for number in range(30):
        queue.offer(request(number, arrived=float(number)))
        actions = act(queue, float(number), 1)
        assert [type(action) for action in actions] == [Dispatch]
        queue.finish(actions[0].batch.requests)
        model.observe(1, 0.01)
    assert actions[0].batch.reason is DispatchReason.IDLE
    assert model.predict(1) == pytest.approx(0.01)


def test_an_idle_worker_tries_the_latest_of_the_predicted_late_and_sheds_the_rest():
    model = LatencyModel(MAX_BATCH_SIZE)
    model.observe(1, 60.0)
    queue = scheduler(model=model, shed_late=True)
    for number in range(4):
        queue.offer(request(number, budget=0.1 + number / 10))
    queue.withdraw(3)
    tried, shed = act(queue, 0.0, 1)
    assert (ids(tried.batch.requests), tried.batch.reason) == ([2], DispatchReason.LATE)
    assert ids(shed.requests) == [0, 1]


def test_an_idle_worker_gets_nothing_that_is_late_already_when_late_requests_are_shed():
    queue = scheduler(shed_late=True)
    queue.offer(request(1, budget=0.05))
    assert [type(action) for action in act(queue, 0.06, 1)] == [Shed]


def test_a_full_queue_refuses_and_takes_again_when_one_has_left():
    queue = scheduler(max_inflight=2)
    queue.offer(request(1))
    queue.offer(request(2))
    assert queue.full
    with pytest.raises(QueueFull, match="2 requests"):
        queue.offer(request(3))
    queue.withdraw(1)
    queue.offer(request(3))
    assert queue.admitted == 2


def test_a_fresh_request_takes_the_place_of_the_one_that_has_been_late_for_longest():
    queue = scheduler(max_inflight=4)
    for number in range(3):
        queue.offer(request(number, budget=0.01 * (3 - number)))
    queue.offer(request(3, arrived=0.5, budget=0.5, group=b"another"))
    act(queue, 0.5, 1)
    assert not queue.full
    assert queue.offer(request(4, arrived=0.5)) == request(2, budget=0.01)
    assert queue.offer(request(5, arrived=0.5)) == request(1, budget=0.02)
    with pytest.raises(QueueFull):
        queue.offer(request(6, arrived=0.5, budget=-0.1))
    assert queue.admitted == 4


def test_requests_on_time_and_with_a_worker_are_never_displaced():
    queue = scheduler(max_inflight=2)
    queue.offer(request(1, budget=0.0))
    queue.offer(request(2, budget=1.0, group=b"another"))
    (sent, late) = act(queue, 0.5, 2)
    assert late.batch.reason is DispatchReason.LATE
    assert queue.full
    with pytest.raises(QueueFull):
        queue.offer(request(3, arrived=0.5))
    queue.finish(sent.batch.requests)
    assert queue.offer(request(3, arrived=0.5)) is None


def test_a_refusal_tells_when_half_the_queue_will_be_worked_off():
    model = learned(lambda _: 2.0, (8,))
    queue = scheduler(model=model, max_inflight=1000)
    assert queue.refusal(1).retry_after == 1
    for number in range(160):
        queue.offer(request(number))
    # 160 requests in batches of 8 of 2 s each, with one worker: half of them take 20 s, with two 10 s.
    assert queue.refusal(1).retry_after == 20
    assert queue.refusal(2).retry_after == 10
    assert queue.refusal(0).retry_after == 20


def test_a_refusal_never_sends_anyone_away_for_more_than_a_minute():
    queue = scheduler(model=learned(lambda _: 100.0, (1,)), max_inflight=100)
    for number in range(100):
        queue.offer(request(number))
    assert queue.refusal(1).retry_after == 60


def test_lateness_is_predicted_from_what_is_ahead_and_the_learned_throughput():
    queue = scheduler()
    assert not queue.predicts_late(0.001, 0.0, 1)  # nothing waits: the worker will show
    for number in range(24):
        queue.offer(request(number, budget=0.1))
    # 24 at 8 for each 16 ms, then our own batch of one, which takes 9 ms.
    assert queue.predicts_late(0.1, 0.042, 1) is False
    assert queue.predicts_late(0.1, 0.044, 1) is True
    assert queue.predicts_late(0.1, 0.066, 2) is False
    assert queue.predicts_late(0.1, 0.068, 2) is True
    assert queue.predicts_late(0.1, 0.1, 9) is True


def test_a_deadline_before_those_of_the_queue_is_not_behind_them():
    queue = scheduler()
    for number in range(24):
        queue.offer(request(number, budget=0.2 + number / 1000))
    assert not queue.predicts_late(0.03, 0.0, 1)
    assert not queue.predicts_late(0.2, 0.15, 1)
    assert queue.predicts_late(0.223, 0.2, 1)


def test_policies_that_know_no_deadlines_predict_nothing():
    for name in set(POLICIES) - set(DEADLINE_ORDER):
        queue = scheduler(name)
        queue.offer(request(0))
        assert not queue.predicts_late(0.0, 1.0, 1)


def sizes(queue: Scheduler) -> int:
    """Everything that the queue holds on to."""
    lanes = (queue._admitted, queue._heads, queue._late, queue._retry, queue._early, queue._groups)
    groups = queue._groups.values()
    return sum(map(len, lanes)) + sum(len(group.on_time) + len(group.late) for group in groups)


@pytest.mark.parametrize("shed_late", [False, True])
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_nothing_piles_up_when_requests_expire_and_no_worker_ever_takes_one(name: str, shed_late: bool):
    queue = scheduler(name, max_inflight=50, shed_late=shed_late)
    largest = 0
    for number in range(5000):
        now = number / 100
        queue.offer(request(number, arrived=now, budget=0.1, timeout=0.3 if number % 3 else 0.2))
        act(queue, now)
        largest = max(largest, sizes(queue))
    act(queue, 100.0)
    assert queue.admitted == 0
    assert largest < 500


def test_nothing_piles_up_when_a_long_request_outlives_many_short_ones_that_are_answered():
    queue = scheduler("unbatched")
    queue.offer(request(0, timeout=1000.0))
    act(queue, 0.0, 1)
    # Its timeout is the first to end among those that are shorter than the first's: it blocks their heap.
    queue.offer(request(1, timeout=100.0))
    act(queue, 0.0, 1)
    for number in range(2, 5000):
        queue.offer(request(number, timeout=500.0))
        (sent,) = act(queue, 0.0, 1)
        queue.finish(sent.batch.requests)
    assert queue.admitted == 2
    assert sizes(queue) < 500


def test_nothing_piles_up_when_clients_go_away_from_the_late_lane_and_from_the_retries():
    queue = scheduler()
    for number in range(0, 9000, 3):
        for each in range(3):
            queue.offer(request(number + each, budget=0.0 if each else 1.0))
        (sent,) = act(queue, 0.5, 1)
        queue.worker_died(sent.batch)
        for each in range(3):
            assert queue.withdraw(number + each)
    assert queue.admitted == 0
    assert sizes(queue) < 500


class Body(bytearray):
    """A body that a weak reference can watch."""


def test_a_request_that_leaves_from_the_middle_of_the_queue_is_freed_at_once():
    queue = scheduler()
    queue.offer(request(1))
    body = Body(b"x" * 1000)
    seen = weakref.ref(body)
    queue.offer(Request(2, b"", body, 0.0, 0.1, 1.0))
    del body
    queue.withdraw(2)
    gc.collect()
    assert seen() is None

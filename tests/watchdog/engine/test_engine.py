"""The engine as a state machine under hypothesis, and what each kind of event leads to."""

import contextlib
import math
import random
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.effects import Answer, Cancel, Dispatch, Effect, WakeAt
from batching_watchdog.engine.engine import LATELY, PATIENCE, Engine
from batching_watchdog.engine.policy import AGE, POLICIES, RESERVE, PolicySettings
from batching_watchdog.errors import Expired, PredictedLate, QueueFull, WorkerDied
from batching_watchdog.messages import DROPPED, PROBE, Batch, DispatchReason, Reply, Request
from support.fuzzing import fuzzed
from watchdog.engine.queues import NEVER_WAITS, learn, request

LIMIT = 12
LARGE = 1000
LARGEST = 8
SLO = 0.1
OK = Reply(200, b"", b"")
FAILED = Reply(500, b"", b"", failed=True)


@dataclass(eq=False)
class Worker:
    """A worker that does nothing by itself."""

    def send(self, batch: Batch) -> None:
        """Nothing: the tests have the effect."""


def law(size: int) -> float:
    return 0.01 + 0.005 * size


def engine(
    policy: str = "slo",
    *,
    workers: int = 1,
    idle: int | None = None,
    learned: bool = True,
    slo_latency: float = SLO,
    **options: object,
) -> tuple[Engine, list[Worker]]:
    """An engine whose workers are idle, all of them or so many."""
    cost = CostModel(LARGEST)
    if learned:
        learn(cost.overall, law, (1, 2, 4, 8), 5)
    made = Engine(
        POLICIES[policy](PolicySettings(LARGEST, 0.02, slo_latency)),
        cost,
        workers=workers,
        **{"max_inflight": LIMIT, **options},  # type: ignore[arg-type]
    )
    crew = [Worker() for _ in range(workers if idle is None else idle)]
    for worker in crew:
        made.worker_ready(worker)
    return made, crew


def dispatched(effects: list[Effect]) -> list[Batch]:
    return [effect.batch for effect in effects if isinstance(effect, Dispatch)]


def answered(effects: list[Effect]) -> dict[int, object]:
    return {effect.request.id: effect.outcome for effect in effects if isinstance(effect, Answer)}


def ids(batch: Batch) -> list[int]:
    return [each.id for each in batch.requests]


class Machine(RuleBasedStateMachine):
    """Any order of events; every admitted request leaves exactly once, and no bound is passed."""

    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        shed=st.booleans(),
        workers=st.integers(1, 3),
        lead=st.sampled_from([0.0, 0.003, 1.0]),
    )
    def start(self, policy: str, shed: bool, workers: int, lead: float) -> None:
        self.policy, self.lead = policy, lead
        self.engine, _ = engine(policy, workers=workers, shed_late=shed, lead=lead)
        self.now = 0.0
        self.number = 0
        self.open: dict[int, Request] = {}
        self.running: dict[Worker, Batch] = {}
        self.next: dict[Worker, Batch] = {}
        self.cancelled: dict[int, set[int]] = {}
        """Of batches, by number."""
        self.missing = 0
        """Workers that have died and have no replacement yet."""
        self.killed_at = -math.inf
        """When the last part that killed its worker was sent."""
        self.wake = math.inf
        self.ticked = False

    def carry_out(self, effects: object) -> None:
        for effect in effects:  # type: ignore[attr-defined]
            if isinstance(effect, Answer):
                del self.open[effect.request.id]  # a KeyError: answered twice
            elif isinstance(effect, Dispatch):
                batch = effect.batch
                assert 1 <= len(batch.requests) <= LARGEST
                assert len({each.cost_class[0] for each in batch.requests}) == 1
                assert len(set(ids(batch))) == len(batch.requests)
                if effect.worker in self.running:
                    assert self.lead
                    assert effect.worker not in self.next, "one runs, one is next"
                    assert batch.reason is not DispatchReason.RETRY, "suspects are tried alone"
                    self.next[effect.worker] = batch
                else:
                    if batch.reason is DispatchReason.RETRY and self.missing:
                        assert self.now >= self.killed_at + LATELY, "others serve"
                    self.running[effect.worker] = batch
            elif isinstance(effect, Cancel):
                batch = self.next[effect.worker]
                assert not {batch.requests[place].id for place in effect.indexes} & self.open.keys()
                self.cancelled.setdefault(id(batch), set()).update(effect.indexes)
            else:
                self.wake = effect.at

    def reply(self, worker: Worker, reply: Reply, *, last: bool = False) -> None:
        """The worker answers what it runs, and goes on with what it has next."""
        batch = self.running.pop(worker)
        dropped = self.cancelled.pop(id(batch), set())
        replies = [DROPPED if place in dropped else reply for place in range(len(batch.requests))]
        done, effects = self.engine.batch_done(worker, replies, self.now, last=last)
        assert done is batch
        if worker in self.next:
            self.running[worker] = self.next.pop(worker)
        self.carry_out(effects)

    @rule(
        budget=st.sampled_from([0.0, 0.02, SLO, 0.3]),
        timeout=st.sampled_from([0.01, 0.3, 5.0]),
        key=st.sampled_from([b"a", b"b", b"c"]),
    )
    def offer(self, budget: float, timeout: float, key: bytes) -> None:
        self.number += 1
        made = request(self.number, self.now, budget, timeout, key)
        before = self.engine.admitted
        try:
            effects = self.engine.offer(made, self.now)
        except QueueFull:
            assert before == LIMIT
        else:
            self.open[made.id] = made
            self.carry_out(effects)
        self.ticked = False

    @rule(passed=st.sampled_from([0.0, 0.001, 0.02, 0.1, 1.0]))
    def tick(self, passed: float) -> None:
        self.now += passed
        self.wake = math.inf
        self.carry_out(self.engine.tick(self.now))
        self.ticked = True

    @precondition(lambda self: self.running)
    @rule(data=st.data(), failed=st.booleans(), ready=st.booleans())
    def finish(self, data: st.DataObject, failed: bool, ready: bool) -> None:
        worker = data.draw(st.sampled_from(list(self.running)))
        goes = not ready and worker not in self.next
        self.reply(worker, FAILED if failed else OK, last=not ready)
        if ready or goes:
            self.engine.worker_ready(Worker() if goes else worker)
        self.ticked = False

    @precondition(lambda self: self.running)
    @rule(data=st.data(), replaced=st.booleans())
    def lose(self, data: st.DataObject, replaced: bool) -> None:
        worker = data.draw(st.sampled_from(list(self.running)))
        lost = self.running.pop(worker)
        if lost.reason is DispatchReason.RETRY:
            self.killed_at = lost.dispatched
        taken_back = self.next.pop(worker, None)
        self.carry_out(self.engine.worker_lost(worker))
        for each in () if taken_back is None else taken_back.requests:
            assert each.id not in self.open or each.attempts == 0
        self.missing += 1
        if replaced:
            self.replace()
        self.ticked = False

    @precondition(lambda self: self.missing)
    @rule()
    def replace(self) -> None:
        self.missing -= 1
        self.engine.worker_ready(Worker())
        self.ticked = False

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        gone = self.open.pop(data.draw(st.sampled_from(sorted(self.open))))
        self.carry_out(self.engine.abandon(gone, self.now))
        assert self.engine.abandon(gone, self.now) == []  # its client may be told twice
        self.ticked = False

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "engine"):
            return
        assert self.engine.admitted == len(self.open) <= LIMIT
        assert 0 <= self.engine.queued <= self.engine.admitted
        out = [*self.running.values(), *self.next.values()]
        running = {each.id for batch in out for each in batch.requests}
        assert self.engine.queued == len(self.open.keys() - running)

    @invariant()
    def no_worker_idles_while_there_is_work(self) -> None:
        if not hasattr(self, "engine") or not self.ticked or self.policy not in NEVER_WAITS:
            return
        # Suspects are tried in one place: while they are, the rest of them wait.
        if self.engine.idle and self.engine.queued > self.engine.suspects:
            # Under overload the batches of a lane leave apart.
            assert self.engine._overloaded
            longest = self.engine._cost.overall.predict(LARGEST)
            assert self.wake <= self.now + longest / self.engine._workers

    def teardown(self) -> None:
        """Whatever was left in it, the workers answer: nothing stays."""
        for _ in range(200):
            if not hasattr(self, "engine") or not self.open:
                return
            if self.missing:
                self.replace()
            self.now += 0.1
            self.carry_out(self.engine.tick(self.now))
            for worker in list(self.running):
                self.reply(worker, OK)
                self.engine.worker_ready(worker)
        raise AssertionError(f"still open: {sorted(self.open)}")


Machine.TestCase.settings = fuzzed(60, stateful_step_count=40)
test_engine_any_events_answers_each_request_once = Machine.TestCase


def test_tick_with_busy_workers_asks_to_be_woken_when_the_first_request_expires():
    made, _ = engine(idle=0)
    made.offer(request(0, timeout=5.0), 0.0)
    made.offer(request(1, timeout=2.0), 0.0)
    assert made.tick(0.0) == [WakeAt(2.0)]
    (expired,) = answered(made.tick(2.0)).items()
    assert expired[0] == 1
    assert isinstance(expired[1], Expired)


@pytest.mark.parametrize("shed", [False, True])
def test_late_request_is_served_or_shed_as_configured(shed):
    made, _ = engine(idle=0, shed_late=shed)
    made.offer(request(0), 0.0)
    outcome = answered(made.tick(0.2)).get(0)
    assert isinstance(outcome, PredictedLate) if shed else outcome is None
    made.worker_ready(Worker())
    assert [ids(batch) for batch in dispatched(made.tick(0.3))] == ([] if shed else [[0]])


def test_late_requests_fill_the_room_that_a_batch_on_time_leaves():
    made, _ = engine(idle=0)
    made.offer(request(0), 0.0)
    made.tick(0.2)
    made.offer(request(1, 0.2), 0.2)
    made.worker_ready(Worker())
    (batch,) = dispatched(made.tick(0.2))
    assert ids(batch) == [1, 0]


@pytest.mark.parametrize(("now", "order"), [(0.9, [0, 1]), (1.1, [1, 0])])
def test_late_requests_go_newest_first_once_the_oldest_has_waited_half_its_timeout(now, order):
    made, _ = engine(idle=0)
    for number in range(2):
        made.offer(request(number, 0.1 * number, timeout=2.0), 0.1 * number)
    made.tick(0.5)
    made.worker_ready(Worker())
    (batch,) = dispatched(made.tick(now))
    assert ids(batch) == order


def test_late_requests_go_newest_first_once_the_oldest_has_waited_half_as_long_as_clients_do():
    made, _ = engine(idle=0)
    for number in range(4):
        made.offer(gone := request(number, timeout=30.0), 0.0)
        made.tick(1.0)
        made.abandon(gone, 2.0)
    for number in range(4, 7):
        made.offer(request(number, 2.0 + 0.1 * number, timeout=30.0), 2.0 + 0.1 * number)
    made.tick(3.0)
    made.worker_ready(Worker())
    (batch,) = dispatched(made.tick(3.5))
    assert ids(batch) == [6, 5, 4]


def test_late_requests_do_not_ride_along_under_overload():
    made, _ = engine(idle=0)
    made.offer(request(0), 0.0)
    made.tick(0.2)
    made._went_late = 100.0
    made.offer(request(1, 0.2), 0.2)
    made.worker_ready(Worker())
    (batch,) = dispatched(made.tick(0.2))
    assert ids(batch) == [1]


def test_late_request_never_delays_one_that_can_be_on_time():
    made, _ = engine(idle=0)
    for number in range(4):
        made.offer(request(number), 0.0)
    made.tick(0.2)
    made.offer(request(9, 0.2, budget=0.018), 0.2)
    made.worker_ready(Worker())
    (batch,) = dispatched(made.tick(0.2))
    assert ids(batch) == [9]


def test_batch_whose_worker_died_is_tried_in_parts_one_at_a_time_and_the_killer_fails():
    made, _ = engine(workers=2, idle=1)
    for number in range(4):
        made.offer(request(number, budget=5.0), 0.0)
    (first,) = dispatched(made.tick(0.0))
    assert made.worker_lost(first_worker(made)) == []
    deaths, answers, now = 1, dict[int, object](), 0.0
    for _ in range(2):
        made.worker_ready(Worker())
    while made.admitted:
        now += 0.01
        batches = dispatched(made.tick(now))
        assert len(batches) == 1, "suspects are tried in one place"
        worker = first_worker(made)
        if 2 in ids(batches[0]):
            deaths += 1
            answers |= answered(made.worker_lost(worker))
            made.worker_ready(Worker())
        else:
            answers |= answered(made.batch_done(worker, [OK] * len(batches[0].requests), now)[1])
            made.worker_ready(worker)
    assert deaths == 3
    assert isinstance(answers.pop(2), WorkerDied)
    assert answers == {0: OK, 1: OK, 3: OK}
    assert ids(first) == [0, 1, 2, 3]


def lose_a_batch(made: Engine, now: float, dead: int = 0) -> list[Batch]:
    """Let the worker of a new batch die, with so many idle ones; return what is sent next."""
    for number in range(4):
        made.offer(request(int(now) + number, now, budget=5.0), now)
    made.tick(now)
    made.worker_lost(first_worker(made))
    for _ in range(dead):
        made.worker_gone(made._idle[-1])
    return dispatched(made.tick(now + 0.01))


def test_requests_of_a_lost_batch_do_not_wait_for_the_next_worker():
    made, _ = engine(workers=2)
    (batch,) = lose_a_batch(made, 0.0)
    assert batch.reason is DispatchReason.RETRY


@pytest.mark.parametrize(("workers", "dead"), [(2, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
@pytest.mark.parametrize(("seconds", "waits"), [(LATELY / 2, True), (2 * LATELY, False)])
def test_after_a_part_has_killed_its_worker_others_wait_while_a_quarter_of_them_is_dead(
    workers, dead, seconds, waits
):
    made, _ = engine(workers=workers)
    lose_a_batch(made, 0.0)
    made.worker_lost(first_worker(made))  # that of the first part
    for _ in range(2):
        made.worker_ready(Worker())
    while made.admitted:
        made.tick(0.02)
        worker, batch = next(iter(made._running.items()))
        made.batch_done(worker, [OK] * len(batch.requests), 0.03)
        made.worker_ready(worker)
    assert (lose_a_batch(made, seconds, dead - 1) == []) is waits
    made.worker_ready(Worker())
    made.tick(seconds + 0.02)
    (batch,) = made._running.values()
    assert batch.reason is DispatchReason.RETRY


def test_suspects_leave_fresh_requests_with_earlier_deadlines_before_them():
    made, _ = engine()
    for number in range(4):
        made.offer(request(number, budget=1.0), 0.0)
    made.tick(0.0)
    made.worker_lost(first_worker(made))
    made.offer(request(9, 0.1, budget=SLO), 0.1)
    made.worker_ready(Worker())
    (batch,) = dispatched(made.tick(0.1))
    assert ids(batch) == [9]


REFUSED = Reply(422, b"", b"")


@pytest.mark.parametrize(
    ("replies", "learns"),
    [
        ([OK, OK], True),
        ([OK, FAILED], True),
        ([FAILED, FAILED], False),
        # Cheap answers to inputs that the handler will not have: by them a batch would seem to cost nothing.
        ([REFUSED, REFUSED], False),
        ([OK, REFUSED, REFUSED], False),
        ([OK, OK, REFUSED], True),
    ],
)
def test_batch_teaches_its_cost_if_at_least_half_of_it_was_work_done(replies, learns):
    made, (worker,) = engine(learned=False)
    made._cost.overall.observe(LARGEST, 0.01)  # batches grow only as far as sizes are known
    for number in range(len(replies)):
        made.offer(request(number), 0.0)
    made.tick(0.0)
    made.batch_done(worker, replies, 0.05)
    assert (made._cost.overall.runs == 2) is learns


def test_probe_teaches_nothing_and_replaces_no_request():
    made, (worker,) = engine(max_inflight=2, learned=False)
    probe = Request(0, b"", b"", 0.0, SLO, 1.0, PROBE)
    made.offer(probe, 0.0)
    made.tick(0.0)
    made.batch_done(worker, [OK], 0.05)
    assert not made._cost.overall.learned
    made.offer(request(1, budget=0.001), 0.1)
    made.offer(request(2, budget=0.001), 0.1)
    made.tick(0.5)
    with pytest.raises(QueueFull):
        made.offer(Request(3, b"", b"", 0.5, 0.5 + SLO, 1.0, PROBE), 0.5)


def test_batch_that_was_run_again_in_parts_or_is_a_part_of_a_lost_one_teaches_nothing():
    made, (worker,) = engine(learned=False)
    made.offer(request(0), 0.0)
    made.tick(0.0)
    made.batch_done(worker, [OK], 0.2, learns=False)
    assert not made._cost.overall.learned
    made.worker_ready(worker)
    made.offer(request(0, budget=5.0), 0.0)
    made.tick(0.0)
    made.worker_lost(worker)
    made.worker_ready(worker)
    made.tick(0.1)
    made.batch_done(worker, [OK], 0.2)
    assert not made._cost.overall.learned


def test_answer_to_an_expired_or_abandoned_request_is_dropped():
    made, (worker,) = engine()
    for number in range(3):
        made.offer(request(number, timeout=0.05 if number == 0 else 5.0), 0.0)
    made.tick(0.0)
    made.tick(0.06)
    gone = next(iter(made._running.values())).requests[1]
    made.abandon(gone, 0.06)
    _, effects = made.batch_done(worker, [OK] * 3, 0.1)
    assert answered(effects) == {2: OK}


@pytest.mark.parametrize(("waiting", "late"), [(0, False), (2, False), (40, True)])
def test_refusal_at_the_header_goes_by_the_work_ahead(waiting, late):
    made, _ = engine(idle=0, shed_late=True, max_inflight=100)
    for number in range(waiting):
        made.offer(request(number, key=b"%d" % (number % 2)), 0.0)
    assert (made.refusal(SLO, 0.0) is not None) is late
    assert made.predicts_late(SLO, 0.0) is late


@pytest.mark.parametrize("suspect", [False, True])
@pytest.mark.parametrize(("every", "served"), [(0.012, True), (0.004, False)])
def test_a_late_request_of_a_quiet_class_is_served_under_a_load_that_leaves_time(every, served, suspect):
    made, (worker,) = engine(max_inflight=LARGE)
    late = request(0, budget=0.0, timeout=100.0, key=b"quiet")
    made.offer(late, 0.0)
    if suspect:
        made.tick(0.0)
        made.worker_lost(worker)
        made.worker_ready(worker)
    arrivals, now, ends, found, missed = count(1), 0.0, math.inf, math.inf, 0
    arrival = 0.0
    while now < 6.0:
        now = min(arrival, ends)
        if now == ends:
            batch, _ = made.batch_done(worker, [OK] * len(made._running[worker].requests), now)
            missed += sum(each.deadline < now for each in batch.requests if each is not late)
            found = min(found, now) if late in batch.requests else found
            made.worker_ready(worker)
            ends = math.inf
        else:
            made.offer(request(next(arrivals), now, SLO, key=b"busy"), now)
            arrival += every
        for batch in dispatched(made.tick(now)):
            ends = now + law(len(batch.requests))
    assert (found < 2 * PATIENCE) == served
    if served:
        assert missed == 0


@fuzzed(20)
@given(
    budgets=st.lists(st.sampled_from([0.03, 0.05, 0.1, 0.3, 1.0]), min_size=2, max_size=3, unique=True),
    shares=st.lists(st.integers(1, 20), min_size=3, max_size=3),
    load=st.sampled_from([1.5, 2.0, 4.0]),
    seed=st.integers(0, 999),
)
@example(budgets=[1.0, 0.03], shares=[1, 1, 1], load=4.0, seed=1)
def test_slo_class_under_overload_is_served_within_its_ageing_bound(
    budgets: list[float], shares: list[int], load: float, seed: int
):
    """Once it is overdue and one of it can be on time, others are served first at most once each."""
    made, (worker,) = engine(max_inflight=LARGE, slo_latency=min(budgets))
    alone = made._cost.overall.predict(1)
    draw, numbers, now, arrival, ends = random.Random(seed), count(1), 0.0, 0.0, math.inf
    waiting: list[Request] = []
    served_at = dict.fromkeys(budgets, 0.0)
    passed_at: dict[float, float] = {}
    others_first = dict.fromkeys(budgets, 0)
    while now < 8.0:
        now = min(arrival, ends)
        if now == ends:
            made.batch_done(worker, [OK] * len(made._running[worker].requests), now)
            made.worker_ready(worker)
            ends = math.inf
        else:
            (budget,) = draw.choices(budgets, shares[: len(budgets)])
            each = request(next(numbers), now, budget, timeout=1000.0)
            each.slo_class = str(budget)
            with contextlib.suppress(QueueFull):
                made.offer(each, now)
                waiting.append(each)
            arrival += draw.expovariate(load * LARGEST / law(LARGEST))
        for batch in dispatched(made.tick(now)):
            ends = now + law(len(batch.requests))
            served = {each.slot - each.arrived for each in batch.requests if each.slot > now}
            waiting = [each for each in waiting if each not in batch.requests]
            for budget in budgets:
                own = [each for each in waiting if each.slo_class == str(budget)]
                can = any(each.slot - now - RESERVE * min(budgets) > alone + 1e-6 for each in own)
                if any(math.isclose(budget, each) for each in served):
                    passed_at.pop(budget, None)
                    served_at[budget], others_first[budget] = now, 0
                elif can and now > passed_at.get(budget, now) + AGE * budget + 1e-6:
                    others_first[budget] += 1
                    assert others_first[budget] < len(budgets)
                elif any(each.slot < now and each.arrived > served_at[budget] for each in own):
                    passed_at.setdefault(budget, now)
            waiting = [each for each in waiting if each.slot >= now]


def first_worker(made: Engine) -> Worker:
    worker = next(iter(made._running))
    assert isinstance(worker, Worker)
    return worker


LEAD = 0.003
FULL_BATCH_SECONDS = law(LARGEST)


def busy(*, workers: int = 1, idle: int | None = None) -> tuple[Engine, list[Worker]]:
    """An engine that gives batches early, each idle worker of which began a full batch at 0."""
    made, crew = engine(workers=workers, idle=idle, lead=LEAD, max_inflight=100)
    for number in range(LARGEST * len(crew)):
        made.offer(request(-1 - number, budget=5.0), 0.0)
    assert len(dispatched(made.tick(0.0))) == len(crew)
    return made, crew


def test_busy_worker_gets_its_next_batch_shortly_before_it_is_done():
    made, _ = busy()
    opens = FULL_BATCH_SECONDS - LEAD
    made.offer(request(1, budget=5.0, timeout=60.0), 0.01)
    (wake,) = made.tick(0.01)
    assert isinstance(wake, WakeAt)
    assert wake.at == pytest.approx(opens)
    made.offer(request(2, budget=5.0, timeout=60.0), 0.02)
    (batch,) = dispatched(made.tick(opens + 1e-6))
    assert ids(batch) == [1, 2]
    made.offer(request(3), opens + 1e-3)
    assert dispatched(made.tick(opens + 1e-3)) == [], "it has one already"
    assert batch.dispatched == pytest.approx(FULL_BATCH_SECONDS)


def test_worker_that_is_about_to_be_done_is_eager_for_what_comes():
    made, _ = busy()
    assert not made.eager
    made.tick(FULL_BATCH_SECONDS - LEAD / 2)
    assert made.eager


def test_idle_worker_comes_before_one_that_is_about_to_be_done():
    made, _ = busy(workers=2, idle=1)
    made.worker_ready(second := Worker())
    made.offer(request(1), FULL_BATCH_SECONDS - LEAD / 2)
    effects = made.tick(FULL_BATCH_SECONDS - LEAD / 2)
    assert [effect.worker for effect in effects if isinstance(effect, Dispatch)] == [second]


def test_worker_that_is_overdue_is_waited_for():
    made, _ = busy()
    made.offer(request(1, budget=5.0), 0.04)
    assert dispatched(made.tick(FULL_BATCH_SECONDS + 2 * LEAD)) == []


def test_worker_that_is_to_go_gets_no_other_batch_behind_the_last():
    made, (worker,) = busy()
    made.offer(request(1, budget=5.0), 0.04)
    assert dispatched(made.tick(FULL_BATCH_SECONDS))
    made.batch_done(worker, [OK] * LARGEST, FULL_BATCH_SECONDS, last=True)
    made.offer(request(2, budget=5.0), FULL_BATCH_SECONDS)
    assert dispatched(made.tick(FULL_BATCH_SECONDS + law(1))) == []


def test_batch_that_a_lost_worker_had_not_begun_is_no_suspect():
    made, (worker,) = busy()
    made.offer(request(1, budget=5.0), 0.04)
    (batch,) = dispatched(made.tick(FULL_BATCH_SECONDS))
    made.worker_lost(worker)
    assert made.suspects == LARGEST
    (lane,) = made._lanes.values()
    assert [each.id for each in lane.on_time] == [1]
    made.offer(request(2, budget=5.0), 0.06)
    made.worker_ready(Worker())
    made.worker_ready(Worker())
    again = [each for each in dispatched(made.tick(0.06)) if each.reason is not DispatchReason.RETRY]
    assert [ids(each) for each in again] == [[1, 2]]
    assert batch.requests[0].attempts == 1


def test_service_time_of_a_batch_sent_early_counts_from_the_reply_before_it():
    made, (worker,) = busy()
    for number in range(LARGEST):
        made.offer(request(1 + number, budget=5.0), 0.04)
    (batch,) = dispatched(made.tick(FULL_BATCH_SECONDS - LEAD / 2))
    learned: list[float] = []
    made._cost.overall.observe = lambda size, seconds: learned.append(seconds)  # type: ignore[attr-defined]
    made.batch_done(worker, [OK] * LARGEST, 0.06)
    made.batch_done(worker, [OK] * LARGEST, 0.10)
    assert learned == pytest.approx([0.06, 0.04])
    assert batch.dispatched == 0.06


def test_request_that_leaves_before_its_worker_begins_is_cancelled_and_teaches_nothing():
    made, (worker,) = busy()
    asked = [request(1 + number, 0.04, 5.0, 0.012 if number == 2 else 5.0) for number in range(4)]
    for each in asked:
        made.offer(each, 0.04)
    made.tick(FULL_BATCH_SECONDS)
    assert made.abandon(asked[0], 0.051) == [Cancel(worker, [0])]
    effects = made.tick(0.053)
    assert Cancel(worker, [2]) in effects
    assert list(answered(effects)) == [3]
    made.batch_done(worker, [OK] * LARGEST, 0.054)
    assert made.abandon(asked[1], 0.054) == [], "it runs"
    learned: list[int] = []
    made._cost.overall.observe = lambda size, seconds: learned.append(size)  # type: ignore[attr-defined]
    _, effects = made.batch_done(worker, [DROPPED, OK, DROPPED, OK], 0.07)
    assert answered(effects) == {4: OK}
    assert learned == [2]


def test_batch_of_which_nothing_was_run_teaches_nothing():
    made, (worker,) = busy()
    made.offer(only := request(1), 0.04)
    made.tick(FULL_BATCH_SECONDS)
    made.abandon(only, 0.051)
    made.batch_done(worker, [OK] * LARGEST, 0.054)
    runs = made._cost.overall.runs
    assert made.batch_done(worker, [DROPPED], 0.0541)[1] == []
    assert made._cost.overall.runs == runs


@pytest.mark.parametrize(("computes", "early"), [(0.2, True), (0.9, False)])
def test_next_batch_goes_early_only_to_workers_that_leave_the_cores_to_others(computes, early):
    made, crew = engine(workers=2, idle=1, lead=LEAD, cpus=2.0, max_inflight=1000)
    now = 0.0
    for _ in range(100):
        made.offer(request(1, now), now)
        made.tick(now)
        now += law(1)
        made.batch_done(crew[0], [OK], now, cpu_seconds=computes * law(1))
        made.worker_ready(crew[0])
    made.offer(request(2, now), now)
    made.tick(now)
    now += law(1) - 1e-4
    made.offer(request(3, now), now)
    assert bool(dispatched(made.tick(now))) is early

"""The engine as a state machine under hypothesis, and what each kind of event leads to."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.effects import Answer, Cancel, Check, Dispatch, Effect, Lowered
from batching_watchdog.engine.engine import Engine
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.errors import Expired, PredictedLate, QueueFull, WorkerDied
from batching_watchdog.function.messages import DROPPED, PROBE, Batch, Crash, DispatchReason, Reply, Request
from support.fuzzing import fuzzed
from watchdog.engine.queues import learn, request

LIMIT = 12
LARGEST = 8
SLO = 0.1
OK = Reply(200, b"", b"")
FAILED = Reply(500, b"", b"", failed=True)
REFUSED = Reply(422, b"", b"")
CLIENTS = Reply(400, b"", b"", client_error=True)
RETRY = DispatchReason.RETRY


@dataclass(eq=False)
class Worker:
    """A worker that does nothing by itself."""

    def send(self, batch: Batch) -> None:
        """Nothing: the tests have the effect."""

    def cancel(self, indexes: object) -> None:
        """Nothing."""

    def check(self) -> None:
        """Nothing."""


def law(size: int) -> float:
    return 0.01 + 0.005 * size


def ids(batch: Batch) -> list[int]:
    return [each.id for each in batch.requests]


class Crew:
    """An engine with workers in the hands of a test. What must hold at any time is asserted here."""

    def __init__(
        self, *, workers: int = 1, idle: int | None = None, learned: bool = True, **options: object
    ) -> None:
        self.cost = CostModel(LARGEST)
        if learned:
            learn(self.cost.overall, law, (1, 2, 4, 8), 5)
        options = {"max_inflight": LIMIT, "tightest": SLO, **options}
        self.engine = Engine(self.cost, workers=workers, **options)  # type: ignore[arg-type]
        self.now = 0.0
        self.open: dict[int, Request] = {}
        self.answers: dict[int, object] = {}
        self.running: dict[Worker, Batch] = {}
        self.next: dict[Worker, Batch] = {}
        self.idle: set[Worker] = set()
        self.cancelled: dict[int, set[int]] = {}
        """Places by the identity of a batch."""
        self.checked: list[Worker] = []
        self.lowered: list[Lowered] = []
        self.wake = math.inf
        self.workers = [self.hire() for _ in range(workers if idle is None else idle)]

    def hire(self) -> Worker:
        """Start a worker."""
        worker = Worker()
        self.ready(worker)
        return worker

    def offer(self, *requests: Request) -> None:
        """Let requests arrive now."""
        for each in requests:
            effects = self.engine.offer(each, self.now)
            self.open[each.id] = each
            self.do(effects)

    def tick(self, now: float | None = None) -> list[Batch]:
        """Return the batches that leave, at ``now`` if given."""
        self.now = self.now if now is None else now
        self.wake = math.inf
        effects = self.engine.tick(self.now)
        self.do(effects)
        return [effect.batch for effect in effects if isinstance(effect, Dispatch)]

    def do(self, effects: Collection[Effect]) -> None:
        """Carry effects out."""
        for effect in effects:
            if isinstance(effect, Answer):
                del self.open[effect.request.id]  # a KeyError: answered twice
                self.answers[effect.request.id] = effect.outcome
            elif isinstance(effect, Dispatch):
                batch, worker = effect.batch, effect.worker
                assert isinstance(worker, Worker)
                assert 1 <= len(batch.requests) <= LARGEST
                assert len({each.cost_class[0] for each in batch.requests}) == 1
                assert len(set(ids(batch))) == len(batch.requests)
                assert worker not in self.checked, "it is under suspicion"
                assert worker not in self.next, "one runs, one is next"
                assert worker not in self.running or batch.reason is not RETRY, "suspects are not sent early"
                (self.next if worker in self.running else self.running)[worker] = batch
                self.idle.discard(worker)
            elif isinstance(effect, Cancel):
                batch = self.next[effect.worker]  # type: ignore[index]
                assert not any(self.has(batch.requests[place]) for place in effect.indexes)
                self.cancelled.setdefault(id(batch), set()).update(effect.indexes)
            elif isinstance(effect, Check):
                self.checked.append(effect.worker)  # type: ignore[arg-type]
            elif isinstance(effect, Lowered):
                self.lowered.append(effect)
            else:
                self.wake = effect.at

    def has(self, request: Request) -> bool:
        """Return whether this very request is open: a copy stands for one that was taken back."""
        return self.open.get(request.id) is request

    def _ends(self, worker: Worker) -> Batch:
        batch = self.running.pop(worker)
        if worker in self.next:
            self.running[worker] = self.next.pop(worker)
        return batch

    def reply(self, worker: Worker, *replies: Reply, ready: bool = True, **told: float) -> None:
        """Let a worker answer its batch with ``replies``, or with one for all."""
        batch = self._ends(worker)
        if len(replies) == 1:
            dropped = self.cancelled.pop(id(batch), set())
            replies = tuple(DROPPED if at in dropped else replies[0] for at in range(len(batch.requests)))
        done, effects = self.engine.batch_done(worker, replies, self.now, last=not ready, **told)
        assert done is batch
        self.do(effects)
        if ready:
            self.ready(worker)

    def fail(self, worker: Worker, *, out_of_memory: bool = False) -> None:
        """Let the batch of a worker fail as a whole."""
        batch = self._ends(worker)
        if len(batch.requests) == 1 and not out_of_memory:
            _, effects = self.engine.batch_done(worker, [FAILED], self.now)
        else:
            _, effects = self.engine.batch_failed(worker, Crash("E", FAILED, out_of_memory), self.now)
        self.do(effects)
        self.ready(worker)

    def die(self, worker: Worker, *, out_of_memory: bool = False) -> None:
        """Let a worker die under its batch."""
        self.running.pop(worker)
        self.next.pop(worker, None)
        self.do(self.engine.worker_lost(worker, out_of_memory=out_of_memory))

    def take_back(self, worker: Worker) -> None:
        """Let a worker take too long for its batch."""
        self.do(self.engine.take_back(worker))
        batch = self.next.get(worker)
        assert batch is None or self.cancelled[id(batch)] == set(range(len(batch.requests)))

    def ready(self, worker: Worker, *, checked: bool = False) -> None:
        """Let a worker be ready for its next batch."""
        effects = self.engine.worker_ready(worker, checked=checked)
        if not effects and worker not in self.running:
            self.idle.add(worker)
        self.do(effects)

    def pass_checks(self) -> None:
        """Let the workers under suspicion serve again."""
        while self.checked:
            self.ready(self.checked.pop(), checked=True)


class Machine(RuleBasedStateMachine):
    """Any order of events; every admitted request leaves exactly once, and no bound is passed."""

    @initialize(
        shed=st.booleans(),
        workers=st.integers(1, 3),
        lead=st.sampled_from([0.0, 0.003, 1.0]),
    )
    def start(self, shed: bool, workers: int, lead: float) -> None:
        self.crew = Crew(workers=workers, shed_late=shed, lead=lead)
        self.number = self.missing = 0
        self.ticked = False

    def worker(self, data: st.DataObject) -> Worker:
        self.ticked = False
        return data.draw(st.sampled_from(list(self.crew.running)))

    @rule(
        budget=st.sampled_from([0.0, 0.02, SLO, 0.3]),
        timeout=st.sampled_from([0.01, 0.3, 5.0]),
        key=st.sampled_from([b"a", b"b"]),
        count=st.integers(1, 6),
    )
    def offer(self, budget: float, timeout: float, key: bytes, count: int) -> None:
        for _ in range(count):
            self.number += 1
            before = self.crew.engine.admitted
            try:
                self.crew.offer(request(self.number, self.crew.now, budget, timeout, key))
            except QueueFull:
                assert before == LIMIT
        self.ticked = False

    @rule(passed=st.sampled_from([0.0, 0.001, 0.02, 0.1, 1.0]))
    def tick(self, passed: float) -> None:
        self.crew.tick(self.crew.now + passed)
        self.ticked = True

    @precondition(lambda self: self.crew.running)
    @rule(data=st.data(), reply=st.sampled_from([OK, OK, FAILED, REFUSED, CLIENTS]))
    def finish(self, data: st.DataObject, reply: Reply) -> None:
        self.crew.reply(self.worker(data), reply)

    @precondition(lambda self: self.crew.running)
    @rule(data=st.data())
    def finish_for_good(self, data: st.DataObject) -> None:
        worker = self.worker(data)
        goes = worker not in self.crew.next
        self.crew.reply(worker, OK, ready=False)
        if goes:
            self.missing += 1

    @precondition(lambda self: self.crew.running)
    @rule(data=st.data(), out_of_memory=st.booleans())
    def fail(self, data: st.DataObject, out_of_memory: bool) -> None:
        self.crew.fail(self.worker(data), out_of_memory=out_of_memory)

    @precondition(lambda self: self.crew.running)
    @rule(data=st.data(), out_of_memory=st.booleans())
    def die(self, data: st.DataObject, out_of_memory: bool) -> None:
        worker = self.worker(data)
        waits = [] if worker not in self.crew.next else self.crew.next[worker].requests
        self.crew.die(worker, out_of_memory=out_of_memory)
        assert all(each.attempts == 0 for each in waits if self.crew.has(each))
        self.missing += 1

    @precondition(lambda self: self.crew.running)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        self.crew.take_back(self.worker(data))

    @precondition(lambda self: self.missing)
    @rule()
    def replace(self) -> None:
        self.missing -= 1
        self.crew.hire()
        self.ticked = False

    @precondition(lambda self: self.crew.checked)
    @rule(serves=st.booleans())
    def check(self, serves: bool) -> None:
        worker = self.crew.checked.pop()
        if serves:
            self.crew.ready(worker, checked=True)
        else:
            self.crew.engine.worker_gone(worker)
            self.missing += 1
        self.ticked = False

    @precondition(lambda self: self.crew.open)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        gone = self.crew.open.pop(data.draw(st.sampled_from(sorted(self.crew.open))))
        self.crew.do(self.crew.engine.abandon(gone))
        assert self.crew.engine.abandon(gone) == []  # its client may leave twice
        self.ticked = False

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "crew"):
            return
        crew, engine = self.crew, self.crew.engine
        assert engine.admitted == len(crew.open) <= LIMIT
        out = [*crew.running.values(), *crew.next.values()]
        running = {each.id for batch in out for each in batch.requests if crew.has(each)}
        assert engine.queued == len(crew.open.keys() - running)
        # Suspects may wait for their turn.
        if self.ticked and crew.idle:
            assert engine.queued == engine.suspects

    def teardown(self) -> None:
        """Let the workers answer whatever is left."""
        if not hasattr(self, "crew"):
            return
        for _ in range(200):
            while self.missing:
                self.replace()
            self.crew.pass_checks()
            self.crew.tick(self.crew.now + 0.1)
            for worker in list(self.crew.running):
                self.crew.reply(worker, OK)
        assert not self.crew.open


Machine.TestCase.settings = fuzzed(60, stateful_step_count=40)
test_engine_any_events_answers_each_request_once = Machine.TestCase


def some(count: int, first: int = 0, at: float = 0.0, **made: object) -> list[Request]:
    return [request(first + number, at, **made) for number in range(count)]  # type: ignore[arg-type]


def test_one_in_eight_batches_of_a_mixed_queue_has_a_single_class():
    crew = Crew()
    single = 0
    for number in range(29):  # each time the others leave in one more
        crew.offer(*(request(4 * number + place, crew.now, length=4 + place % 2) for place in range(4)))
        (batch,) = crew.tick()
        single += len({each.cost_class for each in batch.requests}) == 1
        while crew.running:
            crew.reply(crew.workers[0], OK)
            crew.tick()
    assert single == 4


def test_tick_with_busy_workers_asks_to_be_woken_when_the_first_request_expires():
    crew = Crew(idle=0)
    crew.offer(request(0, timeout=5.0), request(1, timeout=2.0))
    crew.tick()
    assert crew.wake == 2.0
    crew.tick(2.0)
    assert isinstance(crew.answers.pop(1), Expired)
    assert not crew.answers


@pytest.mark.parametrize("shed", [False, True])
def test_late_request_is_served_or_shed_as_configured(shed):
    crew = Crew(idle=0, shed_late=shed)
    crew.offer(request(0))
    crew.tick(0.2)
    assert isinstance(crew.answers.get(0), PredictedLate) is shed
    crew.hire()
    assert [ids(batch) for batch in crew.tick(0.3)] == ([] if shed else [[0]])


def test_model_that_was_slow_is_measured_again_by_a_request_that_seems_late():
    crew = Crew(shed_late=True, learned=False)
    learn(crew.cost.overall, lambda size: 2 * SLO * size, (1, 2), 5)
    crew.offer(request(0), request(1))
    assert [ids(batch) for batch in crew.tick()] == [[1]]
    assert isinstance(crew.answers.get(0), PredictedLate)


def test_request_that_seems_late_is_read_while_a_worker_is_idle():
    crew = Crew(shed_late=True, max_inflight=100)
    crew.offer(*some(40))
    assert crew.engine.refusal(SLO, 0.0) is None
    crew.tick()
    assert isinstance(crew.engine.refusal(SLO, 0.0), PredictedLate)


def test_request_that_can_replace_a_late_one_is_read_unless_it_is_late_itself():
    crew = Crew(idle=0, max_inflight=20)
    crew.offer(*some(20))
    crew.hire()
    crew.tick(0.2)  # some run, and the others are late
    assert crew.engine.refusal(0.2 + SLO, 0.2) is None
    assert isinstance(crew.engine.refusal(0.2, 0.2), QueueFull)


def test_body_larger_than_those_of_a_batch_goes_alone():
    crew = Crew(max_batch_bytes=8)
    requests = some(3, budget=5.0)
    for each, size in zip(requests, (9, 4, 4), strict=True):
        each.body = bytes(size)
    crew.offer(*requests)
    (first,) = crew.tick()
    crew.reply(crew.workers[0], OK)
    (second,) = crew.tick()
    assert (ids(first), ids(second)) == ([0], [1, 2])


def test_deadlines_of_clients_order_the_requests_of_one_class_in_its_places():
    crew = Crew(idle=0)
    requests = some(4)
    requests[1].slo_class = "other"
    requests[2].wanted_by, requests[3].wanted_by = 0.09, 0.05
    crew.offer(*requests)
    crew.hire()
    assert [ids(batch) for batch in crew.tick()] == [[3, 1, 2, 0]]


@pytest.mark.parametrize(("now", "order"), [(4.0, ([9], [0])), (6.0, ([0], [9]))])
def test_late_request_waits_for_those_on_time_until_half_of_its_timeout(now, order):
    crew = Crew(idle=0)
    crew.offer(request(0, timeout=10.0))
    crew.tick(0.2)
    crew.now = now
    crew.offer(request(9, now, 5.0))
    worker = crew.hire()
    for expected in order:
        assert [ids(batch) for batch in crew.tick()] == [expected]
        crew.reply(worker, OK)


Ends = Callable[[Crew, Worker], None]


def kill(crew: Crew, worker: Worker) -> None:
    crew.die(worker)
    crew.hire()


def run_out(crew: Crew, bad: Collection[int], end: Ends) -> int:
    """Run batches until all requests are answered; return how many failed."""
    failed = 0
    for _ in range(200):
        crew.tick(crew.now + 0.001)
        for worker, batch in list(crew.running.items()):
            if any(number in bad for number in ids(batch)):
                failed += 1
                end(crew, worker)
            else:
                crew.reply(worker, OK)
        crew.pass_checks()
        if not crew.open:
            return failed
    raise AssertionError(f"still open: {sorted(crew.open)}")


def starve(crew: Crew, worker: Worker) -> None:
    crew.fail(worker, out_of_memory=True)


def kill_for_memory(crew: Crew, worker: Worker) -> None:
    crew.die(worker, out_of_memory=True)
    crew.hire()


@pytest.mark.parametrize("end", [Crew.fail, starve, kill, kill_for_memory])
@given(
    count=st.integers(2, 40),
    bad=st.sets(st.integers(0, 39)),
    workers=st.integers(1, 3),
)
def test_batches_with_any_share_of_bad_inputs_answer_no_other_request_with_their_error(
    end, count, bad, workers
):
    crew = Crew(workers=workers, max_inflight=40)
    crew.offer(*some(count, budget=60.0, timeout=600.0))
    failed = run_out(crew, bad, end)
    assert len(crew.answers) == count
    for number, outcome in crew.answers.items():
        assert (outcome == FAILED or isinstance(outcome, WorkerDied)) == (number in bad)
    assert failed <= 5 * len(bad)
    assert not crew.lowered or end in (starve, kill_for_memory)


def test_part_that_succeeds_is_answered_at_once_and_the_other_is_halved_without_a_try():
    crew = Crew()
    crew.offer(*some(4, budget=60.0))
    crew.tick()
    crew.fail(crew.workers[0])
    (part,) = crew.tick()
    assert (ids(part), part.reason) == ([0, 1], RETRY)
    crew.reply(crew.workers[0], OK)
    assert crew.answers == {0: OK, 1: OK}
    assert [ids(batch) for batch in crew.tick()] == [[2]]


def test_part_beside_one_that_failed_goes_back_unsuspected():
    crew = Crew()
    crew.offer(*some(4, budget=60.0))
    crew.tick()
    crew.fail(crew.workers[0])
    crew.tick()
    crew.fail(crew.workers[0])
    assert (crew.engine.suspects, crew.engine.queued) == (2, 4)


@pytest.mark.parametrize("workers_die", [1, 2])
def test_request_alone_under_a_dead_worker_is_retried_once(workers_die):
    crew = Crew()
    crew.offer(request(0, budget=60.0))
    for _ in range(workers_die):
        crew.tick(crew.now + 0.01)
        kill(crew, next(iter(crew.running)))
    if workers_die == 1:
        crew.tick(crew.now + 0.01)
        crew.reply(next(iter(crew.running)), OK)
        assert crew.answers == {0: OK}
    else:
        assert isinstance(crew.answers[0], WorkerDied)


@pytest.mark.parametrize("end", [starve, kill_for_memory])
def test_batch_out_of_memory_lowers_the_ceiling_once_all_of_it_has_passed_in_parts(end):
    crew = Crew()
    crew.offer(*some(8, budget=60.0))
    crew.tick()
    end(crew, next(iter(crew.running)))
    for expected in ([0, 1, 2, 3], [4, 5, 6, 7]):
        assert not crew.lowered
        assert [ids(batch) for batch in crew.tick()] == [expected]
        crew.reply(next(iter(crew.running)), OK)
    assert crew.lowered == [Lowered(8, 4)]
    assert set(crew.answers.values()) == {OK}


@pytest.mark.parametrize("end", [starve, kill_for_memory])
def test_request_that_runs_out_of_memory_alone_lowers_no_ceiling(end):
    crew = Crew()
    crew.offer(*some(8, budget=60.0))
    run_out(crew, {5}, end)
    assert not crew.lowered
    assert [number for number, outcome in crew.answers.items() if outcome is not OK] == [5]


def test_batch_out_of_memory_whose_client_left_lowers_no_ceiling():
    crew = Crew()
    asked = some(8, budget=60.0)
    crew.offer(*asked)
    crew.tick()
    starve(crew, crew.workers[0])
    del crew.open[7]
    crew.engine.abandon(asked[7])
    run_out(crew, (), Crew.fail)
    assert not crew.lowered, "it may have been the one at fault"


def test_batches_shrink_to_one_request_while_all_fail_and_grow_again_as_they_pass():
    crew = Crew(max_inflight=100)
    crew.offer(*some(60, budget=60.0, timeout=600.0))
    sizes = []
    while len(sizes) < 8:
        crew.pass_checks()
        sizes += [len(batch.requests) for batch in crew.tick()]
        crew.fail(crew.workers[0])
    assert sizes == [8, 4, 2, 1, 1, 1, 1, 1]
    assert set(crew.answers.values()) == {FAILED}
    crew.pass_checks()
    sizes = []
    while batches := crew.tick():
        sizes += [len(batch.requests) for batch in batches]
        crew.reply(crew.workers[0], OK, seconds=law(sizes[-1]))
    assert max(sizes) == 8
    assert list(crew.answers.values()).count(FAILED) == 5


def test_worker_whose_fresh_batches_fail_whole_is_checked_and_gets_nothing_before():
    crew = Crew()
    for number in range(TUNING.sick_after):
        assert not crew.checked
        crew.offer(request(number, crew.now))
        crew.tick()
        crew.fail(crew.workers[0])
    assert crew.checked == crew.workers
    crew.offer(request(9, crew.now))
    assert crew.tick() == []
    crew.pass_checks()
    assert [ids(batch) for batch in crew.tick()] == [[9]]


def test_worker_that_fails_comes_last_among_idle_ones():
    crew = Crew(workers=2)
    crew.offer(request(0))
    crew.tick()
    (failing,) = crew.running
    crew.fail(failing)
    crew.offer(request(1))
    crew.tick()
    assert failing not in crew.running


@pytest.mark.parametrize("late", [False, True])
def test_request_at_the_limit_displaces_a_late_one_or_a_suspect(late):
    crew = Crew(max_inflight=4)
    crew.offer(*some(3, budget=0.0 if late else 5.0), request(3, budget=5.0))
    crew.tick()
    if not late:
        crew.fail(crew.workers[0])
    crew.offer(request(9))
    assert list(crew.answers) == [0]
    assert isinstance(crew.answers[0], QueueFull)
    with pytest.raises(QueueFull):
        crew.offer(request(10, budget=0.0))


def test_suspects_leave_fresh_requests_with_earlier_deadlines_before_them():
    crew = Crew()
    crew.offer(*some(4, budget=1.0))
    crew.tick()
    crew.die(crew.workers[0])
    crew.now = 0.1
    crew.offer(request(9, 0.1))
    crew.hire()
    assert [ids(batch) for batch in crew.tick()] == [[9]]


@pytest.mark.parametrize(("workers", "dead", "waits"), [(4, 1, True), (5, 1, False), (9, 3, True)])
def test_part_that_may_kill_waits_while_a_quarter_of_the_workers_is_dead(workers, dead, waits):
    crew = Crew(workers=workers)
    crew.offer(*some(4, budget=60.0, timeout=9000.0))
    crew.tick()
    crew.die(next(iter(crew.running)))
    crew.tick(0.01)
    crew.die(next(iter(crew.running)))  # the first part
    for _ in range(2 - min(2, dead)):
        crew.hire()
    for worker in [worker for worker in crew.workers if worker not in crew.running][: max(0, dead - 2)]:
        crew.engine.worker_gone(worker)
    crew.tick(0.02)
    assert (crew.engine.suspects == 2) is waits
    crew.tick(0.02 + TUNING.lately)
    assert crew.engine.suspects == 1


def test_parts_that_may_kill_are_tried_one_at_a_time():
    crew = Crew(workers=8)
    for key in (b"a", b"b"):
        crew.offer(*some(2, first=10 * key[0], key=key, budget=60.0))
    crew.tick()
    for worker in list(crew.running):
        kill(crew, worker)
    (batch,) = crew.tick(0.01)
    crew.reply(next(iter(crew.running)), OK)
    assert batch.reason is DispatchReason.RETRY
    assert len(crew.tick(0.02)) == 1


@pytest.mark.parametrize(
    ("replies", "learns"),
    [
        ([OK, OK], True),
        ([OK, FAILED], True),
        ([FAILED, FAILED], False),
        # Cheap answers to inputs that the handler does not accept: a batch would seem to cost nothing.
        ([REFUSED, REFUSED], False),
        ([OK, REFUSED, REFUSED], False),
        ([OK, OK, REFUSED], True),
        # These did not run, so they count neither way.
        ([OK, CLIENTS, CLIENTS], True),
        ([CLIENTS], False),
        ([Reply(*DROPPED), REFUSED], False),
    ],
)
def test_batch_teaches_its_cost_if_at_least_half_of_it_was_served(replies, learns):
    crew = Crew()
    runs = crew.cost.overall.runs
    crew.offer(*some(len(replies)))
    crew.tick()
    crew.reply(crew.workers[0], *replies)
    assert (crew.cost.overall.runs == runs + 1) is learns


def test_part_of_a_failed_batch_teaches_its_cost_too():
    crew = Crew()
    runs = crew.cost.overall.runs
    crew.offer(*some(4, budget=60.0))
    crew.tick()
    crew.fail(crew.workers[0])
    crew.tick()
    crew.reply(crew.workers[0], OK)
    assert crew.cost.overall.runs == runs + 1


def test_probe_teaches_nothing_and_replaces_no_request():
    crew = Crew(max_inflight=2, learned=False)
    crew.offer(Request(0, b"", b"", 0.0, SLO, 1.0, PROBE))
    crew.tick()
    crew.reply(crew.workers[0], OK)
    assert not crew.cost.overall.learned
    crew.offer(request(1, budget=0.001), request(2, budget=0.001))
    with pytest.raises(QueueFull):
        crew.offer(Request(3, b"", b"", 0.5, 0.5 + SLO, 1.0, PROBE))


def test_answer_to_an_expired_or_abandoned_request_is_dropped():
    crew = Crew()
    crew.offer(request(0, timeout=0.05), gone := request(1), request(2))
    crew.tick()
    crew.tick(0.06)
    del crew.open[1]
    crew.engine.abandon(gone)
    crew.reply(crew.workers[0], OK)
    assert crew.answers.pop(2) is OK
    assert isinstance(crew.answers.pop(0), Expired)
    assert not crew.answers


@pytest.mark.parametrize(("waiting", "late"), [(0, False), (2, False), (40, True)])
def test_refusal_at_the_header_goes_by_the_work_ahead(waiting, late):
    crew = Crew(idle=0, shed_late=True, max_inflight=100)
    crew.offer(*(request(number, key=b"%d" % (number % 2)) for number in range(waiting)))
    assert (crew.engine.refusal(SLO, 0.0) is not None) is late
    assert crew.engine.predicts_late(SLO, 0.0) is late


LEAD = 0.003
FULL_BATCH_SECONDS = law(LARGEST)


def busy(**options: object) -> Crew:
    """Return a crew that gets batches early, of which each idle worker began a full batch at 0."""
    crew = Crew(lead=LEAD, max_inflight=100, **options)  # type: ignore[arg-type]
    crew.offer(*some(LARGEST * len(crew.idle), first=1000, budget=5.0, timeout=60.0))
    crew.tick()
    assert not crew.engine.queued
    return crew


def test_busy_worker_gets_its_next_batch_shortly_before_it_is_done():
    crew = busy()
    opens = FULL_BATCH_SECONDS - LEAD
    crew.offer(request(1, budget=5.0))
    assert crew.tick(0.01) == []
    assert crew.wake == pytest.approx(opens)
    assert not crew.engine.eager
    crew.offer(request(2, budget=5.0))
    (batch,) = crew.tick(opens + 1e-6)
    assert ids(batch) == [1, 2]
    crew.offer(request(3))
    assert crew.tick(opens + 1e-3) == [], "it has one already"
    crew.now = 0.06
    crew.reply(crew.workers[0], OK)
    assert batch.dispatched == 0.06, "its time counts from the reply before it"


def test_next_batch_of_a_short_one_waits_until_a_quarter_of_it_is_left():
    crew = Crew(lead=law(1) / 2)
    crew.offer(request(0, budget=5.0))
    crew.tick()
    crew.offer(request(1, budget=5.0))
    assert crew.tick(0.7 * law(1)) == []
    assert [ids(batch) for batch in crew.tick(0.8 * law(1))] == [[1]]


def test_worker_about_to_be_done_makes_the_engine_eager_but_idle_ones_come_first():
    crew = busy(workers=2, idle=1)
    crew.tick(FULL_BATCH_SECONDS - LEAD / 2)
    assert crew.engine.eager
    second = crew.hire()
    crew.offer(request(1))
    crew.tick()
    assert ids(crew.running[second]) == [1]


def test_worker_that_is_overdue_or_about_to_leave_gets_no_batch_early():
    crew = busy()
    crew.offer(request(1, budget=5.0))
    assert crew.tick(FULL_BATCH_SECONDS + 2 * LEAD) == []
    crew = busy()
    crew.offer(request(1, budget=5.0))
    assert crew.tick(FULL_BATCH_SECONDS)
    crew.reply(crew.workers[0], OK, ready=False)
    crew.offer(request(2, budget=5.0))
    assert crew.tick(FULL_BATCH_SECONDS + law(1)) == []


def test_batch_that_a_lost_worker_had_not_begun_is_no_suspect():
    crew = busy()
    crew.offer(request(1, budget=5.0))
    crew.tick(FULL_BATCH_SECONDS)
    crew.die(crew.workers[0])
    assert (crew.engine.suspects, crew.engine.queued) == (LARGEST, LARGEST + 1)
    crew.hire()
    crew.hire()
    assert [1] in [ids(batch) for batch in crew.tick(0.06) if batch.reason is not RETRY]


def test_request_that_leaves_before_its_worker_begins_is_cancelled_and_teaches_nothing():
    crew = busy()
    asked = [request(number, budget=5.0, timeout=0.053 if number == 3 else 5.0) for number in (1, 2, 3, 4)]
    crew.offer(*asked)
    crew.tick(FULL_BATCH_SECONDS)
    del crew.open[1]
    assert crew.engine.abandon(asked[0]) == [Cancel(crew.workers[0], [0])]
    crew.tick(0.053)
    assert list(crew.answers) == [3]
    crew.reply(crew.workers[0], OK)
    del crew.open[2]
    assert crew.engine.abandon(asked[1]) == [], "it runs"
    runs = crew.cost.overall.runs
    crew.now = 0.07
    crew.reply(crew.workers[0], DROPPED, OK, DROPPED, OK)
    assert crew.answers[4] is OK
    assert crew.cost.overall.runs == runs + 1


def test_next_batch_of_a_worker_that_is_overdue_goes_to_another():
    crew = busy(workers=2, idle=1)
    crew.offer(request(1, budget=5.0))
    crew.tick(FULL_BATCH_SECONDS)
    second = crew.hire()
    assert crew.tick() == []
    crew.take_back(crew.workers[0])
    assert [ids(batch) for batch in crew.tick()] == [[1]]
    crew.reply(crew.workers[0], OK)
    crew.reply(crew.workers[0], OK)
    assert 1 not in crew.answers
    crew.reply(second, OK)
    assert crew.answers[1] is OK


@pytest.mark.parametrize(("computes", "early"), [(0.2, True), (0.9, False)])
def test_next_batch_goes_early_only_to_workers_that_leave_the_cores_to_others(computes, early):
    crew = Crew(workers=2, idle=1, lead=LEAD, cpus=0.1, max_inflight=1000)
    crew.engine.resize(2, 2.0)
    for _ in range(100):
        crew.offer(request(1, crew.now))
        crew.tick()
        crew.now += law(1)
        crew.reply(crew.workers[0], OK, cpu_seconds=computes * law(1))
    crew.offer(request(2, crew.now))
    crew.tick()
    crew.now += law(1) - 1e-4
    crew.offer(request(3, crew.now))
    assert bool(crew.tick()) is early


def test_worker_that_tries_a_part_gets_no_batch_early():
    crew = busy()
    crew.fail(crew.workers[0])
    (part,) = crew.tick()
    crew.offer(request(1, crew.now, budget=5.0))
    crew.now += law(len(part.requests)) - LEAD / 2
    assert crew.tick() == []


def bulk(number, key=b"", path=b"POST /"):
    return request(number, budget=math.inf, key=key, path=path)


def test_batch_of_best_effort_has_one_batch_key():
    crew = Crew()
    crew.offer(bulk(1, b"a"), bulk(2, b"b"), bulk(3, b"a"))
    (batch,) = crew.tick()
    assert ids(batch) == [1, 3]


def test_batch_of_best_effort_has_several_paths_where_the_handler_mixes_them():
    own = CostModel(LARGEST)
    learn(own.overall, law, (1, 2, 4, 8), 5)
    crew = Crew(best_effort=own)
    crew.engine.mix_paths()
    crew.offer(bulk(1, path=b"POST /a"), bulk(2, path=b"POST /b"))
    assert [ids(batch) for batch in crew.tick()] == [[1, 2]]


def test_best_effort_leaves_time_for_a_request_that_arrives_at_once_and_for_its_way_to_the_client():
    crew = Crew(tightest=0.061, max_inflight=100)
    crew.offer(*(bulk(number) for number in range(LARGEST)))
    (batch,) = crew.tick()
    largest = len(batch.requests)
    assert law(largest) + law(1) <= 0.061 * (1.0 - TUNING.reserve) < law(largest + 1) + law(1)


def test_best_effort_of_few_runs_gets_no_larger_batches_than_others_could_wait_for():
    own = CostModel(LARGEST)
    learn(own.overall, law, (1,))
    crew = Crew(learned=False, tightest=0.1, best_effort=own)
    learn(crew.cost.overall, lambda size: 0.01 if size == 1 else 0.1, (1, 2, 4, 8), 5)
    crew.offer(bulk(1), bulk(2))
    assert [ids(batch) for batch in crew.tick()] == [[1]]


def test_best_effort_alone_is_not_sent_to_a_worker_that_is_busy():
    crew = Crew(lead=law(1) / 2)
    crew.offer(request(1))
    crew.tick()
    crew.offer(bulk(2))
    assert crew.tick(law(1) * 0.9) == []
    crew.offer(request(3))
    assert crew.tick(), "as its next batch it would go"


def test_parts_of_best_effort_that_failed_go_after_requests_with_a_deadline():
    crew = Crew()
    crew.offer(bulk(1), bulk(2))
    crew.tick()
    crew.offer(request(3, budget=1.0))
    crew.fail(crew.workers[0])
    (batch,) = crew.tick()
    assert ids(batch) == [3]


def test_refused_best_effort_is_told_the_time_of_half_of_its_own_queue():
    crew = Crew(idle=0, learned=False, max_inflight=40)
    learn(crew.cost.overall, float, (1, 2, 4, 8), 5)
    for number in range(20):
        crew.offer(bulk(number))
    with pytest.raises(QueueFull) as refused:
        crew.offer(bulk(20))
    assert refused.value.retry_after == pytest.approx(10, abs=1)

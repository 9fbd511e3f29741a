"""The search for a maximum rate, against servers that are one number."""

from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.bench.rig.search import Found, Next, Plan, Trial, next_step

PLAN = Plan(first_rate=100.0, max_confirms=20)


def search(holds, plan=PLAN):
    """Carry the search out with ``holds(step)`` as the server; the answer and the trials."""
    trials = []
    while isinstance(step := next_step(trials, plan), Next):
        trials.append(Trial(step.rate, step.confirm, holds(step)))
        assert len(trials) < 200
    return step, trials


@given(st.floats(5.0, 100_000.0))
def test_a_sharp_limit_is_found_within_the_tolerance(limit):
    found, _ = search(lambda step: step.rate <= limit)
    assert found.rate <= limit
    assert found.failed_at is not None
    assert limit < found.failed_at <= found.rate * (1 + PLAN.tolerance)


@given(st.floats(5.0, 100_000.0), st.floats(0.4, 1.0))
def test_a_ramp_that_fails_too_early_does_not_bound_the_answer(limit, pessimism):
    found, _ = search(lambda step: step.rate <= (limit if step.confirm else limit * pessimism))
    assert found.rate <= limit < found.rate * (1 + PLAN.tolerance) * PLAN.growth


@given(st.lists(st.booleans(), max_size=60))
def test_any_answers_end_within_the_confirmations_and_the_best_pass_is_the_answer(answers):
    replies = iter(answers)
    found, trials = search(lambda step: next(replies, False))
    confirmed = [trial for trial in trials if trial.confirm]
    assert len({trial.rate for trial in confirmed}) <= PLAN.max_confirms
    assert len(confirmed) <= PLAN.max_confirms * PLAN.attempts
    assert found.rate == max((trial.rate for trial in confirmed if trial.passed), default=0.0)
    assert found.failed_at is None or found.failed_at > found.rate


def test_a_run_that_a_stall_failed_is_repeated_and_does_not_bound_the_answer():
    stalled = set()

    def holds(step):
        if step.confirm and step.rate not in stalled:
            stalled.add(step.rate)
            return False
        return step.rate <= 200

    found, _ = search(holds)
    assert found.rate <= 200 < found.failed_at <= found.rate * (1 + PLAN.tolerance)


def test_a_stall_in_the_ramp_neither_ends_it_nor_bounds_the_answer():
    stalls = iter([False])
    found, trials = search(lambda step: step.rate <= 1000 and (step.rate < 200 or next(stalls, True)))
    assert [trial.rate for trial in trials if not trial.confirm][:5] == [100.0, 150.0, 225.0, 225.0, 337.5]
    assert found.rate <= 1000 < found.failed_at <= found.rate * (1 + PLAN.tolerance)


def test_a_server_that_holds_nothing_or_all_ends_the_search_at_its_bounds():
    nothing, _ = search(lambda step: False)
    assert (nothing.rate, nothing.failed_at is None) == (0.0, False)
    everything, _ = search(lambda step: True)
    assert everything == Found(everything.rate, None)
    assert everything.rate <= PLAN.highest_rate

"""The account of the error budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.base.budget import Budget
from slo_autoscaler.law.tuning import TUNING

PERIOD = 3600.0
SHARES = st.floats(0.0, 1.0)
OBJECTIVES = st.floats(0.5, 0.9999)
reconciles = st.lists(st.tuples(st.floats(0.0, 600.0), st.floats(0.0, 1e6), SHARES), max_size=30)
"""(seconds passed, requests per second, late share)"""


def account(story, objective):
    budget = Budget()
    for passed, rate, late in story:
        budget = budget.after(passed, rate, late, objective, PERIOD)
    return budget


def steady(late, seconds=600.0):
    return account([(5.0, 100.0, late)] * int(seconds / 5.0), 0.99)


@given(reconciles, OBJECTIVES)
def test_allowed_stays_within_its_bounds(story, objective):
    budget = account(story, objective)
    assert 0.0 < budget.allowed(objective, PERIOD) <= TUNING.most * (1.0 - objective)
    assert budget.remaining(PERIOD) <= 1.0


def test_account_has_earned_the_share_of_its_period_that_it_has_seen():
    assert steady(0.0, PERIOD / 10).remaining(PERIOD) == pytest.approx(0.1, rel=0.1)


@given(reconciles, OBJECTIVES, st.floats(0.1, 1e3), st.floats(0.1, 300.0), SHARES, SHARES)
def test_late_requests_leave_less_budget_and_allow_less(story, objective, usual, passed, one, other):
    budget, few, many = account(story, objective), min(one, other), max(one, other)
    less, more = (budget.after(passed, usual, late, objective, PERIOD) for late in (few, many))
    assert more.remaining(PERIOD) <= less.remaining(PERIOD)
    assert more.allowed(objective, PERIOD) <= less.allowed(objective, PERIOD)


def test_an_account_that_spends_what_it_may_allows_the_objectives_share_less_what_is_kept_back():
    usual = 0.01 * (1.0 - TUNING.reserve)
    assert steady(usual, PERIOD).allowed(0.99, PERIOD) == pytest.approx(usual)
    assert steady(0.0).allowed(0.99, PERIOD) > usual > steady(0.02).allowed(0.99, PERIOD)


def test_what_was_overspent_is_paid_back_however_much_it_was():
    budget, minutes = steady(1.0, 300.0), 0
    while budget.remaining(PERIOD) < 0.0:
        budget, minutes = budget.after(60.0, 100.0, 0.0, 0.99, PERIOD), minutes + 1
    assert minutes > 60, "five minutes of outage are the budget of eight hours"


def test_requests_that_hang_are_late_ones():
    assert steady(0.0).with_late(60.0 * 100.0 * 10.0, 0.99).remaining(PERIOD) < 0.0
    assert steady(0.01).with_late(-5.0, 0.99) == steady(0.01)


@given(reconciles, OBJECTIVES)
def test_a_budget_overspent_a_hundredfold_allows_no_less_than_the_least(story, objective):
    budget = account([*story, (PERIOD, 1.0, 0.0)], objective).with_late(1e9, objective)
    least = TUNING.least * (1.0 - objective) * (1.0 - TUNING.reserve)
    assert budget.allowed(objective, PERIOD) == pytest.approx(least)


@pytest.mark.parametrize("late", [0.0, 0.01275])
def test_allowed_few_requests_move_it_less_than_many(late):
    usual = 0.01 * (1.0 - TUNING.reserve)
    few, many = (account([(5.0, rate, late)] * 720, 0.99).allowed(0.99, PERIOD) for rate in (0.01, 100.0))
    assert 0.0 < abs(few - usual) < abs(many - usual)

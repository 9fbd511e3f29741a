"""How a shared budget of replicas is split among functions."""

from dataclasses import replace
from itertools import accumulate, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.allocate import Claim, allocate
from support.fuzzing import fuzzed

rates = st.floats(0.0, 1e4)
priorities = st.sampled_from((0.5, 1.0, 4.0))
budgets = st.integers(0, 40)


def falling(drops):
    """A late share that falls by these shares, replica by replica, and then no more."""
    levels = [1.0, *accumulate(drops, lambda level, drop: level * (1.0 - drop), initial=1.0)]
    return lambda n: levels[min(n, len(levels) - 1)]


def even(ratio):
    """A late share each replica of which saves ``ratio`` of what the one before it saved."""
    return lambda n: ratio**n


@st.composite
def claims(draw, curves):
    lowest = draw(st.integers(0, 3))
    wanted = lowest + draw(st.integers(0, 5))
    current = draw(st.integers(0, 10))
    return Claim(lowest, wanted, current, draw(rates), draw(curves), draw(priorities))


uneven_fleets = st.dictionaries(
    st.text("abc", min_size=1, max_size=2),
    claims(st.lists(st.floats(0.0, 1.0), max_size=10).map(falling)),
    max_size=6,
)
even_fleets = st.dictionaries(
    st.sampled_from("abc"), claims(st.floats(0.1, 0.9).map(even)), min_size=1, max_size=3
)


def test_claim_of_billions_gets_the_budget_in_little_time():
    fleet = {"a": Claim(1, 10**10, 1, 1e9, even(0.999)), "b": Claim(1, 1, 1, 1.0, even(0.5))}
    assert allocate(fleet, 10) == {"a": 9, "b": 1}


def held(fleet, given_replicas):
    return {name: replace(claim, current=given_replicas[name]) for name, claim in fleet.items()}


def misses(fleet, split):
    return sum(c.rate * c.priority * c.late(n) for c, n in zip(fleet.values(), split, strict=True))


def least_misses(fleet, budget):
    """By trying every split of the budget."""
    splits = product(*(range(c.lowest, c.wanted + 1) for c in fleet.values()))
    return min(misses(fleet, split) for split in splits if sum(split) <= budget)


@fuzzed(100)
@given(uneven_fleets, budgets)
def test_allocate_stays_within_budget_floors_and_wanted_counts(fleet, budget):
    split = allocate(fleet, budget)
    assert split.keys() == fleet.keys()
    assert sum(split.values()) == min(budget, sum(c.wanted for c in fleet.values()))
    assert all(split[name] <= claim.wanted for name, claim in fleet.items())
    if sum(c.lowest for c in fleet.values()) <= budget:
        assert all(split[name] >= claim.lowest for name, claim in fleet.items())


@fuzzed(100)
@given(even_fleets, budgets)
def test_allocate_to_new_functions_leaves_the_fewest_misses_of_all_splits(fleet, budget):
    fleet = held(fleet, dict.fromkeys(fleet, 0))
    budget += sum(c.lowest for c in fleet.values())
    split = allocate(fleet, budget)
    assert misses(fleet, split.values()) == pytest.approx(least_misses(fleet, budget))


@fuzzed(100)
@given(even_fleets, budgets)
def test_allocate_called_again_with_its_own_result_changes_nothing(fleet, budget):
    split = allocate(fleet, budget)
    assert allocate(held(fleet, split), budget) == split


@pytest.mark.parametrize(
    ("gain", "margin", "moves"),
    [(0.9, 0.0, False), (1.1, 0.0, True), (1.9, 1.0, False), (2.1, 1.0, True), (2.1, 9.0, False)],
)
def test_a_replica_leaves_its_holder_only_for_a_gain_beyond_the_margin(gain, margin, moves):
    fleet = {
        "holder": Claim(1, 2, 2, 10.0, even(0.5), margin=margin),
        "other": Claim(1, 2, 1, 10.0 * gain, even(0.5)),
    }
    assert allocate(fleet, 3) == ({"holder": 1, "other": 2} if moves else {"holder": 2, "other": 1})


def test_a_function_that_gains_only_from_several_replicas_gets_them_together():
    needs_three = Claim(1, 4, 1, 10.0, lambda n: 1.0 if n < 4 else 0.01)
    others = {f"small-{number}": Claim(1, 2, 1, 1.0, even(0.5)) for number in range(4)}
    split = allocate({"needs-three": needs_three, **others}, 8)
    assert split["needs-three"] == 4


def test_replicas_too_few_for_a_whole_step_serve_functions_that_gain_from_fewer():
    fleet = {
        "needs-three": Claim(1, 4, 1, 10.0, lambda n: 1.0 if n < 4 else 0.01),
        "small": Claim(1, 3, 1, 1.0, even(0.5)),
    }
    assert allocate(fleet, 4) == {"needs-three": 1, "small": 3}


def test_a_function_that_lacks_one_of_several_replicas_keeps_the_rest():
    needs_five = Claim(1, 5, 4, 10.0, lambda n: (1.0, 1.0, 0.9, 0.8, 0.4, 0.0)[n])
    others = {f"other-{number}": Claim(1, 2, 1, 10.0, lambda n: 0.25 / n) for number in range(4)}
    # Each of its three is worth 0.2, and one of the others would gain 0.125.
    split = allocate({"needs-five": needs_five, **others}, 8)
    assert split["needs-five"] == 4


def test_floors_that_do_not_fit_are_filled_by_priority_then_by_name():
    fleet = {name: Claim(2, 5, 5, 1.0, even(0.5)) for name in ("b", "a")}
    fleet["urgent"] = Claim(2, 5, 0, 0.0, even(0.5), priority=2.0)
    assert allocate(fleet, 5) == {"urgent": 2, "a": 2, "b": 1}
    assert allocate(fleet, -1) == {"urgent": 0, "a": 0, "b": 0}


def test_priority_weighs_misses():
    fleet = {"usual": Claim(1, 2, 1, 10.0, even(0.5)), "urgent": Claim(1, 2, 1, 6.0, even(0.5), priority=2.0)}
    assert allocate(fleet, 3) == {"usual": 1, "urgent": 2}


@pytest.mark.parametrize(
    ("budget", "given"), [(60, {"starting": 40, "other": 5}), (30, {"starting": 4, "other": 5})]
)
def test_replicas_that_do_not_come_up_are_cut_only_where_the_budget_is_short(budget, given):
    fleet = {
        "starting": Claim(1, 40, 40, 500.0, even(0.9), stuck=37),
        "other": Claim(1, 5, 2, 10.0, even(0.5)),
    }
    assert allocate(fleet, budget) == given


def test_replicas_that_save_only_together_stay_unless_others_save_more_than_both():
    together, alone = [1.0, 0.4, 0.3, 0.0], [1.0, 0.4, 0.0]
    claims = {
        "a": Claim(1, 3, 3, 10.0, together.__getitem__, margin=0.5),
        "b": Claim(1, 2, 1, 10.0, alone.__getitem__),
    }
    assert allocate(claims, 4) == {"a": 3, "b": 1}
    assert allocate({**claims, "a": replace(claims["a"], current=1)}, 4) == {"a": 2, "b": 2}

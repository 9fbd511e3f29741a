"""The table of a connection's states."""

import pytest

from batching_watchdog.front.state import CLOSE, LOSE, LOST, NEXT, STOPPED, Event, State

OVER = [state for state in State if state >= STOPPED]


@pytest.mark.parametrize("state", State)
def test_state_is_reached_from_the_first_one(state):
    reached = {State.IDLE}
    for _ in State:
        reached |= {after for each in reached for after in NEXT[each].values()}
    assert state in reached


@pytest.mark.parametrize("state", OVER)
def test_state_in_which_no_request_is_taken_never_goes_back(state):
    assert all(after >= STOPPED for after in NEXT[state].values())


@pytest.mark.parametrize("state", [state for state in State if state is not LOST])
def test_transport_may_end_in_every_state(state):
    assert NEXT[state][LOSE] is LOST


@pytest.mark.parametrize("state", State)
def test_connection_is_closed_once(state):
    assert CLOSE not in NEXT[NEXT[state].get(CLOSE, LOST)]


@pytest.mark.parametrize("event", Event)
def test_nothing_happens_to_a_lost_connection(event):
    assert event not in NEXT[LOST]

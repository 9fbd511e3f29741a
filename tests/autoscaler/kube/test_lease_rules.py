"""The law of the lease: never two that may act, whatever stands still, and somebody in the end."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.kube.lease_rules import (
    Lease,
    Sighting,
    Step,
    acts_until,
    free_at,
    held,
    next_step,
    pause,
    released,
    sighted,
)

WALL = datetime(2026, 1, 1, tzinfo=UTC)
DURATION = 15.0


def a_lease(**changes):
    spec = {"holderIdentity": "a", "leaseDurationSeconds": 15, "leaseTransitions": 3, **changes}
    return Lease.of({"metadata": {"resourceVersion": "7"}, "spec": spec})


GIVEN_BACK = Lease.of({"metadata": {"resourceVersion": "8"}, "spec": released(a_lease(), WALL)})
UNSAID = Lease.of({"metadata": {"resourceVersion": "1"}})


@pytest.mark.parametrize(
    ("lease", "identity", "seconds", "step"),
    [
        (None, "a", 0.0, Step.CREATE),
        (a_lease(), "a", 1000.0, Step.RENEW),  # however late it is
        (a_lease(), "b", 14.9, Step.WAIT),
        (a_lease(), "b", 15.0, Step.TAKE),
        # The longer of two durations counts.
        (a_lease(leaseDurationSeconds=60), "b", 59.0, Step.WAIT),
        (a_lease(leaseDurationSeconds=1), "b", 14.0, Step.WAIT),
        (GIVEN_BACK, "b", 0.0, Step.TAKE),
        (UNSAID, "a", 0.0, Step.TAKE),
    ],
)
def test_step_of_a_candidate_that_has_seen_a_lease_for_so_long(lease, identity, seconds, step):
    sighting = None if lease is None else Sighting(lease, 100.0)
    assert next_step(sighting, identity, DURATION, 100.0 + seconds) is step


@pytest.mark.parametrize(
    ("identity", "seconds", "wait"),
    [
        ("a", 1.0, 2.0),  # as often as it renews
        ("b", 1.0, 0.5),
        ("b", 14.75, 0.25),  # at the moment when the lease has run out
        ("b", 15.0, 0.5),  # it is theirs to take, and could not be taken the last time
    ],
)
def test_pause_of_a_candidate_that_has_seen_a_lease_for_so_long(identity, seconds, wait):
    assert pause(Sighting(a_lease(), 100.0), identity, DURATION, 2.0, 100.0 + seconds) == wait
    assert pause(None, identity, DURATION, 2.0, 100.0 + seconds) == 2.0


@given(st.floats(0, 1e6), st.floats(1, 600), st.floats(0.01, 60), st.floats(0, 1e3))
def test_pause_is_above_zero_and_at_most_one_renewal(since, duration, interval, after):
    for identity in ("a", "b"):
        wait = pause(Sighting(a_lease(), since), identity, duration, interval, since + after)
        assert 0 < wait <= interval


@given(st.floats(0, 1e6), st.floats(1, 600))
def test_leader_stops_a_request_before_another_may_take_its_lease(sent, duration):
    taken = Sighting(a_lease(leaseDurationSeconds=int(duration)), sent)
    assert acts_until(sent, duration) + duration / 4 < free_at(taken, duration)


@dataclass
class _Candidate:
    """One autoscaler, in the steps of which any may take any time or never end."""

    name: str
    sighting: Sighting | None = None
    acts_until: float = float("-inf")
    intent: tuple[str, float, dict] | None = None
    """What it is about to write: version read, when it sent it, spec."""
    answer: tuple[float, Lease] | None = None
    """What the server has answered, and when the write was sent; not received yet."""


@dataclass
class _World:
    """A server that stores one lease, and candidates; time is one for all, as nobody compares clocks."""

    now: float = 0.0
    version: int = 0
    stored: Lease | None = None
    candidates: list[_Candidate] = field(default_factory=list)

    def read(self, who: _Candidate) -> None:
        """Read the lease and begin to write: the request is now somewhere in the network."""
        if self.stored is None:
            who.sighting = None
        else:
            who.sighting = sighted(who.sighting, self.stored, self.now)
        step = next_step(who.sighting, who.name, DURATION, self.now)
        if step is not Step.WAIT:
            lease = None if who.sighting is None else who.sighting.lease
            version = "" if lease is None else lease.version
            who.intent = (version, self.now, held(step, lease, who.name, DURATION, WALL))

    def arrive(self, who: _Candidate) -> None:
        """The write reaches the server, which takes it if nobody has written since."""
        if who.intent is None:
            return
        version, sent, spec = who.intent
        who.intent = None
        if version == ("" if self.stored is None else self.stored.version):
            self.version += 1
            self.stored = Lease.of({"metadata": {"resourceVersion": str(self.version)}, "spec": spec})
            who.answer = (sent, self.stored)

    def answered(self, who: _Candidate) -> None:
        """The answer reaches the candidate."""
        if who.answer is not None:
            sent, lease = who.answer
            who.answer = None
            who.sighting = Sighting(lease, self.now)
            who.acts_until = max(who.acts_until, acts_until(sent, DURATION))

    def lost(self, who: _Candidate) -> None:
        """The answer never reaches the candidate."""
        who.answer = None

    def acting(self) -> list[str]:
        return [who.name for who in self.candidates if self.now < who.acts_until]


_moves = st.tuples(
    st.integers(0, 2),
    st.sampled_from(["read", "arrive", "answered", "lost"]),
    st.sampled_from([0.0, 0.0, 0.0, 0.1, 2.0, 4.9, 5.0, 9.9, 10.0, 14.9, 15.0, 40.0]),
)


@given(st.lists(_moves, max_size=80))
def test_there_are_never_two_that_may_act_whatever_is_delayed_lost_or_frozen(moves):
    world = _World(candidates=[_Candidate(name) for name in "abc"])
    for index, move, passes in moves:
        getattr(world, move)(world.candidates[index])
        assert len(world.acting()) <= 1
        world.now += passes
        assert len(world.acting()) <= 1


@given(st.lists(_moves, max_size=40))
def test_lease_after_any_past_has_a_leader_once_the_network_works(moves):
    world = _World(candidates=[_Candidate(name) for name in "abc"])
    for index, move, passes in moves:
        getattr(world, move)(world.candidates[index])
        world.now += passes
    for _ in range(20):
        for who in world.candidates:
            who.intent = who.answer = None
            world.read(who)
            world.arrive(who)
            world.answered(who)
        world.now += 2.0
    assert len(world.acting()) == 1

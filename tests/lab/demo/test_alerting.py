"""OpenFaaS CE's scaling: when Alertmanager notifies and what the gateway does about it."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.live.alerting import (
    GROUP_INTERVAL,
    GROUP_WAIT,
    REPEAT_INTERVAL,
    Group,
    Notification,
    desired_replicas,
    observe,
)

A = frozenset({"a"})
AB = frozenset({"a", "b"})
NONE: frozenset[str] = frozenset()
names = st.frozensets(st.sampled_from(["a", "b", "c"]))


def replay(looks):
    """Feed (now, firing) looks to the law; return the notifications as (now, firing, resolved)."""
    group, sent = Group(), []
    for now, firing in looks:
        group, notification = observe(group, firing, now)
        if notification:
            sent.append((now, notification.firing, notification.resolved))
    return sent


def test_the_first_notification_waits_for_the_group():
    assert replay((t, A) for t in range(7)) == [(5, A, NONE)]


def test_a_firing_alert_is_repeated_every_repeat_interval():
    assert [at for at, _, _ in replay((t, A) for t in range(100))] == [5, 35, 65, 95]


def test_another_functions_alert_goes_out_at_the_next_group_interval_for_all_of_the_group():
    assert replay((t, A if t < 8 else AB) for t in range(20)) == [(5, A, NONE), (15, AB, NONE)]


def test_a_resolved_alert_is_notified_at_the_next_group_interval():
    assert replay((t, A if t < 8 else NONE) for t in range(30)) == [(5, A, NONE), (15, NONE, A)]


def test_an_alert_that_ends_within_the_group_wait_is_never_heard_of():
    assert replay((t, A if t < 3 else NONE) for t in range(30)) == []


def test_an_alert_after_a_quiet_time_waits_for_its_group_again():
    looks = [(t, A if t < 8 or t >= 50 else NONE) for t in range(60)]
    assert replay(looks) == [(5, A, NONE), (15, NONE, A), (55, A, NONE)]


def test_without_alerts_nothing_happens():
    assert observe(Group(), NONE, 3.0) == (Group(), None)


@given(st.lists(names, min_size=1, max_size=200))
def test_notifications_keep_their_distance_and_tell_only_what_was_seen(looks):
    sent = replay(enumerate(looks))
    for at, firing, resolved in sent:
        assert firing == looks[at]
        assert not firing & resolved
        assert firing | resolved
    for (earlier, _, _), (later, _, _) in itertools.pairwise(sent):
        assert later - earlier >= min(GROUP_WAIT, GROUP_INTERVAL)


@given(names.filter(bool), st.integers(60, 300))
def test_a_steady_alert_is_never_silent_for_longer_than_two_repeats(firing, seconds):
    sent = replay((t, firing) for t in range(seconds))
    times = [0, *(at for at, _, _ in sent), seconds]
    assert max(b - a for a, b in itertools.pairwise(times)) <= 2 * REPEAT_INTERVAL
    assert all(Notification(f, r) == Notification(firing, NONE) for _, f, r in sent)


def test_five_replicas_take_four_notifications_with_the_defaults():
    counts = [1]
    for _ in range(5):
        counts.append(desired_replicas(counts[-1], firing=True, minimum=1, maximum=5, factor=10))
    assert counts == [1, 2, 3, 4, 5, 5]


def test_a_resolved_alert_goes_straight_to_the_minimum():
    assert desired_replicas(5, firing=False, minimum=2, maximum=5, factor=10) == 2


@given(st.integers(0, 20), st.integers(1, 20), st.integers(1, 100))
def test_a_step_never_passes_the_ceiling_and_never_stands_still_below_it(current, maximum, factor):
    ceiling = min(maximum, 5)
    desired = desired_replicas(current, firing=True, minimum=1, maximum=maximum, factor=factor)
    assert desired <= ceiling
    assert desired > current or current >= ceiling


@given(st.integers(1, 5), st.integers(1, 100))
def test_the_step_is_the_factors_share_of_the_maximum_rounded_up(maximum, factor):
    step = desired_replicas(0, firing=True, minimum=1, maximum=maximum, factor=factor)
    assert step - 1 < maximum * factor / 100 <= step

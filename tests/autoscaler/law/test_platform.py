"""What a read of the platform says of what was asked for, and of replicas that start."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.base.calibration import Calibration
from slo_autoscaler.law.memory import Memory, Requests
from slo_autoscaler.law.platform import noticed, standing, start_up, stuck, told
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.law.step import kept, margin, scaled
from slo_autoscaler.law.tuning import TUNING
from slo_autoscaler.model import Scale
from slo_autoscaler.signals.record import Observation
from support.builders import a_spec, remembering

SPEC = a_spec(start_up_time=10.0, cap_retry=300.0)
STEP = 5.0


def notice(memory, scale, now):
    requests, taken = noticed(memory.platform, SPEC, scale, now)
    return replace(memory, platform=requests), taken


def read(memory, *counts, now=0.0, available=None):
    """Read these counts, one a step; return the memory and what the last is taken for."""
    taken = None
    for desired in counts:
        now += STEP
        serving = desired if available is None else available
        memory, taken = notice(memory, Scale(desired, serving), now)
    return memory, taken.desired


def asking(before, replicas):
    scale = Scale(before, before)
    return scaled(Memory.initial(scale, 0.0), scale, replicas, 0.0)


reads = st.lists(st.integers(1, 9), max_size=12)


@given(st.integers(1, 9), st.integers(1, 9), reads)
def test_a_refusal_is_what_several_reads_in_a_row_say_and_ends_when_more_is_given(before, asked, counts):
    memory = asking(before, asked)
    for number, count in enumerate(counts):
        memory, taken = read(memory, count, now=number * STEP)
        if memory.platform.refusal is None:
            assert taken in (count, asked)
            continue
        assert number + 1 >= TUNING.refused_after_reads
        assert before <= memory.platform.refusal.granted < asked
        assert all(before <= each < asked for each in counts[: TUNING.refused_after_reads])
        assert count <= memory.platform.refusal.granted


@pytest.mark.parametrize(
    ("before", "asked", "counts", "taken", "granted"),
    [
        (4, 8, [4], 8, None),  # a stale read
        (4, 8, [4, 4], 8, None),
        (4, 8, [4, 4, 4], 4, 4),
        (4, 8, [5, 5, 5], 5, 5),
        (4, 8, [4, 4, 4, 6], 6, None),  # it gives more
        (4, 8, [8, 4], 4, None),  # somebody else's change
        (4, 8, [1], 1, None),  # a redeployment
        (4, 8, [9], 9, None),
        (8, 4, [8], 4, None),
        (8, 4, [8, 8, 8], 8, None),  # less is never refused for long
        (8, 4, [9], 9, None),
        (8, 4, [2], 2, None),
    ],
)
def test_a_read_after_an_ask_is_stale_the_platforms_word_or_somebody_elses(
    before, asked, counts, taken, granted
):
    memory, found = read(asking(before, asked), *counts)
    assert found == taken
    assert (memory.platform.refusal and memory.platform.refusal.granted) == granted


def starts(*reads):
    """Return the start-up time learned from reads at (desired, available), one a step."""
    memory = Memory.initial(Scale(*reads[0]), 0.0)
    for number, (desired, available) in enumerate(reads):
        memory, _ = notice(memory, Scale(desired, available), number * STEP)
    return memory.platform.start_up_time, stuck(memory.platform, SPEC, (len(reads) - 1) * STEP)


@pytest.mark.parametrize(
    ("reads", "learned", "stuck"),
    [
        ([(2, 2), (3, 2), (3, 2), (3, 2), (3, 2), (3, 3)], 20.0, 0),
        ([(2, 2), (4, 2), (4, 3), (4, 4)], 7.5, 0),
        ([(2, 2), (3, 2), (2, 2)], None, 0),  # called back
        ([(2, 2), (3, 2), (4, 2), (3, 2), (3, 3)], 15.0, 0),  # the younger one was called back
        ([(2, 2), *[(3, 2)] * 6], None, 1),  # never ready
        ([(2, 2), *[(3, 2)] * 60, (4, 2), (4, 2), (4, 3)], 10.0, 1),  # another one is ready
        ([(2, 2), *[(3, 2)] * 12, (3, 3)], 60.0, 0),  # slow
        ([(2, 2), *[(3, 2)] * 200, (3, 3)], None, 0),  # it was broken
        ([(2, 2), (2, 1), *[(2, 1)] * 9, (2, 2)], None, 0),  # it crashed, and was started anew
        ([(2, 2), (2, 1), *[(2, 1)] * 9], None, 1),
        ([(3, 2), (3, 2), (3, 3)], None, 0),  # requested before the autoscaler started
        ([(3, 2), (4, 2), (4, 2), (4, 3), (4, 4)], 15.0, 0),  # and one more after it
    ],
)
def test_start_ups_are_learned_from_replicas_that_were_asked_for_and_serve(reads, learned, stuck):
    assert starts(*reads) == (learned, stuck)


def test_replicas_that_waited_for_a_node_teach_a_time_that_counts_while_one_does():
    two, six = Scale(2, 2, unschedulable=0), Scale(6, 2, unschedulable=2)
    reads = [two, six, six, replace(six, available=4), *[replace(six, available=4, unschedulable=0)] * 16]
    memory = Memory.initial(two, 0.0)
    for number, scale in enumerate([*reads, replace(six, available=6, unschedulable=0)]):
        memory, _ = notice(memory, scale, number * STEP)
    assert (memory.platform.start_up_time, memory.platform.new_node_start_up) == (10.0, 95.0)
    assert start_up(memory.platform, SPEC) == 10.0
    waiting, _ = notice(memory, Scale(7, 6, unschedulable=1), 200.0)
    assert start_up(waiting.platform, SPEC) == 95.0
    again, _ = notice(waiting, Scale(7, 6, unschedulable=0), 205.0)
    assert start_up(again.platform, SPEC) == 95.0, "its node is there, its image is not"
    called_back, _ = notice(again, Scale(6, 6, unschedulable=0), 210.0)
    assert start_up(called_back.platform, SPEC) == 10.0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from([0.0, 5.0, 700.0, -50.0]))))
def test_whatever_is_read_each_replica_is_awaited_once_and_start_ups_are_bounded(reads):
    memory, now = Memory.initial(Scale(1, 1), 0.0), 0.0
    for desired, available, gap in reads:
        now += gap
        memory, scale = notice(memory, Scale(desired, available), now)
        assert len(memory.platform.pending) == scale.pending
        assert 0.0 <= (memory.platform.start_up_time or 0.0) <= TUNING.longest_start_up


@given(reads)
def test_for_other_replicas_what_was_learned_stays_and_what_was_asked_or_awaited_goes(counts):
    memory = asking(2, 9)
    for number, count in enumerate(counts):
        memory, _ = read(memory, count, now=number * STEP, available=1)
    learned = Calibration(0.5, believed=0.5)
    memory = remembering(memory, start_up_time=20.0, idle_since=3.0, calibration=learned)
    moved, now = memory.elsewhere(Scale(5, 4), 100.0), 105.0
    assert (moved.platform.asked, moved.platform.refusal) == (None, None)
    assert (moved.traffic.idle_since, moved.step.scaled_at) == (None, None)
    assert (moved.platform.start_up_time, moved.need.budget) == (20.0, memory.need.budget)
    assert moved.replica.calibration == learned
    assert moved.step.needs.highest(0.0) == 5, "no dip"
    after, scale = notice(moved, Scale(5, 4), now)
    assert (scale.desired, stuck(after.platform, SPEC, now)) == (5, 0)


def undone(memory, now, rate=400.0):
    """Go from 5 to 4 replicas at ``now`` and back half a minute later."""
    memory = scaled(memory, Scale(5, 5), 4, now, rate=rate)
    return scaled(memory, Scale(4, 4), 5, now + 30.0, rate=rate)


def test_a_count_that_had_to_be_taken_back_is_not_tried_again_until_the_load_of_a_replica_is_less():
    memory = undone(Memory.initial(Scale(5, 5), 0.0), 0.0)
    assert [kept(memory.step, rate, 60.0) for rate in (400.0, 390.0, 320.0, 80.0)] == [5, 5, 4, 1]


def test_a_count_that_is_too_low_again_and_again_is_tried_less_and_less_often():
    memory, now, waits = Memory.initial(Scale(5, 5), 0.0), 0.0, []
    for _ in range(5):
        memory = undone(memory, now)
        begin = now = now + 30.0
        while kept(memory.step, 400.0, now) == 5:
            now += 30.0
        waits.append(now - begin)
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (TUNING.avoided_for, TUNING.avoided_most)


def test_a_rise_long_after_a_descent_does_not_show_that_fewer_were_too_few():
    memory = scaled(Memory.initial(Scale(5, 5), 0.0), Scale(5, 5), 4, 0.0, rate=400.0)
    memory = scaled(memory, Scale(4, 4), 5, TUNING.undone_within + 1.0, rate=400.0)
    assert kept(memory.step, 400.0, TUNING.undone_within + 2.0) == 0


def test_scaled_second_rise_does_not_show_that_fewer_were_too_few():
    memory = scaled(Memory.initial(Scale(4, 4), 0.0), Scale(4, 4), 5, 0.0, rate=400.0)
    assert kept(scaled(memory, Scale(5, 5), 6, 30.0, rate=400.0).step, 400.0, 31.0) == 0


def test_margin_is_the_start_up_over_the_time_that_the_count_has_stayed():
    memory = asking(2, 3)
    at = Situation(SPEC, Observation(), Scale(3, 3), memory, 0.0)
    assert [margin(replace(at, now=now), standing(at)[0]) for now in (0.0, 10.0, 990.0)] == [1.0, 0.5, 0.01]
    fresh = replace(at, memory=Memory.initial(Scale(2, 2), 0.0))
    assert margin(fresh, standing(fresh)[0]) == 0.0


def test_start_up_that_replicas_report_is_bounded():
    assert start_up(told(Requests(), 1e6), SPEC) == TUNING.longest_start_up

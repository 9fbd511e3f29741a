"""The order of events in virtual time. tests/watchdog/engine plays every outcome of a batch and a stream."""

import math

from hypothesis import given
from hypothesis import strategies as st

from tailbound_lab.simulate.virtual import Timeline

MOMENTS = st.lists(st.sampled_from([0.5, 1.0, 1.5, 2.0]) | st.floats(0.0, 3.0), max_size=12)


class Diary:
    """What happens on a timeline, by its clock."""

    def __init__(self, now, moments):
        self.timeline = Timeline(now)
        self.entries = []
        for number, moment in enumerate(moments):
            self.timeline.schedule(moment, lambda entry=(moment, number): self.entry(*entry))

    def entry(self, moment, what):
        self.entries.append((self.timeline.now, moment, what))

    def play(self, arrivals, until=math.inf):
        self.timeline.play(iter(arrivals), self.arrive, lambda: None, until)

    def arrive(self, arrived):
        self.entry(arrived, "arrival")
        return True


@given(begin=st.floats(0.0, 2.0), moments=MOMENTS, arrivals=MOMENTS.map(sorted))
def test_timeline_plays_in_order_of_time_arrivals_first_and_never_back(begin, moments, arrivals):
    diary = Diary(begin, moments)
    diary.play(arrivals)
    order = sorted(
        [(moment, -1, "arrival") for moment in arrivals]
        + [(moment, number, number) for number, moment in enumerate(moments)]
    )
    assert [(moment, what) for _, moment, what in diary.entries] == [
        (moment, what) for moment, _, what in order
    ]
    assert [now for now, _, _ in diary.entries] == [max(begin, moment) for moment, _, _ in order]


@given(moments=MOMENTS, arrivals=MOMENTS.map(sorted), cut=st.floats(0.0, 3.0))
def test_timeline_cut_in_two_plays_the_same(moments, arrivals, cut):
    whole, parts = Diary(0.0, moments), Diary(0.0, moments)
    whole.play(arrivals)
    parts.play([moment for moment in arrivals if moment < cut], cut)
    assert all(moment < cut for _, moment, _ in parts.entries)
    parts.play([moment for moment in arrivals if moment >= cut])
    assert parts.entries == whole.entries


def test_tick_follows_at_the_moment_that_the_last_one_asked_for_and_not_an_arrival_that_needs_none():
    timeline, ticks = Timeline(0.0), []

    def tick():
        ticks.append(timeline.now)
        if timeline.now < 2.0:
            timeline.wake = timeline.now + 1.0

    timeline.schedule(0.25, lambda: None)
    timeline.play(iter([0.5, 0.75]), lambda arrived: arrived == 0.75, tick)
    assert ticks == [0.25, 0.75, 1.75, 2.75]

"""The windows equal their naive models."""

from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.window import History, SlidingMax

steps = st.lists(st.tuples(st.floats(0, 5), st.floats(-100, 100)), max_size=60)
spans = st.sampled_from([0.0, 1.0, 7.5, 100.0])


@given(steps, spans, spans, st.floats(0, 20))
def test_the_sliding_maximum_equals_the_maximum_of_a_plain_list(steps, span, shorter, later):
    window, plain, now = SlidingMax(span), [], 0.0
    for gap, value in steps:
        now += gap
        window = window.push(now, value)
        plain.append((now, value))
        recent = [v for t, v in plain if now - t < span]
        assert window.value(now) == max(recent, default=None)
        lately = [v for t, v in plain if now - t < min(span, shorter)]
        assert window.value(now, shorter) == max(lately, default=None)
    recent = [v for t, v in plain if now + later - t < span]
    assert window.value(now + later) == max(recent, default=None)


@given(steps, spans, spans)
def test_the_history_equals_a_plain_list(steps, span, shorter):
    history, plain, now = History(span), [], 0.0
    for gap, value in steps:
        now += gap
        history = history.push(now, value)
        plain.append((now, value))
    assert history.within(now, shorter) == tuple(e for e in plain if now - e[0] < min(span, shorter))


def test_time_that_runs_backwards_counts_as_standing_still():
    window = SlidingMax(10.0).push(100.0, 5.0).push(50.0, 3.0)
    assert window.value(109.0) == 5.0
    assert window.value(110.0) is None
    assert History(10.0).push(100.0, 5.0).push(50.0, 3.0).entries == ((100.0, 5.0), (100.0, 3.0))

"""The replicas that were needed lately."""

from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.law.base.needs import Needs


@given(st.lists(st.tuples(st.floats(0.0, 30.0), st.integers(0, 20)), max_size=30), st.floats(0.0, 60.0))
def test_highest_of_a_span_is_the_most_of_its_seconds_with_data(added, span):
    needs, counts = Needs(), []
    for passed, count in added:
        needs = needs.after(passed, count, 60.0)
        counts.append((needs.seconds, count))
    recent = [count for when, count in counts if needs.seconds - when <= span]
    assert needs.highest(span) == max(recent, default=0)

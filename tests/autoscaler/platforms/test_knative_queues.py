"""Pages of Knative's activators, and what their reads together tell."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.platforms.knative.queues import Queues, inside

SCOPE = 'otel_scope_name="knative.dev/serving/pkg/activator",otel_scope_version=""'
KEY, OTHER = ("shop", "tabular-00001"), ("shop", "vision-00002")


def a_line(count, key=KEY, metric="queued"):
    labels = f'k8s_namespace_name="{key[0]}",kn_revision_name="{key[1]}",{SCOPE}'
    return f"kn_revision_request_{metric}{{{labels}}} {count}\n"


def a_page(*lines):
    """Return the page of an activator with these lines between its others, sorted as it sorts them."""
    text = "# TYPE kn_revision_request_queued gauge\n" + "".join(sorted(lines))
    return f'go_goroutines 9\n{text}target_info{{a="b"}} 1\n'.encode()


def test_inside_adds_what_waits_and_what_is_answered_of_each_revision():
    page = a_page(a_line(3), a_line(1, metric="active"), a_line(0, OTHER), a_line(2, OTHER, "active"))
    assert inside(page) == {KEY: 4.0, OTHER: 2.0}


@pytest.mark.parametrize(
    "line",
    [
        a_line("NaN"),
        a_line("+Inf"),
        a_line("-2"),
        a_line("none"),
        a_line("9" * 41),
        a_line(3, metric="concurrency"),
        f"kn_revision_request_queued{{{SCOPE}}} 3\n",
        'kn_revision_request_queued{k8s_namespace_name="shop",kn_revision_name="a\\"b"} 3\n',
        f'other{{text="kn_revision_request_queued{{{SCOPE}"}} 3\n',
        'kn_revision_request_queued{k8s_namespace_name="shop",kn_rev',
    ],
)
def test_inside_line_without_a_count_of_a_revision_counts_nothing(line):
    assert inside(a_page(line)) == {}


def test_inside_of_any_bytes_is_counts():
    @given(st.binary() | st.text().map(lambda text: a_page(text, a_line(text))))
    def counts(page):
        assert all(count > 0.0 for count in inside(page).values())

    counts()


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.sets(st.sampled_from([KEY, OTHER]))), max_size=20))
def test_queues_wait_for_as_long_as_every_read_saw_a_request(rounds):
    queues, now, since = Queues(0.0), 0.0, None
    for passed, keys in rounds:
        now += passed
        since = (now if since is None else since) if KEY in keys else None
        queues = queues.after(now, now + 3.0, now, dict.fromkeys(keys, 1.0))
        assert queues.waited(KEY) == (0.0 if since is None else now - since)
        assert (queues.lost(now + 3.0), queues.lost(now + 3.1)) == (False, True)


@pytest.mark.parametrize(("read_at", "new"), [(None, False), (9.9, False), (10.0, True)])
def test_queues_are_read_since_a_time_if_the_oldest_page_is(read_at, new):
    assert Queues(99.0, read_at).read_since(10.0) is new

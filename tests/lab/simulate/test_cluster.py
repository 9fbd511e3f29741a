"""Jobs that share a cluster: requests, pods and measures."""

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tailbound_lab.simulate.cluster import MINUTE, Job, Lognormal, Setting, run

EXACT = replace(Setting(), service=Lognormal(0.0, 0.0, 0.1), routing=Lognormal(0.0, 0.0, 0.0))
"""A request takes 100 ms, its way nothing."""


class Script:
    """Asks for these counts, reconcile by reconcile, and remembers what the cluster was like."""

    def __init__(self, *counts):
        self.counts = counts
        self.seen = []

    def __call__(self, now, jobs, cap):
        self.seen.append((now, [len(job.replicas) for job in jobs], sum(job.pods for job in jobs)))
        return self.counts[min(len(self.seen), len(self.counts)) - 1]

    def serving(self, job):
        """The count of replicas that serve, at each reconcile."""
        return [serving[job] for _, serving, _ in self.seen]


def test_overload_loses_what_finds_the_queue_full_and_the_rest_is_late():
    job = Job([1200], 1, EXACT)
    job.advance(2 * MINUTE)
    (violations,), (utility,) = job.measures(1)
    # Ten a second are served. Until the first six seconds are over the wait is below 720 ms for few.
    assert 0.9 < violations < 1.0
    assert utility == 0.0, "p99 is a lost request's"


def test_a_new_pod_serves_after_35_seconds_and_a_warm_one_after_3():
    script = Script([2, 1], [2, 1], [2, 1], [2, 1], [1, 1], [2, 1])
    run([[1] * 2, [1] * 2], 4, script)
    # At 10 s a second one is asked for, at 50 s it is given back, at 60 s it is taken again.
    assert script.serving(0)[:7] == [1, 1, 1, 1, 2, 1, 2]


def test_an_idle_pod_keeps_its_cpu_for_30_seconds():
    script = Script([1, 2], [1, 2], [1, 2], [1, 2], [1, 2], [2, 1])
    run([[1] * 4, [1] * 4], 3, script)
    # At 60 s the second job gives one up: at 90 s its pod goes, at 125 s the first job's serves.
    assert script.serving(1)[4:7] == [2, 2, 1]
    assert script.serving(0)[11:14] == [1, 2, 2]


def test_one_change_at_a_time_ignores_what_is_asked_for_meanwhile():
    def play(*, one_change):
        script = Script([2], [3])
        run([[1] * 3], 4, script, setting=replace(Setting(), one_change=one_change))
        return script.serving(0)

    assert play(one_change=False)[5:7] == [3, 3]
    assert play(one_change=True)[5:9] == [2, 2, 2, 3]


@given(st.integers(0, 1000), st.integers(3, 8), st.booleans())
@settings(max_examples=30)
def test_pods_never_exceed_the_cluster_whatever_is_asked_for(seed, cap, one_change):
    random = Random(seed)
    asked = [[random.randint(1, 6) for _ in range(3)] for _ in range(12)]
    script = Script(*asked)
    run([[3] * 2] * 3, cap, script, setting=replace(Setting(), one_change=one_change))
    assert all(pods <= cap for _, _, pods in script.seen)
    assert all(min(serving) >= 1 for _, serving, _ in script.seen)


def test_run_is_the_same_with_the_same_seed():
    first, second = (run([[60] * 60], 2, Script([2])) for _ in range(2))
    assert replace(first, decision_seconds=0.0) == replace(second, decision_seconds=0.0)

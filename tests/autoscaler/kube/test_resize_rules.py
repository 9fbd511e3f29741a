"""Which pod gets which CPU, by template, boost and refusals."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slo_autoscaler.kube.resize_rules import (
    START_UP_SECONDS,
    Boosting,
    Cpu,
    CpuBoost,
    Patch,
    Plan,
    Pod,
    Range,
    Start,
    Template,
    boosting,
    plan,
    raised,
    ranges,
)

SET = ("shop", "web-1")
KEY = ("shop", "web-1-a")
NOMINAL = Cpu(100, 500)
TRIPLE = CpuBoost(3.0, 2.0)
TEMPLATE = Template("web.shop", "c", NOMINAL)
STARTING = frozenset({"c"})


def a_pod(request=100, limit=500, **changes):
    return Pod(SET, {"c": Cpu(request, limit), "sidecar": Cpu(10, 100)}, **changes)


def planned(pod, boost=TRIPLE, template=TEMPLATE, refused=(), start=None, now=0.0):
    starts = {} if start is None else {KEY: start}
    return plan({KEY: pod}, {SET: template}, {"web.shop": boost}, dict(refused), starts, now)


def cpu(found):
    """Return the CPU that the one pod gets; None: it is not changed."""
    return found.patches[KEY].cpu if found.patches else None


def test_plan_boosted_pod_raises_the_limit_of_its_container_alone():
    assert planned(a_pod()) == Plan({KEY: Patch("web.shop", "c", NOMINAL, Cpu(100, 1500))}, {})


@pytest.mark.parametrize(
    ("pod", "boost", "given"),
    [
        (a_pod(limit=1500), TRIPLE, None),
        (a_pod(limit=500), CpuBoost(1.0, 2.0), None),
        (a_pod(limit=1500), CpuBoost(1.0, 2.0), NOMINAL),
        (a_pod(limit=1500), CpuBoost(2.0, 2.0), Cpu(100, 1000)),
        (a_pod(), CpuBoost(5.0, 2.0), Cpu(100, 2000)),
        (a_pod(), CpuBoost(3.0, 0.2), None),
        (a_pod(serving=False), TRIPLE, None),
        (a_pod(limit=1500, serving=False), TRIPLE, None),
        (a_pod(limit=1500, serving=False), CpuBoost(1.0, 2.0), NOMINAL),
        (a_pod(500, 500, guaranteed=True), CpuBoost(3.0, 2.0, requests=True), Cpu(1500, 1500)),
        (a_pod(1500, 1500, guaranteed=True), CpuBoost(1.0, 2.0), Cpu(500, 500)),
    ],
)
def test_plan_pod_gets_the_cpu_of_its_boost(pod, boost, given):
    assert cpu(planned(pod, boost)) == given


@pytest.mark.parametrize("boost", [CpuBoost(1.0, 2.0), CpuBoost(2.0, 2.0)])
@pytest.mark.parametrize("pod", [a_pod(limit=1500), a_pod(1500, 1500, guaranteed=True)])
def test_plan_pod_that_never_served_keeps_the_cpu_of_another_start_up_boost(pod, boost):
    pod = replace(pod, serving=False, starting=STARTING)
    assert planned(pod, replace(boost, requests=True)) == Plan({}, {})


@pytest.mark.parametrize(
    ("pod", "boost", "start", "given"),
    [
        (a_pod(), CpuBoost(1.0, 2.0, start_up=4.0), None, Cpu(100, 2000)),
        (a_pod(), CpuBoost(1.0, 1.0, start_up=4.0), None, Cpu(100, 1000)),
        (a_pod(), CpuBoost(3.0, 2.0), None, None),
        (a_pod(limit=1500), CpuBoost(1.0, 2.0, start_up=4.0), None, Cpu(100, 2000)),
        (a_pod(limit=2500), CpuBoost(1.0, 2.0, start_up=4.0), None, None),
        (a_pod(limit=2000), CpuBoost(1.0, 2.0), Start(0.0, 2000), NOMINAL),
        (a_pod(500, 500, guaranteed=True), CpuBoost(1.0, 2.0, start_up=4.0), None, None),
        (a_pod(500, 500, guaranteed=True), CpuBoost(1.0, 2.0, True, 4.0), None, Cpu(2000, 2000)),
    ],
)
def test_plan_pod_that_starts_gets_the_cpu_of_its_start_up_and_loses_only_ours(pod, boost, start, given):
    assert cpu(planned(replace(pod, serving=False, starting=STARTING), boost, start=start)) == given


def test_plan_pod_that_first_serves_gets_the_boost_in_force():
    boost = CpuBoost(1.0, 2.0, start_up=4.0)
    assert cpu(planned(a_pod(limit=2000), boost)) == NOMINAL
    assert cpu(planned(a_pod(limit=2000), replace(boost, factor=2.0))) == Cpu(100, 1000)


def test_plan_label_limits_the_start_up_too():
    template = replace(TEMPLATE, most=1.5)
    pod = replace(a_pod(), serving=False, starting=STARTING)
    assert cpu(planned(pod, CpuBoost(1.0, 2.0, start_up=4.0), template)) == Cpu(100, 750)


def test_plan_pod_that_never_serves_loses_its_boost():
    pod = replace(a_pod(limit=2000), serving=False, starting=STARTING)
    boost = CpuBoost(1.0, 2.0, start_up=4.0)
    assert cpu(planned(pod, boost, start=Start(0.0, 2000), now=START_UP_SECONDS - 1.0)) is None
    assert cpu(planned(pod, boost, start=Start(0.0, 2000), now=START_UP_SECONDS)) == NOMINAL


def test_plan_pod_whose_sidecar_starts_keeps_the_boost_in_force():
    boost = CpuBoost(1.0, 2.0, start_up=4.0)
    assert cpu(planned(replace(a_pod(), serving=False, starting=frozenset({"sidecar"})), boost)) is None


def test_boosting_counts_boosted_starts_and_names_a_refusal_of_each_function():
    starts, refused = replace(a_pod(limit=2000), starting=STARTING), ("shop", "web-1-r")
    pods = {
        KEY: starts,
        ("shop", "web-1-b"): starts,
        ("shop", "web-1-n"): a_pod(limit=2000),
        refused: a_pod(),
    }
    assert boosting(pods, {SET: TEMPLATE}, {refused: "a quota"}) == {"web.shop": Boosting(2, "a quota")}
    assert boosting({KEY: a_pod()}, {SET: TEMPLATE}, {}) == {"web.shop": Boosting()}


def test_plan_pod_of_an_unknown_function_is_left_alone():
    assert plan({KEY: a_pod(limit=1500)}, {SET: TEMPLATE}, {"other.shop": TRIPLE}, {}, {}) == Plan({}, {})


def test_plan_pod_without_its_template_is_left_alone():
    assert plan({KEY: a_pod(limit=1500)}, {}, {"web.shop": TRIPLE}, {}, {}) == Plan({}, {})


@pytest.mark.parametrize(
    ("pod", "changed", "word"),
    [
        (a_pod(None, None), {"nominal": Cpu()}, "no CPU limit"),
        (a_pod(500, 500, guaranteed=True), {}, "boost.requests"),
        (a_pod(), {"restarts": True}, "resizePolicy"),
        (a_pod(), {"fault": "label: 'x' must be a number"}, "'x'"),
    ],
)
def test_plan_pod_that_cannot_be_boosted_is_named_and_left_nominal(pod, changed, word):
    template = replace(TEMPLATE, **changed)
    found = planned(pod, template=template)
    assert word in found.obstacles["web.shop"]
    assert found.patches == {}
    assert ranges({KEY: pod}, {SET: template}, {"web.shop": TRIPLE}) == {"web.shop": Range(None, 1.0)}


@pytest.mark.parametrize(
    ("most_by_label", "max_cpu", "most"),
    [(None, 2.0, 4.0), (2.5, 2.0, 4.0), (None, 0.75, 1.5), (None, 0.1, 1.0)],
)
def test_ranges_end_at_the_maximum_cpu(most_by_label, max_cpu, most):
    template = replace(TEMPLATE, most=most_by_label)
    found = ranges({KEY: a_pod()}, {SET: template}, {"web.shop": CpuBoost(1.0, max_cpu)})
    assert found == {"web.shop": Range(most_by_label, most)}


@pytest.mark.parametrize("names", ["ab", "ba"])
def test_ranges_of_pods_of_two_templates_are_the_larger_one(names):
    old, new = ("shop", "web-0"), SET
    both = {"a": replace(a_pod(), template=old), "b": a_pod()}
    pods = {("shop", name): both[name] for name in names}
    templates = {old: replace(TEMPLATE, restarts=True), new: TEMPLATE}
    assert ranges(pods, templates, {"web.shop": TRIPLE}) == {"web.shop": Range(None, 4.0)}


@pytest.mark.parametrize(("limit", "most"), [(500, 1.0), (1000, 2.0), (400, 1.0)])
def test_range_of_pods_that_were_refused_more_is_what_they_have(limit, most):
    pods = {KEY: a_pod(limit=limit)}
    found = ranges(pods, {SET: TEMPLATE}, {"web.shop": TRIPLE}, {KEY})
    assert found == {"web.shop": Range(None, most)}


def test_range_of_pods_of_which_one_was_refused_is_that_of_the_others():
    pods = {KEY: a_pod(), ("shop", "web-1-b"): a_pod()}
    found = ranges(pods, {SET: TEMPLATE}, {"web.shop": TRIPLE}, {KEY})
    assert found == {"web.shop": Range(None, 4.0)}


def test_plan_container_that_would_restart_is_not_restored():
    restarting = replace(TEMPLATE, restarts=True)
    assert planned(a_pod(limit=1500), CpuBoost(1.0, 2.0), restarting).patches == {}


def test_plan_resize_that_the_kubelet_refuses_is_withdrawn():
    found = planned(a_pod(limit=1500, refusal="PodResizePending Infeasible: no")).patches[KEY]
    assert (found.cpu, found.why) == (NOMINAL, "PodResizePending Infeasible: no")


def test_plan_refusal_of_an_earlier_resize_does_not_keep_a_nominal_pod_from_its_boost():
    found = planned(a_pod(refusal="PodResizePending Deferred: later")).patches[KEY]
    assert (found.cpu, found.why) == (Cpu(100, 1500), "")


@pytest.mark.parametrize(("factor", "limit"), [(3 * 0.4, 1200), (1.01, 1100), (1.11, 1200), (1.0, 1000)])
def test_raised_is_a_multiple_of_a_step_and_not_one_more_for_what_floats_are(factor, limit):
    assert raised(1000, factor, 64.0) == limit


@pytest.mark.parametrize(("refused", "given"), [(1500, None), (1000, None), (1600, Cpu(100, 1500))])
def test_plan_limit_that_backs_off_is_not_requested_and_lower_ones_are(refused, given):
    assert cpu(planned(a_pod(), refused={KEY: refused})) == given


millicores = st.integers(1, 64_000)


@given(millicores, st.floats(1.0, 100.0), st.floats(0.001, 64.0))
def test_raised_is_at_least_nominal_and_at_most_factor_and_maximum(nominal, factor, most):
    limit = raised(nominal, factor, most)
    assert nominal <= limit <= max(nominal, round(1000 * most))
    assert limit <= nominal * (factor + 0.1) + 1
    assert limit == max(nominal, round(1000 * most)) or limit >= nominal * factor - 1


@given(
    millicores,
    st.booleans(),
    st.booleans(),
    st.floats(1.0, 5.0),
    st.booleans(),
    st.sampled_from(["", "PodResizePending Deferred: later"]),
)
def test_plan_is_at_rest_after_its_patch_and_keeps_the_qos_class(
    limit, guaranteed, serving, factor, requests, refusal
):
    pod = a_pod(limit if guaranteed else 1, limit, guaranteed=guaranteed, serving=serving, refusal=refusal)
    boost = CpuBoost(factor, 2.0, requests)
    found = planned(pod, boost)
    if not found.patches:
        return
    given = found.patches[KEY]
    assert given.cpu.request == (given.cpu.limit if guaranteed else 1)
    refused = {KEY: given.before.limit} if given.why else {}
    after = replace(pod, containers={"c": given.cpu}, refusal="")
    again = planned(after, boost, refused=refused)
    assert not again.patches or again.patches[KEY].cpu.limit < given.before.limit

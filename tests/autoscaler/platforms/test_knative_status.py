"""Conditions by Knative's rules, and what a PodAutoscaler's status and ServerlessService are."""

import copy
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slo_autoscaler.platforms.knative.allocation import UNROUTED, Defaults, Routing
from slo_autoscaler.platforms.knative.status import (
    DEPENDENTS,
    INITIALIZED,
    NO_TRAFFIC,
    TIMED_OUT,
    condition,
    inactivity,
    is_owned,
    may_go,
    revision_of,
    service_body,
    service_change,
    status,
)

NOW = datetime(2026, 11, 25, 12, 0, 0, tzinfo=UTC).timestamp()
AT = "2026-11-25T12:00:00Z"
LONG_AGO = "2026-11-25T10:00:00Z"
ROUTED = Routing(1.0, 1.0)


def an_autoscaler(reachability="", conditions_=(), generation=1, annotations=None, **status_):
    document = {
        "metadata": {
            "namespace": "default",
            "name": "tabular-00001",
            "uid": "u-1",
            "generation": generation,
            "labels": {"serving.knative.dev/service": "tabular", "app": "tabular-00001"},
            "annotations": {
                "autoscaling.knative.dev/class": "slo.tailbound.dev",
                "autoscaling.knative.dev/metric": "",
                **(annotations or {}),
            },
        },
        "spec": {
            "protocolType": "http1",
            "reachability": reachability,
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": "tabular-00001-deployment",
            },
        },
    }
    if conditions_ or status_:
        document["status"] = {"conditions": list(conditions_), **status_}
    return document


def a_condition(kind, says, reason="", since=LONG_AGO):
    found = {"type": kind, "status": says, "lastTransitionTime": since}
    return found | ({"reason": reason} if reason else {})


def started(**changes):
    every = [a_condition(kind, "True") for kind in DEPENDENTS]
    return an_autoscaler(conditions_=every, **changes)


def a_service(pa, ready="True", mode="Serve", current=True, named=True):
    body = service_body(pa, mode)
    body["metadata"] |= {"generation": 2, "resourceVersion": "7"}
    body["status"] = {"observedGeneration": 2 if current else 1, "conditions": [a_condition("Ready", ready)]}
    if named:
        body["status"] |= {"serviceName": "tabular-00001", "privateServiceName": "tabular-00001-private"}
    return body


def a_deployment(replicas=1, ready=1):
    return {"spec": {"replicas": replicas}, "status": {"readyReplicas": ready or None}}


def told(pa, service, replicas=1, ready=1, rest=None, now=NOW, **more):
    revision = revision_of(pa, a_deployment(replicas, ready), ROUTED, Defaults(), inactive=rest is not None)
    return status(pa, service, revision, target=replicas, inactive=rest, now=now, **more)


def says(told_, kind):
    found = condition({"status": told_}, kind)
    return found.get("status"), found.get("reason", "")


# The life of a revision

TRUE = dict.fromkeys((*DEPENDENTS, "Ready"), ("True", ""))
NEW = an_autoscaler()
TWO = an_autoscaler(annotations={"autoscaling.knative.dev/min-scale": "2"}, generation=4)
THREE = started(annotations={"autoscaling.knative.dev/min-scale": "3"})
OLD = started()
FOREIGN = a_service(OLD)
FOREIGN["metadata"]["ownerReferences"] = [{"uid": "another", "controller": True}]
NOT_READY = {"SKSReady": ("Unknown", "NotReady"), "ScaleTargetInitialized": ("Unknown", "")}
QUEUED = {"Active": ("Unknown", "Queued"), "Ready": ("Unknown", "Queued")}


@pytest.mark.parametrize(
    ("pa", "service", "counts", "says_"),
    [
        (NEW, None, {"ready": 0}, {**NOT_READY, **QUEUED}),
        (
            TWO,
            a_service(TWO),
            {"replicas": 2, "ready": 1},
            {**TRUE, **QUEUED} | {INITIALIZED: ("Unknown", "")},
        ),
        (TWO, a_service(TWO), {"replicas": 2, "ready": 2}, TRUE),
        *(
            (NEW, a_service(NEW, **incomplete), {}, {INITIALIZED: ("Unknown", "")})
            for incomplete in ({"named": False}, {"ready": "Unknown"}, {"ready": "False"}, {"current": False})
        ),
        # One replica less than the minimum makes no revision inactive.
        (THREE, a_service(THREE), {"replicas": 3, "ready": 1}, TRUE),
        (THREE, a_service(THREE), {"replicas": 3, "ready": 0}, {"Active": ("Unknown", "Queued")}),
        (OLD, FOREIGN, {}, {"Ready": ("False", "NotOwned"), "Active": ("False", "NotOwned")}),
        # The revision has not failed.
        (NEW, None, {"failed": True}, {"SKSReady": ("Unknown", "FailedCreate"), "Ready": ("Unknown", "")}),
        # For as long as it may have no replicas, and the activators cannot be read.
        (OLD, None, {"blind": True}, {"ScaleToZero": ("False", "NoActivatorMetrics")}),
        (OLD | {"status": told(OLD, None, blind=True)}, None, {}, {"ScaleToZero": (None, "")}),
    ],
)
def test_conditions_of_a_revision_and_its_service(pa, service, counts, says_):
    found = told(pa, service, **counts)
    assert {kind: says(found, kind) for kind in says_} == says_


def test_a_status_names_the_services_and_counts_and_keeps_what_others_wrote():
    pa = started(annotations={}, generation=4)
    pa["status"] |= {"annotations": {"a": "b"}}
    pa["status"]["conditions"].append(a_condition("Theirs", "True"))
    found = told(pa, a_service(pa), replicas=2, blind=True)
    assert (found["serviceName"], found["metricsServiceName"]) == ("tabular-00001", "tabular-00001-private")
    assert (found["desiredScale"], found["actualScale"], found["observedGeneration"]) == (2, 1, 4)
    assert found["annotations"] == {"a": "b"}
    assert condition({"status": found}, "Theirs") == a_condition("Theirs", "True")
    assert condition({"status": found}, "ScaleToZero")["severity"] == "Info"
    found = told(OLD, FOREIGN)
    assert (found["serviceName"], found["metricsServiceName"]) == ("", "")


# Without replicas

NEVER = Defaults(scale_to_zero=False)
UNREACHABLE = {"reachability": "Unreachable"}


def waiting(since, reachability="Unreachable", deadline=None):
    annotations = {} if deadline is None else {"serving.knative.dev/progress-deadline": deadline}
    unknown = a_condition("ScaleTargetInitialized", "Unknown", since=since)
    return an_autoscaler(reachability=reachability, conditions_=[unknown], annotations=annotations)


def given_up():
    pa = waiting(AT, reachability="")
    pa["status"]["conditions"].append(a_condition("Active", "False", "TimedOut"))
    return pa


@pytest.mark.parametrize(
    ("pa", "routing", "superseded", "defaults", "why"),
    [
        (started(**UNREACHABLE), UNROUTED, False, Defaults(), NO_TRAFFIC),
        (started(**UNREACHABLE), UNROUTED, False, NEVER, None),
        (started(), UNROUTED, True, Defaults(), NO_TRAFFIC),  # never routed, and a newer one has started
        (started(), UNROUTED, False, Defaults(), None),
        (started(reachability="Reachable"), UNROUTED, True, Defaults(), None),
        # A route names it, though Knative calls it unreachable: all its replicas fail.
        (started(**UNREACHABLE), Routing(0.0, None), True, Defaults(), None),
        (started(**UNREACHABLE), Routing(None, 0.0), True, Defaults(), None),
        (started(**UNREACHABLE), ROUTED, True, Defaults(), None),
        # It would never start.
        (an_autoscaler(**UNREACHABLE), UNROUTED, False, Defaults(), None),
        # It does not come up within its deadline.
        (waiting(LONG_AGO), UNROUTED, False, Defaults(), TIMED_OUT),
        (waiting("2026-11-25T11:49:30Z"), UNROUTED, False, Defaults(), None),
        (waiting("2026-11-25T11:49:29Z"), UNROUTED, False, Defaults(), TIMED_OUT),
        (waiting("2026-11-25T11:50:00Z", deadline="5m"), UNROUTED, False, Defaults(), TIMED_OUT),
        (waiting(LONG_AGO, deadline="3h"), UNROUTED, False, Defaults(), None),
        (waiting(LONG_AGO, reachability="Reachable"), UNROUTED, False, Defaults(), None),
        (waiting("yesterday"), UNROUTED, False, Defaults(), None),
        # Given up, it stays so until it is routed.
        (given_up(), Routing(None, 1.0), False, Defaults(), TIMED_OUT),
        (given_up(), ROUTED, False, Defaults(), None),
    ],
)
def test_inactivity_of_a_revision_has_a_reason(pa, routing, superseded, defaults, why):
    assert inactivity(pa, routing, defaults, NOW, superseded=superseded) == why


@pytest.mark.parametrize(
    ("pa", "inactive", "failed"),
    [(given_up(), True, True), (started(), True, False), (waiting(AT), False, False)],
)
def test_revision_has_failed_if_it_was_given_up_before_it_started(pa, inactive, failed):
    assert revision_of(pa, a_deployment(1, 0), UNROUTED, Defaults(), inactive=inactive).failed is failed


def test_revision_that_is_left_behind_where_zero_is_forbidden_keeps_one_replica():
    pa = started(**UNREACHABLE, annotations={"autoscaling.knative.dev/min-scale": "5"})
    left = revision_of(pa, a_deployment(5, 5), UNROUTED, NEVER, inactive=False)
    assert left.lowest == 1
    named = revision_of(pa, a_deployment(5, 0), ROUTED, Defaults(), inactive=False)
    assert named.lowest == 5, "it is routed: all its replicas have failed"
    assert says(status(pa, None, left, target=1, inactive=None, now=NOW), "ScaleToZero") == (None, "")


def test_revision_of_a_deployment_without_a_count_has_the_one_that_kubernetes_gives_it():
    bare = revision_of(OLD, {"spec": {}}, ROUTED, Defaults(), inactive=False)
    assert (bare.replicas, bare.ready) == (1, 0)
    zero = revision_of(OLD, {"spec": {"replicas": 0}}, ROUTED, Defaults(), inactive=False)
    assert zero.replicas == 0


RETENTION = "autoscaling.knative.dev/scale-to-zero-pod-retention-period"


@pytest.mark.parametrize(
    ("reason", "mode", "retention", "seconds", "may"),
    [
        ("NoTraffic", "Proxy", None, 30, True),
        ("NoTraffic", "Proxy", None, 29, False),
        ("NoTraffic", "Serve", None, 30, False),  # the activator is not in its path
        ("NoTraffic", None, None, 30, False),
        ("NoTraffic", "Proxy", "2m", 119, False),
        ("NoTraffic", "Proxy", "2m", 120, True),
        ("NoTraffic", "Proxy", "long", 30, True),  # no duration
        ("TimedOut", None, None, 0, True),
        ("NotOwned", "Proxy", None, 9999, False),
        (None, "Proxy", None, 9999, False),  # it is active, for all that was said
    ],
)
def test_replicas_may_go_when_all_have_known_for_long_enough(reason, mode, retention, seconds, may):
    active = a_condition("Active", "False" if reason else "True", reason or "", AT)
    every = [active, a_condition("ScaleTargetInitialized", "True")]
    pa = an_autoscaler(conditions_=every, annotations={} if retention is None else {RETENTION: retention})
    service = None if mode is None else a_service(pa, mode=mode)
    assert may_go(pa, service, Defaults(), NOW + seconds) is may


# The ServerlessService


def test_a_service_is_its_autoscalers_own_with_its_labels_and_all_annotations_but_the_metric():
    pa = an_autoscaler(annotations={"slo.tailbound.dev/team": "a"})
    body = service_body(pa, "Serve")
    assert is_owned(body, pa)
    assert body["metadata"]["labels"] == pa["metadata"]["labels"]
    assert body["metadata"]["annotations"] == {
        "autoscaling.knative.dev/class": "slo.tailbound.dev",
        "slo.tailbound.dev/team": "a",
    }
    assert body["spec"] == {
        "mode": "Serve",
        "objectRef": pa["spec"]["scaleTargetRef"],
        "protocolType": "http1",
    }


@pytest.mark.parametrize("mode", ["Serve", "Proxy"])
@pytest.mark.parametrize("activators", [None, 0, 5])
def test_a_service_is_changed_only_where_it_differs(mode, activators):
    service = a_service(OLD, mode="Serve")
    if activators is not None:
        service["spec"]["numActivators"] = activators
    change = service_change(service, OLD, mode)
    assert (change is None) == (mode == "Serve" and not activators)
    if change is not None:
        assert change["metadata"] == {"resourceVersion": "7"}
        spec = {key: value for key, value in (service["spec"] | change["spec"]).items() if value is not None}
        assert service_change(service | {"spec": spec}, OLD, mode) is None


# Knative's rules, whatever comes

_stamps = st.sampled_from([LONG_AGO, "2026-11-25T11:59:59Z", AT])
_any_condition = st.builds(
    a_condition,
    st.sampled_from([*DEPENDENTS, "Ready", "ScaleToZero", "Theirs"]),
    st.sampled_from(["True", "False", "Unknown"]),
    st.sampled_from(["", "NoTraffic", "Queued", "NotReady", "TimedOut"]),
    _stamps,
)
autoscalers = st.builds(
    an_autoscaler,
    reachability=st.sampled_from(["", "Reachable", "Unreachable"]),
    conditions_=st.lists(_any_condition, max_size=6, unique_by=lambda each: each["type"]),
    generation=st.integers(1, 5),
    annotations=st.dictionaries(
        st.sampled_from(["autoscaling.knative.dev/min-scale", "autoscaling.knative.dev/initial-scale"]),
        st.sampled_from(["0", "1", "3"]),
    ),
)


@st.composite
def worlds(draw):
    """Return a PodAutoscaler, its service or None, counts, and why it rests, if it does."""
    pa = draw(autoscalers)
    service = None
    if draw(st.booleans()):
        service = a_service(
            pa,
            ready=draw(st.sampled_from(["True", "Unknown"])),
            current=draw(st.booleans()),
            named=draw(st.booleans()),
        )
        if draw(st.booleans()):
            service["metadata"]["ownerReferences"] = []
    replicas, ready = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    routing = draw(st.sampled_from([UNROUTED, ROUTED]))
    rest = inactivity(pa, routing, Defaults(), NOW, superseded=draw(st.booleans()))
    return pa, service, {"replicas": replicas, "ready": ready, "rest": rest, "failed": draw(st.booleans())}


def without_time(found):
    return {key: value for key, value in (found or {}).items() if key != "lastTransitionTime"}


@settings(max_examples=50)
@given(worlds(), st.integers(1, 10**6))
def test_a_time_changes_if_and_only_if_something_else_of_its_condition_does(world, later):
    pa, service, counts = world
    first = told(pa, service, **counts)
    for after in first["conditions"]:
        before = condition(pa, after["type"])
        same = without_time(before) == without_time(after)
        assert after["lastTransitionTime"] == (before["lastTransitionTime"] if same else AT)
    again = copy.deepcopy(pa) | {"status": copy.deepcopy(first)}
    assert told(again, service, now=NOW + later, **counts) == first, "its own output changes nothing"

"""Conditions by Knative's rules, and what a PodAutoscaler's status and ServerlessService are."""

import copy
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slo_autoscaler.platforms.knative import status as knative_status
from slo_autoscaler.platforms.knative.allocation import UNROUTED, Defaults, Share
from slo_autoscaler.platforms.knative.status import (
    DEPENDENTS,
    NO_TRAFFIC,
    TIMED_OUT,
    Condition,
    condition,
    conditions,
    has_started,
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
ROUTED = Share(1.0, 1.0)
SAYINGS = {each.message for each in vars(knative_status).values() if isinstance(each, Condition)}


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
    body["status"] = {
        "observedGeneration": 2 if current else 1,
        "conditions": [a_condition("Ready", ready)],
    }
    if named:
        body["status"] |= {"serviceName": "tabular-00001", "privateServiceName": "tabular-00001-private"}
    return body


def a_deployment(replicas=1, ready=1):
    return {"spec": {"replicas": replicas}, "status": {"readyReplicas": ready or None}}


def told(pa, service, replicas=1, ready=1, rest=None, now=NOW, **more):
    revision = revision_of(pa, a_deployment(replicas, ready), ROUTED, Defaults(), inactive=rest is not None)
    return status(pa, service, revision, replicas, rest, now, **more)


def says(told_, kind):
    found = condition({"status": told_}, kind)
    return found.get("status"), found.get("reason", "")


# The life of a revision


def test_a_new_revision_is_told_of_before_it_has_a_service():
    first = told(an_autoscaler(), None, ready=0)
    assert says(first, "Active") == ("Unknown", "Queued")
    assert says(first, "SKSReady") == ("Unknown", "NotReady")
    assert says(first, "ScaleTargetInitialized") == ("Unknown", "")
    assert says(first, "Ready")[0] == "Unknown"
    assert (first["serviceName"], first["metricsServiceName"]) == ("", "")


def test_with_its_initial_scale_ready_and_a_service_it_has_started():
    pa = an_autoscaler(annotations={"autoscaling.knative.dev/min-scale": "2"}, generation=4)
    assert not has_started({"status": told(pa, a_service(pa), replicas=2, ready=1)})
    complete = told(pa, a_service(pa), replicas=2, ready=2)
    assert {says(complete, kind) for kind in (*DEPENDENTS, "Ready")} == {("True", "")}
    assert complete["serviceName"] == "tabular-00001"
    assert complete["metricsServiceName"] == "tabular-00001-private"
    assert (complete["desiredScale"], complete["actualScale"], complete["observedGeneration"]) == (2, 2, 4)


@pytest.mark.parametrize(
    "service",
    [{"named": False}, {"ready": "Unknown"}, {"ready": "False"}, {"current": False}],
    ids=["without a name", "not ready", "failed", "of an older generation"],
)
def test_a_service_that_is_not_complete_keeps_it_from_having_started(service):
    pa = an_autoscaler()
    assert not has_started({"status": told(pa, a_service(pa, **service))})


def test_one_replica_less_than_the_minimum_makes_no_revision_inactive():
    pa = started(annotations={"autoscaling.knative.dev/min-scale": "3"})
    assert says(told(pa, a_service(pa), replicas=3, ready=1), "Active") == ("True", "")
    assert says(told(pa, a_service(pa), replicas=3, ready=0), "Active") == ("Unknown", "Queued")


def test_service_of_another_owner_or_that_cannot_be_created_is_said():
    pa = started()
    foreign = a_service(an_autoscaler())
    foreign["metadata"]["ownerReferences"][0]["uid"] = "another"
    found = told(pa, foreign)
    assert says(found, "Ready") == says(found, "Active") == ("False", "NotOwned")
    assert (found["serviceName"], found["metricsServiceName"]) == ("", "")
    found = told(an_autoscaler(), None, failed=True)
    assert says(found, "SKSReady") == ("Unknown", "FailedCreate")
    assert says(found, "Ready")[0] == "Unknown", "the revision has not failed"


def test_zero_is_refused_as_long_as_it_is_asked_for():
    before = told(started(), None)
    found = condition({"status": before}, "ScaleToZero")
    assert (found["status"], found["reason"], found["severity"]) == ("False", "NotSupported", "Info")
    pa = started(annotations={"autoscaling.knative.dev/min-scale": "1"}) | {"status": before}
    assert condition({"status": told(pa, None)}, "ScaleToZero") == {}


def test_what_others_wrote_is_kept():
    pa = started(annotations={})
    pa["status"] |= {"annotations": {"a": "b"}}
    pa["status"]["conditions"].append(a_condition("Theirs", "True"))
    found = told(pa, a_service(pa))
    assert found["annotations"] == {"a": "b"}
    assert condition({"status": found}, "Theirs") == a_condition("Theirs", "True")


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
    ("pa", "share", "superseded", "defaults", "why"),
    [
        (started(**UNREACHABLE), UNROUTED, False, Defaults(), NO_TRAFFIC),
        (started(**UNREACHABLE), UNROUTED, False, NEVER, None),
        (started(), UNROUTED, True, Defaults(), NO_TRAFFIC),  # never routed, and a newer one has started
        (started(), UNROUTED, False, Defaults(), None),
        # A route names it, though Knative calls it unreachable: all its replicas fail.
        (started(**UNREACHABLE), Share(0.0, None), True, Defaults(), None),
        (started(**UNREACHABLE), Share(None, 0.0), True, Defaults(), None),
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
        (given_up(), Share(None, 1.0), False, Defaults(), TIMED_OUT),
        (given_up(), ROUTED, False, Defaults(), None),
    ],
)
def test_inactivity_of_a_revision_has_a_reason(pa, share, superseded, defaults, why):
    assert inactivity(pa, share, defaults, NOW, superseded=superseded) == why


def test_revision_that_is_left_behind_where_zero_is_forbidden_keeps_one_replica():
    pa = started(**UNREACHABLE, annotations={"autoscaling.knative.dev/min-scale": "5"})
    left = revision_of(pa, a_deployment(5, 5), UNROUTED, NEVER, inactive=False)
    assert left.lowest == 1
    named = revision_of(pa, a_deployment(5, 0), ROUTED, Defaults(), inactive=False)
    assert named.lowest == 5, "it is routed: all its replicas have failed"
    assert says(status(pa, None, left, 1, None, NOW), "ScaleToZero") == (None, "")


@pytest.mark.parametrize(("reachability", "share"), [("", Share(None, 1.0)), ("Unreachable", UNROUTED)])
def test_revision_that_fails_to_come_up_does_not_get_what_it_would_need_to_take_over(reachability, share):
    pa = an_autoscaler(reachability=reachability)
    assert revision_of(pa, a_deployment(), Share(None, 1.0), Defaults(), inactive=False).share == share


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


@given(
    st.sampled_from(["Serve", "Proxy"]), st.sampled_from(["Serve", "Proxy"]), st.none() | st.integers(0, 9)
)
def test_a_service_is_changed_only_where_it_differs(is_, wanted, activators):
    pa = an_autoscaler()
    service = a_service(pa, mode=is_)
    if activators is not None:
        service["spec"]["numActivators"] = activators
    change = service_change(service, pa, wanted)
    assert (change is None) == (is_ == wanted and not activators)
    if change is not None:
        assert change["metadata"] == {"resourceVersion": "7"}
        spec = {key: value for key, value in (service["spec"] | change["spec"]).items() if value is not None}
        assert service_change(service | {"spec": spec}, pa, wanted) is None


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
    share = draw(st.sampled_from([UNROUTED, ROUTED]))
    rest = inactivity(pa, share, Defaults(), NOW, superseded=draw(st.booleans()))
    return pa, service, {"replicas": replicas, "ready": ready, "rest": rest, "failed": draw(st.booleans())}


def by_kind(status_):
    return {each["type"]: each for each in (status_ or {}).get("conditions", ())}


def without_time(found):
    return {key: value for key, value in (found or {}).items() if key != "lastTransitionTime"}


@settings(max_examples=50)
@given(worlds(), st.integers(1, 10**6))
def test_reconciling_its_own_output_changes_nothing(world, later):
    pa, service, counts = world
    first = told(pa, service, **counts)
    again = copy.deepcopy(pa) | {"status": copy.deepcopy(first)}
    assert told(again, service, now=NOW + later, **counts) == first


@settings(max_examples=50)
@given(worlds())
def test_a_time_changes_if_and_only_if_something_else_of_its_condition_does(world):
    pa, service, counts = world
    before = by_kind(pa.get("status"))
    for kind, after in by_kind(told(pa, service, **counts)).items():
        if without_time(before.get(kind)) == without_time(after):
            assert after["lastTransitionTime"] == before[kind]["lastTransitionTime"]
        else:
            assert after["lastTransitionTime"] == AT


@settings(max_examples=50)
@given(worlds())
def test_ready_follows_from_the_others(world):
    pa, service, counts = world
    found = by_kind(told(pa, service, **counts))
    says_ = {found[kind]["status"] for kind in DEPENDENTS}
    expected = "False" if "False" in says_ else "Unknown" if "Unknown" in says_ else "True"
    ready = found["Ready"]
    assert ready["status"] == expected
    reasons = {(each.get("reason"), each.get("message")) for each in map(found.get, DEPENDENTS) if each}
    if expected != "True":
        assert (ready.get("reason"), ready.get("message")) in reasons
    else:
        assert "reason" not in ready


@settings(max_examples=50)
@given(worlds())
def test_having_started_is_never_taken_back(world):
    pa, service, counts = world
    if has_started(pa):
        assert has_started({"status": told(pa, service, **counts)})


@settings(max_examples=50)
@given(worlds())
def test_before_it_has_started_it_is_inactive_only_if_it_failed_to(world):
    pa, service, counts = world
    found = told(pa, service, **counts)
    active = condition({"status": found}, "Active")
    if active["status"] == "False" and not has_started({"status": found}):
        assert active["reason"] == "TimedOut" or (active["reason"], found["serviceName"]) == ("NotOwned", "")


@settings(max_examples=50)
@given(worlds())
def test_every_text_is_one_of_a_few_and_holds_no_number(world):
    pa, service, counts = world
    for kind, each in by_kind(told(pa, service, **counts)).items():
        if kind != "Theirs":
            assert each.get("message", "") in SAYINGS
            assert not re.search(r"\d", each.get("message", ""))


@settings(max_examples=50)
@given(worlds())
def test_a_status_is_what_the_api_takes(world):
    pa, service, counts = world
    found = told(pa, service, **counts)
    assert isinstance(found["serviceName"], str)
    assert isinstance(found["metricsServiceName"], str)
    kinds = [each["type"] for each in found["conditions"]]
    assert kinds == sorted(set(kinds))
    for each in found["conditions"]:
        assert datetime.fromisoformat(each["lastTransitionTime"]).tzinfo is not None
        assert all(each.values()), "empty strings are left out, as Go leaves them out"
    assert found["observedGeneration"] == pa["metadata"]["generation"]


@settings(max_examples=30)
@given(st.lists(_any_condition, max_size=6, unique_by=lambda each: each["type"]))
def test_of_several_that_are_false_the_one_that_changed_last_is_the_reason(before):
    verdicts = {
        "Active": Condition("False", "First", "First."),
        "SKSReady": Condition("False", "Second", "Second."),
        "ScaleTargetInitialized": Condition("True"),
    }
    earlier = [each for each in before if each["type"] not in verdicts]
    old = a_condition("Active", "False", "First") | {"message": "First."}
    found = {each["type"]: each for each in conditions([*earlier, old], verdicts, NOW)}
    assert found["Ready"]["reason"] == "Second"

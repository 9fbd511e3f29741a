"""What annotations and routes mean, and how a service's count becomes its revisions' counts."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slo_autoscaler.errors import UnreadableError
from slo_autoscaler.platforms.keys import HOLD, MODE, SCHEDULE
from slo_autoscaler.platforms.knative.allocation import (
    KPA,
    UNROUTED,
    Defaults,
    Revision,
    Routing,
    class_of,
    defaults_of,
    initial_scale,
    is_scaled,
    main_of,
    max_scale,
    may_rest,
    min_scale,
    newest,
    plan,
    replicas_for_share,
    routings,
    scale_of,
    service_of,
)
from slo_autoscaler.settings.schedule import hold_of, schedule_of
from slo_autoscaler.settings.spec import Modes

SERVING = "serving.knative.dev/"


def an_object(name="tabular-00001", labels=None, **annotations):
    keys = {f"autoscaling.knative.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return {"metadata": {"namespace": "default", "name": name, "annotations": keys, "labels": labels or {}}}


def a_revision(generation=1, **changes):
    usual = Revision(
        namespace="default",
        name=f"tabular-{generation:05}",
        service="tabular",
        generation=generation,
        routing=Routing(1.0, 1.0),
        least=0,
        most=None,
        start=1,
        started=True,
        replicas=1,
        ready=1,
    )
    return replace(usual, **changes)


def a_route(spec=(), status=()):
    return {
        "metadata": {"namespace": "default", "name": "tabular"},
        "spec": {"traffic": list(spec)},
        "status": {"traffic": list(status)},
    }


# What annotations mean


OLD = {"autoscaling.knative.dev/minScale": "4", "autoscaling.knative.dev/maxScale": "8"}
OLD_AND_NEW = OLD | {"autoscaling.knative.dev/min-scale": "1"}
SAID = Defaults(class_name="slo.tailbound.dev", min_scale=3, max_scale=7, initial_scale=2)


@pytest.mark.parametrize(
    ("it", "defaults", "found"),
    [
        (an_object(**{"class": KPA}, min_scale="2", max_scale="9", initial_scale="5"), SAID, (2, 9, 5)),
        ({"metadata": {"annotations": OLD}}, SAID, (4, 8, 2)),
        ({"metadata": {"annotations": OLD_AND_NEW}}, SAID, (1, 8, 2)),
        (an_object(), SAID, (3, 7, 2)),
        (an_object(), Defaults(), (0, None, 1)),
        (an_object(max_scale="0"), SAID, (3, None, 2)),  # no upper bound
        # What Knative would refuse counts as not said.
        *(
            (an_object(min_scale=text), SAID, (3, 7, 2))
            for text in ("-1", "1.5", "", "many", "\u00b2", "9" * 5000)
        ),
    ],
)
def test_class_and_bounds_are_those_of_the_annotations_else_the_clusters(it, defaults, found):
    assert (min_scale(it, defaults), max_scale(it, defaults), initial_scale(it, defaults)) == found
    own = it["metadata"]["annotations"].get("autoscaling.knative.dev/class")
    assert class_of(it, defaults) == (own or defaults.class_name)


@pytest.mark.parametrize(
    ("data", "defaults"),
    [
        ({}, Defaults()),
        ({"min-scale": "2", "max-scale": "0", "initial-scale": "0"}, Defaults(KPA, 2, 0, 0)),
        ({"min-scale": "-1", "scale-to-zero-grace-period": "soon"}, Defaults()),
        ({"scale-to-zero-grace-period": "1m"}, Defaults(grace_period=60.0)),
        ({"enable-scale-to-zero": "False"}, Defaults(scale_to_zero=False)),
        ({"pod-autoscaler-class": "slo.tailbound.dev"}, Defaults(class_name="slo.tailbound.dev")),
    ],
)
def test_defaults_of_the_cluster_are_those_of_its_config_map(data, defaults):
    assert defaults_of({"data": data}) == defaults


@pytest.mark.parametrize(
    ("labels", "service"),
    [
        ({"service": "s", "configuration": "c", "revision": "r"}, "s"),
        ({"service": "", "configuration": "c", "revision": "r"}, "c"),
        ({"revision": "r"}, "r"),
        ({}, "tabular-00001"),
    ],
)
def test_service_of_a_revision_is_the_nearest_that_its_labels_name(labels, service):
    assert service_of(an_object(labels={SERVING + key: name for key, name in labels.items()})) == service


@pytest.mark.parametrize(("routed", "declared"), [(0.1, 0.9), (0.9, 0.1), (0.9, None), (None, 0.9)])
def test_share_to_be_served_is_the_larger_of_routed_and_declared(routed, declared):
    assert Routing(routed, declared).most == 0.9


def test_newest_revision_is_of_the_highest_generation_in_any_order():
    revisions = [
        an_object(
            f"t-{number}", {f"{SERVING}configuration": "t", f"{SERVING}configurationGeneration": number}
        )
        for number in ("9", "10", "2")
    ]
    assert newest(revisions) == newest(revisions[::-1]) == {("default", "t"): "t-10"}


def test_is_scaled_stays_so_with_a_wrong_label():
    modes = ["active", "", "shadow", "actve", None]
    found = [Routing(1.0, 1.0, () if mode is None else ((f"label {MODE}", mode),)) for mode in modes]
    assert [is_scaled("f.ns", routing, Modes()) for routing in found] == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("changes", "defaults", "version", "may"),
    [
        ({}, Defaults(), (1, 23), True),
        ({}, Defaults(), None, True),
        ({}, Defaults(), (1, 21), False),  # its activators tell nothing
        ({}, Defaults(scale_to_zero=False), (1, 23), False),
        ({"least": 1}, Defaults(), (1, 23), False),
        ({"started": False}, Defaults(), (1, 23), False),
        ({"routing": UNROUTED}, Defaults(), (1, 23), False),
        *(
            ({"routing": Routing(1.0, 1.0, ((title, text),))}, Defaults(), (1, 23), False)
            for title, text in (
                (f"label {MODE}", "off"),
                (f"label {MODE}", "actve"),
                (f"annotation {SCHEDULE}", "x"),
            )
        ),
    ],
)
def test_may_rest_where_a_decision_would_wake_it(changes, defaults, version, may):
    main = replace(a_revision(least=0, started=True, routing=Routing(1.0, 1.0)), **changes)
    assert may_rest(main, defaults, version, Modes()) is may


def test_scale_of_a_service_without_replicas_is_zero_from_the_decision_on():
    resting = replace(a_revision(least=0, replicas=1), inactive=True, waiting=2.0)
    new = a_revision(2, started=False, routing=Routing(None, 1.0))
    scale = scale_of([resting, new], None, Modes())
    assert (scale.revision, scale.desired, scale.waiting) == (resting.name, 0, 2.0)


def test_scale_of_a_revision_without_a_minimum_leaves_it_to_the_configuration():
    assert [scale_of([a_revision(least=least)], None, Modes()).min for least in (0, 1)] == [None, 1]


# What routes say

BROKEN = [None, {}, {"traffic": None}, {"traffic": [{}]}, {"traffic": [{"percent": 5}]}]


def named(revision, percent=None, **more):
    return {"revisionName": revision, "percent": percent, **more}


@pytest.mark.parametrize(
    ("routes", "found"),
    [
        # A route that follows a configuration will name its newest revision.
        (
            [a_route([{"configurationName": "tabular", "percent": 100}], [named("t-9", 100)])],
            {"t-9": Routing(1.0, None), "t-10": Routing(None, 1.0)},
        ),
        # Entries of one revision add up, and a tag alone names it without a share.
        (
            [a_route(status=[named("a", 50), named("a", 25, tag="stable"), named("c", tag="candidate")])],
            {"a": Routing(0.75, None), "c": Routing(0.0, None)},
        ),
        # More than all is all.
        ([a_route(status=[named("a", 100), named("a", 100)])], {"a": Routing(1.0, None)}),
        # The largest share of several routes counts.
        (
            [a_route(status=[named("a", 10)]), a_route([named("a", 5)], [named("a", 70)])],
            {"a": Routing(0.7, 0.05)},
        ),
        *(([{"metadata": {}, "spec": each, "status": each}], {}) for each in BROKEN),
    ],
)
def test_share_of_a_revision_is_what_routes_say(routes, found):
    configuration = {f"{SERVING}configuration": "tabular"}
    revisions = [an_object()] + [
        an_object(f"t-{number}", configuration | {f"{SERVING}configurationGeneration": str(number)})
        for number in (9, 10)
    ]
    expected = {("default", name): routing for name, routing in found.items()}
    assert routings(routes, newest(revisions)) == expected


def test_annotations_of_a_route_are_those_of_its_revisions():
    schedule = '[{"cron": "0 8 * * *", "duration": "2h", "min_replicas": 4}]'
    hold = '{"until": "2026-12-01T09:00:00Z"}'
    route = a_route(status=[named("a", 100)])
    route["metadata"]["annotations"] = {SCHEDULE: schedule, HOLD: hold}
    routing = routings([route], {})["default", "a"]
    scale = scale_of([a_revision(routing=routing)], None, Modes())
    assert (scale.schedule, scale.hold) == (schedule_of(schedule), hold_of(hold))


@pytest.mark.parametrize(
    ("newer", "failed"),
    [
        ({"started": False, "failed": True}, True),
        ({"started": False}, False),
        ({"started": False, "failed": True, "generation": 1}, False),
    ],
)
def test_rollout_has_failed_where_a_newer_revision_than_the_main_one_has(newer, failed):
    both = [a_revision(2), a_revision(**{"generation": 3} | newer, routing=Routing(None, 1.0))]
    assert scale_of(both, None, Modes()).rollout_failed is failed


@pytest.mark.parametrize(("key", "text"), [("schedule", "[1]"), ("hold", '{"until": "later"}')])
def test_scale_wrong_annotation_is_unreadable_with_its_count(key, text):
    main = a_revision(routing=Routing(1.0, 1.0, ((f"annotation tailbound.dev/{key}", text),)), replicas=3)
    with pytest.raises(UnreadableError, match=rf"tabular.default: annotation tailbound.dev/{key}") as caught:
        scale_of([main], None, Modes())
    assert caught.value.replicas == 3


# How a count is divided

STABLE, CANARY = a_revision(1, routing=Routing(0.9, 0.9)), a_revision(2, routing=Routing(0.1, 0.1))
LEAVING, TAKING_OVER = (
    a_revision(1, routing=Routing(1.0, None), replicas=6),
    a_revision(2, routing=Routing(None, 1.0)),
)
UNSTARTED = a_revision(2, routing=Routing(None, 1.0), started=False)
HALF = a_revision(1, routing=Routing(0.5, 0.0), replicas=4)
RESTING = a_revision(1, routing=UNROUTED, inactive=True, replicas=4)


@pytest.mark.parametrize(
    ("revisions", "wanted", "main", "counts"),
    [
        # The main revision has the replicas for all traffic, and another for its share.
        ([STABLE, CANARY], 15, 1, [15, 2]),
        # One that is about to take over is sized before it does; until it has started, the other serves.
        ([LEAVING, UNSTARTED], None, 1, [6, 6]),
        ([HALF, UNSTARTED], None, 1, [4, 4]),
        ([LEAVING, TAKING_OVER], 3, 2, [3, 3]),
        # Until it has started, it has its initial scale at least, also above its bound, as in Knative.
        ([a_revision(1, started=False, start=3, most=2)], 1, 1, [3]),
        # A revision that rests keeps what it has.
        ([RESTING, a_revision(2)], 9, 2, [4, 9]),
    ],
)
def test_plan_divides_a_count(revisions, wanted, main, counts):
    assert main_of(revisions).generation == main
    assert plan(revisions, wanted) == {each.key: count for each, count in zip(revisions, counts, strict=True)}


@pytest.mark.parametrize(
    ("lesser", "greater"),
    [
        ({"inactive": True, "routing": Routing(1.0, 1.0)}, {"routing": Routing(0.1, 0.1)}),
        ({"inactive": True}, {"inactive": False, "started": False, "routing": UNROUTED}),
        ({"started": False, "routing": Routing(None, 1.0)}, {"routing": Routing(0.1, None)}),
        ({"routing": Routing(0.4, None), "generation": 9}, {"routing": Routing(0.6, None)}),
        ({"generation": 9, "name": "tabular-z"}, {"generation": 10, "name": "tabular-a"}),
    ],
)
def test_main_is_active_then_started_then_has_most_traffic_then_is_newest(lesser, greater):
    one, other = a_revision(**lesser), a_revision(**greater)
    assert main_of([one, other]) == main_of([other, one]) == other


@pytest.mark.parametrize(("whole", "share", "part"), [(100, 0.07, 7), (15, 0.1, 2), (15, 0.0, 0)])
def test_a_share_is_rounded_up_but_not_for_what_floats_are(whole, share, part):
    assert replicas_for_share(whole, share) == part


_share = st.none() | st.integers(0, 100).map(lambda percent: percent / 100)


@st.composite
def services(draw):
    revisions = []
    for generation in range(1, draw(st.integers(1, 4)) + 1):
        least = draw(st.integers(0, 4))
        revisions.append(
            a_revision(
                generation,
                routing=Routing(draw(_share), draw(_share)),
                least=least,
                most=draw(st.none() | st.integers(max(1, least), 12)),
                start=draw(st.integers(0, 5)),
                started=draw(st.booleans()),
                replicas=draw(st.integers(0, 20)),
                inactive=draw(st.booleans()),
            )
        )
    return revisions


@settings(max_examples=50)
@given(services(), st.none() | st.integers(0, 30))
def test_every_count_is_within_its_revisions_bounds_and_never_zero(revisions, wanted):
    counts = plan(revisions, wanted)
    for each in revisions:
        if each.inactive:
            assert counts[each.key] == each.replicas
        else:
            assert counts[each.key] >= each.lowest >= 1
            assert each.most is None or counts[each.key] <= max(each.most, each.lowest)


@settings(max_examples=50)
@given(services(), st.integers(0, 29))
def test_a_higher_count_gives_no_revision_less(revisions, wanted):
    less, more = plan(revisions, wanted), plan(revisions, wanted + 1)
    assert all(less[key] <= more[key] for key in less)

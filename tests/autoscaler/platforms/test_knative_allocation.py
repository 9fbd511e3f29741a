"""What annotations and routes mean, and how a service's count becomes its revisions' counts."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slo_autoscaler.platforms.knative.allocation import (
    KPA,
    UNROUTED,
    Defaults,
    Revision,
    Share,
    class_of,
    defaults_of,
    initial_scale,
    main_of,
    max_scale,
    min_scale,
    newest,
    plan,
    replicas_for_share,
    service_of,
    shares,
    version_of,
)


def an_object(name="tabular-00001", labels=None, **annotations):
    keys = {f"autoscaling.knative.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    return {"metadata": {"namespace": "default", "name": name, "annotations": keys, "labels": labels or {}}}


def a_revision(name="tabular-00001", **changes):
    usual = Revision(
        namespace="default",
        name=name,
        service="tabular",
        generation=int(name[-5:]),
        share=Share(1.0, 1.0),
        least=0,
        most=None,
        start=1,
        started=True,
        replicas=1,
        ready=1,
    )
    return replace(usual, **changes)


def generated(name, configuration, generation):
    labels = {
        "serving.knative.dev/configuration": configuration,
        "serving.knative.dev/configurationGeneration": str(generation),
    }
    return an_object(name, labels)


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
        (an_object(min_scale="2", max_scale="9", initial_scale="5"), SAID, (2, 9, 5)),
        ({"metadata": {"annotations": OLD}}, SAID, (4, 8, 2)),
        ({"metadata": {"annotations": OLD_AND_NEW}}, SAID, (1, 8, 2)),
        (an_object(), SAID, (3, 7, 2)),
        (an_object(), Defaults(), (0, None, 1)),
        (an_object(max_scale="0"), SAID, (3, None, 2)),  # no upper bound
        # What Knative would refuse counts as not said.
        *((an_object(min_scale=text), SAID, (3, 7, 2)) for text in ("-1", "1.5", "", "many", "\u00b2")),
    ],
)
def test_bounds_are_those_of_the_annotations_else_the_clusters(it, defaults, found):
    assert (min_scale(it, defaults), max_scale(it, defaults), initial_scale(it, defaults)) == found


def test_class_is_that_of_the_annotation_else_the_clusters():
    assert class_of(an_object(), SAID) == "slo.tailbound.dev"
    assert class_of(an_object(**{"class": KPA}), SAID) == KPA


def test_the_config_map_is_read_as_knative_reads_it():
    found = defaults_of(
        {
            "data": {
                "_example": "min-scale: 9",
                "pod-autoscaler-class": "slo.tailbound.dev",
                "min-scale": "1",
                "max-scale": "20",
                "initial-scale": "2",
                "enable-scale-to-zero": "false",
                "scale-to-zero-grace-period": "1m30s",
            }
        }
    )
    assert found == Defaults("slo.tailbound.dev", 1, 20, 2, scale_to_zero=False, grace_period=90.0)


@pytest.mark.parametrize("data", [None, {}, {"min-scale": "x", "scale-to-zero-grace-period": "soon"}])
def test_what_the_config_map_does_not_say_or_says_wrongly_is_knatives_default(data):
    assert defaults_of({"data": data}) == Defaults()


@pytest.mark.parametrize(
    ("text", "version"),
    [("1.23.0", (1, 23)), ("v1.19.2", (1, 19)), ("20240101-abc", None), ("devel", None), (None, None)],
)
def test_the_version_is_the_one_that_releases_are_labelled_with(text, version):
    labels = {} if text is None else {"app.kubernetes.io/version": text}
    assert version_of({"metadata": {"labels": labels}}) == version


def test_a_function_is_the_service_else_the_configuration_else_the_revision_itself():
    serving = "serving.knative.dev/"
    both = {f"{serving}service": "shop", f"{serving}configuration": "c"}
    assert service_of(an_object(labels=both)) == "shop"
    assert service_of(an_object(labels={f"{serving}configuration": "c"})) == "c"
    assert service_of(an_object(labels={f"{serving}service": ""})) == "tabular-00001"


# What routes say


def test_a_route_that_follows_a_configuration_will_name_its_newest_revision():
    latest = newest([generated("tabular-00009", "tabular", 9), generated("tabular-00010", "tabular", 10)])
    route = a_route(
        spec=[{"configurationName": "tabular", "latestRevision": True, "percent": 100}],
        status=[{"revisionName": "tabular-00009", "latestRevision": True, "percent": 100}],
    )
    assert shares([route], latest) == {
        ("default", "tabular-00009"): Share(1.0, None),
        ("default", "tabular-00010"): Share(None, 1.0),
    }


def test_a_revision_without_a_configuration_is_nobodys_newest():
    assert newest([an_object()]) == {}


def test_entries_of_one_revision_add_up_and_a_tag_alone_is_named_without_a_share():
    route = a_route(
        status=[
            {"revisionName": "a", "percent": 60},
            {"revisionName": "a", "percent": 20, "tag": "stable"},
            {"revisionName": "b", "percent": 20},
            {"revisionName": "c", "tag": "candidate"},
        ]
    )
    found = shares([route], {})
    assert found["default", "a"].routed == pytest.approx(0.8)
    assert found["default", "b"] == Share(0.2, None)
    assert found["default", "c"] == Share(0.0, None)
    assert found["default", "c"] != UNROUTED


def test_the_largest_share_of_several_routes_counts():
    routes = [
        a_route(status=[{"revisionName": "a", "percent": 10}]),
        a_route(status=[{"revisionName": "a", "percent": 70}], spec=[{"revisionName": "a", "percent": 5}]),
    ]
    assert shares(routes, {}) == {("default", "a"): Share(0.7, 0.05)}


@pytest.mark.parametrize(
    "broken", [None, {}, {"traffic": None}, {"traffic": [{}]}, {"traffic": [{"percent": 5}]}]
)
def test_a_route_that_says_nothing_yet_names_nothing(broken):
    assert shares([{"metadata": {"namespace": "default"}, "spec": broken, "status": broken}], {}) == {}


# How a count is divided


def test_the_main_revision_has_the_replicas_for_all_traffic_and_another_for_its_share():
    stable = a_revision(share=Share(0.9, 0.9))
    canary = a_revision("tabular-00002", share=Share(0.1, 0.1))
    assert plan([stable, canary], 15) == {stable.key: 15, canary.key: 2}


def test_a_revision_that_is_about_to_take_over_is_sized_before_it_does():
    old = a_revision(share=Share(1.0, None), replicas=6)
    new = a_revision("tabular-00002", share=Share(None, 1.0), started=False)
    assert main_of([old, new]) is old, "it serves"
    assert plan([old, new], None) == {old.key: 6, new.key: 6}


def test_a_revision_that_has_not_started_is_not_the_main_one_whatever_is_declared():
    old = a_revision(share=Share(0.5, 0.0))
    new = a_revision("tabular-00002", share=Share(None, 1.0), started=False)
    assert main_of([old, new]) is old


def test_the_newer_of_two_that_serve_all_is_the_main_one():
    old, new = a_revision(share=Share(1.0, None)), a_revision("tabular-00002", share=Share(None, 1.0))
    assert main_of([old, new]) is new


def test_until_it_has_started_a_revision_has_its_initial_scale_at_least():
    it = a_revision(started=False, start=3, most=2)
    assert plan([it], 1) == {it.key: 3}, "also above its upper bound, as in Knative"


def test_a_revision_that_rests_keeps_what_it_has():
    main, old = a_revision("tabular-00002"), a_revision(share=UNROUTED, inactive=True, replicas=4)
    assert plan([main, old], 9) == {main.key: 9, old.key: 4}
    assert main_of([main, old]) is main


def test_no_revision_has_no_counts():
    assert plan([], 3) == {}


def test_a_share_is_rounded_up_but_not_for_what_floats_are():
    assert replicas_for_share(100, 0.07) == 7
    assert replicas_for_share(15, 0.1) == 2
    assert replicas_for_share(15, 0.0) == 0


_share = st.none() | st.integers(0, 100).map(lambda percent: percent / 100)


@st.composite
def services(draw):
    revisions = []
    for generation in range(1, draw(st.integers(1, 4)) + 1):
        least = draw(st.integers(0, 4))
        revisions.append(
            a_revision(
                f"tabular-{generation:05}",
                share=Share(draw(_share), draw(_share)),
                least=least,
                most=draw(st.none() | st.integers(max(1, least), 12)),
                start=draw(st.integers(0, 5)),
                started=draw(st.booleans()),
                replicas=draw(st.integers(0, 20)),
                inactive=draw(st.booleans()),
            )
        )
    return revisions


_wanted = st.none() | st.integers(0, 30)


@settings(max_examples=50)
@given(services(), _wanted)
def test_every_count_is_within_its_revisions_bounds_and_never_zero(revisions, wanted):
    counts = plan(revisions, wanted)
    for each in revisions:
        if each.inactive:
            assert counts[each.key] == each.replicas
        else:
            assert counts[each.key] >= each.lowest >= 1
            assert each.most is None or counts[each.key] <= max(each.most, each.lowest)


@settings(max_examples=50)
@given(services(), st.integers(0, 30))
def test_what_was_divided_once_is_not_divided_otherwise_again(revisions, wanted):
    counts = plan(revisions, wanted)
    after = [replace(each, replicas=counts[each.key]) for each in revisions]
    assert plan(after, wanted) == counts
    main = main_of(revisions).key
    assert plan(after, None)[main] == counts[main], "a restart, which forgets what was decided"


@settings(max_examples=50)
@given(services(), st.integers(0, 29))
def test_a_higher_count_gives_no_revision_less(revisions, wanted):
    less, more = plan(revisions, wanted), plan(revisions, wanted + 1)
    assert all(less[key] <= more[key] for key in less)

"""A floor as annotations of a Revision, and the user's own minimum beneath it."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slo_autoscaler.platforms.knative.allocation import UNROUTED, Defaults, Share
from slo_autoscaler.platforms.knative.minimum import (
    APPLIED,
    MIN_SCALE,
    OPT_IN,
    ORIGINAL,
    change,
    floors,
    revision_of,
    takes_part,
)

ALL = Share(1.0, 1.0)


def a_revision(name="tabular-00001", desired=3, actual=2, ready="True", **annotations):
    keys = {
        "min": MIN_SCALE,
        "old_min": "autoscaling.knative.dev/minScale",
        "max": "autoscaling.knative.dev/max-scale",
        "given": APPLIED,
        "own": ORIGINAL,
        "floor": OPT_IN,
    }
    return {
        "metadata": {
            "namespace": "default",
            "name": name,
            "resourceVersion": "7",
            "labels": {
                "serving.knative.dev/service": "tabular",
                "serving.knative.dev/configurationGeneration": name[-1],
            },
            "annotations": {OPT_IN: "true"} | {keys[key]: value for key, value in annotations.items()},
        },
        "status": {
            "desiredReplicas": desired,
            "actualReplicas": actual,
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }


def after(revision, patch):
    """The Revision with the patch in it."""
    changed = copy.deepcopy(revision)
    for key, value in (patch or {"metadata": {"annotations": {}}})["metadata"]["annotations"].items():
        if value is None:
            changed["metadata"]["annotations"].pop(key, None)
        else:
            changed["metadata"]["annotations"][key] = value
    return changed


def annotations(revision):
    return revision["metadata"]["annotations"]


def given_floor(revision, floor):
    return after(revision, change(revision, floor, Defaults()))


def test_a_floor_is_min_scale_and_what_it_stands_in_for_is_remembered():
    patch = change(a_revision(min="2"), 5, Defaults())
    assert patch == {
        "metadata": {"resourceVersion": "7", "annotations": {MIN_SCALE: "5", APPLIED: "5", ORIGINAL: "2"}}
    }


def test_the_users_own_minimum_is_never_lowered():
    assert change(a_revision(min="4"), 3, Defaults()) is None
    assert change(a_revision(old_min="4"), 3, Defaults()) is None
    assert change(a_revision(), 3, Defaults(min_scale=4)) is None


def test_the_old_spelling_is_left_as_it_is():
    floored = given_floor(a_revision(old_min="2"), 5)
    assert annotations(floored)["autoscaling.knative.dev/minScale"] == "2"
    assert annotations(given_floor(floored, 0)) == annotations(a_revision(old_min="2"))


def test_a_floor_of_one_is_none():
    assert change(a_revision(), 1, Defaults()) is None
    assert annotations(given_floor(given_floor(a_revision(), 3), 1)) == annotations(a_revision())


def test_a_minimum_that_the_user_sets_meanwhile_is_theirs():
    floored = given_floor(a_revision(min="1"), 5)
    by_hand = after(floored, {"metadata": {"annotations": {MIN_SCALE: "7"}}})
    assert annotations(given_floor(by_hand, 5)) == {OPT_IN: "true", MIN_SCALE: "7"}
    assert annotations(given_floor(by_hand, 9)) == {
        OPT_IN: "true",
        MIN_SCALE: "9",
        APPLIED: "9",
        ORIGINAL: "7",
    }


@pytest.mark.parametrize(("text", "asks"), [("true", True), ("True", True), ("false", False), ("", False)])
def test_a_revision_takes_part_if_it_says_so(text, asks):
    assert takes_part(a_revision(floor=text)) is asks
    assert not takes_part({"metadata": {}})


def test_what_is_scaled_is_the_floor():
    it = revision_of(given_floor(a_revision(min="2", max="8"), 5), ALL, Defaults())
    assert (it.replicas, it.ready, it.least, it.most) == (5, 2, 2, 8)
    assert it.function_name == "tabular.default"
    assert revision_of(a_revision(), ALL, Defaults()).replicas == 1, "without a floor one is running at least"


def test_at_zero_there_is_no_floor():
    assert revision_of(a_revision(desired=0, actual=0), ALL, Defaults()).replicas == 0
    assert revision_of({"metadata": {"name": "x"}}, ALL, Defaults()).replicas == 0


@pytest.mark.parametrize(
    ("revision", "share"),
    [(a_revision(floor="false"), ALL), (a_revision(), UNROUTED)],
    ids=["left", "unrouted"],
)
def test_who_leaves_or_is_not_routed_gets_their_own_minimum_back(revision, share):
    it = revision_of(revision, share, Defaults())
    assert it.inactive
    assert floors([it], 9) == {it.key: 0}


def test_the_floor_of_the_main_revision_is_for_all_traffic_and_within_its_maximum():
    main = revision_of(a_revision(max="6"), Share(0.8, 0.8), Defaults())
    canary = revision_of(a_revision("tabular-00002"), Share(0.2, 0.2), Defaults())
    assert floors([main, canary], 10) == {main.key: 6, canary.key: 2}
    assert floors([], 10) == {}


def test_without_a_decision_the_main_revisions_floor_stands():
    main = revision_of(given_floor(a_revision(), 5), Share(1.0, None), Defaults())
    new = revision_of(a_revision("tabular-00002", ready="Unknown"), Share(None, 1.0), Defaults())
    assert floors([main, new], None) == {main.key: 5, new.key: 5}


_counts = st.none() | st.integers(0, 6).map(str)


@settings(max_examples=50)
@given(_counts, st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_whatever_floors_come_the_users_minimum_holds_and_comes_back(own, wanted):
    original = a_revision(**({} if own is None else {"min": own}))
    revision = original
    for floor in wanted:
        revision = given_floor(revision, floor)
        assert change(revision, floor, Defaults()) is None, "once is enough"
        held = int(annotations(revision).get(MIN_SCALE, "0"))
        assert held >= int(own or 0)
        assert held == max(int(own or 0), floor) or floor <= max(1, int(own or 0))
        assert revision_of(revision, ALL, Defaults()).least == int(own or 0)
    assert annotations(given_floor(revision, 0)) == annotations(original)

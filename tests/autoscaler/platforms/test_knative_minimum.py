"""A floor as annotations of a Revision, and the user's own minimum beneath it."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slo_autoscaler.platforms.keys import FLOOR_APPLIED, FLOOR_ORIGINAL, MIN_SCALE
from slo_autoscaler.platforms.knative.allocation import UNROUTED, Defaults, Share
from slo_autoscaler.platforms.knative.minimum import change, floors, revision_of

ALL = Share(1.0, 1.0)


def a_revision(name="tabular-00001", desired=3, actual=2, ready="True", **annotations):
    keys = {
        "min": MIN_SCALE,
        "old_min": "autoscaling.knative.dev/minScale",
        "max": "autoscaling.knative.dev/max-scale",
        "given": FLOOR_APPLIED,
        "own": FLOOR_ORIGINAL,
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
            "annotations": {keys[key]: value for key, value in annotations.items()},
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


def given_floor(revision, floor, defaults=Defaults()):  # noqa: B008 (it is frozen)
    return after(revision, change(revision, floor, defaults))


FLOORED = a_revision(min="5", given="5", own="1")


@pytest.mark.parametrize(
    ("revision", "floor", "defaults", "found"),
    [
        # The user's own minimum is never lowered, and a floor of one is none.
        (a_revision(min="4"), 3, Defaults(), a_revision(min="4")),
        (a_revision(old_min="4"), 3, Defaults(), a_revision(old_min="4")),
        (a_revision(), 3, Defaults(min_scale=4), a_revision()),
        (a_revision(), 1, Defaults(), a_revision()),
        # What it stands in for is remembered, and comes back.
        (a_revision(), 3, Defaults(), a_revision(min="3", given="3", own="")),
        (a_revision(min="3", given="3", own=""), 1, Defaults(), a_revision()),
        (FLOORED, 7, Defaults(), a_revision(min="7", given="7", own="1")),
        (FLOORED, 0, Defaults(), a_revision(min="1")),
        # The old spelling is left as it is.
        (a_revision(old_min="2"), 5, Defaults(), a_revision(old_min="2", min="5", given="5", own="")),
        (a_revision(old_min="2", min="5", given="5", own=""), 0, Defaults(), a_revision(old_min="2")),
        # A minimum that the user sets meanwhile is theirs.
        (a_revision(min="7", given="5", own="1"), 5, Defaults(), a_revision(min="7")),
        (a_revision(min="7", given="5", own="1"), 9, Defaults(), a_revision(min="9", given="9", own="7")),
    ],
)
def test_change_of_a_floor(revision, floor, defaults, found):
    assert annotations(given_floor(revision, floor, defaults)) == annotations(found)


@pytest.mark.parametrize(
    ("revision", "replicas", "least", "most"),
    [
        (a_revision(min="5", given="5", own="2", max="8"), 5, 2, 8),
        (a_revision(), 1, 0, None),  # without one a replica is running at least
        (a_revision(desired=0, actual=0), 0, 0, None),
        (a_revision(desired=-1, actual=0), 1, 0, None),
        ({"metadata": {"name": "x"}}, 0, 0, None),
    ],
)
def test_revision_of_mode_floor_counts_its_floor_else_what_knative_wants(revision, replicas, least, most):
    it = one(revision, ALL)
    assert (it.replicas, it.least, it.most) == (replicas, least, most)
    wanted = revision.get("status", {}).get("desiredReplicas", 0)
    assert one(revision, ALL, floored=False).replicas == max(0, wanted)
    assert it.ready == revision.get("status", {}).get("actualReplicas", 0)


@pytest.mark.parametrize(("ready", "failed"), [("True", False), ("Unknown", False), ("False", True)])
def test_revision_of_mode_floor_has_failed_if_knative_says_that_it_is_not_ready(ready, failed):
    assert one(a_revision(ready=ready), ALL).failed is failed


def one(revision, share, *, floored=True):
    return revision_of(revision, share, Defaults(), floored=floored)


MAIN = one(a_revision(max="6"), Share(0.8, 0.8))
CANARY = one(a_revision("tabular-00002"), Share(0.2, 0.2))
WITH_FLOOR = one(FLOORED, Share(1.0, None))
NEXT = one(a_revision("tabular-00002", ready="Unknown"), Share(None, 1.0))


@pytest.mark.parametrize(
    ("revisions", "wanted", "found"),
    [
        ([], 10, []),
        ([MAIN, CANARY], 10, [6, 2]),
        # Without a decision the main revision's floor stands.
        ([WITH_FLOOR, NEXT], None, [5, 5]),
        # Who leaves or is not routed gets their own minimum back.
        ([one(a_revision(), ALL, floored=False)], 9, [0]),
        ([one(a_revision(), UNROUTED)], 9, [0]),
    ],
)
def test_floors_of_the_revisions_of_a_service(revisions, wanted, found):
    assert list(floors(revisions, wanted).values()) == found


_counts = st.none() | st.integers(0, 6).map(str)


@settings(max_examples=50)
@given(_counts, st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_any_floors_keep_and_restore_the_users_minimum(own, wanted):
    original = a_revision(**({} if own is None else {"min": own}))
    revision = original
    for floor in wanted:
        patch = change(revision, floor, Defaults())
        assert patch is None or patch["metadata"]["resourceVersion"] == "7", "that was read"
        revision = after(revision, patch)
        assert change(revision, floor, Defaults()) is None, "once is enough"
        held = int(annotations(revision).get(MIN_SCALE, "0"))
        assert held >= int(own or 0)
        assert held == max(int(own or 0), floor) or floor <= max(1, int(own or 0))
        assert one(revision, ALL).least == int(own or 0)
    assert annotations(given_floor(revision, 0)) == annotations(original)

"""docs/install.md for Knative with ``mode: floor`` on a real node, under Knative's own autoscaler."""

from collections.abc import Iterator
from functools import partial

import pytest

from node import cluster
from node.cluster import Guide, exists, guide, kubectl, load, unused, wait_for
from node.knative import IMAGE, annotations, counts, deploy, labeled, needs_knative, revision, url

pytestmark = [pytest.mark.node, pytest.mark.timeout(3600)]

OURS = ("monitoring", "tailbound-knative-floor")
MIN_SCALE = "autoscaling.knative.dev/min-scale"
APPLIED = "slo.tailbound.dev/floor-applied"
RATE = 120.0

told = partial(cluster.told, "tailbound-knative-floor")
newest = partial(cluster.newest, "my-model.default", "tailbound-knative-floor")


@pytest.fixture(scope="module")
def installed(node: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guide]:
    needs_knative()
    unused(*OURS)
    with guide("knative-floor", tmp_path_factory.mktemp("node")) as follower:
        try:
            follower.install_autoscaler()
            follower.follow("2. Prometheus")
            deploy(follower, own_class=False)
            yield follower
        finally:
            kubectl("delete", "ksvc", "my-model", "--ignore-not-found")
            follower.remove(*OURS)


def test_floor_follows_the_mode_and_the_end_of_the_label_gives_the_minimum_back(installed):
    since = labeled("shadow")
    sent = load("default", "load", IMAGE, url(), rate=RATE, seconds=150)
    wait_for("more that would be there", lambda: newest(since).get("to", 1) > 1, told)
    assert newest(since)["mode"] == "shadow"
    assert APPLIED not in annotations()
    labeled("active")
    wait_for("a floor", lambda: int(annotations().get(APPLIED, "1")) > 1, told)
    wait_for("replicas for it", lambda: counts()[1] >= int(annotations()[MIN_SCALE]), told)
    kubectl("label", "ksvc/my-model", "tailbound.dev/mode-")
    wait_for("the user's minimum", lambda: APPLIED not in annotations(), told)
    assert annotations()[MIN_SCALE] == "1"
    sent.ended()


def test_only_the_annotations_of_the_floor_may_be_changed(installed):
    path = f"/apis/serving.knative.dev/v1/namespaces/default/revisions/{revision()}"

    def may(annotations: dict[str, str | None], **others: object) -> bool:
        patch = {"metadata": {"annotations": annotations, **others}}
        why = cluster.refused("tailbound-knative-floor", path, patch)
        assert why == "" or "slo-autoscaler changes" in why
        return why == ""

    (other, *_) = annotations().keys() - {MIN_SCALE}
    assert may({MIN_SCALE: "2", APPLIED: "2"})
    assert not may({"an.other/one": "2"})
    assert not may({other: "2"})
    assert not may({other: None})
    assert not may({MIN_SCALE: "2"}, labels={"team": "a"})


def test_removal_leaves_nothing_of_the_autoscaler(installed):
    installed.follow("Remove it")
    wait_for("the namespace's end", lambda: not exists("namespace", "tailbound-knative-floor"))
    assert not cluster.left_over()

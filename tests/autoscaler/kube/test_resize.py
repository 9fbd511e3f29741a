"""Pods resized on an API server: what is written, what is restored, what is said of a refusal."""

import json

import pytest

from slo_autoscaler.errors import ApiError
from slo_autoscaler.kube import resize
from slo_autoscaler.kube.resize import Resizer
from slo_autoscaler.kube.resize_rules import NOMINAL, CpuBoost
from support import doubles
from support.cluster import on_double
from support.kube_server import a_replica_set, a_running_pod
from support.waits import until

pytestmark = on_double

TRIPLE = {"web.shop": CpuBoost(3.0, 2.0)}
RESIZES = "PATCH /api/v1/namespaces/shop/pods/"


def a_container(name="model", cpu="500m", **resources):
    limits = {"cpu": cpu, **resources} if cpu else resources
    requests = {"cpu": "100m"} if cpu and not resources else {}
    return {
        "name": name,
        "ports": [{"containerPort": 8080}],
        "resources": {"limits": limits, "requests": requests},
    }


GUARANTEED = a_container(memory="1Gi")


class Shop:
    """The pods of a Deployment ``web``, and autoscalers that boost them."""

    def __init__(self, api, kubeconfig, keep):
        self.api = api
        self.kubeconfig = kubeconfig
        self.keep = keep
        self.leads = True

    def deploy(self, *containers, pods=("a",), ready=True, **labels):
        self.set = a_replica_set("web", "shop", *(containers or (a_container(),)), **labels)
        self.api.put("apps/v1", "replicasets", self.set)
        for name in pods:
            self.api.put("v1", "pods", a_running_pod(self.set, name, ready=ready))

    def start(self, kubeconfig=None, namespaces=("shop",), **changes):
        usual = {"timeout": 10.0, "concurrency": 4, "wanted": True}
        cluster = (kubeconfig or self.kubeconfig, None, None)
        return self.keep(Resizer(cluster, namespaces, lambda: self.leads, **(usual | changes)))

    def pod(self, name="a"):
        full = f"web-5d59d67564-{name}"
        (found,) = [each for each in self.api.all("v1", "pods") if each["metadata"]["name"] == full]
        return found

    def cpu(self, name="a", container="model"):
        """Return request and limit of a container, as they are applied."""
        (found,) = [
            each for each in self.pod(name)["status"]["containerStatuses"] if each["name"] == container
        ]
        return tuple(found["resources"].get(part, {}).get("cpu") for part in ("requests", "limits"))

    def boosted(self, name="a"):
        return self.cpu(name) == ("100m", "1500m")

    def nominal(self, name="a"):
        return self.cpu(name) == ("100m", "500m")


@pytest.fixture
def shop(api, kubeconfig, keep):
    return Shop(api, kubeconfig, keep)


def test_boost_raises_the_limit_of_every_serving_pod_and_its_end_restores_it(shop):
    shop.deploy(pods=("a", "b"))
    resizer = shop.start()
    resizer.boost(TRIPLE)
    until(lambda: shop.boosted("a") and shop.boosted("b"), "both are boosted")
    resizer.boost({})
    until(lambda: shop.nominal("a") and shop.nominal("b"), "both are nominal")
    assert len(shop.api.writes()) == 5, "one review of the rights, two resizes of each pod"


def test_boost_resizes_the_container_with_the_watchdogs_port_and_no_other(shop):
    first = {"name": "proxy", "resources": {"limits": {"cpu": "200m"}}}
    shop.deploy(first, a_container())
    shop.start().boost(TRIPLE)
    until(shop.boosted, "it is boosted")
    assert shop.cpu(container="proxy") == ("200m", "200m")


def test_boost_pod_that_begins_to_serve_is_boosted_then(shop):
    shop.deploy(pods=("a",))
    shop.api.put("v1", "pods", a_running_pod(shop.set, "late", ready=False))
    shop.start().boost(TRIPLE)
    until(shop.boosted, "the first one is boosted")
    assert shop.nominal("late")
    shop.api.put("v1", "pods", a_running_pod(shop.set, "late"))
    until(lambda: shop.boosted("late"), "the late one is boosted")


def test_pod_with_another_boost_of_its_start_up_is_left_alone_until_it_is_ready(shop):
    shop.deploy(pods=("old",))
    raised = a_replica_set("web", "shop", a_container(cpu="1500m"))
    shop.api.put("v1", "pods", a_running_pod(raised, "new", ready=False))
    shop.start().boost({"web.shop": CpuBoost(2.0, 2.0)})
    until(lambda: shop.cpu("old") == ("100m", "1000m"), "the serving pod is boosted")
    assert shop.boosted("new")
    shop.api.put("v1", "pods", a_running_pod(raised, "new"))
    until(lambda: shop.cpu("new") == ("100m", "1000m"), "it has its own boost")


def test_pod_that_starts_is_boosted_until_it_is_ready(shop):
    shop.deploy(pods=("a",), ready=False)
    shop.start().boost({"web.shop": CpuBoost(1.0, 2.0, start_up=3.0)})
    until(shop.boosted, "its start is boosted")
    shop.api.put("v1", "pods", a_running_pod(a_replica_set("web", "shop", a_container(cpu="1500m"))))
    until(shop.nominal, "it serves at its nominal CPU")


def test_close_of_the_leader_restores_pods_that_it_has_boosted_at_their_start(shop):
    shop.deploy(pods=("a",), ready=False)
    resizer = shop.start()
    resizer.boost({"web.shop": CpuBoost(1.0, 2.0, start_up=3.0)})
    until(shop.boosted, "its start is boosted")
    resizer.close()
    assert shop.nominal()


def test_first_pass_of_a_leader_restores_pods_that_another_left_boosted(shop):
    shop.deploy()
    crashed = shop.start()
    crashed.boost(TRIPLE)
    until(shop.boosted, "it is boosted")
    shop.leads = False
    crashed.close()
    assert shop.boosted()
    shop.leads = True
    shop.start().boost({"web.shop": NOMINAL})
    until(shop.nominal, "it is restored")


def test_pods_of_a_function_that_was_never_named_are_left_alone(shop):
    shop.deploy()
    other = shop.start()
    other.boost(TRIPLE)
    until(shop.boosted, "it is boosted")
    resizer = shop.start()
    until(resizer.ranges, "it watches")
    resizer.boost({"other.shop": NOMINAL})
    resizer.reconcile()
    assert shop.boosted()


def test_process_that_does_not_lead_writes_nothing(shop):
    shop.deploy()
    shop.leads = False
    standby = shop.start()
    standby.boost(TRIPLE)
    until(standby.ranges, "it watches")
    assert standby.reconcile() > 0.0
    assert shop.nominal()


def test_close_of_the_leader_restores_every_pod(shop):
    shop.deploy(pods=("a", "b"))
    resizer = shop.start()
    resizer.boost(TRIPLE)
    until(lambda: shop.boosted("a") and shop.boosted("b"), "both are boosted")
    resizer.close()
    assert shop.nominal("a")
    assert shop.nominal("b")


def test_boost_guaranteed_pod_changes_request_and_limit_where_the_setting_allows(shop):
    shop.deploy(GUARANTEED)
    shop.start().boost({"web.shop": CpuBoost(3.0, 2.0, requests=True)})
    until(lambda: shop.cpu() == ("1500m", "1500m"), "it is boosted")


def test_boost_pod_without_limit_is_left_and_said_once(shop, caplog):
    shop.deploy(a_container(cpu=None))
    resizer = shop.start()
    for boosts in (TRIPLE, {}, TRIPLE):
        resizer.boost(boosts)
        until(resizer.ranges, "it watches")
        resizer.reconcile()
    assert [each for each in caplog.messages if "no CPU limit" in each] == [
        "web.shop: boost: not possible: container model has no CPU limit, so there is nothing to raise"
    ]


@pytest.mark.parametrize("reason", ["Infeasible", "Deferred"])
def test_resize_that_a_kubelet_leaves_pending_is_named_and_withdrawn(shop, caplog, reason):
    shop.api.pending = (reason, "static CPU manager policy")
    shop.deploy()
    resizer = shop.start()
    resizer.boost(TRIPLE)
    until(lambda: "static CPU manager policy" in caplog.text, "it is named")
    until(
        lambda: shop.pod()["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "500m", "it is withdrawn"
    )
    before = len(shop.api.writes())
    resizer.reconcile()
    assert len(shop.api.writes()) == before, "it backs off"
    assert f"web.shop: boost: refused: PodResizePending {reason}" in caplog.text


def test_boost_lower_than_one_that_a_kubelet_left_pending_is_given_at_once(shop, caplog, monkeypatch):
    monkeypatch.setattr(resize, "BACKOFF_SECONDS", 3600.0)
    shop.api.pending = ("Deferred", "no room")
    shop.deploy()
    resizer = shop.start()
    resizer.boost(TRIPLE)
    until(lambda: "no room" in caplog.text, "it is refused")
    shop.api.pending = None
    resizer.boost({"web.shop": CpuBoost(2.0, 2.0)})
    until(lambda: shop.cpu() == ("100m", "1000m"), "the lower one is given")


@pytest.mark.parametrize(
    ("code", "message"), [(403, "exceeded quota: cpu"), (403, "maximum cpu usage"), (422, "Pod QOS Class")]
)
def test_pod_that_the_api_server_refuses_is_named_and_backs_off_while_others_are_boosted(
    shop, caplog, code, message
):
    refused = doubles.status(code, json.dumps({"reason": "Forbidden", "message": message}).encode())
    shop.api.faults[f"{RESIZES}web-5d59d67564-a/resize"] = refused
    shop.deploy(pods=("a", "b"))
    resizer = shop.start()
    resizer.boost(TRIPLE)
    until(lambda: shop.boosted("b"), "the other is boosted")
    until(lambda: message in caplog.text, "it is named")
    resizer.reconcile()
    assert sum("web-5d59d67564-a/resize" in line for line in shop.api.writes()) == 1


def test_function_whose_pods_are_all_refused_can_have_no_boost(shop):
    shop.api.faults[RESIZES] = doubles.status(403)
    shop.deploy()
    resizer = shop.start()
    resizer.boost(TRIPLE)
    until(lambda: resizer.reconcile() and resizer.ranges()["web.shop"].most == 1.0, "it is refused")


def test_refused_boost_does_not_delay_the_restoring(shop):
    shop.deploy()
    resizer = shop.start()
    resizer.boost({"web.shop": CpuBoost(2.0, 2.0)})
    until(lambda: shop.cpu()[1] == "1000m", "it is boosted")
    shop.api.faults[RESIZES] = doubles.status(403)
    resizer.boost(TRIPLE)
    until(lambda: len(shop.api.writes()) == 3, "more is refused")
    shop.api.faults.clear()
    resizer.boost({})
    until(shop.nominal, "it is restored")


@pytest.mark.parametrize("code", [429, 503])
def test_server_that_is_too_busy_has_refused_nothing_and_is_asked_again(shop, caplog, code):
    shop.api.faults[RESIZES] = doubles.status(code)
    shop.deploy()
    resizer = shop.start()
    resizer.boost(TRIPLE)
    until(lambda: len(shop.api.writes()) > 1, "it was tried")
    with pytest.raises(ApiError):
        resizer.reconcile()
    assert "refused" not in caplog.text
    shop.api.faults.clear()
    until(shop.boosted, "it is boosted")


ALLOWED = {"apiGroups": [""], "resources": ["pods", "pods/resize"], "verbs": ["list", "watch", "patch"]}


@pytest.mark.parametrize(
    ("offers", "rules", "word"),
    [
        (["pods", "pods/resize"], [], "boost.enabled"),
        (["pods"], [ALLOWED], "1.33"),
    ],
)
def test_start_without_the_right_names_what_is_missing_and_watches_nothing(
    shop, caplog, tmp_path, offers, rules, word
):
    shop.api.offers, shop.api.rules["restricted"] = offers, rules
    shop.deploy()
    resizer = shop.start(shop.api.kubeconfig(tmp_path, "restricted"))
    resizer.boost(TRIPLE)
    until(lambda: word in caplog.text, "it is said")
    resizer.reconcile()
    assert (resizer.ranges(), shop.nominal()) == ({}, True)
    assert not [call for call in shop.api.calls if call.verb in ("list", "watch")]


def test_refused_limit_is_requested_again_after_its_backoff(shop, monkeypatch):
    monkeypatch.setattr(resize, "BACKOFF_SECONDS", 0.0)
    shop.deploy()
    shop.api.faults[RESIZES] = doubles.status(403)
    resizer = shop.start()
    resizer.boost(TRIPLE)
    until(lambda: len(shop.api.writes()) > 1, "it is refused")
    shop.api.faults.clear()
    until(lambda: resizer.reconcile() and shop.boosted(), "it is boosted")


@pytest.mark.parametrize(
    ("label", "most"), [("", None), ("2.5", 2.5), ("0.5", None), ("inf", None), ("x", None)]
)
def test_ranges_have_the_factors_of_the_pods_labels(shop, label, most):
    shop.deploy(labels={"tailbound.dev/boost": label})
    resizer = shop.start()
    until(lambda: [each.label for each in resizer.ranges().values()] == [most], "it is found")


def test_pod_of_knative_is_of_the_function_of_its_service(shop):
    shop.deploy(labels={"serving.knative.dev/service": "s", "serving.knative.dev/revision": "s-1"})
    resizer = shop.start()
    until(lambda: "s.shop" in resizer.ranges(), "it is found")

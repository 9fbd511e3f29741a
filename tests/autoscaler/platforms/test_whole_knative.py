"""The whole program as an autoscaler class, among Knative's own controllers and its webhook.

Pods and Ingresses are said to be ready; what serves requests is not there.
"""

import signal
import threading
from contextlib import ExitStack, contextmanager
from itertools import groupby

import pytest
import yaml

from autoscaler.doubles import a_prometheus, until
from autoscaler.kube.control_plane import a_kubelet, a_namespace, a_token, controllers, kubectl, on_real
from autoscaler.platforms import knative_plane
from autoscaler.platforms.knative_plane import (
    CONFIG_MAPS,
    KNATIVE_SERVICES,
    a_knative_service,
    ingresses,
    knative,
)
from autoscaler.platforms.knative_world import World, autoscaling
from autoscaler.platforms.pods import some_pods
from autoscaler.platforms.test_whole_kubernetes import DEPLOY, a_process
from slo_autoscaler.errors import PlatformError
from slo_autoscaler.kube.client import KubeApi
from slo_autoscaler.platforms.knative.allocation import CLASS_ANNOTATION, KPA
from slo_autoscaler.platforms.knative.objects import POD_AUTOSCALERS, REVISIONS, SERVICES
from slo_autoscaler.platforms.knative.status import CLASS, condition

pytestmark = [
    on_real("etcd", "kube-apiserver", "kube-controller-manager", "kubectl"),
    pytest.mark.skipif(not knative_plane.PRESENT, reason=knative_plane.REASON),
    pytest.mark.timeout(180),
]

NAME = "tabular-00001"

CONFIG = """
platform: {{kind: knative, mode: class, kubeconfig: "{kubeconfig}", timeout: 1s}}
prometheus: {{url: "{prometheus}", scrape_interval: 250ms, window: 1s, timeout: 1s, max_age: 2s}}
interval: 100ms
web: {{host: 127.0.0.1, port: 0, page_port: null}}
leader: {{lease: {{namespace: tailbound, duration: 3s, renew_interval: 200ms}}}}
defaults: {{start_up_time: 100ms, min_samples: 5, max_replicas: 9, scale_down: {{stabilization_window: 0s}}}}
"""


@pytest.fixture(scope="module")
def plane(access, tmp_path_factory):
    if access.folder is None:
        pytest.skip("the API server was not started here, and its controllers are not known")
    folder = tmp_path_factory.mktemp("knative")
    with ExitStack() as running:
        api = KubeApi(access.kubeconfig(folder), timeout=10.0, connections=8)
        running.callback(api.close)
        running.enter_context(controllers(access))
        running.enter_context(a_kubelet(api))
        plane = running.enter_context(knative(access, api, folder))
        running.enter_context(ingresses(api))
        # The least that it may be.
        grace = {"data": {"scale-to-zero-grace-period": "6s"}}
        api.patch(CONFIG_MAPS.path("knative-serving", "config-autoscaler"), grace)
        yield plane


@pytest.fixture
def namespace(plane, cluster):
    with a_namespace(cluster) as name:
        yield name


class Story:
    """Every version of an object that a watch told of."""

    def __init__(self, api, path):
        self.versions = []
        self._stream = api.watch(path, {}, 170.0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        try:
            for event in self._stream:
                if event["type"] != "BOOKMARK":
                    self.versions.append(event["object"])
        except PlatformError:
            pass  # closed

    def close(self):
        self._stream.close()
        self._thread.join(5)

    def changes(self, kind):
        """The condition as it was said, each time that anything of it changed."""
        said = []
        for each in self.versions:
            found = condition(each, kind)
            if found and (not said or said[-1] != found):
                said.append(found)
        return said


class Stage:
    """A Service of our class in a namespace, and the program that scales it."""

    def __init__(self, access, world, token, prometheus, folder):
        self._access = access
        self._world = world
        self._token = token
        self._prometheus = prometheus
        self._folder = folder

    @contextmanager
    def autoscaler(self, name):
        config = self._folder / f"{name}.yaml"
        kubeconfig = self._access.kubeconfig(self._folder, token=self._token)
        config.write_text(CONFIG.format(kubeconfig=kubeconfig, prometheus=self._prometheus.url))
        with a_process(config, self._folder / name) as (process, _):
            yield process
        log = (self._folder / name).read_text()
        assert "Traceback" not in log
        assert "is forbidden: User" not in log, "what RBAC says; a namespace on its way out says other things"

    def serve(self, **annotations):
        body = a_knative_service("tabular", **{CLASS_ANNOTATION: CLASS, **autoscaling(**annotations)})
        self._world.cluster.create(KNATIVE_SERVICES.path(self._world.namespace), body)

    def revise(self):
        template = {"metadata": {"annotations": {"example.com/revised": "true"}}}
        self._world.change(KNATIVE_SERVICES, "tabular", spec={"template": template})

    def story(self):
        return Story(self._world.cluster, POD_AUTOSCALERS.path(self._world.namespace))

    def is_ready(self, name=NAME):
        """Return whether PodAutoscaler and Revision are ready."""

        def ready():
            try:
                found = [self._world.get(kind, name) for kind in (POD_AUTOSCALERS, REVISIONS)]
            except PlatformError:
                return False
            return all(condition(each, "Ready").get("status") == "True" for each in found)

        return ready


@pytest.fixture
def pods():
    with some_pods(capacity=100.0) as pods:
        yield pods


@pytest.fixture
def world(cluster, namespace):
    return World(cluster, namespace)


@pytest.fixture
def stage(access, world, kubeconfig, pods, tmp_path):
    kubectl(kubeconfig, "apply", "-k", DEPLOY / "knative/class")
    token = a_token(world.cluster, "tailbound", "slo-autoscaler")
    values = yaml.safe_load((DEPLOY / "knative/prometheus/values.yaml").read_text())
    (job, _) = values["serverFiles"]["prometheus.yml"]["scrape_configs"]
    with a_prometheus(tmp_path, {}, [pods.scraped(access, job)]) as prometheus:
        yield Stage(access, world, token, prometheus, tmp_path)


def test_a_revision_becomes_ready_follows_the_load_and_its_conditions_stand(stage, world, pods):
    story = stage.story()
    with stage.autoscaler("first"):
        stage.serve(min_scale="2", max_scale="6")
        until(stage.is_ready(), "PodAutoscaler and Revision are ready", 50.0)
        assert world.replicas(NAME) == 2
        pods.rate = 350.0
        until(lambda: world.replicas(NAME) >= 4, "350/s on replicas of 100/s are at least 4")
        until(
            lambda: world.get(REVISIONS, NAME)["status"].get("desiredReplicas", 0) >= 4,
            "the Revision shows it",
        )
        pods.rate = 0.0
        until(lambda: world.replicas(NAME) == 2, "it comes back to its minimum")
        until(lambda: world.status(NAME)["actualScale"] == 2, "the status has followed")
        quiet = world.get(POD_AUTOSCALERS, NAME)["metadata"]["resourceVersion"]
        with pytest.raises(AssertionError, match="never"):
            until(
                lambda: world.get(POD_AUTOSCALERS, NAME)["metadata"]["resourceVersion"] != quiet, "never", 5.0
            )
    story.close()
    for kind in ("Active", "Ready", "SKSReady", "ScaleTargetInitialized"):
        changes = story.changes(kind)
        told = [status for status, _ in groupby(each["status"] for each in changes)]
        assert told in (["Unknown", "True"], ["True"]), (kind, changes)
        # Nothing of a condition has changed since it was True, whatever the count was.
        assert [each["status"] for each in changes].count("True") == 1, (kind, changes)


def test_while_the_webhook_hangs_counts_are_followed_and_the_status_comes_afterwards(
    stage, world, plane, pods
):
    with stage.autoscaler("first"):
        stage.serve(min_scale="1", max_scale="6")
        until(stage.is_ready(), "it is ready", 50.0)
        plane.webhook.freeze()
        try:
            pods.rate = 350.0
            until(lambda: world.replicas(NAME) >= 4, "counts do not pass the webhook")
            assert world.status(NAME)["desiredScale"] == 1
            pods.rate = 0.0
            until(lambda: world.replicas(NAME) == 1, "nor do they wait for a status that hangs")
            pods.rate = 350.0
            until(lambda: world.replicas(NAME) >= 4, "and again")
        finally:
            plane.webhook.thaw()
        until(lambda: world.status(NAME)["desiredScale"] >= 4, "the status has followed", 50.0)
        assert stage.is_ready()()


def test_a_restart_changes_neither_count_nor_condition(stage, world, pods):
    with stage.autoscaler("first") as first:
        stage.serve(min_scale="1", max_scale="6")
        until(stage.is_ready(), "it is ready", 50.0)
        pods.rate = 350.0
        until(lambda: world.status(NAME)["actualScale"] >= 4, "it has grown")
        first.send_signal(signal.SIGTERM)
        assert first.wait(10) == 0
    before, story = world.status(NAME), stage.story()
    with stage.autoscaler("second"):
        pods.rate = 550.0
        until(lambda: world.status(NAME)["actualScale"] >= 6, "the second acts")
    story.close()
    assert min(each["status"]["desiredScale"] for each in story.versions) >= before["desiredScale"]
    assert world.status(NAME)["conditions"] == before["conditions"]


def test_a_podautoscaler_that_is_deleted_is_made_anew_and_becomes_ready(stage, world):
    with stage.autoscaler("first"):
        stage.serve(min_scale="2", max_scale="6")
        until(stage.is_ready(), "it is ready", 50.0)
        uid = world.get(POD_AUTOSCALERS, NAME)["metadata"]["uid"]
        world.cluster.delete(POD_AUTOSCALERS.path(world.namespace, NAME))
        until(
            lambda: stage.is_ready()() and world.get(POD_AUTOSCALERS, NAME)["metadata"]["uid"] != uid,
            "again",
            50.0,
        )
        assert world.get(SERVICES, NAME)["metadata"]["ownerReferences"][0]["uid"] != uid
        assert world.replicas(NAME) == 2


def test_a_live_revision_goes_to_knatives_class_with_a_metric_and_comes_back(stage, world):
    def class_of():
        return world.get(POD_AUTOSCALERS, NAME)["metadata"]["annotations"][CLASS_ANNOTATION]

    with stage.autoscaler("first"):
        stage.serve(min_scale="2", max_scale="6")
        until(stage.is_ready(), "it is ready", 50.0)
        # As the guide says: without a metric the webhook refuses it on the PodAutoscaler.
        world.change(
            REVISIONS,
            NAME,
            metadata={"annotations": autoscaling(**{"class": KPA, "metric": "concurrency"})},
        )
        until(lambda: class_of() == KPA, "the PodAutoscaler follows its Revision")
        # What Knative's own autoscaler does there, which is not one of the programs here.
        world.change(SERVICES, NAME, spec={"mode": "Proxy", "numActivators": 4})
        world.change(REVISIONS, NAME, metadata={"annotations": {CLASS_ANNOTATION: CLASS}})
        until(lambda: class_of() == CLASS, "and back")
        until(
            lambda: world.get(SERVICES, NAME)["spec"]["mode"] == "Serve", "the activator is out of its path"
        )
        until(stage.is_ready(), "it is ready")
        assert world.replicas(NAME) == 2


def test_a_rollout_takes_over_and_the_old_revision_goes_to_zero(stage, world):
    with stage.autoscaler("first"):
        stage.serve(min_scale="2", max_scale="6")
        until(stage.is_ready(), "it is ready", 50.0)
        stage.revise()
        new = NAME.replace("1", "2")
        until(stage.is_ready(new), "the new one is ready", 50.0)
        until(
            lambda: condition(world.get(POD_AUTOSCALERS, NAME), "Active").get("reason") == "NoTraffic",
            "left",
            50.0,
        )
        until(lambda: world.replicas(NAME) == 0, "it goes after the grace period", 50.0)
        assert world.get(SERVICES, NAME)["spec"]["mode"] == "Proxy"
        assert condition(world.get(REVISIONS, NAME), "Ready")["status"] == "True", "it can be routed again"
        assert world.replicas(new) == 2

"""Informers over real sockets, on servers that are well and unwell, and own writes laid over them."""

import pytest

from slo_autoscaler.errors import ForbiddenError, PlatformError, UnreachableError
from slo_autoscaler.kube.client import KubeApi, Resource
from slo_autoscaler.kube.informer import Informer
from support import doubles
from support.cluster import delete, on_double
from support.kube_server import a_deployment
from support.waits import until

DEPLOYMENTS = Resource("apps/v1", "deployments")
LISTS = "GET /apis/apps/v1/"


class Shop:
    """Deployments of a namespace, and informers of their counts."""

    def __init__(self, api, cluster, namespace, keep):
        self.api = api
        self.namespace = namespace
        self.path = DEPLOYMENTS.path(namespace)
        self.cluster = cluster
        self._keep = keep

    def add(self, name, count):
        self.cluster.create(self.path, a_deployment(name, self.namespace, count))

    def scale(self, name, count):
        self.cluster.patch(f"{self.path}/{name}", {"spec": {"replicas": count}})

    def remove(self, name):
        delete(self.cluster, f"{self.path}/{name}")

    def key(self, name):
        return self.namespace, name

    def keys(self, **counts):
        return {self.key(name): count for name, count in counts.items()}

    def knows(self, informer, **counts):
        """Wait until an informer without an error has these counts."""
        until(lambda: current(informer) == self.keys(**counts), f"{counts}")

    def informer(self, *, client=None, listed=True, **settings):
        """Start one, and wait for its first list; ``told`` are the keys that it reported."""
        told = []
        usual = {"namespaces": [self.namespace], "resync": 300.0, "changed": told.append}
        settings = {**usual, "watch_seconds": 10.0, **settings}
        informer = self._keep(Informer(client or self.cluster, DEPLOYMENTS, transform=_count, **settings))
        informer.told = told
        if listed:
            until(lambda: informer.wait(1), "it has listed")
            if hasattr(self.api, "watches"):
                until(self.api.watches, "it watches")
        return informer

    def break_watches(self, code=None):
        """End every watch, and wait until one is asked for again, in vain if the test says so."""
        before = self.asked("watch=")
        self.api.end_watches(code)
        until(lambda: self.asked("watch=") > before, "it tries to watch again")

    def asked(self, what):
        """Return how many requests had this in their query: ``watch=``, or ``limit=``, a list's."""
        return sum(line.startswith(LISTS) and what in line for line in self.api.requests)


@pytest.fixture
def shop(api, cluster, namespace, keep):
    shop = Shop(api, cluster, namespace, keep)
    shop.add("web", 2)
    return shop


def _count(document):
    return None if document["metadata"]["name"] == "skipped" else document["spec"]["replicas"]


def current(informer):
    """Return the objects of namespaces whose last list or watch did not fail."""
    try:
        return informer.items(skip_failed=True)
    except PlatformError:
        return {}


def test_an_object_that_comes_changes_and_goes_is_reported(shop):
    shop.add("skipped", 1)
    each = shop.informer()
    assert (each.get(shop.key("web")), each.get(shop.key("skipped"))) == (2, None)
    shop.add("new", 7)
    shop.knows(each, web=2, new=7)
    shop.scale("web", 4)
    shop.remove("new")
    shop.knows(each, web=4)
    assert set(each.told) == {shop.key("web"), shop.key("new")}


def test_namespaces_are_all_or_those_that_are_named(shop, namespace):
    assert shop.informer(namespaces=None).get(shop.key("web")) == 2
    shop.knows(shop.informer(namespaces=["elsewhere", namespace]), web=2)
    elsewhere = shop.informer(namespaces=["elsewhere"])
    elsewhere.wrote(shop.key("web"), "1000000000", 5)
    assert (elsewhere.items(), elsewhere.get(shop.key("web"))) == ({}, None)


def test_by_finds_the_objects_that_the_index_names_so_and_own_writes_of_them(shop):
    shop.add("new", 7)
    each = shop.informer(index=lambda count: ["odd" if count % 2 else "even", count])
    assert (each.by("odd"), each.by("even")) == (shop.keys(new=7), shop.keys(web=2))
    shop.scale("new", 4)
    shop.knows(each, web=2, new=4)
    assert (each.by("odd"), each.by(7), each.by(4)) == ({}, {}, shop.keys(new=4))
    each.wrote(shop.key("new"), "1000000000000", 6)
    assert each.by("even") == shop.keys(web=2, new=6)
    shop.remove("new")
    until(lambda: each.by("even") == shop.keys(web=2), "the removal is known")


# Own writes


def test_wrote_newer_than_the_watch_counts_until_the_object_is_gone(shop):
    each = shop.informer()
    each.wrote(shop.key("web"), "1000000000000", 5)
    shop.add("new", 7)
    shop.scale("web", 3)
    shop.knows(each, web=5, new=7)
    assert each.get(shop.key("web")) == 5
    shop.remove("web")
    shop.knows(each, new=7)
    shop.add("web", 6)
    shop.knows(each, web=6, new=7)


def test_wrote_version_that_the_watch_has_too_is_the_watched_value(shop):
    each = shop.informer()
    version = shop.cluster.get(f"{shop.path}/web")["metadata"]["resourceVersion"]
    each.wrote(shop.key("web"), version, 5)
    assert each.get(shop.key("web")) == 2


# Faults


@on_double
def test_list_is_read_again_after_the_resync(shop, api):
    each = shop.informer(resync=0.0)
    api.end_watches()
    until(lambda: shop.asked("limit=") > 1, "it lists again")
    shop.knows(each, web=2)


@on_double
def test_watch_that_ends_after_a_bookmark_is_resumed_there(shop, api, caplog):
    shop.informer(watch_seconds=0.5)
    api.put("v1", "pods", {"metadata": {"name": "other", "namespace": shop.namespace}})
    version = f"resourceVersion={api.version}&"
    until(lambda: shop.asked(version), "it begins at the version that only a bookmark has told")
    assert "cannot read" not in caplog.text, "a bookmark is no object"


@on_double
@pytest.mark.parametrize("code", [None, 500])
def test_a_watch_that_breaks_off_is_resumed_after_its_last_event_without_a_list(shop, api, code):
    each = shop.informer()
    shop.scale("web", 6)
    # It was listed, and reported twice: before its pods are ready and then.
    until(lambda: each.told.count(shop.key("web")) == 3, "the change is known")
    shop.break_watches(code)
    resumed = [line for line in api.requests if "watch=" in line][-1]
    assert f"resourceVersion={api.version}&" in resumed
    assert each.told.count(shop.key("web")) == 3, "nothing is reported again"
    shop.scale("web", 5)
    shop.knows(each, web=5)
    assert shop.asked("limit=") == 1


@on_double
def test_a_version_that_is_too_old_is_followed_by_a_list(shop, api):
    shop.add("same", 1)
    each = shop.informer(index=lambda count: ["many" if count > 4 else "few"])
    reported = each.told.count(shop.key("web")), each.told.count(shop.key("same"))
    api.faults[LISTS] = doubles.panic
    shop.break_watches()
    shop.scale("web", 8)
    shop.add("gone", 1)
    shop.remove("gone")
    api.compact()
    api.faults.clear()
    shop.knows(each, web=8, same=1)
    assert shop.key("gone") not in each.told
    until(lambda: each.told.count(shop.key("web")) > reported[0], "the change is reported")
    assert each.told.count(shop.key("same")) == reported[1], "what is the same is not"
    assert (each.by("few"), each.by("many")) == (shop.keys(same=1), shop.keys(web=8))


@on_double
def test_while_the_server_is_away_there_is_an_error_and_afterwards_the_news(shop, api, caplog):
    each = shop.informer()
    api.faults[LISTS] = doubles.panic
    shop.break_watches()
    until(lambda: not current(each), "it has noticed")
    for read in (each.items, lambda: each.get(shop.key("web"))):
        with pytest.raises(UnreachableError):
            read()
    tried = shop.asked("watch=")
    until(lambda: shop.asked("watch=") > tried + 1, "it has tried again")
    assert caplog.text.count("WARNING") == 1, "what goes on is said once"
    shop.scale("web", 1)
    api.faults.clear()
    shop.knows(each, web=1)


@on_double
def test_a_busy_server_leaves_what_is_known(shop, api, tmp_path):
    client = KubeApi(api.kubeconfig(tmp_path), timeout=10.0, connections=2)
    each = shop.informer(client=client)
    api.faults[LISTS] = doubles.status(429)
    shop.break_watches()
    until(lambda: not current(each), "it has noticed")
    assert each.items() == shop.keys(web=2)
    each.close()
    client.close()


@on_double
def test_items_of_a_list_that_failed_are_an_error_or_left_out(shop, api):
    api.faults[f"{LISTS}namespaces/broken/"] = doubles.status(401)
    each = shop.informer(namespaces=["broken", shop.namespace], listed=False)
    until(lambda: current(each) == shop.keys(web=2), "the other one has listed")
    with pytest.raises(ForbiddenError, match="status 401"):
        each.items()
    assert each.items(skip_failed=True) == shop.keys(web=2)


@on_double
def test_items_without_the_right_to_one_namespace_are_those_of_the_others(shop, api):
    api.faults[f"{LISTS}namespaces/forbidden/"] = doubles.status(403)
    each = shop.informer(namespaces=["forbidden", shop.namespace], listed=False)
    until(lambda: "forbidden" in each.denied(), "it is refused")
    until(lambda: current(each) == shop.keys(web=2), "the other one has listed")
    assert each.items() == shop.keys(web=2)
    del api.faults[f"{LISTS}namespaces/forbidden/"]
    until(lambda: not each.denied(), "its RoleBinding is there")


@on_double
def test_items_without_the_right_to_any_namespace_are_an_error(shop, api):
    api.faults[LISTS] = doubles.status(403)
    each = shop.informer(listed=False)
    assert not each.wait(60.0), "it is refused"
    with pytest.raises(ForbiddenError):
        each.items()
    assert each.denied() == {}


@on_double
def test_a_silent_server_is_noticed(shop, api, tmp_path):
    client = KubeApi(api.kubeconfig(tmp_path, "ours"), timeout=0.1, connections=2)
    api.longest_watch = 0.1
    each = shop.informer(client=client, watch_seconds=0.2)

    def answers():
        try:
            return each.items() == shop.keys(web=2)
        except UnreachableError:
            return False

    until(answers, "it has listed")
    api.freeze("ours")
    until(lambda: not answers(), "the silence is noticed")
    api.thaw()
    until(answers, "it is current again")
    each.close()
    client.close()


@on_double
def test_an_object_that_cannot_be_read_spoils_no_other(shop, api, caplog):
    each = shop.informer()
    api.put("apps/v1", "deployments", {"metadata": {"name": "odd", "namespace": shop.namespace}})
    shop.scale("web", 4)
    shop.knows(each, web=4)
    assert f"{shop.namespace}/odd" in caplog.text
    shop.knows(shop.informer(), web=4)  # nor when it is there from the beginning


def test_a_bug_that_a_change_brings_to_light_does_not_end_the_watch(shop, caplog):
    def fail(key):
        if key == shop.key("odd"):
            raise KeyError(key)

    each = shop.informer(changed=fail)
    shop.add("odd", 1)
    until(lambda: "KeyError" in caplog.text, "the bug is known")
    shop.knows(each, web=2, odd=1)

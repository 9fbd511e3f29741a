"""The node that KUBECONFIG names, and the guides as a reader follows them there."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from kubernetes import config

from support.pages import ROOT, Block, blocks
from tailbound_lab.bench.node import SOURCE

REGISTRY = os.environ.get("NODE_REGISTRY", "localhost:5000/tailbound")
"""Where the guides push to; the node must be able to pull from it."""
COPIED = ("autoscaler", "batching-watchdog", "deploy", "functions", "template", "stack.yml")
"""The parts of the clone that the guides use: their commands write into it."""
PAGE = ROOT / "docs/install.md"
TITLES = {
    "openfaas": "OpenFaaS",
    "kubernetes": "Kubernetes",
    "knative-class": "Knative",
}
"""Platform of the chart -> the word that the headings of its parts have."""
PULL = "Always"
"""Each test builds its images under the same tags: a node would go on with the last test's."""
LONGEST = 600.0
"""Seconds that anything may take: against hangs alone."""

SAMPLE = {"slo_latency": "1s", "workers": "1", "max_batch_size": "4", "device_slowdown": "8"}
"""A simulated accelerator that takes 80 ms for a batch of four: 50 requests/s keep one replica busy.

Its target is far from that, so that a node of two busy cores has the same capacity.
"""

Json = dict[str, Any]


def run(*command: str, stdin: str | None = None, check: bool = True) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=LONGEST, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout if check else done.stdout + done.stderr


def kubectl(*arguments: str, stdin: str | None = None, check: bool = True) -> str:
    return run("kubectl", *arguments, stdin=stdin, check=check)


def read(*arguments: str) -> Json:
    found: Json = json.loads(kubectl("get", *arguments, "--output=json"))
    return found


def exists(*arguments: str) -> bool:
    return kubectl("get", *arguments, "--ignore-not-found", "--output=name").strip() != ""


def refused(account: str, path: str, patch: Json) -> str:
    """Why the API server refuses this patch by the autoscaler of a namespace; "" if it would not."""
    # Containers are merged by their name; a custom resource has no such rule.
    kind = "strategic-merge-patch" if path.startswith("/api/") else "merge-patch"
    headers = {
        "Content-Type": f"application/{kind}+json",
        "Impersonate-User": f"system:serviceaccount:{account}:slo-autoscaler",
    }
    with config.new_client_from_config() as api:
        request = api.param_serialize(
            "PATCH",
            path,
            query_params=[("dryRun", "All")],
            header_params=headers,
            body=patch,
            auth_settings=["BearerToken"],
        )
        answer = api.call_api(*request)
        said = json.loads(answer.read())
    return "" if answer.status == 200 else str(said["message"])


def left_over() -> list[str]:
    """The project's objects outside of namespaces, but for the scale policies, which stay."""
    kinds = "clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings"
    names = kubectl("get", kinds, "--selector=app.kubernetes.io/part-of=tailbound", "--output=name")
    return [name for name in names.split() if not name.endswith("-scale")]


def unused(*namespaces: str) -> None:
    """Fail if one of the namespaces is there."""
    taken = [each for each in namespaces if exists("namespace", each)]
    assert not taken, f"namespaces {taken} are there already: this test makes and deletes them"


def names(*arguments: str) -> set[str]:
    return {each["metadata"]["name"] for each in read(*arguments)["items"]}


def wait_for(what: str, condition: Callable[[], object], tell: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {LONGEST:g} s\n{tell()}"
        time.sleep(1)


def missing() -> str | None:
    """Why nothing can be tried here; None if it can."""
    if not os.environ.get("KUBECONFIG"):
        return "no node: KUBECONFIG is not set"
    for program in ("kubectl", "helm", "docker"):
        if shutil.which(program) is None:
            return f"no node: {program} is not on PATH"
    return None


def refusal() -> str | None:
    """Why the cluster of KUBECONFIG is left alone; None if NODE_TEST_CONTEXT names its context."""
    context = kubectl("config", "current-context", check=False).strip()
    if os.environ.get("NODE_TEST_CONTEXT") == context:
        ready = kubectl("get", "nodes", "--request-timeout=5s", check=False)
        return None if re.search(r"\bReady\b", ready) else f"no node is ready: {ready.strip()[:200]}"
    server = "--output=jsonpath={.clusters[0].cluster.server}"
    address = kubectl("config", "view", "--minify", server, check=False).strip()
    return (
        f"these tests install into the cluster of KUBECONFIG's context {context!r} ({address}), and delete "
        f"namespaces there: to agree, set NODE_TEST_CONTEXT={context}"
    )


@dataclass
class Guide:
    """The guide for one platform of the chart, whose commands run in a copy of this clone."""

    platform: str
    clone: Path
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def blocks(self, heading: str) -> Iterator[Block]:
        """The fenced blocks of the section whose heading begins so, less the parts for other platforms."""
        sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
        (section,) = [each for each in sections if each.startswith(heading)]
        shared, *parts = re.split(r"^### ", section, flags=re.MULTILINE)
        ours = [each for each in parts if TITLES[self.platform] in each.partition("\n")[0]]
        for block in blocks("".join((shared, *ours))):
            yield Block(block.language, block.title, filled(block.text))

    def follow(self, heading: str) -> str:
        """Run the commands of a section; return what they said."""
        said = ""
        for block in self.blocks(heading):
            if block.language in ("", "sh"):
                said += self.run(block.text)
        return said

    def install_autoscaler(self) -> None:
        """Follow step 3."""
        image, values, _ = self.blocks("3. The autoscaler")
        self.run(image.text)
        given = yaml.safe_load(values.text)
        given["image"]["pullPolicy"] = PULL
        given["env"] = [{"name": "SLO_AUTOSCALER_DECISION_LOG", "value": "true"}]
        self.upgrade_autoscaler(**given)

    def upgrade_autoscaler(self, **changed: object) -> None:
        """Change values of the chart and follow the page's commands."""
        path = self.clone / "values.yaml"
        values = yaml.safe_load(path.read_text()) if path.exists() else {}
        path.write_text(yaml.safe_dump(values | changed))
        _, _, commands = self.blocks("3. The autoscaler")
        self.run(commands.text)

    def run(self, script: str) -> str:
        """Run a block with the platform's variables in one shell; what it starts lives until ``close``."""
        script = f"{variables_of(self.platform)}\n{script}"
        output = self.clone / "output.txt"
        environment = os.environ | {"CURL_HOME": str(self.clone)}
        with output.open("wb") as file:
            shell = subprocess.Popen(
                ["bash", "-euc", script],
                cwd=self.clone,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._processes.append(shell)
        status = shell.wait(LONGEST)
        said = output.read_text()
        assert status == 0, f"{script}\n{said}"
        for port in re.findall(r"port-forward \S+ (\d+):", script):
            wait_for(f"port {port}", partial(listens, int(port)), output.read_text)
        return said

    def remove(self, *namespaces: str) -> None:
        """Do the page's last section as far as it goes, and delete the namespaces of its installs."""
        for block in self.blocks("Remove it"):
            self.run(f"set +e\n{block.text}\ntrue")
        kubectl("delete", "namespace", *namespaces, "--ignore-not-found")

    def close(self) -> None:
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def variables_of(platform: str) -> str:
    """The assignments that the page has for a platform."""
    rows = re.findall(rf"^\| [^|]+ \| `(platform={platform} [^`]*)` \|$", PAGE.read_text(), re.MULTILINE)
    (found,) = rows
    return str(found)


def listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def filled(text: str) -> str:
    """The placeholders filled in, as the pages tell a reader on such a cluster to."""
    text = text.replace("<registry>", REGISTRY).replace("/<user>", "")
    # Else it runs until the reader ends it.
    text = text.replace(" --follow", "")
    if not default_storage():
        text = text.replace(" --values $files", f" {NO_VOLUMES} --values $files")
    return text


NO_VOLUMES = "--set server.persistentVolume.enabled=false --set alertmanager.persistence.enabled=false"


def default_storage() -> bool:
    mark = "storageclass.kubernetes.io/is-default-class"
    classes = read("storageclass")["items"]
    return any((each["metadata"].get("annotations") or {}).get(mark) == "true" for each in classes)


@contextmanager
def guide(platform: str, folder: Path) -> Iterator[Guide]:
    clone = folder / "clone"
    clone.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("*.egg-info", "__pycache__", "build", "*.so", ".pytest_cache")
            shutil.copytree(source, clone / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, clone / name)
    # A port that is forwarded in the background answers a moment later.
    (clone / ".curlrc").write_text("retry = 30\nretry-connrefused\nretry-delay = 1\n")
    follower = Guide(platform, clone)
    try:
        yield follower
    finally:
        follower.close()


def decisions(namespace: str, since: str = "") -> list[Json]:
    """The decision log of the autoscaler in this namespace; ``since`` is a time of RFC 3339."""
    log = kubectl("--namespace", namespace, "logs", "deployment/slo-autoscaler", "--tail=-1")
    found = [json.loads(line) for line in log.splitlines() if line.startswith('{"')]
    return [each for each in found if "reason" in each and each["time"] >= since]


def newest(function: str, namespace: str, since: str) -> Json:
    """The newest decision on a function, {} if the autoscaler in this namespace made none since then."""
    found = [each for each in decisions(namespace, since) if each["function_name"] == function]
    return found[-1] if found else {}


def told(namespace: str) -> str:
    """The end of the log of the autoscaler in this namespace."""
    return kubectl("--namespace", namespace, "logs", "deployment/slo-autoscaler", "--tail=20", check=False)


def now() -> str:
    """The time as the decision log writes it, by the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def counts(namespace: str, deployment: str) -> tuple[int, int]:
    """How many replicas are asked for and ready."""
    found = read("--namespace", namespace, "deployment", deployment)
    return found["spec"]["replicas"], found["status"].get("readyReplicas", 0)


FORGOTTEN = 30.0
"""Seconds after which an observation is no start of what came later."""


def unlearned(sent: "Load") -> None:
    """Wait until no observation without load is remembered as having been followed by this one.

    A burst out of nothing is expected again for the better part of an hour, and keeps its replicas as long.
    """
    deadline = time.monotonic() + FORGOTTEN
    wait_for("load that is no surprise", lambda: sent.running() and time.monotonic() > deadline)


LOAD = SOURCE.read_text()
TIMED_OUT = 1
"""Status of a request without an answer in time."""


@dataclass(frozen=True)
class Load:
    """Requests from a pod of the cluster."""

    namespace: str
    name: str

    def running(self) -> bool:
        return read("--namespace", self.namespace, "pod", self.name)["status"]["phase"] in (
            "Pending",
            "Running",
        )

    def lines(self) -> list[Any]:
        """Wait for its end and return the JSON of its lines."""
        wait_for(f"the end of {self.name}", lambda: not self.running())
        log = kubectl("--namespace", self.namespace, "logs", self.name)
        kubectl("--namespace", self.namespace, "delete", "pod", self.name, "--wait=false")
        return [json.loads(line) for line in log.splitlines()]

    def ended(self) -> Counter[int]:
        """Wait for its end and return how many requests had which status, as ``node_load`` has them."""
        found = (each for _, latencies in self.lines() for each in latencies)
        return Counter(200 if each >= 0 else -each for each in found)


def follows_load(
    sent: Load, counts: Callable[[], tuple[int, int]], activate: Callable[[], object], tell: Callable[[], str]
) -> None:
    """Check that a function gets replicas for this load once it is active, and gives them back after it."""
    unlearned(sent)
    assert counts() == (1, 1)
    activate()
    wait_for("replicas for the load", lambda: counts()[1] >= 3, tell)
    answers = sent.ended()
    # How many are late is the machine's; none may fail in another way.
    assert answers[200]
    assert set(answers) <= {200, 429, 503, TIMED_OUT}, answers
    wait_for("one replica again", lambda: counts() == (1, 1), tell)


def load(namespace: str, name: str, image: str, url: str, *, rate: float, seconds: float) -> Load:
    """Start a pod that sends ``rate`` requests/s for ``seconds``."""
    return start(namespace, name, image, LOAD, url, f"{rate}:{seconds}")


def start(namespace: str, name: str, image: str, script: str, *arguments: str) -> Load:
    """Start a pod that runs a Python script."""
    container = {
        "name": "load",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", script, *arguments],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "containers": [container],
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 12345,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    }
    kubectl("apply", "--filename=-", stdin=json.dumps(pod))
    return Load(namespace, name)

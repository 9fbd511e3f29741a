"""deploy/quickstart.sh against programs that write down how they are called: there is no cluster here."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.test_chart import DEPLOY, RENDERS, ROOT, container, known_to_kubernetes, rendered
from support.pages import blocks

PROGRAMS = ("docker", "kind", "k3d", "helm", "kubectl", "faas-cli", "curl")
# Writes its arguments and what is piped to it as a line of JSON.
PROGRAM = """#!/usr/bin/env python3
import json, os, sys
piped = sys.stdin.read() if sys.argv[-2:] == ["-f", "-"] else ""
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:], piped]) + "\\n")
if sys.argv[1:3] == ["config", "current-context"]:
    print(os.environ["CONTEXT"])
"""


class Run:
    """One run of the script in a copy of the clone."""

    def __init__(self, folder: Path, context: str, *arguments: str) -> None:
        clone, programs, calls = (folder / name for name in ("clone", "programs", "calls"))
        for name in ("autoscaler/Dockerfile", "deploy/quickstart.sh"):
            (clone / name).parent.mkdir(parents=True)
            shutil.copy(ROOT / name, clone / name)
        for name in ("template", "functions", "deploy/kubernetes", "deploy/knative", "batching-watchdog"):
            shutil.copytree(ROOT / name, clone / name, symlinks=True, ignore=shutil.ignore_patterns("*.so"))
        programs.mkdir()
        for name in PROGRAMS:
            (programs / name).write_text(PROGRAM)
            (programs / name).chmod(0o755)
        environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "CALLS": str(calls),
            "CONTEXT": context,
        }
        self.done = subprocess.run(
            ["sh", clone / "deploy/quickstart.sh", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        text = calls.read_text() if calls.exists() else ""
        self.calls: list[list[str]] = [json.loads(line) for line in text.splitlines()]

    def of(self, *words: str) -> list[list[str]]:
        return [each for each in self.calls if each[: len(words)] == list(words)]


def values(command: Sequence[str]) -> dict[str, Any]:
    """The chart's values of a helm command."""
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus/operator-values.yaml").read_text())
    for option, text in pairwise(command):
        if option == "--set":
            path, value = text.split("=")
            *outer, last = path.split(".")
            inside = found
            for key in outer:
                inside = inside.setdefault(key, {})
            inside[last] = value
    return found


@pytest.mark.skipif(not RENDERS, reason="the chart is not rendered: neither helm nor helm-python-sdk")
@pytest.mark.parametrize("platform", ["kubernetes", "knative", "openfaas"])
def test_quickstart_installs_images_that_it_built_and_pushed(tmp_path, platform):
    run = Run(tmp_path, "admin@cluster", platform, "registry.example.com/me")
    assert run.done.returncode == 0, run.done.stderr
    built = {each[each.index("--tag") + 1] for each in run.of("docker", "build")}
    assert built == {each[2] for each in run.of("docker", "push")}
    (install,) = run.of("helm", "upgrade", "slo-autoscaler")
    documents = rendered(**values(install))
    assert container(documents)["image"] in built
    known_to_kubernetes(*(each for each in documents if "coreos" not in each["apiVersion"]))
    piped = " ".join(each[-1] for each in run.calls)
    deployed = re.findall(r"image: (\S+)", piped) + [
        each[3] for each in run.of("faas-cli", "deploy", "--image")
    ]
    assert set(deployed) == {"registry.example.com/me/sample:quickstart"}


@pytest.mark.parametrize(
    ("context", "command"),
    [
        ("kind-demo", "kind load docker-image --name demo dev.local/sample:quickstart"),
        ("k3d-demo", "k3d image import --cluster demo dev.local/sample:quickstart"),
    ],
)
def test_quickstart_without_a_registry_loads_images_into_kind_and_k3d(tmp_path, context, command):
    run = Run(tmp_path, context, "kubernetes")
    assert run.done.returncode == 0, run.done.stderr
    assert [*shlex.split(command), ""] in run.calls
    assert not run.of("docker", "push")


@pytest.mark.parametrize(
    ("context", "platform"),
    [("admin@cluster", "kubernetes"), ("kind-demo", "openfaas"), ("kind-demo", "nomad")],
)
def test_quickstart_that_cannot_end_well_changes_nothing(tmp_path, context, platform):
    run = Run(tmp_path, context, platform)
    assert run.done.returncode == 2
    assert {tuple(each[:3]) for each in run.calls} <= {("kubectl", "config", "current-context")}


@pytest.mark.parametrize(("platform", "most"), [("Kubernetes", 5), ("Knative", 8), ("OpenFaaS", 8)])
def test_quickstart_has_few_commands_with_those_of_the_platform(platform, most):
    quick = (ROOT / "docs/quickstart.md").read_text()
    first = (ROOT / "docs/install.md").read_text().partition("## 1. The platform\n")[2].partition("\n## ")[0]
    own = first.partition(f"### {platform}\n")[2].partition("\n### ")[0]
    texts = [block.text.replace("\\\n", "") for block in blocks(f"{quick}\n{own}")]
    assert len("".join(texts).splitlines()) <= most


@pytest.mark.parametrize("sample", ["kubernetes/my-model.yaml", "knative/my-model.yaml"])
def test_guide_applies_the_image_that_it_builds(sample):
    text = (ROOT / "docs/install.md").read_text()
    (built,) = re.findall(r"docker build --tag (\S+) build/", text)
    assert f"docker push {built}\n" in text
    (before, after) = re.findall(r"sed 's#(\S+)#(\S+)#' deploy/" + sample, text)[0]
    (image,) = re.findall(r"image: (\S+)", (DEPLOY / sample).read_text())
    assert image.replace(before, after) == built


def test_chart_of_others_is_installed_in_a_version_that_is_named():
    text = (ROOT / "docs/install.md").read_text().replace("\\\n", "")
    commands = [line for line in text.splitlines() if line.startswith("helm upgrade ")]
    installs = [line for line in commands if "--install deploy/" not in line]
    assert installs
    assert all("--version " in line for line in installs), installs

"""The workflows of GitHub, which run nowhere but there, and what they run here."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from slo_autoscaler import __version__

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {
    file.name: yaml.safe_load(file.read_text()) for file in (ROOT / ".github/workflows").glob("*.yml")
}
JOBS: dict[str, Any] = {
    f"{name}:{job}": content
    for name, workflow in WORKFLOWS.items()
    for job, content in workflow["jobs"].items()
}
SIGNED_IN = re.compile(r"pypa/gh-action-pypi-publish@|cosign (sign|attest) ")
"""What takes the workflow's identity in place of a key."""


def actions(job: dict[str, Any]) -> list[str]:
    """The actions and workflows that a job uses."""
    return [entry["uses"] for entry in (job, *job.get("steps", ())) if "uses" in entry]


def writes(job: dict[str, Any]) -> set[str]:
    """What a job may write to."""
    return {name for name, right in job.get("permissions", {}).items() if right == "write"}


def needs(job: str) -> set[str]:
    """All jobs of the release that end before ``job`` begins."""
    direct = JOBS[f"release.yml:{job}"].get("needs", [])
    direct = {direct} if isinstance(direct, str) else set(direct)
    return direct.union(*map(needs, direct))


@pytest.mark.skipif(shutil.which("actionlint") is None, reason="actionlint is not on PATH")
def test_workflows_have_no_fault_that_actionlint_knows():
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert workflows
    done = subprocess.run(["actionlint", *workflows], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("job", JOBS)
def test_action_of_others_is_pinned_by_its_commit(job):
    others = [action for action in actions(JOBS[job]) if not action.startswith("./")]
    assert [action for action in others if not re.search(r"@[0-9a-f]{40}$", action)] == []


@pytest.mark.parametrize("job", JOBS)
def test_job_has_the_workflows_identity_only_where_it_signs_in_with_it(job):
    does = str(JOBS[job].get("steps", ()))
    assert ("id-token" in writes(JOBS[job])) == bool(SIGNED_IN.search(does))


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_workflow_writes_nothing_but_in_jobs(workflow):
    assert writes(WORKFLOWS[workflow]) == set()


def test_job_that_publishes_waits_for_the_comparison_of_tag_and_versions():
    publishing = [job for job, content in WORKFLOWS["release.yml"]["jobs"].items() if writes(content)]
    assert publishing
    assert [job for job in publishing if "tag" not in needs(job)] == []


def notes(tag: str) -> "subprocess.CompletedProcess[str]":
    """What the release of a tag says of it."""
    command = ["sh", ROOT / "release/notes.sh", tag]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


def test_notes_of_a_release_are_its_part_of_the_changelog_with_links_into_the_tag():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    (part,) = re.findall(
        rf"^## {re.escape(__version__)} - [^\n]*\n(.*?)^## ", changelog, re.MULTILINE | re.DOTALL
    )
    files = f"https://github.com/tailbound/tailbound/blob/v{__version__}/"
    assert files in notes(f"v{__version__}").stdout
    assert notes(f"v{__version__}").stdout.replace(files, "").strip() == part.strip()


def test_release_without_a_part_of_the_changelog_is_refused():
    assert notes("v0.0.1").returncode == 1


@pytest.mark.parametrize(("tag", "differing"), [(f"v{__version__}", 0), (__version__, 5), ("v0.0.1", 5)])
def test_tag_that_is_not_the_version_is_refused_with_every_place_that_differs(tag, differing):
    done = subprocess.run(
        ["sh", ROOT / "release/tag.sh", tag], capture_output=True, text=True, check=False, cwd="/"
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (int(differing > 0), differing), done.stderr

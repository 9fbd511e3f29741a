"""The commands of how-to and install pages run, page by page, in a copy of the files that they name.

No cluster is there. kubectl parses a command, reads its files, and then finds no server: that counts
as run. ``ELSEWHERE`` lists the programs that do nothing here, and why.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.pages import ROOT, blocks
from support.promtool import complaints_about, needs_promtool

PAGES = sorted({*(ROOT / "docs/howto").glob("*.md"), *(ROOT / "docs").glob("install-*.md")})
ELSEWHERE = {
    "curl": "asks what a cluster serves",
    "docker": "pulls base images; `make images` builds the same with podman",
    "faas-cli": "asks a gateway or a registry; tests/lab/local/test_real.py runs it where it is on PATH",
    "helm": "fetches charts",
}
OWN_TEST = {"trace-a-request.md": "tests/e2e/test_trace_a_request.py: its commands read an answer and a log"}
"""Pages whose commands mean nothing without a running function, and the test that has one."""
FOLDERS = ("deploy", "functions")
LINKS = ("autoscaler", "template")

PLACEHOLDER = re.compile(r"(?<![<>])<([a-zA-Z][^<>\n]*)>")
PRELUDE = """
set -euo pipefail
trap 'echo "failed: $BASH_COMMAND" >&2' ERR
{elsewhere}
kubectl() {{
    case "$*" in *https://*) return 0;; esac
    local said
    said=$(command kubectl "$@" 2>&1) && return 0
    case "$said" in *refused*|*"no objects passed to apply"*) return 0;; esac
    echo "kubectl $*: $said" >&2
    return 1
}}
"""
KUBECONFIG = """
apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "http://127.0.0.1:1"}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
users: [{name: none, user: {}}]
current-context: none
"""


def shell(page: Path) -> list[str]:
    """Return the blocks of commands of a page, with a word in place of each <placeholder>."""
    found = [block.text for block in blocks(page.read_text()) if block.language in ("", "sh")]
    return [PLACEHOLDER.sub("placeholder", text) for text in found]


WITH_COMMANDS = [page for page in PAGES if shell(page) and page.name not in OWN_TEST]


@pytest.mark.skipif(None in map(shutil.which, ("kubectl", "jq")), reason="kubectl or jq is not installed")
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_commands_of_a_page_run_as_far_as_they_can_without_a_cluster(page, tmp_path):
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in LINKS:
        (tmp_path / name).symlink_to(ROOT / name)
    for name in ("token", "ca.crt"):
        (tmp_path / name).write_text("a file of the reader's")
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    stand_ins = "\n".join(f"{program}() {{ cat >/dev/null; }}" for program in ELSEWHERE)
    done = subprocess.run(
        ["bash", "-c", "\n".join((PRELUDE.format(elsewhere=stand_ins), *shell(page), "wait"))],
        cwd=tmp_path,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "KUBECONFIG": str(tmp_path / "kubeconfig"),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@needs_promtool
def test_queries_of_how_to_pages_are_promql(tmp_path):
    queries = [
        block.text for page in PAGES for block in blocks(page.read_text()) if block.language == "promql"
    ]
    assert queries
    assert complaints_about(queries, tmp_path) == ""


def test_lists_of_what_does_not_run_name_what_is_there():
    words = set(re.findall(r"[\w-]+", "\n".join(text for page in PAGES for text in shell(page))))
    assert ELSEWHERE.keys() <= words
    assert OWN_TEST.keys() <= {page.name for page in PAGES}

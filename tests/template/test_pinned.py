"""The template pinned by a tag, as its README and the store's entry say, by OpenFaaS' own faas-cli."""

import os
import re
import subprocess
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from batching_watchdog import __version__
from lab.local.harness import missing

pytestmark = [pytest.mark.e2e, missing("faas-cli", "git")]

ROOT = Path(__file__).parents[2]
README = (ROOT / "template/python3-inference/README.md").read_text()
REPOSITORY = "https://github.com/tailbound/tailbound"
PINNED = f"python3-inference@v{__version__}"


@pytest.fixture
def shell(tmp_path):
    """Run a command in an empty folder, where the repository's address leads to a clone with the tag."""
    clone = tmp_path / "clone.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", ROOT, clone], check=True)
    subprocess.run(["git", "-C", clone, "tag", "--force", "--no-sign", f"v{__version__}"], check=True)
    folder = tmp_path / "work"
    folder.mkdir()
    environ = os.environ | {
        "HOME": str(tmp_path),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{clone}.insteadOf",
        "GIT_CONFIG_VALUE_0": REPOSITORY,
    }

    def run(command):
        done = subprocess.run(
            ["bash", "-euc", command], cwd=folder, capture_output=True, text=True, env=environ, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return folder

    return run


def test_readme_of_the_template_makes_a_function_of_the_pinned_one(shell):
    pull, new = re.findall(r"^    (faas-cli (?:template pull|new) .*)", README, re.MULTILINE)
    shell(pull)
    folder = shell(new.replace("<registry>/<user>", "registry.local/me"))
    assert [place.name for place in (folder / "template").iterdir()] == [PINNED]
    assert yaml.safe_load((folder / "stack.yaml").read_text())["functions"]["my-model"]["lang"] == PINNED


def test_stack_file_that_names_the_pinned_template_fetches_it_for_a_build(shell):
    (source,) = re.findall(r"```yaml\n(configuration:.*?)```", README, re.DOTALL)
    folder = shell("mkdir my-model && touch my-model/handler.py")
    function = {"lang": PINNED, "handler": "./my-model", "image": "my-model:1"}
    stack = {"version": 1.0, "provider": {"name": "openfaas"}, "functions": {"my-model": function}}
    (folder / "stack.yaml").write_text(yaml.safe_dump(stack | yaml.safe_load(source)))
    shell("faas-cli build --shrinkwrap --yaml stack.yaml")
    assert (folder / "build/my-model/batching-watchdog/pyproject.toml").is_file()


def test_entry_of_the_store_brings_the_pinned_template(shell):
    files = partial(SimpleHTTPRequestHandler, directory=ROOT / "release")
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as store:
        Thread(target=store.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{store.server_port}/templates.json"
        folder = shell(f"faas-cli template store pull {PINNED} --url {url}")
        store.shutdown()
    assert (folder / "template" / PINNED / "template.yml").is_file()

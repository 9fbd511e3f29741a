"""The locks from which the images are built: they fit the distributions, are whole, and trust no index."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = ("batching-watchdog", "autoscaler")
LOCKS = sorted(str(path.relative_to(ROOT)) for name in DISTRIBUTIONS for path in (ROOT / name).glob("*.lock"))


@dataclass(frozen=True, slots=True)
class Pin:
    """One version of a package, and the hashes of its files."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def version(self) -> str:
        (pinned,) = self.requirement.specifier
        assert pinned.operator == "=="
        return pinned.version


def pins(lock: Path) -> dict[str, Pin]:
    """Read a lock: package -> its pin."""
    text = re.sub(r"^\s*#.*\n", "", lock.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        requirement, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
        pin = Pin(Requirement(requirement), tuple(hashes))
        found[canonicalize_name(pin.requirement.name)] = pin
    return found


def manifest(folder: str) -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text())


@pytest.mark.parametrize("folder", DISTRIBUTIONS)
@pytest.mark.parametrize(
    ("lock", "section", "key"),
    [("requirements.lock", "project", "dependencies"), ("build.lock", "build-system", "requires")],
)
def test_lock_has_a_version_that_the_manifest_allows_of_each_requirement(folder, lock, section, key):
    locked = pins(ROOT / folder / lock)
    for requirement in map(Requirement, manifest(folder)[section][key]):
        assert locked[canonicalize_name(requirement.name)].version in requirement.specifier, "run make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_names_the_hash_of_every_file_that_may_be_installed(lock):
    for pin in pins(ROOT / lock).values():
        assert pin.hashes
        assert all(re.fullmatch(r"[0-9a-f]{64}", each) for each in pin.hashes)


def test_both_images_start_from_one_base_that_is_pinned_by_digest():
    bases = set()
    for file in ("autoscaler/Dockerfile", "template/python3-inference/Dockerfile"):
        text = (ROOT / file).read_text()
        (base,) = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", text, re.MULTILINE)
        bases.add(base)
        stages = set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE))
        assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) - stages == {"${PYTHON_IMAGE}"}
    (base,) = bases
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)

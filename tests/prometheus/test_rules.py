"""The Prometheus configurations and rules, held against the real promtool."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATIONS = ["lab/prometheus/prometheus.yml", "deploy/prometheus/prometheus-kubernetes.yml"]
RULES = [*(ROOT / "deploy/prometheus/rules").glob("*.yml"), ROOT / "lab/prometheus/openfaas-baseline.yml"]
RULE_TESTS = sorted((Path(__file__).parent / "rules").glob("*.yml"))

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_is_valid_as_it_stands(name: str) -> None:
    promtool("check", "config", ROOT / name)


@pytest.mark.parametrize("path", sorted(RULES), ids=lambda path: path.stem)
def test_a_rule_file_is_valid_and_free_of_lint(path: Path) -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", path)


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_the_rules_give_the_values_they_promise(path: Path) -> None:
    promtool("test", "rules", path)

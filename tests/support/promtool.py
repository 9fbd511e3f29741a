"""The real promtool on the real rules."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# In the order in which one is made of the others.
SHIPPED = [
    ROOT / f"deploy/helm/slo-autoscaler/files/rules/{name}.yml" for name in ("tailbound", "slo", "autoscaler")
]
RULES = [*SHIPPED, ROOT / "lab/prometheus/openfaas-baseline.yml"]

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=50, check=False
    )


def complaints_about(queries: Sequence[str], folder: Path) -> str:
    """Return what promtool has against the syntax of queries."""
    rules = [{"record": f"q:{index}", "expr": query} for index, query in enumerate(queries)]
    path = folder / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    done = promtool("check", "rules", path)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def complaints(folder: Path, rules: str, test: Mapping[str, Any]) -> str:
    """Run one test on all rules, evaluated each ``rules``; what promtool has against it."""
    # By name the long windows would come before the steps that they are made of, and alerts before both.
    groups = [group["name"] for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    document = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": rules,
        "group_eval_order": groups,
        "tests": [test],
    }
    path = folder / "test.yml"
    path.write_text(yaml.safe_dump(document))
    done = promtool("test", "rules", path)
    return "" if done.returncode == 0 else done.stdout + done.stderr

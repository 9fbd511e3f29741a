"""Each burn-rate alert at each objective: it fires when it should, and not when it should not (promtool)."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

RULES = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "rules"
OBJECTIVES = (0.9, 0.99, 0.999)
REACHABLE = 0.8
RATE = 10.0

pytestmark = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


@dataclass(frozen=True)
class Pair:
    """A pair of windows in minutes, and how often they are sampled and evaluated to keep the test quick."""

    factor: float
    severity: str
    long: tuple[str, int]
    short: tuple[str, int]
    sample: float
    evaluation: float

    def threshold(self, objective: float) -> float:
        return min(self.factor * (1 - objective), REACHABLE)


PAIRS = (
    Pair(14.4, "page", ("1h", 60), ("5m", 5), sample=0.5, evaluation=1),
    Pair(6, "page", ("6h", 360), ("30m", 30), sample=1, evaluation=10),
    Pair(3, "ticket", ("1d", 1440), ("2h", 120), sample=2, evaluation=30),
    Pair(1, "ticket", ("3d", 4320), ("6h", 360), sample=2, evaluation=60),
)


def histories(pair: Pair, threshold: float) -> dict[str, list[tuple[float, float]]]:
    """Name -> phases of (minutes, share of misses), each one and a quarter long windows in total."""
    total, short = 1.25 * pair.long[1], pair.short[1]
    bad = 1.25 * threshold
    return {
        "above": [(total, 1.1 * threshold)],
        "below": [(total, 0.9 * threshold)],
        # The long window is still above, the short one no longer.
        "over": [(total - 1.5 * short, bad), (1.5 * short, 0.0)],
        # The short window is above, the long one not yet.
        "begun": [(total - 1.5 * short, 0.0), (1.5 * short, bad)],
    }


def counter(phases: list[tuple[float, float]], sample: float) -> str:
    """A counter in promtool's notation; the phases are (minutes, increase per minute)."""
    value, parts = 0.0, ["0x0"]
    for minutes, slope in phases:
        steps, step = round(minutes / sample), slope * sample
        parts.append(f"{value + step:.6f}+{step:.6f}x{steps - 1}")
        value += steps * step
    return " ".join(parts)


def groups(files: list[str]) -> list[str]:
    """The groups in the order of the files: by their names alerts would come before what they are about."""
    return [group["name"] for file in files for group in yaml.safe_load((RULES / file).read_text())["groups"]]


def watchdog(name: str, phases: list[tuple[float, float]], sample: float) -> list[dict[str, str]]:
    minute = RATE * 60
    return [
        {
            "series": f'slo_requests_total{{function_name="{name}",outcome="good"}}',
            "values": counter([(time, minute * (1 - share)) for time, share in phases], sample),
        },
        {
            "series": f'slo_requests_total{{function_name="{name}",outcome="slow"}}',
            "values": counter([(time, minute * share) for time, share in phases], sample),
        },
    ]


def gateway(name: str, phases: list[tuple[float, float]], sample: float) -> list[dict[str, str]]:
    minute = RATE * 60
    return [
        {
            "series": f'gateway_function_invocation_total{{function_name="{name}",code="200"}}',
            "values": counter([(time, minute * (1 - share)) for time, share in phases], sample),
        },
        {
            "series": f'gateway_function_invocation_total{{function_name="{name}",code="502"}}',
            "values": counter([(time, minute * share) for time, share in phases], sample),
        },
    ]


VIEWS = {
    "watchdog": (watchdog, ["slo.yml"], "ErrorBudgetBurn", "slo:burn_rate:ratio_rate"),
    "gateway": (
        gateway,
        ["slo.yml", "slo-gateway.yml"],
        "GatewayErrorBudgetBurn",
        "slo:gateway_burn_rate:ratio_rate",
    ),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.factor}-{pair.long[0]}")
def test_an_alert_fires_only_while_both_its_windows_burn_too_fast(
    tmp_path: Path, view: str, pair: Pair
) -> None:
    series_of, files, alert, burn = VIEWS[view]
    series: list[dict[str, str]] = []
    # Which functions are above the threshold in the long window, in the short one, and alert.
    above: dict[str, list[str]] = {"long": [], "short": [], "alert": []}
    for objective in OBJECTIVES:
        for story, phases in histories(pair, pair.threshold(objective)).items():
            name = f"{story}-{objective}.ns"
            steps = round(sum(time for time, _ in phases) / pair.sample)
            series += series_of(name, phases, pair.sample)
            series.append(
                {
                    "series": f'slo_objective_ratio{{function_name="{name}"}}',
                    "values": f"{objective}x{steps}",
                }
            )
            if story in {"above", "over"}:
                above["long"].append(name)
            if story in {"above", "begun"}:
                above["short"].append(name)
            if story == "above":
                above["alert"].append(name)
    end = f"{round(1.25 * pair.long[1])}m"

    def expect(expression: str, names: list[str]) -> dict[str, Any]:
        samples = [{"labels": f'{{function_name="{name}"}}', "value": 1} for name in names]
        return {
            "expr": f"count by (function_name) ({expression})",
            "eval_time": end,
            "exp_samples": samples,
        }

    threshold = f"clamp_max(slo:burn_rate_reachable:ratio, {pair.factor})"
    firing = (
        f'ALERTS{{alertname="{alert}",alertstate="firing",severity="{pair.severity}",'
        f'long="{pair.long[0]}",short="{pair.short[0]}"}}'
    )
    document = {
        "rule_files": [str(RULES / file) for file in files],
        "evaluation_interval": f"{round(pair.evaluation * 60)}s",
        "group_eval_order": groups(files),
        "tests": [
            {
                "interval": f"{round(pair.sample * 60)}s",
                "input_series": series,
                "promql_expr_test": [
                    expect(f"{burn}{pair.long[0]} > {threshold}", above["long"]),
                    expect(f"{burn}{pair.short[0]} > {threshold}", above["short"]),
                    expect(firing, above["alert"]),
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump(document))
    done = subprocess.run(
        ["promtool", "test", "rules", str(path)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr

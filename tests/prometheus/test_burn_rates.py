"""The burn-rate alerts at each objective, against the same law in Python (promtool)."""

from dataclasses import dataclass

import pytest

from support.promtool import complaints, needs_promtool

OBJECTIVES = (0.7, 0.9, 0.99, 0.999)
REACHABLE = 0.8
TOTAL, AROUND, LEAST = 5.0, 30.0, 0.15
"""Minutes with ``REACHABLE`` misses that page if those around them have at least a share."""
RATE = 10.0
KEPT = 15.0

pytestmark = needs_promtool


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


def burning(phases: list[tuple[float, float]], objective: float, severity: str, end: float) -> bool:
    """Whether both windows of a pair of this severity are above its threshold at minute ``end``.

    Or, for a page, whether nearly all requests of five minutes missed.
    """

    def burn(window: float) -> float:
        start, missed, begin = max(0.0, end - window), 0.0, 0.0
        for minutes, share in phases:
            missed += share * max(0.0, min(begin + minutes, end) - max(begin, start))
            begin += minutes
        return missed / (end - start) / (1 - objective)

    reachable = REACHABLE / (1 - objective)
    total = burn(TOTAL) > reachable and burn(AROUND) > LEAST / (1 - objective)
    return (severity == "page" and total) or any(
        min(burn(pair.long[1]), burn(pair.short[1]))
        > (min(pair.factor, reachable) if pair.long[0] == "1h" else pair.factor)
        for pair in PAIRS
        if pair.severity == severity
    )


def counter(phases: list[tuple[float, float]], sample: float) -> str:
    """A counter in promtool's notation; the phases are (minutes, increase per minute)."""
    value, parts = 0.0, ["0x0"]
    for minutes, slope in phases:
        steps, step = round(minutes / sample), slope * sample
        parts.append(f"{value + step:.6f}+{step:.6f}x{steps - 1}")
        value += steps * step
    return " ".join(parts)


@dataclass(frozen=True)
class View:
    """A counter, its labels of a good request and of a miss, and the names that the rules give."""

    counter: str
    good: str
    missed: str

    def series(self, name: str, phases: list[tuple[float, float]], sample: float) -> list[dict[str, str]]:
        minute = RATE * 60
        shares = {self.good: [1 - share for _, share in phases], self.missed: [share for _, share in phases]}
        return [
            {
                "series": f'{self.counter}{{function_name="{name}",{label}}}',
                "values": counter(
                    [(time, minute * share) for (time, _), share in zip(phases, each, strict=True)], sample
                ),
            }
            for label, each in shares.items()
        ]


VIEWS = {
    "watchdog": View("slo_requests_total", 'outcome="good"', 'outcome="slow"'),
    "gateway": View("gateway_function_invocation_total", 'code="200"', 'code="502"'),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.factor}-{pair.long[0]}")
def test_an_alert_fires_while_both_windows_of_a_pair_burn_too_fast_and_a_little_longer(tmp_path, view, pair):
    seen = VIEWS[view]
    end = 1.25 * pair.long[1]
    series: list[dict[str, str]] = []
    firing = []
    for objective in OBJECTIVES:
        for story, phases in histories(pair, pair.threshold(objective)).items():
            name = f"{story}-{objective}.ns"
            series += seen.series(name, phases, pair.sample)
            declared = f'slo_objective_ratio{{function_name="{name}"}}'
            series.append({"series": declared, "values": f"{objective}x{round(end / pair.sample)}"})
            if any(
                burning(phases, objective, pair.severity, end - back)
                for back in (0.0, KEPT / 3, 2 * KEPT / 3)
            ):
                firing.append(name)
    assert 0 < len(firing) < len(series) / 3
    expected = {
        "expr": "count by (function_name) (ALERTS{"
        f'alertname="ErrorBudgetBurn",alertstate="firing",severity="{pair.severity}",view="{view}"}})',
        "eval_time": f"{round(end)}m",
        "exp_samples": [{"labels": f'{{function_name="{name}"}}', "value": 1} for name in firing],
    }
    test = {
        "interval": f"{round(pair.sample * 60)}s",
        "input_series": series,
        "promql_expr_test": [expected],
    }
    assert complaints(tmp_path, f"{round(pair.evaluation * 60)}s", test) == ""


OBJECTIVES_OF_A_FAILURE = (0.8, 0.85, 0.9, 0.95, 0.97, 0.99, 0.995, 0.999)
GOOD = 65
"""Minutes."""


def steps(per_minute: float, minutes: int, first: float = 0) -> list[float]:
    """Return a counter each 30 s; each request is one step."""
    return [first + int(per_minute * half / 2) for half in range(1, 2 * minutes + 1)]


@pytest.mark.parametrize(("view", "per_minute"), [("watchdog", 600), ("watchdog", 1), ("gateway", 6)])
def test_a_total_failure_after_good_hours_pages_within_twelve_minutes(tmp_path, view, per_minute):
    seen = VIEWS[view]
    series = []
    for objective in OBJECTIVES_OF_A_FAILURE:
        name = f'function_name="f-{objective}.ns"'
        good = [0, *steps(per_minute, GOOD)]
        values = {
            seen.good: [*good, *[good[-1]] * 24],
            seen.missed: [*[0.0] * len(good), *steps(per_minute, 12)],
        }
        series += [
            {
                "series": f"{seen.counter}{{{name},{label}}}",
                "values": " ".join(f"{each:g}" for each in counts),
            }
            for label, counts in values.items()
        ]
        series.append({"series": f"slo_objective_ratio{{{name}}}", "values": f"{objective}x{2 * GOOD + 24}"})
        series.append({"series": f"gateway_service_count{{{name}}}", "values": f"1x{2 * GOOD + 24}"})
    paged = f'ALERTS{{alertname="ErrorBudgetBurn",alertstate="firing",severity="page",view="{view}"}}'
    expected = [
        {"expr": f"count({paged})", "eval_time": f"{GOOD}m", "exp_samples": []},
        {
            "expr": f"count({paged})",
            "eval_time": f"{GOOD + 12}m",
            "exp_samples": [{"labels": "{}", "value": len(OBJECTIVES_OF_A_FAILURE)}],
        },
    ]
    test = {"interval": "30s", "input_series": series, "promql_expr_test": expected}
    assert complaints(tmp_path, "30s", test) == ""


def test_half_of_rare_requests_failing_does_not_page_at_an_objective_that_allows_a_fifth(tmp_path):
    # One a minute, every second one fails: a burn rate of 2.5.
    counts = {"good": steps(0.5, GOOD), "slow": [0.0, 0.0, *steps(0.5, GOOD)[:-2]]}
    series = [
        {
            "series": f'slo_requests_total{{function_name="f.ns",outcome="{outcome}"}}',
            "values": " ".join(f"{each:g}" for each in values),
        }
        for outcome, values in counts.items()
    ]
    series.append({"series": 'slo_objective_ratio{function_name="f.ns"}', "values": f"0.8x{2 * GOOD}"})
    paged = 'ALERTS{alertname="ErrorBudgetBurn",severity="page"}'
    expected = {"expr": f"max_over_time({paged}[{GOOD}m])", "eval_time": f"{GOOD}m", "exp_samples": []}
    test = {"interval": "30s", "input_series": series, "promql_expr_test": [expected]}
    assert complaints(tmp_path, "30s", test) == ""

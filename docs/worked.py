"""Writes the numbers of docs/scaling.md: ``make reference`` (``python -m docs.worked``).

Owns the parts of that page between its marks: the table of the curve and the five decisions, both computed
by ``law``.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, cast

from slo_autoscaler.config import Config
from slo_autoscaler.law import curve, recommend, scenarios
from slo_autoscaler.law.curve import Curve
from slo_autoscaler.law.decide import decide
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.recommend import Prediction
from slo_autoscaler.model import Decision, Scale
from slo_autoscaler.signals import Observation
from slo_autoscaler.spec import Spec

PAGE: Final = Path(__file__).resolve().parent / "scaling.md"

LOADS: Final = (0.25, 0.5, *(hundredths / 100 for hundredths in range(60, 135, 5)), 1.5)
"""Beyond the last one, late = 1 - 1 / load."""
SPREADS: Final = (0.1, 0.15, 0.2, 0.3)
RATIOS: Final = (0.2, 0.5, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 6.0, 12.0)
"""To which the law's finer bins are shared out."""

CONFIG: Final = (
    "{platform: {gateway_url: http://none}, prometheus: {url: http://none}, defaults: {max_replicas: 40}}"
)
CAPACITY: Final = 45.0
"""Requests per second of one replica; with it the spread is 0.15."""
SLO: Final = 0.2
SERVICE: Final = 0.05
"""Seconds that one request takes alone."""
OBJECTIVE: Final = 0.99
HOUR: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Situation:
    """One function at one moment."""

    title: str
    spec: Spec
    seen: Observation
    scale: Scale
    memory: Memory
    now: float

    def decide(self) -> tuple[Decision, Memory]:
        """Return the law's decision, and what it remembers then."""
        return decide(self.spec, self.seen, self.scale, self.memory, self.now)


def situations() -> list[Situation]:
    """Return the five: each is the next time that the law changes the count."""
    return [
        _next("a new function", lambda _: 240.0, 0.0, replicas=4),
        _next("the budget is overspent", lambda _: 235.0, HOUR, replicas=5, spent=1.3),
        _next("a peak is due", lambda now: 440.0 if 300.0 <= now % 600.0 < 360.0 else 220.0, HOUR + 260.0),
        _next("the load has fallen", lambda now: 240.0 if now < HOUR else 120.0, HOUR + 5.0),
        _next("a backlog", lambda _: 240.0, HOUR, replicas=6, in_flight=12_000.0),
    ]


def _next(
    title: str,
    rate: Callable[[float], float],
    seconds: float,
    *,
    replicas: int | None = None,
    spent: float | None = None,
    in_flight: float = 0.0,
) -> Situation:
    """Return the first change of the count after ``seconds`` at ``rate``; reconciles are 5 s apart.

    Replicas start in 10 s. From ``seconds`` on ``replicas``, ``spent`` (multiples of the error budget) and
    ``in_flight`` requests replace the simulated ones, if given.
    """
    spec = Config.parse(CONFIG, "docs/worked.py").target("f.openfaas-fn")
    first = max(1, round(rate(0.0) / CAPACITY))
    scale, now = Scale(first, first), 0.0
    known = Memory.initial(scale, 0.0)
    asked: list[tuple[float, int]] = []
    while True:
        if now == seconds and replicas is not None:
            scale, asked = Scale(replicas, replicas), []
            known = replace(known, asked=None, pending=())
        if now == seconds and spent is not None:
            known = replace(known, budget=replace(known.budget, spent=spent * known.budget.served))
        serving = [before for when, before in asked if now - when < spec.start_up_time]
        scale = replace(scale, available=min([scale.desired, *serving]))
        seen = _seen(rate(now), scale.available)
        if now >= seconds:
            seen = replace(seen, in_flight=in_flight)
        at = Situation(title, spec, seen, scale, known, now)
        decision, known = at.decide()
        if decision.replicas is not None:
            if now >= seconds:
                return at
            if decision.replicas > scale.desired:
                asked.append((now, scale.desired))
            scale = replace(scale, desired=decision.replicas)
        now += 5.0


def _seen(rate: float, replicas: int) -> Observation:
    """Return an observation that agrees with the curve."""
    late = curve.curve(CAPACITY, SLO, OBJECTIVE, SERVICE).late(rate / max(1, replicas))
    return Observation(
        rate=rate,
        capacity=CAPACITY,
        slo_latency=SLO,
        slo_objective=OBJECTIVE,
        service_time_single=SERVICE,
        burn_short=late / (1.0 - OBJECTIVE),
        attainment=1.0 - late,
        samples=30.0 * rate,
        up_replicas=float(replicas),
        sample_age=1.0,
    )


def filled(text: str) -> str:
    """Return the page with each marked part written anew. Raises ``KeyError`` where a mark is missing."""
    for name, part in {"curve": curves(), "worked": worked()}.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        if begin not in text or end not in text:
            raise KeyError(name)
        before, rest = text.split(begin)
        text = f"{before}{begin}{part}{end}{rest.split(end)[1]}"
    return text


def curves() -> str:
    """Return the table of the late share, and of what one more replica saves, by load and spread."""
    titles = [f"late, {spread:g} | saved, {spread:g}" for spread in SPREADS]
    rows = []
    for load in LOADS:
        cells = [f"{load:g}"]
        for spread in SPREADS:
            alike = Curve(1.0, spread)
            late = alike.late(load)
            cells += [_share(late), f"{alike.saved(late):.3f}"]
        rows.append(cells)
    return _table(["load", *" | ".join(titles).split(" | ")], rows)


def worked() -> str:
    """Return the table of the five decisions: inputs, intermediate numbers, result."""
    columns = [_column(each) for each in situations()]
    rows = [[key, *(column[key] for column in columns)] for key in columns[0]]
    return _table(["", *(each.title for each in situations())], rows)


def _column(at: Situation) -> dict[str, str]:
    decision, known = at.decide()
    found, _ = recommend.recommend(at.spec, at.seen, at.scale, at.memory, at.now)
    assert found.late is not None and found.allowed is not None  # noqa: S101, PT018 - a capacity is known
    expected = cast("Prediction", cast("Any", found.late).__self__)
    left = known.budget.remaining(at.spec.budget_period)
    count = found.replicas
    predicted = {each: _share(found.late(each)) for each in (count - 1, count, count + 1)}
    return {
        "replicas": f"{at.scale.desired}",
        "R, requests per second": f"{expected.base:.4g}",
        **{
            f"odds of {ratio:g} R": _share(share)
            for ratio, share in zip(RATIOS, _coarse(expected.odds), strict=True)
        },
        "median of the rates to come": f"{expected.median:.4g}",
        "unspent budget": f"{left:.3f}",
        "correction": f"{known.calibration.factor:.3f}",
        "goodput, per second": f"{expected.replica.goodput:.4g}",
        "in flight": f"{at.seen.in_flight:.0f}",
        "allowed": _share(found.allowed),
        "worth, per second": f"{found.worth:.3g}",
        "expected, per second": f"{found.rate:.4g}",
        "predicted late": ", ".join(f"{each}: {share}" for each, share in predicted.items()),
        "saved by the last, per second": f"{found.rate * (found.late(count - 1) - found.late(count)):.3g}",
        "saved by one more": f"{found.rate * (found.late(count) - found.late(count + 1)):.3g}",
        "recommended": f"{count}",
        "enough until now": f"{max(found.fewest or 0, known.needed(known.start_up(at.spec)))}",
        "decision": f"{decision.replicas}, `{decision.reason}`",
    }


def _coarse(odds: Sequence[float]) -> list[float]:
    """Return the odds of ``RATIOS``: each of the law's is shared between the two beside it, so means stay."""
    found = [0.0] * len(RATIOS)
    for ratio, weight in zip(scenarios.RATIOS, odds, strict=True):
        above = bisect_right(RATIOS, ratio)
        if above in (0, len(RATIOS)):
            found[min(above, len(RATIOS) - 1)] += weight
            continue
        share = (ratio - RATIOS[above - 1]) / (RATIOS[above] - RATIOS[above - 1])
        found[above - 1] += weight * (1.0 - share)
        found[above] += weight * share
    return [each / sum(found) for each in found]


def _share(value: float) -> str:
    return f"{100.0 * value:.3g}%" if value >= _LEAST else "0"


_LEAST: Final = 1e-6


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))

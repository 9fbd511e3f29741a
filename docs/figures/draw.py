"""Draws the figures of the documentation: ``make reference``, or ``python -m docs.figures.draw``.

Only the model is invented: one replica is the watchdog's own engine in virtual time, several are simulated by
``tailbound-simulate``. Each file carries the digest of its numbers, and tests/docs computes them again.
"""

import hashlib
import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Final

from batching_watchdog.engine.capacity import sustained
from batching_watchdog.engine.cost import CostModel
from batching_watchdog.engine.effects import Answer, Dispatch, Effect, WakeAt
from batching_watchdog.engine.engine import Engine
from batching_watchdog.engine.policy import POLICIES, PolicySettings
from batching_watchdog.messages import Batch, Reply, Request
from slo_autoscaler.config import Config
from slo_autoscaler.law.decide import agreed, decided, recommended
from slo_autoscaler.law.memory import Memory
from slo_autoscaler.law.situation import Situation
from slo_autoscaler.signals import Observation
from slo_autoscaler.spec import Spec
from tailbound_lab.simulate import traces, world
from tailbound_lab.simulate.baselines import Bounds
from tailbound_lab.simulate.function import Function, Service, View
from tailbound_lab.simulate.scalers import Experiment, make

FOLDER: Final = Path(__file__).resolve().parent
DIGEST: Final = "Numbers: sha256 "

CONSTANT: Final = 0.020
PER_REQUEST: Final = 0.010
"""The model of every figure: l(b) = 20 ms + 10 ms x b."""
SLO: Final = 0.2
LEAST: Final = 0.01
"""Per cent: late shares below are drawn as this."""
LARGEST: Final = 16
TIMEOUT: Final = 5.0
NOISE: Final = 0.05
"""Standard deviation of the logarithm of a service time."""
CONFIG: Final = (
    "{platform: {gateway_url: http://none}, prometheus: {url: http://none}, defaults: {max_replicas: 12}}"
)

_BLUE, _ORANGE, _GREEN, _GRAY, _RED = "#1769aa", "#d9822b", "#2e7d32", "#767676", "#b3261e"
Data = dict[str, Any]


def steady(size: int, _now: float) -> float:
    """l(b) of the model."""
    return CONSTANT + PER_REQUEST * size


def slower_from_20(size: int, now: float) -> float:
    """The same until 20 s, then twice that."""
    return steady(size, now) * (1.0 if now < 20.0 else 2.0)


@dataclass(eq=False)
class Replica:
    """One watchdog with one worker, in virtual time: its real engine, Poisson arrivals."""

    policy: str = "slo"
    largest: int = LARGEST
    law: Callable[[int, float], float] = steady
    """Seconds for a batch of a size that begins at a time."""
    answered: list[tuple[float, float]] = field(default_factory=list)
    """(arrival, latency) of each request that got an answer."""
    runs: list[tuple[float, int, float]] = field(default_factory=list)
    """(end, size, seconds) of each batch."""
    capacities: list[tuple[float, float]] = field(default_factory=list)
    """(time, learned capacity) after a batch, at most twice a second."""

    def __post_init__(self) -> None:
        self._cost = CostModel(self.largest)
        self.model = self._cost.overall
        policy = POLICIES[self.policy](PolicySettings(self.largest, 0.0, SLO))
        self._engine = Engine(policy, self._cost, max_inflight=100_000, workers=1)
        self._engine.worker_ready(self)
        self._random = random.Random(1)  # noqa: S311 - arrivals, not secrets
        self._batch: Batch | None = None
        self._ends = self._wake = inf
        self._number = 0

    @property
    def capacity(self) -> float:
        """Requests per second, as it would be exported."""
        return sustained(self._cost.mix, 1, SLO, 0.99)[0]

    def send(self, batch: Batch) -> None:
        """Nothing: this is its own worker, and has the effect."""

    def cancel(self, indexes: Sequence[int]) -> None:
        """Nothing: it never has a batch before it has answered the one before."""

    def check(self) -> None:
        """Nothing: no batch fails."""

    def serve(self, rate: float, seconds: float) -> None:
        """Offer ``rate`` requests per second for ``seconds``, and let what is queued then run out."""
        now, arrival = 0.0, self._random.expovariate(rate)
        while True:
            self._wake = inf
            self._carry_out(self._engine.tick(now), now)
            now = max(now, min(arrival, self._ends, self._wake))
            if now == inf:
                return
            if self._ends <= now:
                self._finish(now)
            elif arrival <= now:
                self._number += 1
                request = Request(self._number, b"", b"", now, now + SLO, now + TIMEOUT)
                self._carry_out(self._engine.offer(request, now), now)
                arrival += self._random.expovariate(rate)
                arrival = arrival if arrival < seconds else inf

    def _carry_out(self, effects: Sequence[Effect], now: float) -> None:
        for effect in effects:
            if isinstance(effect, Dispatch):
                noise = self._random.lognormvariate(0.0, NOISE)
                self._batch, size = effect.batch, len(effect.batch.requests)
                self._ends = now + self.law(size, now) * noise
            elif isinstance(effect, WakeAt):
                self._wake = effect.at
            elif isinstance(effect, Answer) and effect.batch is not None:
                self.answered.append((effect.request.arrived, now - effect.request.arrived))

    def _finish(self, now: float) -> None:
        assert self._batch is not None  # noqa: S101 - for the type checker
        size = len(self._batch.requests)
        self.runs.append((now, size, now - self._batch.dispatched))
        self._ends = inf
        _, answers = self._engine.batch_done(self, [Reply(200, b"", b"")] * size, now)
        self._carry_out(answers, now)
        self._engine.worker_ready(self)
        if not self.capacities or now - self.capacities[-1][0] >= 0.5:
            self.capacities.append((now, self.capacity))


def latency_misleads() -> Data:
    """One replica's latency against its load, and scalers through a day."""
    rates, p50, p99 = [5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100], [], []
    learned = 0.0
    for rate in rates:
        replica = Replica()
        replica.serve(rate, 25.0)
        latencies = sorted(latency for _, latency in replica.answered)
        p50.append(_quantile(latencies, 0.5))
        p99.append(_quantile(latencies, 0.99))
        learned = learned or (replica.capacity if rate >= 20 else 0.0)
    return {"rates": rates, "p50": p50, "p99": p99, "capacity": _rounded(learned), **_day()}


def _day() -> Data:
    """A day in a quarter of an hour, around 150 requests/s."""
    trace = traces.generate("diurnal", 150.0, 900, cv2=None, seed=1)
    function = Function(Service.affine(CONSTANT, PER_REQUEST, LARGEST), slo_latency=SLO, start_up=10.0)
    config = Config.parse(CONFIG, "the figure")
    experiment = Experiment(
        trace, function, Bounds(1, 12), config.target("f.openfaas-fn"), config.interval, phase=2.0
    )
    scalers: Data = {}
    for choice in ("slo", "proportional", "keda-value", "oracle"):
        scaler = make(choice, experiment)
        outcome = world.run(trace, function, scaler, world.Settings(1, 12, replicas=2))
        scalers[choice] = {
            "replicas": [int(count) for count in outcome.series.desired],
            "attainment": _rounded(outcome.attainment * 100),
            "replica_seconds": _rounded(outcome.replica_seconds),
        }
    return {"scalers": scalers}


def two_queues() -> Data:
    """Goodput against the offered rate, with and without deadlines."""
    rates, seconds = [20, 40, 60, 75, 90, 110, 150, 200], 12.0
    kinds = {"slo": LARGEST, "fixed": 8, "unbatched": 1}
    goodput: Data = {}
    for policy, largest in kinds.items():
        goodput[policy] = []
        for rate in rates:
            replica = Replica(policy, largest)
            replica.serve(rate, seconds)
            good = sum(latency <= SLO for _, latency in replica.answered)
            goodput[policy].append(_rounded(good / seconds))
    return {"rates": rates, "goodput": goodput}


def learned_capacity() -> Data:
    """Estimates from low traffic, and their change when the model becomes twice as slow."""
    quiet = Replica()
    quiet.serve(45.0, 30.0)
    sizes = range(1, LARGEST + 1)
    changed = Replica(law=slower_from_20)
    changed.serve(25.0, 40.0)
    return {
        "runs": [(size, _rounded(seconds * 1000)) for _, size, seconds in quiet.runs[:400]],
        "upper": [_rounded(quiet.model.predict(size) * 1000) for size in sizes],
        "mean": [_rounded(quiet.model.predict_mean(size) * 1000) for size in sizes],
        "capacity": _rounded(quiet.capacity),
        "over_time": [(_rounded(now), _rounded(value)) for now, value in changed.capacities],
    }


@dataclass(eq=False)
class Predicting:
    """The scaling law, and what it predicted at every reconcile."""

    spec: Spec
    interval: float
    phase: float
    name: str = "slo"
    memory: Memory | None = None
    predictions: list[tuple[int, Callable[[int], float]]] = field(default_factory=list)
    """(second, predicted late share by count)"""

    def scale(self, view: View, now: float) -> int | None:
        """Decide as the controller does."""
        memory = self.memory or Memory.initial(view.scale, now)
        seen = view.observe() or Observation()
        wish = recommended(Situation(self.spec, seen, view.scale, memory, now))
        if wish.recommendation.late is not None:
            horizon = wish.at.memory.start_up(self.spec) + self.interval
            self.predictions.append((round(now + horizon), wish.recommendation.late))
        decision = decided(wish, None)
        self.memory = agreed(wish, decision)
        return decision.replicas


def calibration() -> Data:
    """Predicted late shares beside those that came, by tenths of the predictions."""
    config = Config.parse(CONFIG, "the figure")
    found: Data = {}
    for kind in ("step", "spike"):
        trace = traces.generate(kind, 100.0, 3600, seed=1)
        function = Function(Service.affine(CONSTANT, PER_REQUEST, LARGEST), slo_latency=SLO, start_up=10.0)
        scaler = Predicting(config.target("f.openfaas-fn"), config.interval, 2.0)
        series = world.run(trace, function, scaler, world.Settings(1, 12, replicas=2)).series
        points = []
        for second, late in scaler.predictions:
            span = slice(second, second + round(config.interval))
            came = float(series.arrivals[span].sum())
            if came > 0.0:
                points.append((late(int(series.ready[second])), came, came - float(series.good[span].sum())))
        points.sort()
        tenths = [points[len(points) * part // 10 : len(points) * (part + 1) // 10] for part in range(10)]
        found[kind] = [
            (
                _rounded(
                    100.0 * sum(share * came for share, came, _ in tenth) / sum(came for _, came, _ in tenth)
                ),
                _rounded(100.0 * sum(missed for _, _, missed in tenth) / sum(came for _, came, _ in tenth)),
            )
            for tenth in tenths
        ]
    return found


FIGURES: Final[Mapping[str, Callable[[], Data]]] = {
    "calibration": calibration,
    "latency-misleads": latency_misleads,
    "two-queues": two_queues,
    "learned-capacity": learned_capacity,
}
"""File name without .svg -> what computes its numbers."""


def digest(data: Data) -> str:
    """What a file says of the numbers that it shows."""
    return DIGEST + hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def main() -> int:
    """Compute and draw all of them."""
    for name, compute in FIGURES.items():
        data = compute()
        _draw(name, data, FOLDER / f"{name}.svg")
    return 0


def _draw(name: str, data: Data, file: Path) -> None:
    from matplotlib import rc_context  # noqa: PLC0415 - slow, and tests of the numbers do not need it
    from matplotlib.figure import Figure  # noqa: PLC0415

    settings: Any = {
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e3e3e3",
        "legend.frameon": False,
    }
    with rc_context(settings):
        figure = Figure(figsize=(9.0, 3.4), layout="constrained")
        panels = figure.subplots(1, 1 if name == "two-queues" else 2, squeeze=False)[0]
        _DRAWN[name](panels, data)
        figure.savefig(file, metadata={"Date": None, "Description": digest(data)})


def _draw_latency(panels: Any, data: Data) -> None:
    load, scaling = panels
    load.semilogy(data["rates"], data["p99"], "o-", color=_BLUE, label="p99")
    load.semilogy(data["rates"], data["p50"], "o-", color=_ORANGE, label="p50")
    load.axhline(SLO * 1000, color=_RED, linewidth=1)
    load.text(1, SLO * 1080, "SLO", color=_RED)
    load.axvline(data["capacity"], color=_GRAY, linestyle="--")
    load.text(data["capacity"] + 1, 12, "learned capacity", color=_GRAY)
    load.set(
        title="One replica: latency against load",
        xlabel="offered, requests/s",
        ylabel="latency, ms",
        ylim=(10, 10_000),
        xlim=(0, None),
    )
    load.legend(loc="upper left")
    styles = {
        "keda-value": (_ORANGE, "-", "KEDA on p99"),
        "proportional": (_GREEN, "-", "HPA's formula on latency"),
        "slo": (_BLUE, "-", "Tailbound"),
        "oracle": (_GRAY, "--", "oracle"),
    }
    for choice, (color, line, label) in styles.items():
        found = data["scalers"][choice]
        scaling.step(
            range(len(found["replicas"])),
            found["replicas"],
            where="post",
            color=color,
            linestyle=line,
            label=f"{label}: {found['attainment']:.4g}%, {found['replica_seconds']:,.0f}",
        )
    scaling.set(
        title="A day in 15 minutes, 60 to 240 requests/s",
        xlabel="seconds",
        ylabel="desired replicas",
        yticks=range(0, 13, 3),
        ylim=(0, 20),
    )
    scaling.legend(loc="upper left", title="within SLO, replica-seconds")


def _draw_queues(panels: Any, data: Data) -> None:
    (panel,) = panels
    panel.plot((0, max(data["rates"])), (0, max(data["rates"])), color=_GRAY, linewidth=1, label="offered")
    styles = {
        "slo": (_BLUE, "two queues, in order of deadline (policy slo)"),
        "fixed": (_ORANGE, "one queue, in order of arrival (policy fixed, size 8)"),
        "unbatched": (_RED, "one queue, no batches (policy unbatched)"),
    }
    for policy, (color, label) in styles.items():
        panel.plot(data["rates"], data["goodput"][policy], "o-", color=color, label=label)
    panel.set(
        title="One replica, 12 s at each rate",
        xlabel="offered, requests/s",
        ylabel="answered within 200 ms, /s",
        xlim=(0, None),
        ylim=(0, 150),
    )
    panel.legend(loc="upper left")


def _draw_capacity(panels: Any, data: Data) -> None:
    curve, time = panels
    sizes = range(1, LARGEST + 1)
    curve.scatter(*zip(*data["runs"], strict=True), s=6, color=_GRAY, label="finished batches")
    curve.plot(sizes, data["mean"], color=_ORANGE, label="learned mean")
    curve.plot(sizes, data["upper"], color=_BLUE, label="learned upper quantile")
    curve.axhline(SLO * 1000, color=_RED, linewidth=1)
    curve.text(0.6, SLO * 1000 + 3, "SLO", color=_RED)
    curve.set(
        title=f"At 45 requests/s: capacity learned, {data['capacity']:.0f}/s",
        xlabel="batch size b",
        ylabel="service time l(b), ms",
        ylim=(0, None),
    )
    curve.legend(loc="upper left")
    time.step(*zip(*data["over_time"], strict=True), where="post", color=_BLUE)
    time.axvline(20.0, color=_GRAY, linestyle="--")
    time.text(21.5, 40, "the model becomes\ntwice as slow", color=_GRAY)
    time.set(
        title="At 25 requests/s: the model changes",
        xlabel="seconds",
        ylabel="learned capacity, requests/s",
        ylim=(0, None),
    )


def _draw_calibration(panels: Any, data: Data) -> None:
    for panel, (kind, points) in zip(panels, data.items(), strict=True):
        highest = max(max(point) for point in points)
        panel.plot((LEAST, highest), (LEAST, highest), color=_GRAY, linewidth=1, label="as predicted")
        shown = [(max(predicted, LEAST), max(measured, LEAST)) for predicted, measured in points]
        panel.loglog(*zip(*shown, strict=True), "o", color=_BLUE, label="a tenth of the reconciles")
        panel.set(title=f"{kind}, around 100 requests/s", xlabel="predicted late, %", ylabel="late, %")
        panel.legend(loc="upper left")


_DRAWN: Final[Mapping[str, Callable[[Any, Data], None]]] = {
    "calibration": _draw_calibration,
    "latency-misleads": _draw_latency,
    "two-queues": _draw_queues,
    "learned-capacity": _draw_capacity,
}


def _quantile(ascending: Sequence[float], share: float) -> float:
    return _rounded(ascending[min(len(ascending) - 1, int(share * len(ascending)))] * 1000)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


if __name__ == "__main__":
    sys.exit(main())

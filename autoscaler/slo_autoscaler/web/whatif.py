"""What if the last hour had gone otherwise: a question to the simulator, answered in a process of its own.

Owns what may be asked, what the simulator is told of the function (its learned service times, its last hour's
arrivals), how long it may take, and that there is one at a time. The process is ``simulation``'s program; it
runs at low priority, with one thread, and is killed when it takes too long or the page stops. Nothing is ever
changed by an answer.
"""

import contextlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

from slo_autoscaler import words as shown
from slo_autoscaler.config import Config
from slo_autoscaler.model import TargetSpec
from slo_autoscaler.web import charts as series
from slo_autoscaler.web import profile
from slo_autoscaler.web.reader import Reader
from slo_autoscaler.web.rows import Row

logger = logging.getLogger(__name__)

SPAN: Final = 3600
"""Seconds that are replayed, as far as Prometheus has them."""

TIMEOUT: Final = 60.0
"""Seconds that an answer may take."""

MOST_REQUESTS: Final = 3_000_000
"""Of an hour that can be replayed in that time, twice."""

MOST_REPLICAS: Final = 200

EXTRA: Final = "numpy"
"""The package that is there if the extra ``simulate`` is."""

NOT_INSTALLED: Final = (
    "The simulator is not installed here: pip install 'tailbound-lab', or run"
    " tailbound-simulate on a machine that has it."
)

POLICIES: Final[Mapping[str, str]] = {
    "slo": "slo: capacity and latency",
    "proportional": "proportional: the HPA's law on latency",
    "threshold": "threshold: steps on latency",
    "openfaas-ce": "OpenFaaS CE's alert rule",
    "kpa": "Knative's autoscaler",
    "hpa-cpu": "HPA on CPU",
    "keda-value": "KEDA on p99",
    "ray-serve": "Ray Serve",
}
"""What may be asked for -> what it is. Ours first; the others as ``tailbound-simulate`` knows them."""

_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WhatIfError(Exception):
    """There is no answer, for a reason that whoever asked can do something about; ``status`` is HTTP's."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class Question:
    """One way to run a function."""

    max_replicas: int
    slo_latency: float
    """Seconds."""
    policy: str


def current(row: Row, spec: TargetSpec) -> Question | None:
    """Return how a function is run now; None while its SLO is not known."""
    if row["slo_latency"] is None:
        return None
    return Question(int(row["max"] or spec.max_replicas), float(row["slo_latency"]), spec.policy)


def asked(document: object, now: Question) -> Question:
    """Return the question in a JSON object; what it does not name stays as it is.

    Raises ``WhatIfError`` with field, value and rule.
    """
    if not isinstance(document, dict):
        raise WhatIfError(400, "the question must be a JSON object")
    known = {field.name for field in fields(Question)}
    unknown = sorted(str(key) for key in document if key not in known)
    if unknown:
        raise WhatIfError(400, f"{unknown[0]}: unknown; known are {', '.join(sorted(known))}")
    question = replace(now, **document)
    most, latency, policy = question.max_replicas, question.slo_latency, question.policy
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= MOST_REPLICAS:
        raise WhatIfError(400, f"max_replicas: {most!r} must be a whole number from 1 to {MOST_REPLICAS}")
    if isinstance(latency, bool) or not isinstance(latency, int | float) or not 0.001 <= latency <= 60:
        raise WhatIfError(400, f"slo_latency: {latency!r} must be seconds, from 0.001 to 60")
    if not isinstance(policy, str) or policy not in POLICIES:
        raise WhatIfError(400, f"policy: {policy!r} must be one of {', '.join(POLICIES)}")
    return question


def verdict(now: Question, question: Question, runs: list[dict[str, Any]], objective: float) -> str:
    """Return in a sentence or two what would have been; ``runs``: as it is, and as asked."""
    before, after = runs
    changes = []
    if question.max_replicas != now.max_replicas:
        changes.append(f"at most {question.max_replicas} replicas instead of {now.max_replicas}")
    if question.slo_latency != now.slo_latency:
        changes.append(
            f"an SLO of {shown.seconds(question.slo_latency)} instead of {shown.seconds(now.slo_latency)}"
        )
    if question.policy != now.policy:
        changes.append(f"policy {question.policy} instead of {now.policy}")
    if not changes:
        return "Nothing is changed, so nothing would have been different."
    met = after["attainment"] >= objective
    text = (
        f"With {' and '.join(changes)}, {shown.share(after['attainment'])} of the requests would have been"
        f" within {shown.seconds(question.slo_latency)}, instead of {shown.share(before['attainment'])}"
        f" within {shown.seconds(now.slo_latency)}: the objective of {shown.share(objective)} would have been"
        f" {'met' if met else 'missed'}."
    )
    paid = after["replica_seconds"] / before["replica_seconds"] - 1 if before["replica_seconds"] else 0.0
    if abs(paid) < 0.005:
        return f"{text} It would have cost as many replica-seconds."
    more = f"{shown.budget(abs(paid))} {'more' if paid > 0 else 'fewer'}"
    return f"{text} It would have cost {more} replica-seconds."


class WhatIf:
    """Asks the simulator, one question at a time; every method may be called from any thread."""

    def __init__(self, config: Config, reader: Reader, timeout: float = TIMEOUT) -> None:
        self._config = config
        self._reader = reader
        self._timeout = timeout
        self._busy = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._closed = False

    def why_not(self, row: Row) -> str | None:
        """Return why nothing can be asked of a function, or None."""
        if importlib.util.find_spec(EXTRA) is None:
            return NOT_INSTALLED
        if self._config.gateway_slos().of(row["function_name"]) is not None:
            return (
                "Only a function with the batching watchdog can be simulated: others learn no service times."
            )
        if row["slo_latency"] is None:
            return "There is no SLO for it in Prometheus."
        return None

    def answer(self, row: Row, document: object) -> dict[str, Any]:
        """Return what would have been, as JSON. Raises ``WhatIfError`` and ``SourceError``."""
        why = self.why_not(row)
        spec = self._config.target(row["function_name"])
        now = current(row, spec)
        if why is not None or now is None:
            raise WhatIfError(501 if why == NOT_INSTALLED else 422, why or "There is no SLO for it.")
        question = asked(document, now)
        if not self._busy.acquire(blocking=False):
            raise WhatIfError(409, "Another question is being answered: ask again in a minute.")
        try:
            job, measured = self._job(row, spec, now, question)
            found = self._run(job)
        finally:
            self._busy.release()
        objective = job["slo_objective"]
        return {
            "function_name": row["function_name"],
            "now": asdict(now),
            "question": asdict(question),
            "slo_objective": objective,
            "seconds": len(job["rates"]),
            "requests": round(sum(job["rates"])),
            "measured": measured,
            **found,
            "verdict": verdict(now, question, found["runs"], objective),
        }

    def close(self) -> None:
        """Stop the process that runs, if there is one; nothing is answered after this."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()

    def _job(
        self, row: Row, spec: TargetSpec, now: Question, question: Question
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what the simulation is told, and what was measured in the same time."""
        name, prometheus = row["function_name"], self._config.prometheus

        def of_it(queries: Mapping[str, str], span: float = 0.0) -> dict[str, str]:
            return series.filled(
                queries, name, rate_window=prometheus.rate_window, window=prometheus.window, span=span
            )

        at = series.grid(SPAN, prometheus.scrape_interval, self._reader.now(), most=SPAN)
        past = self._reader.ranges(of_it(series.ARRIVALS), at)
        learned = self._reader.instants(of_it(series.LEARNED), "size")
        rates = series.by_second(past["rate"], at)[-SPAN:]
        curve = profile.curve({int(size): each for size, each in learned["predicted"].items() if size})
        if not curve:
            raise WhatIfError(422, "Nothing is learned of its service times yet: no batch was served.")
        if sum(rates) < 1.0:
            raise WhatIfError(422, "Nothing has come in within the last hour: there is nothing to replay.")
        if sum(rates) > MOST_REQUESTS:
            raise WhatIfError(
                422,
                f"{shown.count(sum(rates))} requests in the last hour are more than can be replayed while you"
                " wait; tailbound-simulate --prometheus takes its time.",
            )
        hour = self._reader.instants(of_it(series.HOUR, len(rates)))
        there = [count for when, count in past["replicas"] if when >= at.end - len(rates)]
        measured = {
            **{key: hour[key].get("") for key in series.HOUR},
            "replica_seconds": sum(there) * at.step,
            "most": max(there, default=None),
        }
        job = {
            "name": name,
            "rates": rates,
            "service": curve,
            "workers": round(learned["workers"].get("", 1)),
            "slo_objective": row["slo_objective"],
            "start_up": spec.start_up_time,
            "interval": self._config.interval,
            "scrape_interval": prometheus.scrape_interval,
            "window": prometheus.window,
            "rate_window": prometheus.rate_window,
            "lowest": max(1, round(row["min"] or spec.min_replicas)),
            "replicas": round(there[0]) if there else None,
            "spec": asdict(spec),
            "runs": [asdict(now), asdict(question)],
        }
        return job, measured

    def _run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        environment = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1"), "PYTHONDONTWRITEBYTECODE": "1"}
        if self._closed:
            raise WhatIfError(503, "The autoscaler is stopping.")
        with subprocess.Popen(
            [sys.executable, "-m", "slo_autoscaler.web.simulation"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        ) as process:
            self._process = process
            try:
                out, err = process.communicate(json.dumps(job), self._timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise WhatIfError(
                    504, f"The simulation took longer than {self._timeout:g} s and was given up."
                ) from None
            finally:
                self._process = None
        return self._understood(out, err, process.returncode)

    def _understood(self, out: str, err: str, status: int) -> dict[str, Any]:
        found: object = None
        with contextlib.suppress(ValueError):
            found = json.loads(out)
        if status == 0 and isinstance(found, dict) and "runs" in found:
            return found
        if isinstance(found, dict) and isinstance(found.get("error"), str):
            raise WhatIfError(422, f"It cannot be simulated: {found['error']}")
        if not self._closed:
            logger.warning("what-if: the simulation ended with status %d: %s", status, err.strip()[-500:])
        raise WhatIfError(503, "The simulation ended without an answer; the autoscaler's log says more.")

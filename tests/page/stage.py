"""A stage for the page: an hour of two functions in a real Prometheus, and the real autoscaler on it.

What Prometheus knows is written as blocks, from an hour ago to ten minutes ahead, so that the hour is there
at once and time goes on: ``vision`` had a peak and was scaled from 2 to 5, ``text`` wants more than its label
allows.
"""

import math
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from autoscaler.doubles import Function, a_gateway, free_port, until

STEP = 10
"""Seconds between scrapes, unless it is said."""

PAST, AHEAD = 3600, 600

CONFIG = """
platform: {{gateway_url: "{gateway}", timeout: 2s}}
prometheus: {{url: "{prometheus}", scrape_interval: {step}s, window: {window}s, timeout: 5s, max_age: {age}s}}
interval: 1s
web: {{host: 127.0.0.1, port: 0, page_port: 0}}
defaults: {{start_up_time: 5s, max_replicas: 10}}
functions:
  text.openfaas-fn: {{mode: shadow}}
"""

_EDGES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 1.0, math.inf)


@dataclass(frozen=True)
class Recorded:
    """One function: what came in, how many served, how slow they were."""

    name: str
    rate: Callable[[float], float]
    """Requests per second, so many seconds before now (after it: below 0)."""
    replicas: Callable[[float], int]
    capacity: float = 53.0
    most: int = 5
    slo: float = 0.2
    budget: float = 0.62

    def load(self, ago: float) -> float:
        """Share of the capacity."""
        return self.rate(ago) / (self.replicas(ago) * self.capacity)


def _peak(ago: float) -> float:
    wave = 8.0 * math.sin(ago / 170.0) + 5.0 * math.sin(ago / 47.0)
    rise = 1 / (1 + math.exp((ago - 1500.0) / 90.0))
    fall = 1 / (1 + math.exp(-(ago - 620.0) / 60.0))
    return max(0.0, 62.0 + wave + 150.0 * rise * fall)


def _vision_replicas(ago: float) -> int:
    if ago > 1440.0:
        return 2
    return 4 if ago > 1380.0 else 5 if ago > 500.0 else 3 if ago > 380.0 else 2


FUNCTIONS = (
    Recorded("vision.openfaas-fn", _peak, _vision_replicas),
    Recorded(
        "text.openfaas-fn", lambda ago: 100.0 + 10.0 * math.sin(ago / 200.0), lambda _: 2, most=2, budget=-0.4
    ),
)


def _share_below(edge: float, load: float, slo: float) -> float:
    """Return the share of answers within ``edge`` seconds: the nearer the load to 1, the longer the tail."""
    if math.isinf(edge):
        return 1.0
    middle = slo * (0.28 + 0.25 * load + (1.2 * (load - 0.9) if load > 0.9 else 0.0))
    return 1.0 / (1.0 + (middle / edge) ** 6.5)


def exposition(now: float, step: int) -> str:
    """Return all samples as OpenMetrics text, series by series."""
    moments = [now - PAST + step * index for index in range((PAST + AHEAD) // step + 1)]
    lines: list[str] = []

    def series(name: str, labels: str, values: list[float]) -> None:
        head = f"{name}{{{labels}}}"
        lines.extend(f"{head} {value:.6g} {at:.0f}" for at, value in zip(moments, values, strict=True))

    for each in FUNCTIONS:
        ago = [now - at for at in moments]
        serving = [each.replicas(then) for then in ago]
        for replica in range(each.most):
            labels = f'function_name="{each.name}",instance="10.0.0.{replica}:8081"'
            up = [1.0 if replica < count else 0.0 for count in serving]
            counted = dict.fromkeys(_EDGES, 0.0)
            rows: dict[float, list[float]] = {edge: [] for edge in _EDGES}
            for then, alive, count in zip(ago, up, serving, strict=True):
                arrived = step * alive * each.rate(then) / count
                for edge in _EDGES:
                    counted[edge] += arrived * _share_below(edge, each.load(then), each.slo)
                    rows[edge].append(counted[edge])
            series("up", labels, up)
            series("slo_latency_seconds", labels, [each.slo] * len(ago))
            series("slo_objective_ratio", labels, [0.99] * len(ago))
            series("slo_requests_total", f'{labels},outcome="good"', rows[each.slo])
            late = [total - good for total, good in zip(rows[math.inf], rows[each.slo], strict=True)]
            series("slo_requests_total", f'{labels},outcome="slow"', late)
            for edge in _EDGES:
                le = "+Inf" if math.isinf(edge) else f"{edge:g}"
                name = "http_request_duration_seconds_bucket"
                series(name, f'{labels},code="200",method="post",le="{le}"', rows[edge])
            capacity = [each.capacity if alive else math.nan for alive in up]
            series("watchdog_capacity_requests_per_second", labels, capacity)
            loads = [alive * each.load(then) for then, alive in zip(ago, up, strict=True)]
            series("http_requests_in_flight", labels, [round(9 * load**2) for load in loads])
            series(
                "watchdog_queue_length", labels, [round(6 * max(0.0, load - 0.5) ** 2 * 4) for load in loads]
            )
            batch = [1 + 3 * load for load in loads]
            batches, requests, running = 0.0, 0.0, ([], [])
            for alive, then, count, size in zip(up, ago, serving, batch, strict=True):
                arrived = step * alive * each.rate(then) / count
                requests, batches = requests + arrived, batches + arrived / size
                running[0].append(requests)
                running[1].append(batches)
            for edge in (1, 2, 4, 8):
                # As if sizes were even between 1 and twice the mean.
                below = [
                    min(1.0, edge / (2 * size)) * ran for size, ran in zip(batch, running[1], strict=True)
                ]
                rising = list(accumulate(below, max))
                series("watchdog_batch_size_bucket", f'{labels},le="{edge}"', rising)
            series("watchdog_batch_size_bucket", f'{labels},le="+Inf"', running[1])
            wait = [step * 0.01 * load**3 for load in loads]
            series("watchdog_queue_seconds_sum", labels, list(accumulate(wait)))
            series("watchdog_queue_seconds_count", labels, [float(step * n) for n in range(len(ago))])
            series("watchdog_service_seconds_sum", labels, [0.06 * ran for ran in running[1]])
            series("watchdog_service_seconds_count", labels, running[1])
            series("watchdog_batch_size_sum", labels, running[0])
            series("watchdog_batch_size_count", labels, running[1])
            series("watchdog_workers", f'{labels},state="idle"', up)
            for size, seconds in ((1, 0.028), (2, 0.044), (4, 0.0755), (8, 0.148)):
                series("watchdog_service_seconds_predicted", f'{labels},size="{size}"', [seconds] * len(ago))
        labels = f'function_name="{each.name}"'
        wanted = [float(each.replicas(then - 15.0)) for then in ago]
        series("slo_autoscaler_replicas", f'{labels},state="desired"', wanted)
        series(
            "slo_autoscaler_recommended_replicas",
            labels,
            [float(math.ceil(each.rate(a) / 42.4)) for a in ago],
        )
        series("slo:error_budget_remaining:ratio", labels, [each.budget] * len(ago))
    return "\n".join(lines) + "\n# EOF\n"


@contextmanager
def an_hour(folder: Path, step: int = STEP) -> Iterator[str]:
    """Run Prometheus on the hour; give its URL."""
    prometheus, promtool = shutil.which("prometheus"), shutil.which("promtool")
    assert prometheus is not None, "Prometheus must be installed: make install does so"
    assert promtool is not None, "Prometheus must be installed: make install does so"
    recording = folder / "hour.om"
    recording.write_text(exposition(math.floor(time.time() / step) * step, step))
    blocks = [promtool, "tsdb", "create-blocks-from", "openmetrics", str(recording), str(folder / "data")]
    subprocess.run(blocks, check=True, capture_output=True, timeout=60)
    recording.unlink()
    (folder / "prometheus.yml").write_text("global: {scrape_interval: 10s}\n")
    url = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            prometheus,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={url.removeprefix('http://')}",
            "--log.level=error",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: _answers(f"{url}/-/ready"), "Prometheus is ready")
        yield url
    finally:
        process.kill()
        process.wait()


@contextmanager
def a_stage(folder: Path, step: int = STEP) -> Iterator[str]:
    """Run Prometheus on the hour, a gateway and the autoscaler; give the URL of its status page."""
    functions = {
        "vision": Function(2, {"com.openfaas.scale.max": "10"}),
        "text": Function(2, {"com.openfaas.scale.max": "2"}),
        "resize": Function(1),
    }
    with an_hour(folder, step) as prometheus, a_gateway(**functions) as gateway:
        config = folder / "autoscaler.yaml"
        config.write_text(
            CONFIG.format(
                gateway=gateway.url, prometheus=prometheus, step=step, window=4 * step, age=3 * step
            )
        )
        log = folder / "autoscaler.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "slo_autoscaler", "--config", str(config)],
                stdout=subprocess.DEVNULL,
                stderr=out,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        try:
            until(lambda: "status page on" in log.read_text(), "the page is there")
            (url,) = re.findall(r"status page on (http://[\w.:]+)", log.read_text())
            until(lambda: b'"vision.openfaas-fn"' in _read(f"{url}/api/functions"), "it has decided")
            yield url
            assert "Traceback" not in log.read_text(), log.read_text()
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(url: str) -> bool:
    try:
        return bool(_read(url) is not None)
    except OSError:
        return False


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return bytes(answer.read())

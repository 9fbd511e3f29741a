"""The watchdogs of pods that nobody runs: Prometheus finds the pods by the API, and scrapes them here."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from autoscaler.doubles import Fleet, exposing
from autoscaler.kube.control_plane import Access

AWAY = 1.0
"""Seconds after which a pod that is not scraped any more serves no requests."""


class Pods:
    """Behind one address, by path the metrics of each pod; together they serve ``rate``."""

    def __init__(self, capacity: float = 100.0) -> None:
        self.rate = 0.0
        self._capacity = capacity
        self._pods: dict[str, tuple[Fleet, float]] = {}
        """Path -> its counters, and when they were scraped last."""
        self._lock = threading.Lock()
        self._server = exposing(self.exposition)

    def close(self) -> None:
        self._server.close()
        for counters, _ in self._pods.values():
            counters.close()

    def exposition(self, path: str) -> str:
        with self._lock:
            now = time.monotonic()
            known = self._pods.get(path)
            counters = Fleet(capacity=self._capacity) if known is None else known[0]
            self._pods[path] = counters, now
            there = [at for _, at in self._pods.values() if now - at < AWAY]
            counters.rate = self.rate / len(there)
            return counters.exposition()

    def scraped(self, access: Access, job: dict[str, Any]) -> dict[str, Any]:
        """Return a shipped scrape job that asks this API server for pods, and us for their metrics."""
        (discovery,) = job["kubernetes_sd_configs"]
        reached = {
            "api_server": access.cluster["server"],
            "authorization": {"credentials": access.user["token"]},
            "tls_config": {"ca_file": access.cluster["certificate-authority"]},
        }
        here = [
            {"target_label": "__metrics_path__", "source_labels": ["__meta_kubernetes_pod_name"]},
            {"target_label": "__address__", "replacement": self._server.address},
        ]
        return {
            **job,
            "scrape_interval": "250ms",
            "scrape_timeout": "250ms",
            "kubernetes_sd_configs": [{**discovery, **reached}],
            "relabel_configs": [*job["relabel_configs"], *here],
        }


@contextmanager
def some_pods(**settings: float) -> Iterator[Pods]:
    pods = Pods(**settings)
    try:
        yield pods
    finally:
        pods.close()

"""``slo-autoscaler openslo``: the SLOs that running functions declare, as OpenSLO v1.

Reads them from the Prometheus of the configuration. Exit statuses: 0 success; 1 Prometheus does not answer,
or knows no SLO; 2 the command line or the configuration is invalid.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

import yaml

from slo_autoscaler.cli import SHELL, Caller, client
from slo_autoscaler.config import read_config
from slo_autoscaler.errors import ConfigError, SourceError
from slo_autoscaler.show.journal import named
from slo_autoscaler.signals import queries
from slo_autoscaler.signals.prometheus import PrometheusClient
from slo_autoscaler.signals.source import Settings


def main(arguments: Sequence[str] | None = None, caller: Caller = SHELL) -> int:
    """Run the command; return its exit status."""
    flags = parser(caller).parse_args(arguments)
    try:
        declared = _declared(read_config(flags.config).prometheus)
    except ConfigError as error:
        client.complain(*error.lines)
        return 2
    except SourceError as error:
        client.complain(str(error))
        return 1
    every = sorted({slo[0] for slo in declared})
    asked = [client.qualified(name, flags.namespace) for name in flags.function]
    chosen = {found for name in asked for found in named(name, every)[0]} if asked else every
    wanted = [slo for slo in declared if slo[0] in chosen]
    if not wanted:
        names = ", ".join(asked) or "any function"
        client.complain(f"Prometheus has no SLO of {names}: it must run and be scraped")
        return 1
    yaml.safe_dump_all(map(document, wanted), sys.stdout, sort_keys=False)
    return 0


def document(declared: tuple[str, str, float, float]) -> dict[str, Any]:
    """Return the OpenSLO v1 object of one (function_name, slo_class, latency in seconds, objective)."""
    function_name, slo_class, latency, objective = declared
    name = re.sub(r"[^a-z0-9]+", "-", f"{function_name} {slo_class}".lower()).strip("-")
    sources = {
        key: {"metricSource": {"type": "Prometheus", "spec": {"query": query}}}
        for key, query in queries.slo_counters(function_name, slo_class).items()
    }
    return {
        "apiVersion": "openslo/v1",
        "kind": "SLO",
        "metadata": {"name": name, "displayName": f"{function_name} {slo_class}".strip()},
        "spec": {
            "description": f"Requests answered without an error within {latency:g} s.",
            "service": function_name.replace(".", "-"),
            "indicator": {
                "metadata": {"name": name},
                "spec": {"ratioMetric": {"counter": True, **sources}},
            },
            "timeWindow": [{"duration": "30d", "isRolling": True}],
            "budgetingMethod": "Occurrences",
            "objectives": [{"displayName": f"within {latency:g} s", "target": objective}],
        },
    }


def _declared(settings: Settings) -> list[tuple[str, str, float, float]]:
    """Return (function_name, slo_class, latency in seconds, objective) of all. Raises ``SourceError``."""
    with closing(PrometheusClient(settings, "openslo")) as prometheus:
        asked = [prometheus.submit(prometheus.instant, _by_class, query) for query in queries.SLOS]
        latencies, objectives = prometheus.answers(asked)
    return [
        (*key, latency, objectives[key]) for key, latency in sorted(latencies.items()) if key in objectives
    ]


def _by_class(series: Iterable[queries.Series]) -> dict[tuple[str, str], float]:
    return {
        (labels.get("function_name", ""), labels.get("slo_class", "")): points[-1][1]
        for labels, points in series
        if points
    }


def parser(caller: Caller) -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(
        prog=f"{caller.program} openslo",
        description="Print the SLOs that running functions declare, one OpenSLO v1 object for each class.",
    )
    parser.add_argument(
        "function",
        nargs="*",
        metavar="FUNCTION",
        help="print only these: name.namespace, or only the name [all functions]",
    )
    client.add_namespace(parser, "any")
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="read Prometheus' address from the configuration FILE"
    )
    return parser

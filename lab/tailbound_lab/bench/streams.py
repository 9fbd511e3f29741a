"""``bench streams``: the highest rate of streams that are on time, of our server and its peers, as ``peers``.

One model for all, simulated, whose step takes 12 + 0.8 n ms; lengths of 5 to 100 pieces, long-tailed. The
servers of a round run one after another, because an idle LitServe loop keeps a core busy.
"""

import argparse
from dataclasses import replace
from typing import Final

from tailbound_lab.bench import peers
from tailbound_lab.bench.peers import Case, Contender
from tailbound_lab.bench.rig.record import Record, Run
from tailbound_lab.bench.rig.search import Plan
from tailbound_lab.bench.rig.systems import listed, parse_entry
from tailbound_lab.bench.workloads import FOLDER, STREAM
from tailbound_lab.load.generator import Part
from tailbound_lab.load.streams import StreamGenerator

INTERVAL: Final = 0.050
"""Target of each piece after the first, in seconds."""
LENGTHS: Final = range(5, 101)
"""Pieces of a stream; the share of streams falls with the square, so 16 on average."""
CLOSED: Final = "slo-closed"
"""Our own server with ``handle_batch`` as a generator."""
SYSTEMS: Final = f"slo,litserve-streams,{CLOSED},mosec-streams,bentoml-streams,gunicorn-streams"
FACTORS: Final = ("1", "2.5")
PLAN: Final = Plan(
    STREAM.first_rate,
    growth=2.0,
    ramp_seconds=2.0,
    confirm_seconds=5.0,
    tolerance=0.06,
    max_confirms=4,
    lowest_rate=0.25,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``bench streams``."""
    add = parser.add_argument
    add("--systems", default=SYSTEMS, help="comma-separated NAME[:SIZE:WAIT_MS]; ratios are to the first")
    add("--rounds", type=int, default=1, help="number of rounds, each with fresh servers [1]")
    add("--workers", type=int, default=2, help="model processes of each server [2]")
    add("--quick", action="store_true", help="two confirmed rates for each server")


def main(options: argparse.Namespace, run: Run) -> int:
    """Measure server by server and keep each; 0 if everything was measured."""
    cases = [Case("streams", STREAM, (contender(text),)) for text in listed(options.systems)]
    plan = replace(PLAN, max_confirms=2) if options.quick else PLAN
    return peers.play(options, run, cases, lambda: StreamGenerator(INTERVAL), plan, FACTORS)


def contender(text: str) -> Contender:
    """Return a server with streams of all lengths. Raises ``BenchError`` for an unknown one."""
    settings = {"slo_interval": f"{INTERVAL * 1e3:g}ms"}
    if text == CLOSED:
        text, settings["function_path"] = "slo", str(FOLDER / "stream_closed")
        return replace(contender(text), label=CLOSED, settings=settings)
    entry = parse_entry(text)
    parts = []
    for pieces in LENGTHS:
        body, kind = entry.system.wrap(str(pieces).encode())
        headers = (("Content-Type", kind), ("Accept", "text/event-stream"), ("Connection", "close"))
        parts.append(Part(body, entry.system.path, headers, pieces**-2.0, str(pieces)))
    size, wait = entry.settings.size, entry.settings.wait_ms
    label = entry.label if size is None or ":" in text else f"{text}:{size}:{wait}"
    return Contender(label, entry, tuple(parts), settings)


def table(record: Record) -> str:
    """Return one table: medians over the rounds, and the range of rates and ratios."""
    return peers.table(record, FACTORS)

"""``tailbound-simulate``: compares our policies and other scalers on a trace.

Owns the command line and the order of a comparison. Exit statuses: 0 success; 1 a trace, a Prometheus or a
choice is invalid; 2 the command line or the configuration is invalid.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, isnan
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from slo_autoscaler.config import Config, read_config
from slo_autoscaler.errors import ConfigError
from slo_autoscaler.settings.fields import MOST, MOST_DIGITS, parse_duration
from slo_autoscaler.settings.spec import Spec
from tailbound_lab.simulate import SimulationError, history, report, scalers, traces, world
from tailbound_lab.simulate.baselines import Bounds
from tailbound_lab.simulate.function import Function, Routing, Service, Steps, Streaming
from tailbound_lab.simulate.traces import Trace
from tailbound_lab.simulate.world import Outcome, Settings

NO_CONFIG: Final = (
    "{platform: {gateway_url: http://none}, prometheus: {url: http://none}, defaults: {max_replicas: 20}}"
)
"""Configuration without --config: all defaults, with a higher maximum."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _compare(options)
    except ConfigError as error:
        for line in error.lines:
            sys.stderr.write(f"tailbound-simulate: {line}\n")
        return 2
    except (SimulationError, OSError) as error:
        sys.stderr.write(f"tailbound-simulate: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


def _compare(options: argparse.Namespace) -> int:
    overrides = {"prometheus.url": options.prometheus} if options.prometheus is not None else {}
    config = (
        read_config(options.config, overrides)
        if options.config
        else Config.parse(NO_CONFIG, "the built-in configuration", overrides)
    )
    function = _function(options)
    trace = _trace(options, config)
    settings = _settings(options, config)
    folder = Path(options.plot) if options.plot else None
    if folder:  # before a simulation that may take minutes
        folder.mkdir(parents=True, exist_ok=True)
    outcomes = _run(options, config, function, trace, settings)
    written = report.draw(outcomes, function, folder) if folder else []
    if options.json:
        described = {"trace": trace.name, "duration": trace.duration, "requests": len(trace.arrivals)}
        sys.stdout.write(
            json.dumps(described | {"outcomes": [report.as_json(outcome) for outcome in outcomes]}) + "\n"
        )
        return 0
    console = Console(highlight=False)
    console.print(
        f"{trace.name}: {len(trace.arrivals):,} requests in {trace.duration:,.0f} s,"
        f" {trace.rate:.1f}/s on average;"
        f" a replica can do {function.capacity:.1f}/s within the SLO"
    )
    console.print(report.table(outcomes, function))
    console.print("replica-seconds: wanted, starting ones included")
    console.print("reversals: changes of direction within one start-up time")
    for file in written:
        console.print(f"wrote {file}")
    return 0


def _run(
    options: argparse.Namespace, config: Config, function: Function, trace: Trace, settings: Settings
) -> list[Outcome]:
    experiment = scalers.Experiment(
        trace=trace,
        function=function,
        bounds=Bounds(settings.lowest, settings.highest),
        spec=_spec(options, config),
        interval=config.interval,
        # Reconciles come half a scrape interval after a scrape, the mean delay.
        phase=float(config.prometheus.scrape_interval // 2),
        direct_interval=config.direct_interval,
    )
    chosen = options.policies.split(",") if options.policies else scalers.DEFAULT_POLICIES
    made = [scalers.make(choice.strip(), experiment) for choice in chosen]
    with Console(stderr=True).status("") as status:
        outcomes = []
        for scaler in made:
            status.update(scaler.name)
            outcomes.append(world.run(trace, function, scaler, settings))
    return outcomes


def _spec(options: argparse.Namespace, config: Config) -> Spec:
    spec = config.target(options.function)
    if options.boost is None:
        return spec
    if not 1.0 <= options.boost < inf:
        raise SimulationError(f"--boost {options.boost:g}: must be at least 1")
    return replace(spec, boost=replace(spec.boost, max_factor=options.boost))


def _function(options: argparse.Namespace) -> Function:
    streaming = None if options.stream_pieces is None else _streaming(options)
    if streaming is not None:
        base, plus, per = options.stream_step.partition("+")
        if not plus:
            raise SimulationError(f"--stream-step {options.stream_step}: must be such as 5ms+1ms")
        parts = _numbers("--stream-step", f"{base},{per}")
        service = Service.affine(parts[0], parts[1], options.max_streams)
    elif options.service_table is not None:
        service = Service(tuple(_numbers("--service-table", options.service_table)))
    else:
        parts = _numbers("--service-time", options.service_time)
        if len(parts) != 2:
            raise SimulationError(
                f"--service-time {options.service_time}: must be two durations, such as 20ms,10ms"
            )
        service = Service.affine(parts[0], parts[1], options.max_batch)
    return Function(
        service=service,
        workers=options.workers,
        slo_latency=options.slo_latency,
        slo_objective=options.slo_objective,
        start_up=options.start_up,
        timeout=options.timeout,
        overhead=options.overhead,
        routing=Routing(options.routing),
        speed=_steps("--speed", options.speed, 1.0),
        errors=options.errors,
        streaming=streaming,
    )


def _streaming(options: argparse.Namespace) -> Streaming:
    fewest, _, most = options.stream_pieces.partition(",")
    try:
        pieces = int(fewest), int(most or fewest)
    except ValueError:
        raise SimulationError(
            f"--stream-pieces {options.stream_pieces}: must be one or two whole numbers, such as 20,400"
        ) from None
    return Streaming(options.stream_start, options.slo_interval, *pieces, in_order=options.in_order)


def _numbers(flag: str, text: str) -> list[float]:
    try:
        return [parse_duration(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise SimulationError(f"{flag} {text}: {error}") from None


def _trace(options: argparse.Namespace, config: Config) -> Trace:
    if options.trace is not None:
        return traces.read(Path(options.trace), cv2=options.cv2 or 1.0, seed=options.seed)
    if options.generate is not None:
        return traces.generate(
            options.generate, options.rate, round(options.duration), cv2=options.cv2, seed=options.seed
        )
    return history.read(
        config.prometheus,
        options.function,
        since=options.since,
        end=time.time(),
        cv2=options.cv2 or 1.0,
        seed=options.seed,
    )


def _settings(options: argparse.Namespace, config: Config) -> Settings:
    spec = config.target(options.function)
    return Settings(
        lowest=options.min_replicas or spec.min_replicas,
        highest=options.max_replicas or spec.max_replicas,
        replicas=options.replicas,
        scrape_interval=config.prometheus.scrape_interval,
        window=config.prometheus.window,
        rate_window=config.prometheus.rate_window,
        seed=options.seed,
        boost_delay=options.boost_delay,
        node_cpus=_steps("--node-cpus", options.node_cpus, inf),
    )


def _steps(flag: str, text: str, first: float) -> Steps:
    """Return the steps of ``[NUMBER,]TIME=NUMBER,...``; ``first`` is the number before the first time."""
    later: list[tuple[float, float]] = []
    try:
        for index, part in enumerate(filter(None, text.split(","))):
            time_text, equals, number = part.strip().rpartition("=")
            value = float(number)
            if not equals and index == 0:
                first = value
            else:
                later.append((parse_duration(time_text), value))
    except ValueError as error:
        raise SimulationError(f"{flag} {text}: {error}; must be such as 1,600s=0.5") from None
    if isnan(first) or any(isnan(value) for _, value in later) or later != sorted(later):
        raise SimulationError(f"{flag} {text}: must be numbers at ascending times, such as 1,600s=0.5")
    return Steps(first, tuple(later))


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


def _whole(least: int) -> Callable[[str], int]:
    """Return the type of a flag that takes a whole number from ``least`` on."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or len(text) > MOST_DIGITS or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from {least} to {MOST}")
        return int(text)

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tailbound-simulate",
        description="Simulates a trace under our policies and under the algorithms of other scalers.",
        epilog="Policies, their targets and limits: lab/tailbound_lab/simulate/README.md.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    for flag, metavar, text in _SOURCES:
        source.add_argument(flag, metavar=metavar, help=text)
    for flag, kind, default, shown, text in _OPTIONS:
        parser.add_argument(flag, type=kind, default=default, metavar=shown, help=text)
    routings = [routing.value for routing in Routing]
    parser.add_argument(
        "--routing", choices=routings, default="random", help="choice of the replica [random]"
    )
    parser.add_argument("--in-order", action="store_true", help="start streams by arrival, not by deadline")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser


_SOURCES: Final = (
    ("--trace", "FILE", "requests per second or times of requests: text, CSV, JSON"),
    ("--generate", "KIND", "poisson, gamma, step, ramp, spike, diurnal or on-off"),
    ("--prometheus", "URL", "requests of --function that a live Prometheus has recorded"),
)
_OPTIONS: Final[tuple[tuple[str, Callable[[str], Any], Any, str | None, str], ...]] = (
    ("--since", _duration, 3600.0, "TIME", "with --prometheus: time before now [1h]"),
    ("--rate", float, 100.0, None, "with --generate: requests per second [100]"),
    ("--duration", _duration, 3600.0, "TIME", "with --generate: length [1h]"),
    ("--cv2", float, None, None, "burstiness of arrivals: 1 is Poisson [1; 4 for gamma]"),
    ("--seed", _whole(0), 1, None, "seed of arrivals and routing [1]"),
    ("--config", str, None, "FILE", "the autoscaler's configuration [every default, up to 20 replicas]"),
    ("--function", str, "function.openfaas-fn", "NAME", "name.namespace of the function to configure"),
    ("--policies", str, None, "NAME[:TARGET],...", "to compare [slo, four baselines and the oracle]"),
    ("--service-time", str, "20ms,10ms", "A,C", "service time l(b) = A + C x b [20ms,10ms]"),
    ("--service-table", str, None, "L1,L2,...", "service times l(1), l(2), ... instead"),
    ("--max-batch", int, 32, None, "largest batch [32]"),
    ("--stream-pieces", str, None, "N[,M]", "the function streams: pieces of an answer, or fewest and most"),
    ("--stream-start", _duration, 0.005, "TIME", "time to start one stream [5ms]"),
    ("--stream-step", str, "5ms+1ms", "BASE+PER", "time of a step of n streams, BASE + PER x n [5ms+1ms]"),
    ("--max-streams", _whole(1), 64, "N", "most streams of a worker [64]"),
    ("--slo-interval", _duration, 0.05, "TIME", "target of each piece after the first [50ms]"),
    ("--workers", int, 1, None, "workers of one replica [1]"),
    ("--slo-latency", _duration, 0.2, "TIME", "latency target [200ms]"),
    ("--slo-objective", float, 0.99, None, "share of requests within it [0.99]"),
    ("--start-up", _duration, 10.0, "TIME", "start-up time of a replica [10s]"),
    ("--timeout", _duration, 30.0, "TIME", "time after which a waiting request is lost [30s]"),
    ("--overhead", _duration, 0.0, "TIME", "time of a request outside the replica [0]"),
    ("--errors", float, 0.0, "SHARE", "share of answers that are errors with any count of replicas [0]"),
    ("--speed", str, "", "[X,]TIME=X,...", "speed of the model by nominal, from each time on [1]"),
    ("--boost", float, None, "FACTOR", "up to FACTOR times the CPU while others start [the configuration's]"),
    ("--boost-delay", _duration, 1.0, "TIME", "time until more CPU is in force [1s]"),
    ("--node-cpus", str, "", "[N,]TIME=N,...", "CPUs of all nodes, from each time on [no limit]"),
    ("--replicas", _whole(1), None, None, "replicas at the start [enough for the first half minute]"),
    ("--min-replicas", _whole(1), None, None, "lower bound [the configuration's]"),
    ("--max-replicas", _whole(1), None, None, "upper bound [the configuration's]"),
    ("--plot", str, None, "DIR", "write pareto.png and series.png there"),
)
"""Each option's flag, type, default, metavar and help."""

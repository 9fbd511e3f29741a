"""Performs one real run: starts the platform, offers traffic to functions and twins, returns the outcome.

Builds and starts the parts of a run, and always stops them in reverse order. Traffic and display are
arguments. :mod:`tailbound_lab.load.records` computes the results.
"""

from __future__ import annotations

import asyncio
import gc
import math
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from slo_autoscaler.settings.fields import parse_duration
from tailbound_lab.demo.disturbance import disturbance
from tailbound_lab.demo.twins import TWIN_NAMESPACE, CommunityScaler, twin
from tailbound_lab.demo.watch import Decision, Watch, decisions
from tailbound_lab.load import machine
from tailbound_lab.load.arrivals import Profile, peak
from tailbound_lab.load.generator import Stream, endpoint
from tailbound_lab.load.machine import Usage
from tailbound_lab.load.openloop import TIMEOUT_SECONDS, Lag, Offer, offering
from tailbound_lab.load.records import Comparison, Ledger, RunError, reduce
from tailbound_lab.local.platform import Platform, Settings, open_platform
from tailbound_lab.local.specs import FunctionSpec

_READY_LIMIT = 180.0
_FRAME_INTERVAL = 0.5
_MEASURE_INTERVAL = 1.0
_REQUEST_LIMIT = 2.0
_STOP_GRACE = 2.0
_END_LIMIT = 10.0
_NEVER = 1_000_000
_OBJECTIVE_DEFAULT = 0.99


@dataclass(frozen=True, slots=True)
class Traffic:
    """The traffic of one function: requests per second at the base and at the peak, and their bodies."""

    function: str
    base: float
    peak: float
    bodies: tuple[bytes, ...]
    content_type: str
    begin: float
    """When the peak begins, as a share of the run."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a run, described in the command line's help."""

    stack: Path
    out: Path
    duration: float
    seed: int
    traffic: tuple[Traffic, ...]
    with_twins: bool = True
    rate: float = 1.0
    boost: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of a run, with the data that show their validity."""

    comparisons: tuple[Comparison, ...]
    duration: float
    seed: int
    lag: Lag
    host: str
    usage: tuple[Usage, ...]
    """Of each second."""
    decisions: tuple[Decision, ...]
    finished: str

    @property
    def met(self) -> bool:
        """Whether every function met its SLO under Tailbound."""
        return bool(self.comparisons) and all(item.met for item in self.comparisons)

    @property
    def disturbance(self) -> str:
        """What disturbed the run, as sentences; empty: nothing did."""
        tightest = min((item.slo for item in self.comparisons), default=math.inf)
        return disturbance(self.usage, self.lag, tightest)


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployed function with its traffic: one of Tailbound's, or a twin."""

    spec: FunctionSpec
    traffic: Traffic
    profile: Profile
    seed: int
    ledger: Ledger
    objective: float

    @property
    def is_twin(self) -> bool:
        """Whether it is served and scaled as by OpenFaaS CE."""
        return self.spec.namespace == TWIN_NAMESPACE


class Display(Protocol):
    """The display of a run."""

    def started(self, platform: Platform) -> None:
        """Show that every replica is ready and traffic begins."""

    def update(self, elapsed: float, deployed: Sequence[Deployed]) -> None:
        """Show the progress in seconds and the present ledgers; called twice a second."""


async def run(options: Options, display: Display) -> Outcome:
    """Run and return the outcome; :class:`RunError` and ``PlatformError`` have a message for the user."""
    settings = Settings(
        stack=options.stack,
        only=frozenset(item.function for item in options.traffic),
        port=0,
        prometheus_port=0,
        baseline_rules=options.with_twins,
        cpu_limits=options.boost,
        run_dir=options.out / "run",
        stop_grace=_STOP_GRACE,
    )
    async with open_platform(settings) as platform:
        deployed = _deploy(platform, options)
        await _ready(platform)
        display.started(platform)
        with _without_full_collections():
            return await _traffic(platform, deployed, options, display)


def _deploy(platform: Platform, options: Options) -> list[Deployed]:
    """Pair the deployed functions with their traffic, and deploy the requested twins."""
    specs = {function.spec.name: function.spec for function in platform.registry}
    missing = [item.function for item in options.traffic if item.function not in specs]
    if missing:
        raise RunError(f"{options.stack}: there is traffic for {', '.join(missing)}, which it lacks")
    deployed: list[Deployed] = []
    for index, item in enumerate(options.traffic):
        spec = specs[item.function]
        try:
            slo = parse_duration(spec.env_vars["slo_latency"])
            objective = float(spec.env_vars.get("slo_objective", _OBJECTIVE_DEFAULT))
        except (KeyError, ValueError) as error:
            raise RunError(
                f"{options.stack}: {item.function}: slo_latency, slo_objective: {error}"
            ) from error
        rates = item.base * options.rate, item.peak * options.rate
        profile = peak(*rates, options.duration, item.begin)
        seed = options.seed * 1000 + index
        specs_served = [spec]
        if options.with_twins:
            specs_served.append(twin(spec))
            platform.registry.deploy(specs_served[-1])
        deployed += [
            Deployed(
                served, traffic=item, profile=profile, seed=seed, ledger=Ledger(slo), objective=objective
            )
            for served in specs_served
        ]
    return deployed


async def _ready(platform: Platform) -> None:
    """Return when every replica is ready; raise :class:`RunError` with those that take too long."""
    try:
        async with asyncio.timeout(_READY_LIMIT):
            await platform.settled()
    except TimeoutError:
        late = [f.spec.full_name for f in platform.registry if f.available < f.desired]
        raise RunError(
            f"not ready after {_READY_LIMIT:.0f} s: {', '.join(late)}; the logs in {platform.log_dir} say why"
        ) from None


async def _traffic(
    platform: Platform, deployed: Sequence[Deployed], options: Options, display: Display
) -> Outcome:
    """Offer the traffic, watch, scale the twins; return when every request has ended."""
    usage: list[Usage] = []
    metrics = platform.prometheus_url or ""
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_REQUEST_LIMIT)) as session,
        offering([_stream(platform.gateway_url, item) for item in deployed]) as traffic,
    ):
        begun = await traffic.begun()

        def elapsed() -> float:
            return time.monotonic() - begun

        ledgers = {item.spec.full_name: item.ledger for item in deployed}
        functions = {function.spec.full_name: function for function in platform.registry}
        twins = [functions[item.spec.full_name] for item in deployed if item.is_twin]

        def counts(name: str) -> tuple[int, int]:
            return functions[name].desired, functions[name].available

        companions = [
            Watch(session, metrics, ledgers, counts).run(elapsed),
            CommunityScaler(session, metrics, platform.registry, twins).run(),
            _show(display, deployed, elapsed),
            _measure(usage),
        ]
        lag = await _offered(traffic, list(ledgers.values()), options.duration, companions)
    return Outcome(
        comparisons=tuple(_comparisons(deployed, options.duration)),
        duration=options.duration,
        seed=options.seed,
        lag=lag,
        host=machine.describe(),
        usage=tuple(usage),
        decisions=decisions(
            (platform.log_dir / "autoscaler.log").read_text(errors="replace").splitlines(),
            # The log tells the time of day; the run counts on the monotonic clock.
            datetime.now(UTC) - timedelta(seconds=elapsed()),
            options.duration,
        ),
        finished=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    )


async def _offered(
    traffic: Offer,
    ledgers: Sequence[Ledger],
    duration: float,
    companions: Sequence[Coroutine[Any, Any, None]],
) -> Lag:
    """Read the records of the traffic while ``companions`` run; return when every request has ended.

    Companions never end by themselves: an error of one is raised. Raises :class:`RunError` if the traffic has
    not ended long after its duration.
    """
    reading = asyncio.create_task(traffic.read(ledgers))
    running: set[asyncio.Task[Any]] = {reading, *map(asyncio.create_task, companions)}
    limit = duration + TIMEOUT_SECONDS + _END_LIMIT
    try:
        ended, _ = await asyncio.wait(running, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
        if not reading.done():
            raise RunError(f"the load generator has not ended after {limit:.0f} s")
        return reading.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@contextmanager
def _without_full_collections() -> Iterator[None]:
    """Keep the garbage collector's full collections out of the block.

    The gateway shares this process. With the thousands of requests of an overloaded twin, one such collection
    stops it for 80 to 150 ms, which would distort the run.
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(thresholds[0], thresholds[1], _NEVER)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


def _comparisons(deployed: Sequence[Deployed], duration: float) -> Iterator[Comparison]:
    twins = {item.spec.name: item for item in deployed if item.is_twin}
    for item in deployed:
        if item.is_twin:
            continue
        other = twins.get(item.spec.name)
        yield Comparison(
            function=item.spec.name,
            slo=item.ledger.slo,
            objective=item.objective,
            offered=tuple(item.profile.rate(second + 0.5) for second in range(int(duration))),
            tailbound=reduce(item.ledger, duration),
            baseline=reduce(other.ledger, duration) if other else None,
        )


def _stream(gateway: str, item: Deployed) -> Stream:
    headers = (("Content-Type", item.traffic.content_type),)
    there = endpoint(f"{gateway}/function/{item.spec.full_name}", item.traffic.bodies, headers)
    return Stream(there, item.profile, item.seed, item.ledger.slo)


async def _measure(usage: list[Usage]) -> None:
    before = machine.read()
    while True:
        await asyncio.sleep(_MEASURE_INTERVAL)
        after = machine.read()
        usage.append(machine.usage(before, after))
        before = after


async def _show(display: Display, deployed: Sequence[Deployed], elapsed: Callable[[], float]) -> None:
    while True:
        display.update(max(0.0, elapsed()), deployed)
        await asyncio.sleep(_FRAME_INTERVAL)

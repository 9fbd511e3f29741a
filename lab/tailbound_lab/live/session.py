"""One run of the demo: platform up, twins beside the functions, traffic for both, results.

The composition root of the demo: it builds the parts, starts them, and takes them down in reverse order
whatever happens. It measures nothing itself; :mod:`tailbound_lab.load.records` says what came out.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp

from tailbound_lab.demo.table import BASELINE, TAILBOUND, Display, Frame, row
from tailbound_lab.demo.traffic import TRAFFIC, TWIN_NAMESPACE, Traffic
from tailbound_lab.live import machine
from tailbound_lab.live.decisions import Decision, parse
from tailbound_lab.live.machine import Usage
from tailbound_lab.live.twins import Bounds, CommunityScaler
from tailbound_lab.live.watch import Watch
from tailbound_lab.load import openloop as load
from tailbound_lab.load.arrivals import Profile, peak, phase
from tailbound_lab.load.openloop import Lag, Stream, Target
from tailbound_lab.load.records import Comparison, DemoError, Ledger, reduce
from tailbound_lab.load.sender import sending
from tailbound_lab.local.errors import PlatformError
from tailbound_lab.local.platform import Platform, Settings, open_platform
from tailbound_lab.local.specs import FunctionSpec

_READY_LIMIT = 60.0
_FRAME_INTERVAL = 0.5
_ASK_LIMIT = 2.0
_STOP_GRACE = 2.0
_END_LIMIT = 10.0
_NEVER = 1_000_000
_OBJECTIVE_DEFAULT = 0.99
_TWIN_ENVIRONMENT = {"batch_policy": "unbatched", "workers": "1", "worker_threads": "1"}
"""One request at a time in one worker; everything else, the SLO too, as the function has it.

One thread, because the threads of a single request would spin on the cores that the others are measured on.
"""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run: see the command line's help for each."""

    stack: Path
    out: Path
    duration: float
    seed: int
    with_twins: bool = True
    rate: float = 1.0
    traffic: tuple[Traffic, ...] = TRAFFIC


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came out of a run, with what the reader must know to believe it."""

    comparisons: tuple[Comparison, ...]
    duration: float
    seed: int
    lag: Lag
    gaps: tuple[tuple[str, int], ...]
    host: str
    usage: Usage | None
    load_before: float
    decisions: tuple[Decision, ...]
    finished: str

    @property
    def met(self) -> bool:
        """Whether every function met its SLO under Tailbound."""
        return bool(self.comparisons) and all(item.met for item in self.comparisons)


@dataclass(frozen=True, slots=True)
class _Lane:
    """A deployed function with its traffic: one of Tailbound's, or a twin."""

    spec: FunctionSpec
    traffic: Traffic
    profile: Profile
    seed: int
    ledger: Ledger
    objective: float

    @property
    def is_twin(self) -> bool:
        return self.spec.namespace == TWIN_NAMESPACE


async def run(options: Options, display: Display, on_outcome: Callable[[Outcome], None]) -> Outcome:
    """Run the demo and return its outcome; ``on_outcome`` runs in a thread while the platform stops.

    Raises :class:`DemoError` or ``PlatformError`` with a message for the user.
    """
    settings = Settings(
        stack=options.stack,
        port=0,
        prometheus_port=0,
        baseline_rules=options.with_twins,
        any_autoscaler_port=True,
        run_dir=options.out / "run",
        stop_grace=_STOP_GRACE,
    )
    display.say("Starting the platform, Prometheus, the autoscaler and the functions ...")
    async with open_platform(settings) as platform:
        lanes = _deploy_lanes(platform, options)
        await ready(platform)
        _say_where(display, platform, options)
        with without_full_collections():
            outcome = await _traffic(platform, lanes, options, display)
        # The page takes a second or two, and so does stopping: together they take no longer.
        finishing = asyncio.create_task(asyncio.to_thread(on_outcome, outcome))
    await finishing
    return outcome


def _deploy_lanes(platform: Platform, options: Options) -> list[_Lane]:
    """Pair the deployed functions with their traffic and deploy a twin for those that shall have one."""
    specs = {function.spec.name: function.spec for function in platform.registry}
    missing = [item.function for item in options.traffic if item.function not in specs]
    if missing:
        raise DemoError(f"{options.stack}: the demo has traffic for {', '.join(missing)}, which it lacks")
    platform.registry.put_namespace(TWIN_NAMESPACE, {}, {})
    lanes: list[_Lane] = []
    for index, item in enumerate(options.traffic):
        spec = specs[item.function]
        environment = spec.env_vars
        try:
            slo = load.parse_duration(environment["slo_latency"])
            objective = float(environment.get("slo_objective", _OBJECTIVE_DEFAULT))
        except (KeyError, ValueError) as error:
            raise DemoError(
                f"{options.stack}: {item.function}: slo_latency, slo_objective: {error}"
            ) from error
        profile = peak(item.base * options.rate, item.peak * options.rate, options.duration)
        lane = _Lane(spec, item, profile, options.seed * 1000 + index, Ledger(slo), objective)
        lanes.append(lane)
        if item.twin and options.with_twins:
            twin = replace(spec, namespace=TWIN_NAMESPACE, env_vars={**environment, **_TWIN_ENVIRONMENT})
            platform.deploy(twin)
            lanes.append(replace(lane, spec=twin, ledger=Ledger(slo)))
    return lanes


def explain(options: Options) -> str:
    """The command that explains what was decided for the first function, without its source."""
    program = os.path.relpath(Path(sys.executable).with_name("slo-autoscaler"))
    return f"{program} explain {options.traffic[0].function}"


def _say_where(display: Display, platform: Platform, options: Options) -> None:
    """Say where the reasons are, while it runs."""
    if platform.page_url is not None:
        display.say(f"Every function, its replicas and why, while this runs: {platform.page_url}/")
    display.say(f"In words: {explain(options)} --url {platform.autoscaler_url}")


async def ready(platform: Platform) -> None:
    """Return when every replica is ready; raise :class:`DemoError` that names those which take too long."""
    try:
        async with asyncio.timeout(_READY_LIMIT):
            await platform.settled()
    except TimeoutError:
        late = [f.spec.full_name for f in platform.registry if f.available < f.desired]
        raise DemoError(
            f"not ready after {_READY_LIMIT:.0f} s: {', '.join(late)}; the logs in {platform.log_dir} say why"
        ) from None


async def _traffic(platform: Platform, lanes: Sequence[_Lane], options: Options, display: Display) -> Outcome:
    """Offer the traffic, watch, scale the twins; return when every request has ended."""
    ticks, load_before = machine.cpu_ticks(), os.getloadavg()[0]
    timeout = aiohttp.ClientTimeout(total=_ASK_LIMIT)
    metrics = platform.prometheus_url or ""
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        sending([_stream(platform.gateway_url, lane) for lane in lanes]) as sender,
    ):
        begun = await sender.begun()

        def elapsed() -> float:
            return time.monotonic() - begun

        ledgers = {lane.spec.full_name: lane.ledger for lane in lanes}
        watch = Watch(session, platform.gateway_url, metrics, ledgers)
        twins = {lane.spec.full_name: Bounds.from_labels(lane.spec.labels) for lane in lanes if lane.is_twin}
        baseline = CommunityScaler(session, platform.gateway_url, metrics, twins)
        companions = [
            asyncio.create_task(watch.run(elapsed), name="watch"),
            asyncio.create_task(baseline.run(), name="baseline"),
            asyncio.create_task(_show(display, lanes, options.duration, elapsed), name="table"),
        ]
        reading = asyncio.create_task(sender.read([lane.ledger for lane in lanes]), name="records")
        running: set[asyncio.Task[Any]] = {reading, *companions}
        try:
            limit = options.duration + load.GIVE_UP_AFTER + _END_LIMIT
            ended, _ = await asyncio.wait(running, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if not ended:
                raise DemoError(f"the load generator has not ended after {limit:.0f} s")
            for task in companions:
                if task.done():
                    task.result()  # They never end by themselves: this raises what ended it.
            lag = reading.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    return Outcome(
        comparisons=tuple(_comparisons(lanes, options.duration)),
        duration=options.duration,
        seed=options.seed,
        lag=lag,
        gaps=tuple(sorted(watch.gaps.items())),
        host=machine.describe(),
        usage=machine.usage(ticks, machine.cpu_ticks()),
        load_before=load_before,
        decisions=await asyncio.to_thread(
            _decisions,
            platform.log_dir / "autoscaler.log",
            # The log tells the time of day; the run counts on the monotonic clock.
            datetime.now(UTC) - timedelta(seconds=time.monotonic() - begun),
            options.duration,
        ),
        finished=time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    )


def _decisions(log: Path, begun: datetime, duration: float) -> tuple[Decision, ...]:
    try:
        return parse(log.read_text(errors="replace").splitlines(), begun, duration)
    except OSError:
        return ()


@contextmanager
def without_full_collections() -> Iterator[None]:
    """Keep the garbage collector's full collections out of the block.

    The gateway face shares this process; with the thousands of requests that an overloaded twin holds, one
    such collection stops it for 80 to 150 ms, which would be the demo's own doing.
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


def _comparisons(lanes: Sequence[_Lane], duration: float) -> list[Comparison]:
    twins = {lane.spec.name: lane for lane in lanes if lane.is_twin}
    found: list[Comparison] = []
    for lane in lanes:
        if lane.is_twin:
            continue
        twin = twins.get(lane.spec.name)
        found.append(
            Comparison(
                function=lane.spec.name,
                slo=lane.ledger.slo,
                objective=lane.objective,
                offered=tuple(lane.profile.rate(second + 0.5) for second in range(int(duration))),
                tailbound=reduce(lane.ledger, duration),
                baseline=reduce(twin.ledger, duration) if twin else None,
            )
        )
    return found


def _stream(gateway: str, lane: _Lane) -> Stream:
    target = Target(
        f"{gateway}/function/{lane.spec.full_name}",
        lane.traffic.bodies(),
        (("Content-Type", lane.traffic.content_type),),
    )
    return Stream(target, lane.profile, lane.seed)


async def _show(
    display: Display, lanes: Sequence[_Lane], duration: float, elapsed: Callable[[], float]
) -> None:
    while True:
        now = elapsed()
        rows = tuple(
            row(
                lane.spec.name,
                BASELINE if lane.is_twin else TAILBOUND,
                lane.ledger,
                objective=lane.objective,
                rate=lane.profile.rate(max(0.0, now)),
                elapsed=now,
            )
            for lane in lanes
        )
        part = phase(now, duration) if now < duration else "last answers"
        display.update(Frame(max(0.0, now), duration, part, rows))
        await asyncio.sleep(_FRAME_INTERVAL)


__all__ = ["DemoError", "Options", "Outcome", "PlatformError", "ready", "run", "without_full_collections"]

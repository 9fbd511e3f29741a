"""Builds the autoscaler from its configuration, runs it, stops it.

Exit statuses: 0 stopped by SIGTERM or SIGINT, or ``--once`` succeeded; 1 ``--once`` could not reach
Prometheus or the gateway; 2 the configuration or the command line is wrong.
"""

import argparse
import gc
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry

from slo_autoscaler import __version__, logs
from slo_autoscaler.config import OVERRIDES, Config, read_config
from slo_autoscaler.errors import ConfigError
from slo_autoscaler.loop.controller import Clocks, Controller
from slo_autoscaler.platforms import Booster, build
from slo_autoscaler.platforms.leader import Alone, Leader
from slo_autoscaler.settings.fields import MODES, REMOVED, Mode
from slo_autoscaler.show.journal import Journal
from slo_autoscaler.show.metrics import Metrics
from slo_autoscaler.show.web.listener import create_app
from slo_autoscaler.show.web.probes import Probes
from slo_autoscaler.show.web.server import Server
from slo_autoscaler.signals.direct import Direct
from slo_autoscaler.signals.further import WithFurther
from slo_autoscaler.signals.prometheus import PrometheusSource
from slo_autoscaler.signals.source import Source

if TYPE_CHECKING:
    from slo_autoscaler.show.web.page import Page

logger = logging.getLogger(__name__)

MAX_MODE_VARIABLE: Final = "SLO_AUTOSCALER_MAX_MODE"

LOG_FORMAT_VARIABLE: Final = "SLO_AUTOSCALER_LOG_FORMAT"

DECISION_LOG_VARIABLE: Final = "SLO_AUTOSCALER_DECISION_LOG"

GC_THRESHOLD: Final = 1_000_000
"""New objects that start a collection of cycles. A reconcile of 10,000 functions makes half as many, almost
all in no cycle. With Python's 700, collection took half a reconcile, with 100,000 a sixth."""
GC_SECONDS: Final = 300.0
"""Time between two collections, so that the cycles of a small fleet do not wait for so many objects."""


def main(arguments: Sequence[str] | None = None, epilog: str = "") -> int:
    """Run the command; return its exit status. ``epilog`` ends its help text."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        _refuse_removed(words, os.environ)
        flags = _parser(epilog).parse_args(words)
        logs.set_up(_log_format(flags, os.environ))
        config = load(flags, os.environ)
        collect_seldom()
        log = flags.decision_log or os.environ.get(DECISION_LOG_VARIABLE) == "true"
        most = _max_mode(flags, os.environ)
        return run(config, once=flags.once, most=most, decision_log=log)
    except ConfigError as error:
        for line in error.lines:
            sys.stderr.write(f"slo-autoscaler: {line}\n")
        return 2


def _refuse_removed(words: Sequence[str], environ: Mapping[str, str]) -> None:
    named = [*(word.partition("=")[0] for word in words), *environ]
    lines = [f"{name} {REMOVED[name]}" for name in named if name in REMOVED]
    if lines:
        raise ConfigError(lines)


def _log_format(flags: argparse.Namespace, environ: Mapping[str, str]) -> str:
    found = flags.log_format or environ.get(LOG_FORMAT_VARIABLE) or logs.FORMATS[0]
    if found not in logs.FORMATS:
        raise ConfigError([f"{LOG_FORMAT_VARIABLE}: {found!r} must be one of {', '.join(logs.FORMATS)}"])
    return str(found)


def _max_mode(flags: argparse.Namespace, environ: Mapping[str, str]) -> Mode:
    found = flags.max_mode or environ.get(MAX_MODE_VARIABLE) or MODES[0]
    mode = next((known for known in MODES if known == found), None)
    if mode is None:
        raise ConfigError([f"{MAX_MODE_VARIABLE}: {found!r} must be one of {', '.join(MODES)}"])
    return mode


def load(flags: argparse.Namespace, environ: Mapping[str, str]) -> Config:
    """Return the configuration of the file, with flags and environment variables laid over it."""
    overrides: dict[str, object] = {}
    for flag, (key, variable) in OVERRIDES.items():
        value = getattr(flags, flag) or environ.get(variable)
        if value:
            overrides[key] = value
    return read_config(flags.config, overrides)


def run(
    config: Config,
    *,
    once: bool,
    most: Mode = "active",
    decision_log: bool = False,
) -> int:
    """Build every part after those that it needs, and reconcile; return the exit status.

    No function's mode exceeds ``most``. With ``leader`` in the configuration only one of several autoscalers
    acts. ``decision_log``: whether decisions go to stdout, too.
    """
    # The listeners close last, so that a slow page does not delay giving up the leadership.
    with ExitStack() as serving, ExitStack() as closing:
        leader = _leader(config, most)
        closing.callback(leader.close)
        metrics = Metrics(CollectorRegistry(), config.identity)
        writer = leader if most == "active" else Alone(leads=False)
        platform = build(config.platform, writer, config.modes(most))
        closing.callback(platform.close)
        booster = None if once or most != "active" else _booster(config, leader)
        if booster is not None:
            closing.callback(booster.close)
        source = PrometheusSource(config.prometheus, config.gateway_slos(), identity=config.identity)
        closing.callback(source.close)
        direct = None
        if config.direct_interval is not None and not once:
            direct = Direct(source, config.direct_interval, platform.watchdogs)
            closing.callback(direct.close)
        observed: Source = source
        if config.further().queries:
            observed = further = WithFurther(source, config.prometheus, config.further())
            closing.callback(further.close)
        controller = Controller(
            config,
            observed,
            platform,
            metrics=metrics,
            journal=Journal(),
            leader=leader,
            emit=_emit if decision_log else _ignore,
            clocks=Clocks(time.monotonic, lambda: datetime.now(UTC)),
            direct=direct,
            booster=booster,
        )
        closing.callback(controller.close)
        if once:
            return 0 if controller.reconcile() else 1

        app = create_app(metrics.registry, controller.alive, controller, metrics.desired)
        web = Server("web", app, config.web.host, config.web.port)
        serving.callback(web.stop)
        probes, page = _probes(config, controller), _page(config, controller)
        stop = _stop_on_signals()
        web.start()
        for listener in (probes, page):
            if listener is not None:
                serving.callback(listener.stop)
                listener.start()
        logger.info(
            "slo-autoscaler %s: %s, every %gs; /metrics, /healthz and /decisions on %s%s%s",
            __version__,
            config.platform.place,
            config.interval,
            web.address,
            "" if page is None else f"; status page on {page.url}",
            "" if most == "active" else f"; no function's mode exceeds {most}",
        )
        if direct is not None:
            direct.start(controller.boost)
        controller.run(stop)
        logger.info("stopped")
        return 0


def _probes(config: Config, controller: Controller) -> Probes | None:
    """Return the listener for probes, or None if none is configured or its port is taken."""
    if config.web.probe_port is None:
        return None
    try:
        return Probes(config.web.host, config.web.probe_port, controller.alive)
    except ConfigError as error:
        logger.warning("%s; /healthz is on web.port only", error)
        return None


def _page(config: Config, controller: Controller) -> "Page | None":
    """Return the status page, or None if none is configured or its port is taken: scaling needs no page."""
    if config.web.page_port is None:
        return None
    # Imported here, so that an autoscaler without a page does not load Flask.
    from slo_autoscaler.show.web.page import Page  # noqa: PLC0415 - see above

    try:
        return Page(config, controller, controller.alive)
    except ConfigError as error:
        logger.warning("%s; running without the status page", error)
        return None


def _leader(config: Config, most: Mode) -> Leader:
    """Return the lease, or no election, which decides whether this autoscaler acts."""
    # A trial must not keep the lease from an autoscaler that would act.
    if config.leader is None or most in {"shadow", "off"}:
        return Alone()
    # Imported only if configured: the Kubernetes client is large.
    leader: Leader = importlib.import_module("slo_autoscaler.kube.lease").LeaseLeader(
        config.leader.lease, config.platform.cluster
    )
    return leader


def _booster(config: Config, leader: Leader) -> Booster | None:
    """Return the resizing of pods, or None without the Kubernetes API.

    Without a boost in the configuration, too: an earlier configuration may have left pods boosted.
    """
    platform = config.platform
    boosts = [spec.boost for spec in (config.defaults, *config.functions.values())]
    wanted = any(max(boost.max_factor, boost.start_up_factor) > 1.0 for boost in boosts)
    if not (platform.on_kubernetes or config.leader is not None or wanted):
        return None
    resizer = importlib.import_module("slo_autoscaler.kube.resize").Resizer
    try:
        booster: Booster = resizer(
            *(platform.cluster, platform.namespaces, leader.leads),
            timeout=platform.timeout,
            concurrency=platform.concurrency,
            wanted=wanted,
        )
    except ConfigError as error:
        logger.warning("boost: no pod can be boosted: %s", error)
        return None
    return booster


def collect_seldom() -> None:
    """Collect cycles every ``GC_SECONDS``; objects in no cycle are freed at once, as before."""
    gc.set_threshold(GC_THRESHOLD)
    threading.Thread(target=_collect, name="collect", daemon=True).start()


def _collect() -> None:
    while True:
        time.sleep(GC_SECONDS)
        gc.collect()


def _stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set; a second one ends the process at once."""
    stop = threading.Event()

    def record(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, record)
    return stop


def _ignore(_line: str) -> None:
    """Write nothing."""


def _emit(line: str) -> None:
    """Write one decision to stdout. Scaling goes on after the reader of stdout has gone."""
    try:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    except OSError as error:
        logger.warning("decision log: cannot write to stdout: %s; scaling goes on without it", error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser(epilog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="slo-autoscaler",
        description="Sizes functions so that they meet their latency SLO.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="read the YAML configuration in FILE")
    parser.add_argument("--once", action="store_true", help="reconcile once and exit")
    most = parser.add_mutually_exclusive_group()
    most.add_argument(
        "--dry-run",
        dest="max_mode",
        action="store_const",
        const="shadow",
        help="decide and log, but never scale; the same as --max-mode shadow",
    )
    most.add_argument(
        "--max-mode",
        choices=MODES,
        help="limit the mode of every function, whatever its label and the configuration say;"
        f" recommend and shadow write nothing (or set {MAX_MODE_VARIABLE}) [{MODES[0]}]",
    )
    parser.add_argument(
        "--log-format",
        choices=logs.FORMATS,
        help="set the format of the log on stderr, which has a sentence for each change"
        f" (or set {LOG_FORMAT_VARIABLE}) [{logs.FORMATS[0]}]",
    )
    parser.add_argument(
        "--decision-log",
        action="store_true",
        help="write every decision with its numbers to stdout, one line of JSON each"
        f" (or set {DECISION_LOG_VARIABLE}=true)",
    )
    for flag, (key, variable) in OVERRIDES.items():
        parser.add_argument(
            f"--{flag.replace('_', '-')}", metavar="VALUE", help=f"override {key} (or set {variable})"
        )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser

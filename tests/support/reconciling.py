"""A controller in virtual time on a recorded source and a gateway over real sockets."""

import json
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry

from slo_autoscaler.config import Config
from slo_autoscaler.errors import SourceError
from slo_autoscaler.loop.controller import Clocks, Controller
from slo_autoscaler.platforms import Range
from slo_autoscaler.platforms.leader import Alone
from slo_autoscaler.platforms.openfaas import OpenFaas
from slo_autoscaler.show.journal import Journal
from slo_autoscaler.show.metrics import Metrics
from slo_autoscaler.signals.source import Load
from support.builders import MINIMAL, seen


class Recording:
    """A recording, one observation for each reconcile, then no answer; an error as ``past`` is raised."""

    def __init__(self, reconciles, past):
        self.left = iter(reconciles)
        self.past = past or {}
        self.spans = []

    def observe(self):
        for recorded in self.left:
            return recorded
        raise SourceError("the recording has ended")

    def earlier(self, ages, span):
        return {}

    def history(self, span):
        self.spans.append(span)
        if isinstance(self.past, Exception):
            raise self.past
        return self.past


class Read:
    """Load that is read directly: what the test says."""

    def __init__(self):
        self.load = {}
        self.told = {}
        """What the replicas' pages tell."""
        self.watched = frozenset()

    def watch(self, function_names):
        self.watched = function_names

    def loads(self):
        return {name: Load(rate, 0.0, self.told.get(name)) for name, rate in self.load.items()}


class Boosted:
    """A booster: what function ``a`` may have, as the test says, and what it was last asked for."""

    def __init__(self, label=None, most=10.0):
        self.able = {A: Range(label, most)}
        self.pods = {}
        self.boosts = None

    def ranges(self):
        return self.able

    def boosting(self):
        return self.pods

    def boost(self, boosts):
        self.boosts = boosts


class Bench:
    """A controller whose parts are at hand, in virtual time: 5 s for each reconcile."""

    def __init__(
        self, gateway, *reconciles, most="active", leader=None, past=None, reads=True, boost=(), **settings
    ):
        overrides = {"platform.gateway_url": gateway.url, **settings}
        self.config = Config.parse(MINIMAL, "test", overrides)
        self.platform = OpenFaas(self.config.platform, Alone(), self.config.modes(most))
        self.metrics = Metrics(CollectorRegistry())
        self.lines = []
        self.source = Recording(reconciles, past)
        self.direct = Read() if reads else None
        self.now = 100.0
        self.wall = datetime(2026, 1, 2, tzinfo=UTC)
        self.controller = Controller(
            self.config,
            self.source,
            self.platform,
            metrics=self.metrics,
            journal=Journal(),
            leader=leader or Alone(),
            emit=lambda line: self.lines.append(json.loads(line)),
            clocks=Clocks(lambda: self.now, lambda: self.wall),
            direct=self.direct,
            **dict(boost),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.controller.close()
        self.platform.close()

    def reconcile(self):
        self.now += 5.0
        return self.controller.reconcile()

    def scale_up_between(self, seconds=1.0):
        self.now += seconds
        self.controller.scale_up_between()

    def errors(self, where):
        return self.value("slo_autoscaler_errors_total", stage=where)

    def value(self, series, **labels):
        return self.metrics.registry.get_sample_value(series, labels)

    def about(self, name="a.openfaas-fn"):
        return [line for line in self.lines if line["function_name"] == name]

    def times(self, count):
        return [self.reconcile() for _ in range(count)]


BUSY = seen(rate=330.0, burn_short=1.0)


CALM = seen(rate=70.0, up_replicas=1.0)


A, B = "a.openfaas-fn", "b.openfaas-fn"


MODE = "com.tailbound.mode"


TRIPLE = {"defaults.boost.max_factor": 3.0}


def boost_of(bench):
    """Return factor and maximum, as exported."""
    return tuple(
        bench.value(f"slo_autoscaler_boost_{each}", function_name=A) for each in ("factor", "max_factor")
    )


class Turns(Alone):
    """A leader that leads when it is told to."""

    def __init__(self, *turns):
        self.turns = list(turns)

    def leads(self):
        return self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]


SHADOW = {"functions": {A: {"mode": "shadow"}}}


def desired(bench, name=A):
    return bench.value("slo_autoscaler_desired_replicas", function_name=name)

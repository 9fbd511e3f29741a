"""An outcome with everything in it: a peak, misses, gaps, a function with a twin and one without."""

from tailbound_lab.live.machine import Usage
from tailbound_lab.live.session import Outcome
from tailbound_lab.live.watch import Decision
from tailbound_lab.load.openloop import Lag
from tailbound_lab.load.records import TIMED_OUT, Comparison, Ledger, Record, Sample, reduce

DURATION = 10


def ledger(*, slo=0.1, latency=0.02, misses=0, replicas=(1, 2, 1)):
    found = Ledger(slo)
    for i in range(100):
        found.add(Record(i / 10, latency, 200))
    for i in range(misses):
        found.add(Record(i / 10, 10.0, TIMED_OUT))
    found.samples += [Sample(i * 3.0, count, count, 1.5, 0) for i, count in enumerate(replicas)]
    return found


def comparison(function="tabular", *, twin=True, **ours):
    return Comparison(
        function=function,
        slo=0.1,
        objective=0.99,
        offered=(10.0,) * DURATION,
        tailbound=reduce(ledger(**ours), DURATION),
        baseline=reduce(ledger(latency=0.4, misses=30, replicas=(1, None, 2)), DURATION) if twin else None,
    )


def outcome(*comparisons, lag=0.001):
    return Outcome(
        comparisons=comparisons or (comparison(), comparison("vision <b>", twin=False)),
        duration=DURATION,
        seed=7,
        lag=Lag(0.0001, 0.0005, lag, 0.01),
        gaps=(("replicas", 2),),
        host="2 cores (a processor)",
        usage=Usage(0.5, 0.01),
        load_before=0.25,
        decisions=(Decision(4, "tabular.openfaas-fn", 1, 2, "LoadAboveCapacity"),),
        finished="2026-01-01 00:00:00 UTC",
    )

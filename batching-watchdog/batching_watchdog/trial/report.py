"""Turns the measurements of a handler into a report for people or a document for machines. [P]

Owns the words and the choice of the next step. ``measure`` fills in the numbers, in seconds, bytes and
requests per second; the document has them by their names here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from batching_watchdog.engine.capacity import CpuCost, Mix, sustained
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.tuning import TUNING

SHOWN_BYTES: Final = 60
"""Bytes of an answer's body that the report shows."""
SHOWN_SIZES: Final = 9
"""Maximum columns of the table of batches."""
TARGETS: Final = tuple(
    round(step * 10.0**power, 4) for power in range(-2, 2) for step in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
)
"""Targets that a report may recommend, in seconds."""
BUSY: Final = 1.5
"""Runnable processes per CPU from which the report calls the machine busy."""
PAYS: Final = 0.8
"""Time per request in the best batch, over that of a request alone, below which batches pay."""
AGAIN: Final = "measure again on an idle machine: on this one nothing is on time"
DEPLOY: Final = "deploy it: faas-cli up, or on this machine local-openfaas up --stack FILE"


@dataclass(frozen=True, slots=True)
class Cost:
    """Mean time in seconds that a worker takes for ``size`` requests or streams together."""

    size: int
    seconds: float

    @property
    def per_request(self) -> float:
        """Seconds for one of them."""
        return self.seconds / self.size


@dataclass(frozen=True, slots=True)
class Promise:
    """The requests per second that one replica serves within a latency target, in seconds."""

    slo_latency: float
    rate: float
    """0: it cannot meet the objective at any rate."""
    batch_size: float
    """Mean size of the batches at that rate."""


@dataclass(frozen=True, slots=True)
class BatchMeasurements:
    """Measurements of a function that answers whole."""

    batched: bool
    """Whether the handler defines handle_batch, not handle alone."""
    split: bool
    """Whether a batch failed although its parts did not."""
    batches: Sequence[Cost]
    """Of the first example, ascending by size; at least one."""
    total_seconds: float
    """Latency for the client of a request alone."""
    queue_seconds: float
    worker_seconds: float
    """From sending the batch to a worker to its reply."""
    requests_per_second: float
    """Within slo_latency, for the mix of all examples."""
    batch_size: float
    uniform_requests_per_second: float
    """If all requests are like the first example."""
    enough: Promise | None
    """Within the shortest of ``TARGETS`` with half of the highest rate; None if none can be met."""

    @property
    def best(self) -> Cost:
        """The batch with the best throughput; of those as good, the smallest."""
        enough = min(batch.per_request for batch in self.batches) / (1 - TUNING.tie)
        return next(batch for batch in self.batches if batch.per_request <= enough)


@dataclass(frozen=True, slots=True)
class StreamMeasurements:
    """Measurements of a function that streams."""

    slo_interval: float
    closed: bool
    """Whether no stream joins others."""
    starts: Sequence[Cost]
    """Of k streams together, ascending."""
    steps: Sequence[Cost]
    """Of n streams together, ascending; at least one."""
    total_seconds: float
    """From arrival to the last piece of one stream without others."""
    first_piece_seconds: float
    streams: int
    """Streams that ended."""
    pieces: float
    """Mean number of pieces of these."""
    streams_per_second: float
    """As the watchdog exports it."""
    concurrency: float
    step_seconds: float | None
    """Mean of a step of as many streams as a worker holds; None of a generator."""
    starts_per_step: float | None
    """As many streams start beside it as end."""
    start_seconds: float | None
    """Mean of all these starts."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Measurements of one handler."""

    handler: str
    workers: int
    slo_latency: float
    slo_objective: float
    slo_from: str
    """Source of slo_latency; empty: the default."""
    import_seconds: float
    load_seconds: float
    loaded_twice: bool
    """Whether what ``preload=auto`` loaded could not be forked, so that the workers loaded it again."""
    resident_bytes: int
    """Of the largest worker."""
    typical: bool
    """Whether example() or the command line gave the bodies."""
    bodies: Sequence[int]
    """Their lengths."""
    status: int
    """Of the answer to the first one."""
    content_type: str
    body: str
    """Its beginning."""
    ceiling: int
    """Most requests, or streams, of a worker for which there is memory; 0: none ran out of it."""
    busy: float
    """Runnable processes per CPU of the machine, before the trial."""
    ignored: Sequence[str]
    """Settings without effect whose names are near those of others, as lines."""
    measured: BatchMeasurements | StreamMeasurements

    @property
    def failed(self) -> bool:
        """Whether the handler is at fault."""
        return isinstance(self.measured, BatchMeasurements) and self.measured.split


def costs(model: LatencyModel) -> tuple[Cost, ...]:
    """Return the estimate of ``model`` for each size that it has observed."""
    return tuple(Cost(size, model.predict_mean(size)) for size in model.sizes_learned())


def promise_within(
    slo_latency: float, mix: Mix, cost: CpuCost, *, workers: int, objective: float, cpus: float
) -> Promise:
    """Return one replica's capacity, as the watchdog exports it, within ``slo_latency`` seconds."""
    rate = sustained(mix, workers, slo_latency, objective, cpus)
    return Promise(slo_latency, cost.bound(rate, cpus), rate.size)


def document(trial: Trial) -> dict[str, Any]:
    """Return the report for machines."""
    values = asdict(trial)
    notes = [*_busy(trial), *_notes(trial)]
    return {**values.pop("measured"), **values, "notes": notes, "next": next_step(trial)}


def lines(trial: Trial) -> Iterator[str]:
    """Yield the lines of the report."""
    yield from (f"BUSY      {line}\n" for line in _busy(trial))
    measured, target = trial.measured, duration(trial.slo_latency)
    if isinstance(measured, StreamMeasurements):
        target += f" to the first piece, {duration(measured.slo_interval)} to each further one"
    workers = "the worker" if trial.workers == 1 else f"each of {trial.workers} workers"
    share = f"{trial.slo_objective * 100:.10g}%"
    yield f"{trial.handler}, target: {share} within {target} ({trial.slo_from or 'the default'})"
    yield ""
    yield (
        f"load      import {_time(trial.import_seconds)}, load() {_time(trial.load_seconds)}; "
        f"{trial.resident_bytes / 1e6:.0f} MB resident in {workers}"
    )
    yield f"example   {_lengths(trial)} answered {trial.status} {trial.content_type}: {trial.body}"
    if isinstance(measured, StreamMeasurements):
        yield from _streams(trial, measured, workers)
    else:
        yield from _batches(trial, measured, workers)
    if trial.ceiling:
        yield f"memory    for at most {trial.ceiling} at a time in a worker: more run out of it"
    yield from (f"note      {line}" for line in _notes(trial))
    yield f"next      {next_step(trial)}"


def _batches(trial: Trial, measured: BatchMeasurements, workers: str) -> Iterator[str]:
    columns, best, target = measured.batches[-SHOWN_SIZES:], measured.best, duration(trial.slo_latency)
    yield "batch of  " + "".join(f"{batch.size:>9}" for batch in columns)
    yield "takes     " + "".join(f"{_time(batch.seconds):>9}" for batch in columns)
    yield "a request " + "".join(f"{_time(batch.per_request):>9}" for batch in columns)
    rate = _digits(1 / best.per_request)
    alike = ", if all are like the first" if len(trial.bodies) > 1 else ""
    yield f"best      batches of {best.size}: {rate} requests/s in {workers}, at any latency{alike}"
    if measured.requests_per_second > 0.0:
        rate, size = _digits(measured.requests_per_second), _digits(measured.batch_size)
        yield f"rate      {rate} requests/s within {target} from one replica, in batches of {size} or so"
        if len(trial.bodies) > 1:
            uniform = _digits(measured.uniform_requests_per_second)
            yield f"          for this mix; {uniform} if all are like the first"
    else:
        yield f"rate      none within {target}"
    http = max(0.0, measured.total_seconds - measured.queue_seconds - measured.worker_seconds)
    yield (
        f"time      one request alone {_time(measured.total_seconds)}: handler "
        f"{_time(measured.worker_seconds)}, HTTP {_time(http)}, wait {_time(measured.queue_seconds)}"
    )


def _streams(trial: Trial, measured: StreamMeasurements, workers: str) -> Iterator[str]:
    columns, interval = measured.steps[-SHOWN_SIZES:], duration(measured.slo_interval)
    starts = {start.size: _time(start.seconds) for start in measured.starts}
    yield "streams   " + "".join(f"{step.size:>9}" for step in columns)
    yield "start     " + "".join(f"{starts.get(step.size, ''):>9}" for step in columns)
    yield "one step  " + "".join(f"{_time(step.seconds):>9}" for step in columns)
    yield f"pieces    {_digits(measured.pieces)} in a stream, the mean of {measured.streams}"
    if measured.streams_per_second > 0.0:
        yield f"held      {measured.concurrency / trial.workers:.0f} streams in {workers}"
        if measured.step_seconds and measured.starts_per_step and measured.start_seconds:
            step, count = _time(measured.step_seconds), _digits(measured.starts_per_step)
            beside = f"the {count} starts beside it {_time(measured.start_seconds)}"
            yield f"          a step of these takes {step}, {beside}, of {interval}"
        yield f"rate      {_digits(measured.streams_per_second)} streams/s on time from one replica"
    else:
        yield f"rate      none: one stream is too slow for {interval}"
    yield (
        f"time      one stream alone {_time(measured.total_seconds)}, "
        f"its first piece after {_time(measured.first_piece_seconds)}"
    )


def _notes(trial: Trial) -> Iterator[str]:
    """Yield what limits the report's validity."""
    if not trial.typical:
        yield "no example(): measured with an empty body; --body FILE or example() gives a typical one"
    elif len(trial.bodies) == 1:
        yield "one example: the rate holds if all requests cost as much; --bodies DIR measures a mix"
    if trial.loaded_twice:
        yield (
            'loaded twice, for the reason above: preload: "false" starts '
            f"{_time(trial.import_seconds + trial.load_seconds)} sooner"
        )
    yield from trial.ignored


def busy_machine(busy: float) -> str:
    """Return the line for ``busy`` processes per CPU; empty if these are few."""
    if busy <= BUSY:
        return ""
    waiting = f"{_digits(busy)} processes per CPU wait to run"
    return f"{waiting}: measure again on an idle one. Times are longer here; the rate is that of free cores"


def _busy(trial: Trial) -> Iterator[str]:
    yield from filter(None, [busy_machine(trial.busy)])


def next_step(trial: Trial) -> str:
    """Return the change that helps most, or the next command if none is needed."""
    measured = trial.measured
    return next(
        _stream_steps(trial, measured)
        if isinstance(measured, StreamMeasurements)
        else _batch_steps(trial, measured)
    )


def _batch_steps(trial: Trial, measured: BatchMeasurements) -> Iterator[str]:
    """Yield the changes that help, the most urgent one first."""
    enough, first, target = measured.enough, measured.batches[0], duration(trial.slo_latency)
    advised = f"slo_latency: {duration(enough.slo_latency)}" if enough else ""
    if measured.split:
        yield "mend handle_batch: it fails on a batch and serves each part of it, as the log above says"
    if measured.requests_per_second <= 0.0:
        if trial.busy > BUSY:
            yield AGAIN
        within = f"one request takes {_time(first.seconds)}, too much of {target}"
        yield f"make the model faster{f', or set {advised}' if advised else ''}: {within}"
    if not trial.slo_from:
        chosen = advised or f"slo_latency: {target}"
        yield (
            f"set {chosen} (or your own target) under environment in the stack file that names this folder; "
            "nothing sets it yet"
        )
    if enough and enough.slo_latency > trial.slo_latency:
        yield f"deploy it; with {advised} one replica would serve {_digits(enough.rate)} requests/s"
    if measured.best.per_request > PAYS * first.per_request:
        if not measured.batched:
            yield "deploy it; define handle_batch(events, context) if the model can take several at once"
        yield "deploy it; batches hardly pay: see that handle_batch calls the model once for all its events"
    yield DEPLOY


def _stream_steps(trial: Trial, measured: StreamMeasurements) -> Iterator[str]:
    first, largest, interval = measured.steps[0], measured.steps[-1], duration(measured.slo_interval)
    if measured.streams_per_second <= 0.0:
        if trial.busy > BUSY:
            yield AGAIN
        one = first.seconds + (measured.starts[0].seconds / measured.pieces if measured.starts else 0.0)
        enough = next((target for target in TARGETS if target >= 2.0 * one), None)
        advised = f", or set slo_interval: {duration(enough)}" if enough else ""
        yield f"make the model faster{advised}: one step takes {_time(one)}, too much of {interval}"
    if not trial.slo_from:
        yield (
            "set slo_latency and slo_interval under environment in the stack file that names this folder; "
            "nothing sets them yet"
        )
    if measured.closed:
        yield "deploy it; with start and step in place of the generator, requests join streams that run"
    if largest.size > 1 and largest.per_request > PAYS * first.per_request:
        yield "deploy it; joining hardly pays: see that step calls the model once for all its states"
    starts, dear = measured.starts, (measured.start_seconds or 0.0) > (measured.step_seconds or 0.0)
    if dear and len(starts) > 1 and starts[-1].per_request > PAYS * starts[0].per_request:
        yield "deploy it; starts take more time than steps: see that start prefills all its events together"
    yield DEPLOY


def duration(seconds: float) -> str:
    """Return ``seconds`` in the form of a setting: 250ms, 1.5s."""
    return f"{seconds * 1e3:.6g}ms" if seconds < 1.0 else f"{seconds:.6g}s"


def shown(body: bytes) -> str:
    """Return the beginning of an answer, printable on one line."""
    text = body[:SHOWN_BYTES].decode("utf-8", "backslashreplace").rstrip()
    printable = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return printable + (" ..." if len(body) > SHOWN_BYTES else "")


def _lengths(trial: Trial) -> str:
    least, most = min(trial.bodies), max(trial.bodies)
    if len(trial.bodies) == 1:
        return f"{most:,} bytes,"
    return f"{len(trial.bodies)} bodies of {least:,} to {most:,} bytes; the first is"


def _time(seconds: float) -> str:
    if seconds < 0.9995e-3:
        return f"{_digits(seconds * 1e6)} us"
    return f"{_digits(seconds * 1e3)} ms" if seconds < 0.9995 else f"{_digits(seconds)} s"


def _digits(value: float) -> str:
    """Return at least three significant digits, without an exponent."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"

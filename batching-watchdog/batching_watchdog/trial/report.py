"""Turns the measurements of a handler into a report for people or a document for machines. [P]

Owns the words and the choice of the next step. ``measure`` fills in the numbers.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from http import HTTPStatus
from math import ceil
from typing import Any, Final

from batching_watchdog.engine.capacity import CpuCost, Mix, sustained
from batching_watchdog.engine.latency import LatencyModel
from batching_watchdog.engine.streams import Steady
from batching_watchdog.engine.tuning import TUNING
from batching_watchdog.messages import Target

SHOWN_BYTES: Final = 60
"""Bytes of an answer's body that the report shows."""
SHOWN_REJECTION_BYTES: Final = 300
"""Likewise, of an answer that ends the trial."""
SHOWN_SIZES: Final = 9
"""Maximum columns of the table of batches."""
TARGETS: Final = tuple(
    round(step * 10.0**power, 4) for power in range(-2, 2) for step in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
)
"""Latency targets that a report may recommend, in seconds."""
ENOUGH: Final = 0.5
"""Share of the highest rate of any target. A target that allows it needs at most twice the replicas."""
BUSY: Final = 1.5
"""Runnable processes per CPU from which the report calls the machine busy."""
PAYS: Final = 0.8
"""Time per request in the best batch, over that of a request alone, below which batches pay."""
POOLS: Final = {
    "onnxruntime": "set intra_op_num_threads = context.threads in its SessionOptions, in load(context)",
    "cv2": "call cv2.setNumThreads(context.threads) in load(context)",
    "tokenizers": 'set TOKENIZERS_PARALLELISM: "false" under environment in the stack file',
}
"""Libraries whose native threads do not follow worker_threads, by package, and what sets their number."""
DEPLOY: Final = "deploy it: faas-cli up, or on this machine local-openfaas up --stack FILE"
_STATUSES: Final = frozenset(status.value for status in HTTPStatus)
_DEVICE: Final = 'choose the device in load(): "cuda" if torch.cuda.is_available() else "cpu"'
_ADVICE: Final = (
    (
        "ModuleNotFoundError",
        "install what is missing here, and name it in the function's requirements.txt for its image",
    ),
    (
        "FileNotFoundError",
        'find files beside the handler with Path(__file__).with_name("model.pt"): paths begin elsewhere',
    ),
    ("CUDA", _DEVICE),
    ("NVIDIA driver", _DEVICE),
    (
        "defines neither handle_batch",
        "define handle_batch(events, context), which returns one result for each event",
    ),
    (
        "example() must return bytes",
        "return the body of a typical request, such as b'{}' or json.dumps(...).encode(); or a list of them",
    ),
    (
        "TypeError: load()",
        "define load() without arguments; what it returns is context.model",
    ),
    (
        "out of memory",
        "give the container more memory, or load a smaller model",
    ),
    (
        "load_timeout",
        "see the stack above; load_timeout=30s in the environment gives up sooner",
    ),
)
"""Next step by words of the error."""


@dataclass(frozen=True, slots=True)
class BatchCost:
    """Mean time in seconds that a worker takes for a batch of ``size`` examples."""

    size: int
    seconds: float

    @property
    def per_request(self) -> float:
        """Seconds of the batch for each of its requests."""
        return self.seconds / self.size

    @property
    def rate(self) -> float:
        """Requests per second of a worker that runs such batches only."""
        return self.size / self.seconds


@dataclass(frozen=True, slots=True)
class Promise:
    """The requests per second that one replica serves within a latency target, in seconds."""

    slo_latency: float
    rate: float
    """0: it cannot meet the objective at any rate."""
    batch_size: float
    """Mean size of the batches at that rate."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to example() over HTTP."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Examples:
    """The bodies that were measured."""

    count: int
    shortest: int
    """Bytes."""
    longest: int
    own: bool
    """Whether the handler defines example()."""
    given: bool
    """Whether the command line names them."""

    @property
    def lengths(self) -> str:
        """The lengths in words."""
        if self.shortest == self.longest:
            return _bytes(self.longest)
        return f"{self.shortest:,} to {_bytes(self.longest)}"


@dataclass(frozen=True, slots=True)
class Native:
    """A native library with a thread pool of its own, in a worker."""

    library: str
    """Of ``POOLS``."""
    threads: int
    """All threads of the process."""


@dataclass(frozen=True, slots=True)
class Alone:
    """Mean times in seconds of a request while there is no other."""

    total: float
    """Latency for the client."""
    wait: float
    """Time in the queue."""
    worker: float
    """From sending the batch to a worker to its reply."""
    worker_cpu: float
    """CPU time of the worker; 0: unknown."""

    @property
    def http(self) -> float:
        """Remaining time: HTTP, in the watchdog and in the client."""
        return max(0.0, self.total - self.wait - self.worker)


@dataclass(frozen=True, slots=True)
class Trial:
    """Measurements of one handler. Times are seconds, rates requests per second."""

    handler: str
    workers: int
    slo_objective: float
    slo_from: str
    """Source of slo_latency; empty: the default."""
    import_seconds: float
    load_seconds: float
    resident_bytes: int
    """Of the largest worker."""
    batched: bool
    """Whether the handler defines handle_batch, not handle alone."""
    native: Native | None
    cpus: float
    """Cores that the workers share."""
    examples: Examples
    answer: Answer
    """To the first example."""
    alone: Alone
    batches: tuple[BatchCost, ...]
    """Of the first example, ascending by size; at least one."""
    uniform: Promise
    """Within slo_latency, if all requests are like the first example."""
    promise: Promise
    """Within slo_latency, for the mix of all examples; of one, the same as ``uniform``."""
    others: tuple[Promise, ...]
    """Within each of ``TARGETS``, for the mix."""
    split: bool
    """Whether a batch failed although its parts did not."""
    ceiling: int
    """The largest batch for which there is memory; 0: no batch ran out of it."""
    busy: float
    """Runnable processes per CPU of the machine, before the trial."""
    misspelled: tuple[str, ...] = ()
    """Settings without effect whose names are near those of others, as lines."""
    printed: int = 0
    """Lines that the function printed while it was measured."""

    @property
    def crowded(self) -> bool:
        """Whether the workers' native threads are more than the cores."""
        return self.native is not None and self.workers * self.native.threads > max(
            ceil(self.cpus), self.workers
        )

    @property
    def best(self) -> BatchCost:
        """The batch with the best throughput; of those as good, the smallest."""
        enough = max(batch.rate for batch in self.batches) * (1 - TUNING.tie)
        return next(batch for batch in self.batches if batch.rate >= enough)

    @property
    def enough(self) -> Promise | None:
        """The shortest of ``TARGETS`` with ``ENOUGH`` of the highest rate; None if none can be met."""
        most = max(other.rate for other in self.others)
        return next((other for other in self.others if 0.0 < ENOUGH * most <= other.rate), None)


def batch_costs(model: LatencyModel) -> tuple[BatchCost, ...]:
    """Return the estimate of ``model`` for each size that it has observed."""
    return tuple(BatchCost(size, model.predict_mean(size)) for size in model.sizes_learned())


def promise_within(
    slo_latency: float, mix: Mix, cost: CpuCost, *, workers: int, objective: float, cpus: float
) -> Promise:
    """Return one replica's capacity, as the watchdog exports it, within ``slo_latency`` seconds."""
    rate = sustained(mix, workers, slo_latency, objective)
    return Promise(slo_latency, cost.bound(rate, cpus), rate.size)


def next_step(trial: Trial) -> str:
    """Return the change that helps most, or the next command if none is needed."""
    return next(_steps(trial))


def _steps(trial: Trial) -> Iterator[str]:
    """Yield the changes that help, the most urgent one first."""
    promise, enough, first, best = trial.promise, trial.enough, trial.batches[0], trial.best
    status = trial.answer.status
    advised = f"slo_latency: {duration(enough.slo_latency)}" if enough else ""
    if trial.split:
        yield "mend handle_batch: it fails on a batch and serves each part of it, as the log above says"
    if status not in _STATUSES:
        yield (
            f"see what the handler returns: it is answered with status {status}, which HTTP does not define; "
            "a pair of value and number is taken for body and status, a list is not"
        )
    if trial.native is not None and trial.crowded:
        yield POOLS[trial.native.library]
    if promise.rate <= 0.0:
        within = f"one request takes {_time(first.seconds)}, too much of {duration(promise.slo_latency)}"
        yield f"make the model faster{f', or set {advised}' if advised else ''}: {within}"
    if not trial.slo_from:
        chosen = advised or f"slo_latency: {duration(promise.slo_latency)}"
        yield f"set {chosen} (or your own target) under environment in the stack file; nothing sets it yet"
    if enough and enough.slo_latency > promise.slo_latency:
        yield f"deploy it; with {advised} one replica would serve {number(enough.rate)} requests/s"
    if best.per_request > PAYS * first.per_request:
        if not trial.batched:
            yield "deploy it; define handle_batch(events, context) if the model can take several at once"
        yield "deploy it; batches hardly pay: see that handle_batch calls the model once for all its events"
    yield DEPLOY


def rejection(handler: str, answer: Answer) -> str:
    """Return the error for a handler that gives this answer to its own example(), with the next step."""
    said = f"{handler} answers its own example() with {answer.status}"
    words = shown(answer.body, SHOWN_REJECTION_BYTES)
    return (
        f"{said}, and not below 400: {words}\n"
        "next: have example() return a body that the handler serves, or name one by --body FILE"
    )


def advice(error: str) -> str:
    """Return the next step after an error of the function's code; empty if there is none."""
    return next((step for words, step in _ADVICE if words in error), "")


def lines(trial: Trial) -> Iterator[str]:
    """Yield the lines of the report."""
    promise, alone, best = trial.promise, trial.alone, trial.best
    target = duration(promise.slo_latency)
    workers = f"{trial.workers} worker{'s' if trial.workers > 1 else ''}"
    yield (
        f"{trial.handler}, {workers}, target: {trial.slo_objective * 100:.10g}% within {target}"
        f" ({trial.slo_from or 'the default'})"
    )
    yield ""
    yield from _loaded_and_answered(trial)
    columns = trial.batches[-SHOWN_SIZES:]
    yield "batch of  " + "".join(f"{batch.size:>9}" for batch in columns)
    yield "takes     " + "".join(f"{_time(batch.seconds):>9}" for batch in columns)
    yield "a request " + "".join(f"{_time(batch.per_request):>9}" for batch in columns)
    yield f"best      batches of {best.size}: {number(best.rate)} requests/s in each worker, at any latency"
    if promise.rate > 0.0:
        rate, size = number(promise.rate), _digits(promise.batch_size)
        yield f"rate      {rate} requests/s within {target} from one replica, in batches of {size} or so"
        if trial.examples.count > 1:
            uniform = number(trial.uniform.rate)
            yield f"          for this mix ({trial.examples.lengths}); {uniform} if all are like the first"
    else:
        yield f"rate      none within {target}"
    if trial.ceiling:
        yield f"memory    a larger batch runs out of it: at most {trial.ceiling} requests in one"
    cpu = f" ({alone.worker_cpu / alone.worker:.0%} of it CPU)" if alone.worker_cpu else ""
    yield (
        f"time      one request alone {_time(alone.total)}: handler {_time(alone.worker)}{cpu}, "
        f"HTTP {_time(alone.http)}, wait {_time(alone.wait)}"
    )
    yield from (f"note      {line}" for line in _notes(trial))
    yield from _end(trial.busy, next_step(trial))


def _loaded_and_answered(trial: "Trial | StreamTrial") -> Iterator[str]:
    """Yield the lines on load() and on the answer to the first example."""
    answer = trial.answer
    yield (
        f"load      import {_time(trial.import_seconds)}, load() {_time(trial.load_seconds)}; "
        f"{trial.resident_bytes / 1e6:.0f} MB resident in {'each' if trial.workers > 1 else 'the'} worker"
    )
    yield (
        f"example   {_number_of(trial.examples)}, answered {answer.status} {answer.content_type}, "
        f"{_bytes(len(answer.body))}: {shown(answer.body)}"
    )


def _end(busy: float, step: str) -> Iterator[str]:
    """Yield the last lines."""
    if busy > BUSY:
        yield f"note      {_digits(busy)} processes per CPU wait to run: measure again on an idle CPU"
    yield f"next      {step}"


def _notes(trial: Trial) -> Iterator[str]:
    """Yield what limits the report's validity."""
    examples, native = trial.examples, trial.native
    if not (examples.own or examples.given):
        yield "no example(): measured with an empty body; --body FILE or example() gives a typical one"
    elif examples.count == 1:
        yield "one example: the rate holds if all requests cost as much; --bodies DIR measures a mix"
    if native is not None and trial.crowded:
        yield (
            f"{trial.workers} workers x {native.threads} threads on {_digits(trial.cpus)} CPUs: "
            f"the threads of {native.library} do not follow worker_threads"
        )
    yield from trial.misspelled
    if trial.printed:
        yield f"{trial.printed} lines printed while measuring: printing takes time of each request"


def _number_of(examples: Examples) -> str:
    if examples.count == 1:
        return _bytes(examples.longest)
    return f"{examples.count} bodies of {examples.lengths}; the first is"


def document(trial: Trial) -> dict[str, Any]:
    """Return the report for machines: times in seconds, rates in requests per second."""
    promise, alone = trial.promise, trial.alone
    return {
        "handler": trial.handler,
        "workers": trial.workers,
        "slo_latency": promise.slo_latency,
        "slo_objective": trial.slo_objective,
        "slo_from": trial.slo_from,
        **_load_and_example(trial),
        "batches": [
            {"size": batch.size, "seconds": batch.seconds, "requests_per_second": batch.rate}
            for batch in trial.batches
        ],
        "best_batch_size": trial.best.size,
        "batch_ceiling": trial.ceiling,
        "requests_per_second": promise.rate,
        "uniform_requests_per_second": trial.uniform.rate,
        "batch_size": promise.batch_size,
        "request": {**asdict(alone), "http": alone.http},
        "busy": trial.busy,
        "notes": list(_notes(trial)),
        "next": next_step(trial),
    }


def _load_and_example(trial: "Trial | StreamTrial") -> dict[str, Any]:
    return {
        "load": {
            "import_seconds": trial.import_seconds,
            "load_seconds": trial.load_seconds,
            "resident_bytes": trial.resident_bytes,
        },
        "example": {
            "count": trial.examples.count,
            "bytes": [trial.examples.shortest, trial.examples.longest],
            "status": trial.answer.status,
            "content_type": trial.answer.content_type,
            "body": shown(trial.answer.body),
        },
    }


@dataclass(frozen=True, slots=True)
class StreamTrial:
    """Measurements of a handler that streams. Times are seconds."""

    handler: str
    workers: int
    target: Target
    slo_from: str
    """Source of slo_latency; empty: the default."""
    import_seconds: float
    load_seconds: float
    resident_bytes: int
    """Of the largest worker."""
    closed: bool
    """Whether no stream joins others."""
    examples: Examples
    answer: Answer
    """To the first example, whole."""
    alone: float
    """From arrival to the last piece of one stream without others."""
    first_piece: float
    """Likewise, to the first piece."""
    starts: tuple[BatchCost, ...]
    """Of k streams together, ascending."""
    steps: tuple[BatchCost, ...]
    """Of n streams together, ascending; at least one."""
    streams: int
    """Streams that ended."""
    pieces: float
    """Mean number of pieces of these."""
    steady: Steady
    """What the watchdog exports."""
    ceiling: int
    """Most streams of a worker for which there is memory; 0: no streams ran out of it."""
    busy: float
    """Runnable processes per CPU of the machine, before the trial."""
    misspelled: tuple[str, ...] = ()
    """Settings without effect whose names are near those of others, as lines."""
    printed: int = 0
    """Lines that the function printed while it was measured."""


def stream_next_step(trial: StreamTrial) -> str:
    """Return the change that helps a function that streams most, or the next command if none is needed."""
    first, largest, target = trial.steps[0], trial.steps[-1], trial.target
    if trial.steady.rate <= 0.0:
        one = first.seconds + (trial.starts[0].seconds / trial.pieces if trial.starts else 0.0)
        enough = next((each for each in TARGETS if each >= 2.0 * one), None)
        advised = f", or set slo_interval: {duration(enough)}" if enough else ""
        taken = f"one step of one stream takes {_time(one)}, too much of {duration(target.interval)}"
        return f"make the model faster{advised}: {taken}"
    if not trial.slo_from:
        return "set slo_latency and slo_interval under environment in the stack file; nothing sets them yet"
    if trial.closed:
        return "deploy it; with start and step in place of the generator, requests join streams that run"
    if largest.size > 1 and largest.per_request > PAYS * first.per_request:
        return "deploy it; joining hardly pays: see that step calls the model once for all its states"
    return DEPLOY


def stream_lines(trial: StreamTrial) -> Iterator[str]:
    """Yield the lines of the report on a function that streams."""
    target, steady, workers = trial.target, trial.steady, trial.workers
    interval = duration(target.interval)
    yield (
        f"{trial.handler}, {workers} worker{'s' if workers > 1 else ''}, target: "
        f"{target.objective * 100:.10g}% with the first piece within {duration(target.latency)} and each "
        f"further one within {interval} ({trial.slo_from or 'the default'})"
    )
    yield ""
    yield from _loaded_and_answered(trial)
    columns = trial.steps[-SHOWN_SIZES:]
    starts = {start.size: _time(start.seconds) for start in trial.starts}
    yield "streams   " + "".join(f"{step.size:>9}" for step in columns)
    yield "start     " + "".join(f"{starts.get(step.size, ''):>9}" for step in columns)
    yield "one step  " + "".join(f"{_time(step.seconds):>9}" for step in columns)
    yield f"pieces    {_digits(trial.pieces)} in a stream, the mean of {trial.streams}"
    if steady.rate > 0.0:
        held = f"{steady.concurrency / workers:.0f} streams in {'each' if workers > 1 else 'the'} worker"
        yield f"held      {held}, with their steps and starts within {interval}"
        yield f"rate      {number(steady.rate)} streams/s on time from one replica"
    else:
        yield f"rate      none: one stream is too slow for {interval}"
    if trial.ceiling:
        yield f"memory    more streams run out of it: at most {trial.ceiling} in a worker"
    yield f"time      one stream alone {_time(trial.alone)}, its first piece after {_time(trial.first_piece)}"
    yield from (f"note      {line}" for line in _stream_notes(trial))
    yield from _end(trial.busy, stream_next_step(trial))


def _stream_notes(trial: StreamTrial) -> Iterator[str]:
    """Yield what limits the report's validity."""
    if not (trial.examples.own or trial.examples.given):
        yield "no example(): measured with an empty body; --body FILE or example() gives a typical one"
    elif trial.examples.count == 1:
        yield "one example: the rate holds if all streams are as long; --bodies DIR measures a mix"
    yield from trial.misspelled
    if trial.printed:
        yield f"{trial.printed} lines printed while measuring: printing takes time of each step"


def stream_document(trial: StreamTrial) -> dict[str, Any]:
    """Return the report on a function that streams for machines: times in seconds."""
    return {
        "handler": trial.handler,
        "workers": trial.workers,
        "slo_latency": trial.target.latency,
        "slo_interval": trial.target.interval,
        "slo_objective": trial.target.objective,
        "slo_from": trial.slo_from,
        **_load_and_example(trial),
        "starts": [asdict(start) for start in trial.starts],
        "steps": [asdict(step) for step in trial.steps],
        "streams": trial.streams,
        "pieces": trial.pieces,
        "concurrency": trial.steady.concurrency,
        "streams_per_second": trial.steady.rate,
        "stream_ceiling": trial.ceiling,
        "stream": {"total": trial.alone, "first_piece": trial.first_piece},
        "busy": trial.busy,
        "notes": list(_stream_notes(trial)),
        "next": stream_next_step(trial),
    }


def duration(seconds: float) -> str:
    """Return ``seconds`` in the form of a setting: 250ms, 1.5s."""
    return f"{seconds * 1e3:.6g}ms" if seconds < 1.0 else f"{seconds:.6g}s"


def shown(body: bytes, limit: int = SHOWN_BYTES) -> str:
    """Return the beginning of an answer, printable on one line."""
    text = body[:limit].decode("utf-8", "backslashreplace").rstrip()
    printable = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return printable + (" ..." if len(body) > limit else "")


def _bytes(count: int) -> str:
    return f"{count:,} byte{'' if count == 1 else 's'}"


def _time(seconds: float) -> str:
    if seconds < 0.9995e-3:
        return f"{_digits(seconds * 1e6)} us"
    return f"{_digits(seconds * 1e3)} ms" if seconds < 0.9995 else f"{_digits(seconds)} s"


def number(rate: float) -> str:
    """Return requests per second for people."""
    return f"{rate:,.0f}" if rate >= 100.0 else _digits(rate)


def _digits(value: float) -> str:
    """Return three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.3g}"

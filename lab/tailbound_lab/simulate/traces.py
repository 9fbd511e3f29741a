"""Reads traces from files, and generates them with fixed seeds.

Owns the formats. A trace is the arrival times of its requests. Per-second counts are the rate of a renewal
process: gaps of a Gamma distribution with the squared coefficient of variation ``cv2`` (1: Poisson; 4 or 16:
as bursty as AlpaServe's traces), scaled to the rate. Next step: ``world`` plays it.
"""

import csv
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tailbound_lab.simulate import SimulationError

Floats = NDArray[np.float64]

MAX_REQUESTS: Final = 1e9
"""Most requests of a trace: their times fill 8 GB."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Arrivals, ascending, in seconds from its beginning; none at or after ``duration``."""

    name: str
    arrivals: Floats
    duration: float

    def __post_init__(self) -> None:
        if not 0.0 < self.duration < math.inf:
            raise SimulationError(f"{self.name}: a trace must last some seconds, not {self.duration:g}")
        times = self.arrivals
        if len(times) and not (times[0] >= 0.0 and times[-1] < self.duration and np.all(np.diff(times) >= 0)):
            raise SimulationError(f"{self.name}: arrivals must ascend from 0 to before {self.duration:g} s")

    @property
    def rate(self) -> float:
        """Mean requests per second."""
        return len(self.arrivals) / self.duration

    def cut(self, duration: float) -> "Trace":
        """Return its first ``duration`` seconds, or all of it if it is shorter."""
        if self.duration <= duration:
            return self
        return Trace(self.name, self.arrivals[self.arrivals < duration], float(duration))

    def counts(self, span: float = 1.0) -> NDArray[np.int64]:
        """Return the arrivals in each ``span`` seconds."""
        bins = max(1, math.ceil(self.duration / span))
        return np.bincount((self.arrivals / span).astype(np.int64), minlength=bins)[:bins].astype(np.int64)


def from_rates(name: str, rates: Sequence[float] | Floats, *, cv2: float = 1.0, seed: int = 1) -> Trace:
    """Return arrivals with one rate in requests per second for each second."""
    levels = np.asarray(rates, dtype=np.float64)
    if not len(levels) or not np.all(np.isfinite(levels)) or np.any(levels < 0.0):
        raise SimulationError(f"{name}: rates must be finite and 0 or more, one for each second")
    if not 0.0 < cv2 < math.inf:
        raise SimulationError(f"{name}: cv2 must be above 0 and finite, not {cv2:g}")
    expected = np.concatenate(([0.0], np.cumsum(levels)))
    if expected[-1] > MAX_REQUESTS:
        raise SimulationError(
            f"{name}: a trace must have at most {MAX_REQUESTS:g} requests, not {expected[-1]:g}"
        )
    draw = np.random.default_rng(seed)
    parts, reached = [], 0.0
    while reached < expected[-1]:
        # Enough for nearly every draw; the loop is for the rest.
        missing = expected[-1] - reached
        count = int(missing + 6.0 * math.sqrt(missing * cv2)) + 64
        parts.append(reached + np.cumsum(draw.gamma(1.0 / cv2, cv2, count)))
        reached = float(parts[-1][-1])
    moments = np.concatenate(parts) if parts else np.zeros(0)
    moments = moments[moments < expected[-1]]
    # While the rate is 0 the expected count is constant, and no request may arrive: so search for the first
    # second that reaches a count.
    second = np.searchsorted(expected, moments, side="right") - 1
    arrivals = second + (moments - expected[second]) / levels[second]
    return Trace(name, np.minimum(arrivals, np.nextafter(len(levels), 0.0)), float(len(levels)))


def from_times(name: str, times: Sequence[float] | Floats, duration: float | None = None) -> Trace:
    """Return a trace of given times, in any order and from any origin; it begins with the first one.

    Without a ``duration`` it ends at the first full second after the last one.
    """
    moments = np.sort(np.asarray(times, dtype=np.float64))
    if not len(moments) or not np.all(np.isfinite(moments)):
        raise SimulationError(f"{name}: there must be at least one time, and all must be finite numbers")
    moments -= moments[0]
    return Trace(name, moments, math.floor(float(moments[-1])) + 1.0 if duration is None else duration)


def read(path: Path, *, cv2: float = 1.0, seed: int = 1) -> Trace:
    """Read a trace file, and detect its format:

    - ``.json``: ``{"times": [...]}`` (seconds) or ``{"counts": [...]}`` (one for each second), or such a
      list alone; numbers with a fraction are times;
    - a header with TIMESTAMP: one request for each line, dates or seconds (Azure's format);
    - else one number on each line, the requests of one second (autothrottle's format), perhaps under a
      header.

    Raises ``SimulationError`` that names file, line and rule.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise SimulationError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SimulationError(f"{path}: must be UTF-8 text") from None
    if path.suffix == ".json":
        return _from_json(path, text, cv2, seed)
    try:
        rows = [row for row in csv.reader(text.splitlines()) if row]
    except csv.Error as error:
        raise SimulationError(f"{path}: not CSV: {error}") from None
    if not rows:
        raise SimulationError(f"{path}: is empty")
    header = [cell.strip().upper() for cell in rows[0]]
    if "TIMESTAMP" in header:
        column = header.index("TIMESTAMP")
        times = [_moment(path, number, row, column) for number, row in enumerate(rows[1:], 2)]
        return from_times(path.stem, times)
    begin = 0 if _number(rows[0][-1]) is not None else 1
    counts = [_count(path, number, row) for number, row in enumerate(rows[begin:], begin + 1)]
    return from_rates(path.stem, counts, cv2=cv2, seed=seed)


def _from_json(path: Path, text: str, cv2: float, seed: int) -> Trace:
    try:
        data = json.loads(text, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise SimulationError(f"{path}: not JSON: {error}") from None
    kinds = data if isinstance(data, dict) else {"": data}
    kind = next((key for key in ("times", "counts", "") if key in kinds), None)
    values = None if kind is None else kinds[kind]
    if not (isinstance(values, list) and values and all(type(value) in (int, float) for value in values)):
        raise SimulationError(
            f'{path}: must be a list of numbers, or {{"times": [...]}} or {{"counts": [...]}}'
        )
    if kind == "times" or (not kind and any(isinstance(value, float) for value in values)):
        return from_times(path.stem, values)
    return from_rates(path.stem, values, cv2=cv2, seed=seed)


def _whole(text: str) -> int | float:
    """Return the number; one that is too large for a float is infinite, which no trace takes."""
    return int(text) if math.isfinite(value := float(text)) else value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _count(path: Path, number: int, row: Sequence[str]) -> float:
    value = _number(row[-1])
    if value is None or not 0.0 <= value < math.inf:
        raise SimulationError(f"{path}, line {number}: {row[-1]!r} must be a number of requests, 0 or more")
    return value


def _moment(path: Path, number: int, row: Sequence[str], column: int) -> float:
    text = row[column].strip() if column < len(row) else ""
    seconds = _number(text)
    if seconds is not None and math.isfinite(seconds):
        return seconds
    whole, _, fraction = text.partition(".")
    try:
        moment = datetime.fromisoformat(whole)
        # Azure gives seven digits, one more than datetime takes.
        return (moment - datetime(1970, 1, 1)).total_seconds() + float(f"0.{fraction or 0}")
    except (ValueError, TypeError):  # TypeError: a date with a zone
        raise SimulationError(
            f"{path}, line {number}: {text!r} must be a date and time without a zone, or seconds"
        ) from None


# Generators: the rate of each second. All last ``duration`` seconds around a mean or base ``rate``.


def steady(rate: float, duration: int) -> Floats:
    """Return a constant rate."""
    return np.full(duration, rate)


def step(rate: float, duration: int, factor: float = 3.0) -> Floats:
    """Return ``rate``, multiplied by ``factor`` in the middle third."""
    levels = steady(rate, duration)
    levels[duration // 3 : 2 * duration // 3] *= factor
    return levels


def ramp(rate: float, duration: int, factor: float = 5.0) -> Floats:
    """Return a rise from ``rate`` to ``factor`` times as much in the first half, and the fall back."""
    half = duration // 2
    return rate * np.concatenate(
        (np.linspace(1.0, factor, half, endpoint=False), np.linspace(factor, 1.0, duration - half))
    )


def spike(rate: float, duration: int, factor: float = 4.0, length: int = 5, every: int = 600) -> Floats:
    """Return ``rate`` with spikes of ``length`` seconds, shorter than a start-up, ``every`` so often."""
    levels = steady(rate, duration)
    for begin in range(every // 2, duration, every):
        levels[begin : begin + length] *= factor
    return levels


def diurnal(rate: float, duration: int, depth: float = 0.6) -> Floats:
    """Return one day in ``duration``: a sine around ``rate`` that begins at its lowest."""
    phase = 2.0 * np.pi * np.arange(duration) / duration
    return rate * (1.0 - depth * np.cos(phase))


def on_off(rate: float, duration: int, on: int = 300, off: int = 180) -> Floats:
    """Return ``rate`` for ``on`` seconds, nothing for ``off``, and so on."""
    return np.where(np.arange(duration) % (on + off) < on, rate, 0.0)


GENERATORS: Final[Mapping[str, Callable[[float, int], Floats]]] = {
    "poisson": steady,
    "gamma": steady,
    "step": step,
    "ramp": ramp,
    "spike": spike,
    "diurnal": diurnal,
    "on-off": on_off,
}

GAMMA_CV2: Final = 4.0
"""Default ``cv2`` of ``gamma``."""


def generate(kind: str, rate: float, duration: int, *, cv2: float | None = None, seed: int = 1) -> Trace:
    """Return a generated trace; ``cv2`` is 4 for ``gamma`` and 1 for the others, unless given."""
    if kind not in GENERATORS:
        raise SimulationError(f"generator {kind!r}: must be one of {', '.join(GENERATORS)}")
    if not (0.0 < rate < math.inf and duration >= 1):
        raise SimulationError(f"{kind}: the rate must be above 0 and the duration at least 1 s")
    burstiness = (GAMMA_CV2 if kind == "gamma" else 1.0) if cv2 is None else cv2
    return from_rates(kind, GENERATORS[kind](rate, duration), cv2=burstiness, seed=seed)

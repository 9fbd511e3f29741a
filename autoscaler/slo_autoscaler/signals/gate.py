"""Lets numbers in: what is no number, infinite or impossible is no data. [P]

Each source passes its observations through here once. Behind it a signal is None or a sensible number, and no
rule asks again.
"""

from dataclasses import replace
from math import isinf, isnan
from operator import attrgetter
from typing import Any, Final

from slo_autoscaler.signals.record import LARGEST, SIGNALS, Observation

_values: Final = attrgetter(*SIGNALS)
_WITHIN: Final = tuple(signal.within for signal in SIGNALS.values())


def sensible(value: float) -> bool:
    """Return whether a value of any kind is a number that can be computed with."""
    return -LARGEST < value < LARGEST


def fault(signal: str, value: float) -> str:
    """Return why a value of a signal is no data; empty if it is data."""
    least, beyond = SIGNALS[signal].within
    return "" if least <= value < beyond else f"{signal} is {_named(value)}"


def admitted(raw: Observation) -> Observation:
    """Return the observation with the values that are no data as None, and why in ``refused``."""
    values = _values(raw)
    # Most have none: no object is made for them.
    sound = all(
        value is None or least <= value < beyond
        for value, (least, beyond) in zip(values, _WITHIN, strict=True)
    )
    if sound and all(value is None or sensible(value) for value in raw.further):
        return raw
    faults = {
        name: why
        for name, value in zip(SIGNALS, values, strict=True)
        if value is not None and (why := fault(name, value))
    }
    further = tuple(value if value is None or sensible(value) else None for value in raw.further)
    nothing: dict[str, Any] = dict.fromkeys(faults)
    return replace(raw, **nothing, further=further, refused=(*raw.refused, *faults.values()))


def _named(value: float) -> str:
    if isnan(value):
        return "not a number"
    return "infinite" if isinf(value) else f"{value:g}"

"""Numbers as text, for the page and the terminal alike. [P]

Owns how many digits a number is worth, and that one which is not known is a dash.
"""

import math
from typing import Final

NOTHING: Final = "\N{EN DASH}"
"""For what is not known."""

TARGET_DIGITS: Final = 4


def seconds(value: float | None) -> str:
    """Return a duration: ``142 ms``, ``87 ms``, ``3.4 ms``, ``1.25 s``."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if abs(value) >= 0.9995:
        return f"{_digits(value, 3)} s"
    return f"{_digits(value * 1000, 2 if abs(value) < 0.0995 else 3)} ms"


def share(value: float | None) -> str:
    """Return a share as it stands in a sentence: ``99.4 %``, ``99 %``; 100 only if nothing is missing."""
    text = attained(value)
    return f"{text[:-2].rstrip('0').rstrip('.')} %" if "." in text else text


def attained(value: float | None) -> str:
    """Return a share as it stands in a column: ``99.40 %``, and ``100 %`` only if nothing is missing."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value * 100:.2f}"
    if text == "100.00":
        text = "100" if value >= 1.0 else "99.99"
    return f"{text} %"


def budget(value: float | None) -> str:
    """Return what is left of an error budget: whole per cent, and below zero what is overspent."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{round(value * 100):,d} %".replace("-", "\N{MINUS SIGN}")


def factor(value: float | None) -> str:
    """Return a burn rate: ``0.03``, ``4.7``, ``14.4``, ``120``."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:.2f}" if 0.0 < value < 0.995 else _digits(value, 2 if value < 10 else 3)


def per_second(value: float | None) -> str:
    """Return a rate of requests: ``53/s``."""
    return NOTHING if value is None or not math.isfinite(value) else f"{_digits(value, 3)}/s"


def count(value: float | None) -> str:
    """Return a whole number: ``1,204``."""
    return NOTHING if value is None or not math.isfinite(value) else f"{round(value):,d}"


def target(latency: float | None, objective: float | None) -> str:
    """Return an SLO in short: ``99 % ≤ 200 ms``."""
    if latency is None or objective is None:
        return NOTHING
    return f"{objective * 100:.{TARGET_DIGITS}g} % ≤ {seconds(latency)}"


def _digits(value: float, digits: int) -> str:
    """Return ``value`` with so many significant digits, all of those before the point, and no exponent."""
    if value == 0.0:
        return "0"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

"""Bounds the true value of a share that was measured on few requests. [P]

The bounds are Wilson's (1927) and shrink with the number of requests. Unlike the normal approximation they
stay within 0 and 1 and hold for few requests and for shares near 1, as attainment is.
"""

import math


def wilson(share: float, samples: float, sigmas: float) -> tuple[float, float]:
    """Return (lower, upper) bounds of the true share, given ``share`` of ``samples`` trials.

    ``sigmas`` is the distance of the bounds in standard errors. Without a whole trial, (0, 1).
    """
    if samples < 1.0:
        return 0.0, 1.0
    z2 = sigmas * sigmas / samples
    center = (share + z2 / 2.0) / (1.0 + z2)
    half = sigmas * math.sqrt(max(0.0, share * (1.0 - share)) / samples + z2 / (4.0 * samples)) / (1.0 + z2)
    return max(0.0, center - half), min(1.0, center + half)

"""What a share of few requests is worth. [P]

A share that was measured on n requests says something of the true one only within bounds that shrink with n.
The bounds are Wilson's (1927): unlike the normal approximation they stay within 0 and 1 and hold for small n
and for shares near 1, which is where attainment lives.
"""

import math


def wilson(share: float, samples: float, sigmas: float) -> tuple[float, float]:
    """Return (lower, upper): the true shares that ``share`` of ``samples`` trials does not contradict.

    ``sigmas`` is how many standard errors count as a contradiction. Without a whole trial, (0, 1).
    """
    if samples < 1.0:
        return 0.0, 1.0
    z2 = sigmas * sigmas / samples
    center = (share + z2 / 2.0) / (1.0 + z2)
    half = sigmas * math.sqrt(max(0.0, share * (1.0 - share)) / samples + z2 / (4.0 * samples)) / (1.0 + z2)
    return max(0.0, center - half), min(1.0, center + half)

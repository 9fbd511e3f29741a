"""The compiled parts, where this build has them. [P]

``_speedups.c`` does the plain case of what is done for every request; each caller has the same in Python, for
all other cases and for builds without a C compiler. It makes no decision and knows no error: those are the
callers'. Without it everything is the same, and a request costs more.
"""

try:
    from batching_watchdog import _speedups as compiled
except ImportError:
    compiled = None  # type: ignore[assignment] # built without a C compiler

__all__ = ["compiled"]

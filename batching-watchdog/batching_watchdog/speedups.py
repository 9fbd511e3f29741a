"""The compiled parts, where this build has them. [P]

``_speedups.c`` reads plain requests. It returns None for all other input; then its caller's Python code
handles the input and reports every error. So the C code rejects nothing and accepts a subset. Without it
everything is the same, and a request costs more.
"""

try:
    from batching_watchdog import _speedups as compiled
except ImportError:
    compiled = None  # type: ignore[assignment] # built without a C compiler

__all__ = ["compiled"]

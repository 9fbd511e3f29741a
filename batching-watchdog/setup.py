"""What pyproject.toml cannot say: the compiled part, without which the package is whole too, and slower.

The variable SPEEDUPS says whether it is built: ``auto`` (where it can be, the default), ``true`` (or the
build fails), ``false`` (never).
"""

import os

from setuptools import Extension, setup

wanted = os.environ.get("SPEEDUPS") or "auto"
if wanted not in ("auto", "true", "false"):
    raise SystemExit(f"SPEEDUPS: {wanted!r} must be auto, true or false")
speedups = Extension(
    "batching_watchdog._speedups",
    ["batching_watchdog/_speedups.c"],
    extra_compile_args=["-g0"],  # debug information names the folder of the build: no two would be the same
    optional=wanted == "auto",
)
setup(ext_modules=[] if wanted == "false" else [speedups])

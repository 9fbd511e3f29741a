"""What pyproject.toml cannot say: the compiled part, without which the package is whole too, and slower."""

from setuptools import Extension, setup

setup(
    ext_modules=[Extension("batching_watchdog._speedups", ["batching_watchdog/_speedups.c"], optional=True)]
)

"""Tests that run within an event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import wraps
from inspect import signature
from typing import Any


def within(
    opened: Callable[[], AbstractAsyncContextManager[tuple[Any, ...]]], gives: int = 1
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Make a test of a coroutine: it runs in a loop of its own, and while ``opened`` is open.

    Its first parameters are the ``gives`` values that this gives, the others pytest's.
    """

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        @wraps(test)
        def run(**fixtures: Any) -> None:
            async def main() -> None:
                async with opened() as values:
                    await test(*values, **fixtures)

            asyncio.run(main())

        described = signature(test)
        others = list(described.parameters.values())[gives:]
        run.__signature__ = described.replace(parameters=others)  # type: ignore[attr-defined]
        return run

    return decorate

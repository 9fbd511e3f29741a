"""Sends requests to the platform side by side, with a time limit for all together."""

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

from slo_autoscaler.errors import PlatformError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class DeferredError(PlatformError):
    """A request was not sent in this reconcile; the function is not at fault."""


class Calls:
    """A pool of threads for one platform."""

    def __init__(self, concurrency: int, timeout: float) -> None:
        self._timeout = timeout
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="platform")

    def submit(self, call: Callable[..., T], *args: object) -> Future[T]:
        """Send a request in a thread, as soon as one is free."""
        return self._pool.submit(call, *args)

    def results(self, asked: Mapping[str, Future[T]]) -> Iterator[tuple[str, T | PlatformError]]:
        """Yield the result of each request; wait for all together at most ``timeout``.

        A request that has not begun by then is deferred. One under way may still take effect, which the next
        reconcile sees.
        """
        wait(asked.values(), self._timeout)
        for name, future in asked.items():
            result = self.result(name, future, 0.0)
            yield name, result

    def result(self, name: str, future: Future[T], patience: float | None = None) -> T | PlatformError:
        """Return the result of one request, within ``patience`` (``timeout``) seconds."""
        wait([future], self._timeout if patience is None else patience)
        if future.cancel():
            return DeferredError(f"not sent within {self._timeout:g} s")
        if not future.done():
            return PlatformError(f"no answer within {self._timeout:g} s")
        try:
            return future.result()
        except PlatformError as error:
            return error
        except Exception as error:
            logger.exception("%s: unexpected error of the platform", name)
            return PlatformError(f"{type(error).__name__}: {error}")

    def close(self) -> None:
        """Stop the threads without waiting for requests under way."""
        self._pool.shutdown(wait=False, cancel_futures=True)

"""Keeps lists of objects current by watches, and lays own writes over them.

Owns the threads that list and watch, and the cached values. Knows no kind of object and writes nothing;
``client`` sends the requests.

The kubernetes package has ``SharedInformer``. Its first list has no time limit and no pages. Its readers
cannot distinguish a current cache from one whose watch broke. It does not handle own writes.

A watch may report an own write after the next read, which would then look like a refusal. So a writer
reports the answer to its write (``wrote``), which counts until the watch has its version or a newer one. No
other module lays own writes over stale reads.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, Generic, NamedTuple, TypeVar

from slo_autoscaler.errors import ForbiddenError, GoneError, PlatformError, UnreachableError
from slo_autoscaler.kube.client import Document, KubeApi, Resource, Stream, delays, version_of

logger = logging.getLogger(__name__)

T = TypeVar("T")

Key = tuple[str, str]
"""(namespace, name)"""

FORBIDDEN: Final = 403
"""Status of a right that lacks; 401 concerns the credentials, and so all namespaces."""

WATCH_SECONDS: Final = 30.0
"""Maximum seconds of a watch. Resuming it proves that the server answers: a silent watch may be dead."""


class _Version(NamedTuple, Generic[T]):
    """An object at a resourceVersion."""

    number: str
    value: T


class Informer(Generic[T]):
    """The objects of one kind, in all namespaces or in some.

    ``transform`` returns the value to cache, or None to skip the object. Return small immutable values:
    readers share them.
    """

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        namespaces: Sequence[str] | None,
        transform: Callable[[Document], T | None],
        *,
        resync: float,
        query: Mapping[str, str] | None = None,
        changed: Callable[[Key], None] | None = None,
        index: Callable[[T], Iterable[Hashable]] | None = None,
        watch_seconds: float = WATCH_SECONDS,
    ) -> None:
        """Begin to list and watch.

        ``namespaces`` None is all of them. ``resync`` is the seconds between two complete lists. ``query``
        holds selectors for list and watch. A watch's thread calls ``changed`` with the key of each object
        after it appeared, changed or vanished. ``index`` returns the names under which ``by`` finds a value;
        own writes must not change them.
        """
        self.resource, self.transform, self.resync = resource, transform, resync
        self.query = dict(query or {})
        self.changed = changed or (lambda _: None)
        self.index = index or (lambda _: ())
        self.watch_seconds = watch_seconds
        self._lists = {name: _List(api, resource.path(name), self) for name in namespaces or (None,)}

    def wait(self, seconds: float) -> bool:
        """Wait for the first lists; return False if one is missing. Return early if they fail."""
        end = time.monotonic() + seconds
        listed = [objects.wait(max(0.0, end - time.monotonic())) for objects in self._lists.values()]
        return all(listed)

    def items(self, *, skip_failed: bool = False) -> dict[Key, T]:
        """Return every value by key; raise ``PlatformError`` if the cache may be out of date.

        It counts as current for some time after a watch has broken, since most resume without a gap. Leaves
        out the namespaces that are ``denied``, and with ``skip_failed`` all whose last list or watch failed.
        """
        values: dict[Key, T] = {}
        for objects in self._readable():
            if not (skip_failed and objects.error is not None):
                values |= objects.items()
        return values

    def denied(self) -> dict[str, str]:
        """Return {namespace: error} where the role forbids to list; none if it forbids it everywhere."""
        denied = {
            name or "": str(objects.error) for name, objects in self._lists.items() if objects.forbidden
        }
        return denied if len(denied) < len(self._lists) else {}

    def get(self, key: Key) -> T | None:
        """Return the value of one object, or None; raises as ``items`` does."""
        objects = self._of(key)
        return None if objects is None else objects.get(key)

    def by(self, what: Hashable) -> dict[Key, T]:
        """Return the values with this name in ``index``, without reading others; raises as ``items`` does."""
        values: dict[Key, T] = {}
        for objects in self._readable():
            values |= objects.by(what)
        return values

    def wrote(self, key: Key, version: str, value: T) -> None:
        """Lay an own write over the watched value; ``version`` is the answer's resourceVersion."""
        objects = self._of(key)
        if objects is not None:
            objects.wrote(key, _Version(version, value))

    def close(self) -> None:
        """End the watches and their threads."""
        for objects in self._lists.values():
            objects.close()

    def _readable(self) -> "list[_List[T]]":
        denied = self.denied()
        return [objects for name, objects in self._lists.items() if name not in denied]

    def _of(self, key: Key) -> "_List[T] | None":
        return self._lists.get(key[0]) or self._lists.get(None)


class _List(Generic[T]):
    """The list of all namespaces or of one, with its watch in a thread."""

    def __init__(self, api: KubeApi, path: str, watched: Informer[T]) -> None:
        self._api = api
        self._path = path
        self._watched = watched
        self._version = ""
        """resourceVersion at which the next watch begins; empty: list again."""
        self._lock = threading.Lock()
        self._seen: dict[Key, _Version[T]] = {}
        self._indexed: dict[Hashable, set[Key]] = {}
        self._written: dict[Key, _Version[T]] = {}
        """Own writes that the watch has not reported yet."""
        self._listed = threading.Event()
        self._tried = threading.Event()
        self._contact = time.monotonic()
        """Time of the server's last answer or event."""
        self.error: PlatformError | None = None
        """Error of the last list or watch; None if it succeeded."""
        self._stream: Stream | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"watch {path}", daemon=True)
        self._thread.start()

    @property
    def forbidden(self) -> bool:
        return isinstance(self.error, ForbiddenError) and self.error.status == FORBIDDEN

    def wait(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        self._tried.wait(seconds)
        if self.error is None:
            self._listed.wait(max(0.0, end - time.monotonic()))
        return self._listed.is_set()

    def items(self) -> dict[Key, T]:
        self._check()
        with self._lock:
            for key in list(self._written):
                self._newest(key)
            return {key: version.value for key, version in (self._seen | self._written).items()}

    def get(self, key: Key) -> T | None:
        self._check()
        with self._lock:
            version = self._newest(key)
        return None if version is None else version.value

    def by(self, what: Hashable) -> dict[Key, T]:
        self._check()
        with self._lock:
            versions = {key: self._newest(key) for key in self._indexed.get(what, ())}
        return {key: version.value for key, version in versions.items() if version is not None}

    def wrote(self, key: Key, version: _Version[T]) -> None:
        with self._lock:
            self._written[key] = version

    def close(self) -> None:
        self._stop.set()
        stream = self._stream
        if stream is not None:
            stream.close()
        self._thread.join(1.0)

    def _newest(self, key: Key) -> _Version[T] | None:
        """Return the own write or the watched version, whichever is newer; drop a write that was reported."""
        seen, own = self._seen.get(key), self._written.get(key)
        if own is not None and seen is not None and _is_older(seen.number, own.number):
            return own
        self._written.pop(key, None)
        return seen

    def _check(self) -> None:
        silence = time.monotonic() - self._contact
        if not self._listed.is_set():
            raise self.error or UnreachableError(f"GET {self._path}: no answer yet")
        if isinstance(self.error, UnreachableError):
            raise self.error
        if silence > self._watched.watch_seconds + 2 * self._api.timeout:
            raise self.error or UnreachableError(f"watch {self._path}: silent for {silence:.0f} s")

    def _run(self) -> None:
        listed_at, waits = 0.0, delays()
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                if not self._version or time.monotonic() - listed_at >= self._watched.resync:
                    self._version, listed_at = self._list(), time.monotonic()
                self._follow()
            except GoneError:
                self._version = ""
            except PlatformError as error:
                self._failed(error)
            except Exception as error:
                # A bug must not end the thread: its cache would never be current again.
                logger.exception("watch %s", self._path)
                self._failed(PlatformError(f"watch {self._path}: {type(error).__name__}: {error}"))
                self._version = ""
            # If the server ends each watch at once, retry no more often than for one that is down.
            if self.error is None and time.monotonic() - began >= 1.0:
                waits = delays()
            else:
                self._stop.wait(next(waits))

    def _failed(self, error: PlatformError) -> None:
        if str(error) != str(self.error) and not self._stop.is_set():
            logger.warning("%s", error)
        self.error = error
        self._tried.set()

    def _reached(self) -> None:
        if self.error is not None:
            logger.info("watch %s: recovered", self._path)
        self.error = None
        self._contact = time.monotonic()

    def _list(self) -> str:
        listed: dict[Key, _Version[T]] = {}
        version = ""
        for items, as_of in self._api.pages(self._path, self._watched.query):
            version = as_of
            for item in items:
                key, number = _identity(item)
                value = self._value(key, item)
                if value is not None:
                    listed[key] = _Version(number, value)
        with self._lock:
            before, self._seen = self._seen, listed
            self._indexed = {}
            for key, entry in listed.items():
                self._put(key, entry.value)
        self._reached()
        self._listed.set()
        self._tried.set()
        for key in before.keys() | listed.keys():
            old, new = before.get(key), listed.get(key)
            if old is None or new is None or old.number != new.number:
                self._watched.changed(key)
        if not version:
            raise PlatformError(f"GET {self._path}: a list without resourceVersion")
        return version

    def _follow(self) -> None:
        """Watch once. The next watch resumes after the last received event."""
        query = {**self._watched.query, "resourceVersion": self._version, "allowWatchBookmarks": "true"}
        # Randomized, so that many watches do not end at the same time.
        seconds = self._watched.watch_seconds * random.uniform(0.8, 1.0)  # noqa: S311 - a spread, nothing secret
        stream = self._api.watch(self._path, query, seconds)
        self._stream = stream
        self._reached()
        try:
            if self._stop.is_set():
                return
            for event in stream:
                self._reached()
                self._version = self._apply(event)
        except UnreachableError as error:
            # The next try resumes here, and shows whether the server answers.
            if not self._stop.is_set():
                logger.info("%s", error)
        finally:
            self._stream = None
            stream.close()

    def _apply(self, event: Document) -> str:
        item = event["object"]
        key, number = _identity(item)
        if event.get("type") == "BOOKMARK":
            return number
        value = None if event.get("type") == "DELETED" else self._value(key, item)
        with self._lock:
            before = self._seen.pop(key, None)
            if before is not None:
                self._drop(key, before.value)
            if value is not None:
                self._seen[key] = _Version(number, value)
                self._put(key, value)
        if value is not None or before is not None:
            self._watched.changed(key)
        return number

    def _put(self, key: Key, value: T) -> None:
        for what in self._watched.index(value):
            self._indexed.setdefault(what, set()).add(key)

    def _drop(self, key: Key, value: T) -> None:
        for what in self._watched.index(value):
            keys = self._indexed.get(what, set())
            keys.discard(key)
            if not keys:
                self._indexed.pop(what, None)

    def _value(self, key: Key, item: Document) -> T | None:
        """Return the value to cache; log and skip an unreadable object."""
        try:
            return self._watched.transform(item)
        except Exception:
            logger.exception("watch %s: cannot read %s/%s", self._path, *key)
            return None


def _identity(item: Any) -> tuple[Key, str]:
    """Return key and resourceVersion of an object."""
    metadata = item.get("metadata") if isinstance(item, dict) else None
    if not isinstance(metadata, dict):
        raise PlatformError("an object without metadata")
    key = str(metadata.get("namespace", "")), str(metadata.get("name", ""))
    return key, version_of(item)


def _is_older(one: str, other: str) -> bool:
    """Return whether a resourceVersion is older than another of the same object.

    Every API server counts upwards. For versions that are no numbers return False.
    """
    digits = all(text.isascii() and text.isdecimal() for text in (one, other))
    return digits and int(one) < int(other)

"""What both of Knative's platforms stand on: the objects as they are now, and threads that act on them.

Owns the watches, the reading of config-autoscaler, and the rhythm and back-off of a loop. Knows no rule of
scaling; the loops' steps are ``knative``'s.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from slo_autoscaler.config import KnativeConfig
from slo_autoscaler.errors import ConflictError, NotFoundError, PlatformError, UnreachableError
from slo_autoscaler.kube.client import Document, KubeApi, Resource, Watched
from slo_autoscaler.platforms.knative.allocation import (
    CONFIG_MAP,
    CONFIG_NAMESPACE,
    Defaults,
    Json,
    Key,
    defaults_of,
    key_of,
    version_of,
)

logger = logging.getLogger(__name__)

POD_AUTOSCALERS: Final = Resource("autoscaling.internal.knative.dev/v1alpha1", "podautoscalers")
SERVICES: Final = Resource("networking.internal.knative.dev/v1alpha1", "serverlessservices")
DEPLOYMENTS: Final = Resource("apps/v1", "deployments")
REVISIONS: Final = Resource("serving.knative.dev/v1", "revisions")
ROUTES: Final = Resource("serving.knative.dev/v1", "routes")
CONFIG_MAPS: Final = Resource("v1", "configmaps")

SETTINGS_AGE: Final = 60.0
"""Seconds for which config-autoscaler is believed."""

TICK: Final = 2.0
"""Seconds between two passes at most: what waits for time to pass is seen this late."""

BREATH: Final = 0.02
"""Seconds after a change before a pass begins, so that changes that come together make one pass. As long as
the last pass took, if that is more, so that many changes cost half of a core at most."""

FIRST_BACK_OFF: Final = 0.2
LONGEST_BACK_OFF: Final = 30.0


class Settings:
    """config-autoscaler, read again every minute; without it, Knative's own defaults."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self._defaults = Defaults()
        self._version: tuple[int, int] | None = None
        self._error: PlatformError | None = None
        self._read_at = float("-inf")
        self._lock = threading.Lock()

    def defaults(self) -> Defaults:
        """Return what it says, as last read."""
        self._refresh()
        return self._defaults

    def version(self) -> tuple[int, int] | None:
        """Return Knative's version, None if it is no release; raises ``PlatformError`` until it is known."""
        self._refresh()
        if self._version is None and self._error is not None:
            raise self._error
        return self._version

    def _refresh(self) -> None:
        # Whoever comes while another one reads goes on with what was read last.
        if time.monotonic() - self._read_at < SETTINGS_AGE or not self._lock.acquire(blocking=False):
            return
        try:
            found = self._api.get(CONFIG_MAPS.path(CONFIG_NAMESPACE, CONFIG_MAP), patient=False)
            self._defaults, self._version, self._error = defaults_of(found), version_of(found), None
        except PlatformError as error:
            if self._error is None:
                logger.warning("going on with what is known of %s: %s", CONFIG_MAP, error)
            self._error = error
        finally:
            self._read_at = time.monotonic()
            self._lock.release()


class Objects:
    """All objects of one kind in the namespaces of the configuration, as JSON without what nobody reads."""

    def __init__(
        self,
        api: KubeApi,
        resource: Resource,
        config: KnativeConfig,
        changed: Callable[[str], None],
        *,
        lean: Callable[[Document], Json],
        labelled: str | None = None,
    ) -> None:
        """Begin to watch; ``lean`` takes away what is not needed, ``labelled`` leaves those with a label."""
        query = {} if labelled is None else {"labelSelector": labelled}
        self._watches = [
            Watched(api, resource.path(namespace), lean, query=query, resync=config.resync, changed=changed)
            for namespace in config.namespaces or (None,)
        ]
        self._patience = config.timeout
        for watch in self._watches:
            watch.start()

    def items(self) -> dict[Key, Json]:
        """Return them all; raises ``PlatformError`` if they are not known to be current."""
        end = time.monotonic() + self._patience
        for watch in self._watches:
            watch.wait(max(0.0, end - time.monotonic()))
        return {key_of(each): each for watch in self._watches for each in watch.items().values()}

    def close(self) -> None:
        """End the watches."""
        for watch in self._watches:
            watch.close()


def lean(item: Document) -> Json:
    """Leave out who wrote which field, which is as long as the rest."""
    metadata = {key: value for key, value in item.get("metadata", {}).items() if key != "managedFields"}
    return {**item, "metadata": metadata}


def lean_deployment(item: Document) -> Json:
    """Leave of a Deployment its name, labels and counts."""
    metadata = item.get("metadata", {})
    return {
        "metadata": {
            key: metadata[key]
            for key in ("name", "namespace", "resourceVersion", "labels")
            if metadata.get(key) is not None
        },
        "spec": {"replicas": item.get("spec", {}).get("replicas")},
        "status": {"readyReplicas": (item.get("status") or {}).get("readyReplicas")},
    }


def lean_revision(item: Document) -> Json:
    """Leave of a Revision what is not its containers."""
    kept = lean(item)
    return {key: value for key, value in kept.items() if key != "spec"}


def lean_route(item: Document) -> Json:
    """Leave of a Route its name and its traffic."""
    metadata = item.get("metadata", {})
    return {
        "metadata": {key: metadata.get(key) for key in ("name", "namespace")},
        "spec": {"traffic": (item.get("spec") or {}).get("traffic")},
        "status": {"traffic": (item.get("status") or {}).get("traffic")},
    }


class Wishes:
    """What was decided last for each function, between two decisions."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def get(self, function_name: str) -> int | None:
        """Return the count, or None: nothing was decided yet."""
        with self._lock:
            return self._counts.get(function_name)

    def put(self, function_name: str, replicas: int | None) -> int | None:
        """Remember a count, or with None nothing; return what was remembered before."""
        with self._lock:
            before = self._counts.pop(function_name, None)
            if replicas is not None:
                self._counts[function_name] = replicas
            return before

    def keep(self, known: Collection[str]) -> None:
        """Drop all but these functions'."""
        with self._lock:
            self._counts = {name: count for name, count in self._counts.items() if name in known}


class Given:
    """Counts that the API has confirmed and the watch has not told yet.

    Keys are those of Deployments. Without it a decision that follows at once would take the old count for
    the platform's refusal.
    """

    def __init__(self) -> None:
        self._counts: dict[Key, tuple[int, int]] = {}
        self._lock = threading.Lock()

    def note(self, key: Key, answer: Json, replicas: int) -> None:
        """Remember the count that an object has since the version in ``answer``."""
        version = version_number(answer)
        if version is not None:
            with self._lock:
                self._counts[key] = version, replicas

    def count(self, key: Key, seen: Json, replicas: int) -> int:
        """Return the count of an object, of which the watch shows ``replicas``."""
        with self._lock:
            version, given = self._counts.get(key, (-1, replicas))
            shown = version_number(seen)
            if shown is None or shown >= version:
                self._counts.pop(key, None)
                return replicas
            return given

    def version(self, key: Key, seen: Json) -> str:
        """Return the newest version of an object that is known."""
        shown = str((seen.get("metadata") or {}).get("resourceVersion", ""))
        with self._lock:
            version, _ = self._counts.get(key, (-1, 0))
        return str(version) if shown.isdecimal() and int(shown) < version else shown

    def forget(self, known: Iterable[Key]) -> None:
        """Drop all but these."""
        keep = set(known)
        with self._lock:
            self._counts = {key: value for key, value in self._counts.items() if key in keep}


def version_number(of: Json) -> int | None:
    """Return the resourceVersion as the number that it is in every API server that there is; None if not."""
    version = str((of.get("metadata") or {}).get("resourceVersion", ""))
    return int(version) if version.isascii() and version.isdecimal() else None


class Loop:
    """Calls ``step`` in a thread of its own: when woken, and after the seconds that it returned."""

    def __init__(self, name: str, step: Callable[[], float]) -> None:
        self._step = step
        self._awake = threading.Event()
        self._stop = threading.Event()
        self._complaint = ""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self, _key: str = "") -> None:
        """Have a pass soon."""
        self._awake.set()

    def close(self) -> None:
        """End; a request that is under way is waited for a second at most."""
        self._stop.set()
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        patience, took = 0.0, 0.0
        while not self._stop.is_set():
            self._awake.wait(patience)
            self._stop.wait(max(BREATH, took))
            self._awake.clear()
            if self._stop.is_set():
                return
            patience, began = TICK, time.thread_time()
            try:
                patience = self._step()
            except PlatformError as error:
                if str(error) != self._complaint:
                    logger.warning("%s", error)
                self._complaint = str(error)
            except Exception:
                # It outlives its own bugs: the next pass starts from what is there.
                logger.exception("%s failed", self._thread.name)
            else:
                self._complaint = ""
            took = time.thread_time() - began


class Writes:
    """The writes of a loop: those that fail are not tried again at once, nor keep others from their turn.

    What fails for one object (refused by a rule) waits alone. What fails for all (no answer, 5xx: a webhook
    that is away lets each write wait for its timeout) ends the pass; the next one begins with what was not
    tried.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._waits: dict[Key, tuple[float, float]] = {}
        """key -> (not before, how long it waited last)."""
        self._last: dict[Key, float] = {}
        self._messages: dict[Key, str] = {}
        self._everything: tuple[float, float] = 0.0, 0.0

    def order(self, keys: Iterable[Key]) -> list[Key]:
        """Return the keys in the order of their turns, tried longest ago first; forget all others."""
        wanted = set(keys)
        self._waits = {key: value for key, value in self._waits.items() if key in wanted}
        self._last = {key: value for key, value in self._last.items() if key in wanted}
        self._messages = {key: value for key, value in self._messages.items() if key in wanted}
        return sorted(wanted, key=lambda key: (self._last.get(key, 0.0), key))

    def fails(self, key: Key) -> bool:
        """Tell whether the last write for this object failed."""
        return key in self._messages

    def resting(self) -> bool:
        """Tell whether all writes wait."""
        return time.monotonic() < self._everything[0]

    def pause(self) -> float:
        """Return the seconds until something that waits may be tried again; a tick at most."""
        now = time.monotonic()
        due = [until for until, _ in (self._everything, *self._waits.values()) if until > now]
        return min([TICK, *(until - now for until in due)])

    def attempt(self, key: Key, write: Callable[[], object]) -> bool:
        """Write, unless it is too early; False if the pass is over."""
        now = time.monotonic()
        if now < self._waits.get(key, (0.0, 0.0))[0]:
            return True
        self._last[key] = now
        try:
            write()
        except (ConflictError, NotFoundError):
            # What was read is old: the watch will tell, or has by now.
            return True
        except PlatformError as error:
            self._complain(key, error)
            if isinstance(error, UnreachableError) or getattr(error, "status", 0) >= 500:
                self._everything = _later(self._everything)
                return False
            self._waits[key] = _later(self._waits.get(key, (0.0, 0.0)))
            return True
        self._everything = 0.0, 0.0
        self._waits.pop(key, None)
        if self._messages.pop(key, None) is not None:
            logger.info("%s of %s/%s: works again", self._what, *key)
        return True

    def _complain(self, key: Key, error: PlatformError) -> None:
        if self._messages.get(key) != str(error):
            logger.warning("%s of %s/%s: %s", self._what, *key, error)
        self._messages[key] = str(error)


def _later(before: tuple[float, float]) -> tuple[float, float]:
    wait = min(max(FIRST_BACK_OFF, 2 * before[1]), LONGEST_BACK_OFF)
    return time.monotonic() + wait, wait


def api_of(config: KnativeConfig, kinds: int) -> KubeApi:
    """Return the client of a platform that watches so many kinds of object. Raises ``ConfigError``."""
    watches = kinds * len(config.namespaces or (None,))
    return KubeApi(
        config.kubeconfig,
        config.context,
        timeout=config.timeout,
        connections=config.concurrency + watches + 2,
    )

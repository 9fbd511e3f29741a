"""Stops an autoscaler while it still has its rights: what the chart runs before ``helm uninstall``.

``helm uninstall`` deletes account and roles beside the pods, which then could neither take boosts back nor
release the Lease: they do both when they are told to stop. Exit status 0, also if pods are left: nothing
should keep an operator from an uninstall.
"""

import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Final

from slo_autoscaler.errors import ConfigError, NotFoundError, PlatformError
from slo_autoscaler.kube.client import KubeApi, Resource
from slo_autoscaler.kube.pods import PODS

DEPLOYMENTS: Final = Resource("apps/v1", "deployments")

TIMEOUT: Final = 10.0
"""Seconds of a request with its retries."""

PATIENCE: Final = 60.0
"""Seconds that the pods get, twice the usual grace period."""

POLL: Final = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Stop the Deployment of the first argument in this namespace; the second one selects its pods."""
    name, selector = sys.argv[1:] if arguments is None else arguments
    try:
        with closing(KubeApi(timeout=TIMEOUT, connections=1)) as api:
            left = retire(api, api.namespace, name, selector)
        text = f"{left} pods have not ended within {PATIENCE:g} s" if left else "no pod is left"
    except (ConfigError, PlatformError) as error:
        text = f"cannot stop it: {error}"
    sys.stdout.write(f"{name}: {text}\n")
    return 0


def retire(api: KubeApi, namespace: str, name: str, selector: str, patience: float = PATIENCE) -> int:
    """Set the count of a Deployment to 0; return the pods that are left after ``patience`` seconds.

    Raises ``PlatformError``.
    """
    try:
        api.patch(DEPLOYMENTS.path(namespace, name, "scale"), {"spec": {"replicas": 0}})
    except NotFoundError:
        return 0
    end = time.monotonic() + patience
    while left := _pods(api, namespace, selector):
        if time.monotonic() > end:
            break
        time.sleep(POLL)
    return left


def _pods(api: KubeApi, namespace: str, selector: str) -> int:
    pages = api.pages(PODS.path(namespace), {"labelSelector": selector})
    return sum(len(pods) for pods, _ in pages)


if __name__ == "__main__":
    sys.exit(main())

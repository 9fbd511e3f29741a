"""Uses Ray Serve's policy function from its own package, if installed.

Ray takes 240 MB, so it is an extra: ``pip install -e 'lab[ray]'``. Without it ``baselines`` has the same
algorithm; a test compares the two if Ray is installed.
"""

import importlib
import warnings
from functools import cache
from typing import Any

from tailbound_lab.simulate.baselines import Bounds, RayLaw, RayServe, RaySettings


class _Clock:
    """The time of a simulation, which replaces the module ``time`` in the policy."""

    now = 0.0

    def time(self) -> float:
        return self.now


@cache
def _package() -> Any:
    """Return the package's module with a settable clock; None if it is not installed."""
    try:
        with warnings.catch_warnings(action="ignore"):
            found: Any = importlib.import_module("ray.serve.autoscaling_policy")
    except ImportError:
        return None
    found.time = _Clock()
    return found


def installed() -> bool:
    """Return whether the package's own policy is used."""
    return _package() is not None


def packaged(settings: RaySettings) -> RayLaw | None:
    """Return the policy with its delays, as Ray's controller calls it; None if Ray is not installed."""
    package = _package()
    if package is None:
        return None
    # Private, but it is what Ray's controller wraps every policy in; the extra pins the version.
    with_delays = package._apply_autoscaling_config  # noqa: SLF001
    policy = with_delays(package.replica_queue_length_autoscaling_policy)
    config = package.AutoscalingConfig(
        min_replicas=0,
        initial_replicas=1,
        max_replicas=1 << 20,
        target_ongoing_requests=settings.target,
        upscale_delay_s=settings.up_delay,
        downscale_delay_s=settings.down_delay,
        look_back_period_s=settings.look_back,
    )
    state: dict[str, Any] = {}

    def law(ongoing: float, running: int, current: int, now: float) -> int:
        nonlocal state
        package.time.now = now
        context = package.AutoscalingContext(
            deployment_id=None,
            deployment_name="",
            app_name=None,
            current_num_replicas=running,
            target_num_replicas=current,
            running_replicas=[],
            total_num_requests=ongoing,
            total_queued_requests=None,
            aggregated_metrics=None,
            raw_metrics=None,
            capacity_adjusted_min_replicas=0,
            capacity_adjusted_max_replicas=1 << 20,
            policy_state=state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=now,
            config=config,
        )
        count, state = policy(context)
        return int(count)

    return law


def ray_serve(bounds: Bounds, settings: RaySettings, name: str = "ray-serve") -> RayServe:
    """Return Ray Serve with the package's policy, or with ours if it is not installed."""
    return RayServe(bounds, settings, name, packaged(settings))

"""Decides when a lease is free, who holds it, and how long its holder may act. [P]

As in client-go's leader election, no clocks are compared. A holder may act for a part of the lease's
duration, counted on its own clock from just before it sent the accepted renewal. A standby waits until it
has seen the lease unchanged for the whole duration, counted on its own clock from just after it first saw
it. The renewal was stored after the holder sent it and before the standby saw it. So the holder has stopped
when the standby begins, even if either of them or the network stalls. Writes name the version that was read,
so of two candidates that take a free lease one fails.

The last part of the duration covers requests that the holder sent before it stopped, and clocks of
different speeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Annotated, Any, Final

from pydantic import Field, ValidationInfo, field_validator

from slo_autoscaler.settings.fields import PositiveDuration, settings

LEASE_SHARE: Final = 3
"""Parts of a lease. A leader acts for all but the last one, which covers requests under way."""

POLLS_PER_RENEWAL: Final = 4
"""Reads of the lease by a standby per renewal interval."""


@settings
class Settings:
    """A Lease of the Kubernetes API that elects one of several autoscalers."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,251}[a-z0-9])?$")] = "slo-autoscaler"
    """Name of the Lease, in lower-case letters, digits and hyphens; one autoscaler per Lease acts."""
    namespace: str | None = None
    """Namespace of the Lease; None: the autoscaler's own."""
    duration: Annotated[PositiveDuration, Field(ge=1)] = 15.0
    """Time from the last renewal of a crashed leader until another takes over: whole seconds, at least three
    times ``platform.timeout``."""
    renew_interval: PositiveDuration = 2.0
    """Time between two renewals, at most a third of ``duration``. A standby reads the lease four times as
    often."""

    @field_validator("duration")
    @classmethod
    def _whole(cls, duration: float) -> float:
        if duration != int(duration):
            raise ValueError("must be whole seconds, as the Kubernetes API keeps it")
        return duration

    @field_validator("renew_interval")
    @classmethod
    def _several_tries(cls, interval: float, info: ValidationInfo) -> float:
        duration = info.data.get("duration")
        if duration is not None and interval > duration / LEASE_SHARE:
            raise ValueError(f"must be at most a third of duration, {duration / LEASE_SHARE:g}s")
        return interval


class Step(Enum):
    """Actions on a lease."""

    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as the API returned it; two are equal only without a write in between."""

    version: str
    holder: str
    """Empty: nobody's."""
    duration: float
    acquired: str
    transitions: int

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Lease":
        """Read a Lease object (coordination.k8s.io/v1); missing fields count as free."""
        spec = document.get("spec") or {}
        return cls(
            version=str(document["metadata"]["resourceVersion"]),
            holder=str(spec.get("holderIdentity") or ""),
            duration=float(spec.get("leaseDurationSeconds") or 0),
            acquired=str(spec.get("acquireTime") or ""),
            transitions=int(spec.get("leaseTransitions") or 0),
        )


@dataclass(frozen=True, slots=True)
class Sighting:
    """A lease, and the time when its present state was first seen."""

    lease: Lease
    since: float


def sighted(before: Sighting | None, lease: Lease, now: float) -> Sighting:
    """Return the sighting of a lease that was just read; ``now`` is the time after the answer."""
    return before if before is not None and before.lease == lease else Sighting(lease, now)


def next_step(sighting: Sighting | None, identity: str, duration: float, now: float) -> Step:
    """Return the action that ``identity`` may take; ``sighting`` None: there is no lease yet."""
    if sighting is None:
        return Step.CREATE
    lease = sighting.lease
    if lease.holder == identity:
        return Step.RENEW
    if not lease.holder or now >= free_at(sighting, duration):
        return Step.TAKE
    return Step.WAIT


def free_at(sighting: Sighting, duration: float) -> float:
    """Return the time from which another's lease may be taken, if it stays unchanged."""
    return sighting.since + max(duration, sighting.lease.duration)


def pause(sighting: Sighting | None, identity: str, duration: float, interval: float, now: float) -> float:
    """Return the seconds until the next poll, of a candidate that renews every ``interval``.

    A standby polls more often, and at the moment when the lease expires: until it sees a free lease, no
    autoscaler acts.
    """
    if sighting is None or sighting.lease.holder == identity:
        return interval
    left = free_at(sighting, duration) - now
    poll = interval / POLLS_PER_RENEWAL
    return min(poll, left) if left > 0 else poll


def acts_until(sent: float, duration: float) -> float:
    """Return the time until which the holder may act; ``sent`` is just before it sent the accepted write."""
    return sent + duration * (LEASE_SHARE - 1) / LEASE_SHARE


def held(step: Step, lease: Lease | None, identity: str, duration: float, wall: datetime) -> dict[str, Any]:
    """Return the spec that gives or keeps ``identity`` the lease; ``wall`` is only for operators."""
    now = _text(wall)
    taken = lease is not None and step is Step.TAKE
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": int(duration),
        "acquireTime": lease.acquired if lease is not None and step is Step.RENEW and lease.acquired else now,
        "renewTime": now,
        "leaseTransitions": 0 if lease is None else lease.transitions + taken,
    }


def released(lease: Lease, wall: datetime) -> dict[str, Any]:
    """Return the spec that releases the lease for others at once."""
    now = _text(wall)
    return {
        "leaseDurationSeconds": 1,
        "acquireTime": now,
        "renewTime": now,
        "leaseTransitions": lease.transitions,
    }


def _text(wall: datetime) -> str:
    """Return a time as the API's MicroTime."""
    return wall.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

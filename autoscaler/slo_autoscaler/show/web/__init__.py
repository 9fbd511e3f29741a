"""HTTP servers: one for Prometheus, one for probes, one for the status page.

- ``probes``        only /healthz, for the kubelet
- ``listener``      /metrics, /healthz and /decisions, for programs; reachable from outside a pod
- ``page``          the status page's listener: Flask, on loopback unless configured otherwise
- ``server``        waitress for both, with its limits
- ``views``         the page's addresses: HTML, and the same as JSON under /api
- ``rows``          decisions -> rows of the table, their order, fleet-wide notices; once a second
- ``charts`` [P]    the drawn time series as query text; answers -> columns; learned service times
- ``reader``        queries Prometheus for the page, with limits on number and rate

The ports share only the decisions that they show. So page traffic cannot delay a scrape, and neither can
delay a probe.
"""

from typing import Protocol

from pydantic import ValidationInfo, field_validator

from slo_autoscaler.platforms import PlatformSettings
from slo_autoscaler.settings.fields import HostName, Port, settings
from slo_autoscaler.settings.spec import GatewaySlos, Spec
from slo_autoscaler.signals import source as sources


@settings
class Settings:
    """Addresses of /metrics and /healthz, for programs, and of the status page, for operators."""

    host: str = "::"
    """Address of /metrics, /healthz and /decisions, on ``port``. The default is all of IPv6 and IPv4."""
    port: Port = 8082
    """Port of /metrics, /healthz and /decisions; 0 chooses a free one, which the log names."""
    probe_port: Port | None = 8084
    """Port of a separate /healthz, which traffic on the other ports cannot delay; None: no such port."""
    page_host: str = "127.0.0.1"
    """Address of the page, which has no authentication: beyond loopback, put a proxy with one in front."""
    page_port: Port | None = 8083
    """Port of the status page; 0 chooses a free one; None: no page."""
    page_allowed_hosts: tuple[HostName, ...] = ()
    """Host names of the page that browsers may use, besides localhost and IP addresses."""

    @field_validator("probe_port", "page_port")
    @classmethod
    def _port_of_its_own(cls, port: int | None, info: ValidationInfo) -> int | None:
        host = info.data.get("page_host" if info.field_name == "page_port" else "host")
        for other in ("port", "probe_port"):
            if port and port == info.data.get(other) and _overlap(host, info.data.get("host")):
                raise ValueError(f"must differ from web.{other}: each needs a port of its own")
        return port


def _overlap(host: str | None, other: str | None) -> bool:
    """Return whether one port cannot be listened on at both addresses; None, a wrong one, overlaps none."""
    if host is None or other is None:
        return False
    every_ipv4 = "0.0.0.0" in (host, other) and ":" not in host + other  # noqa: S104 - compared only
    return host == other or "::" in (host, other) or every_ipv4


class Plan(Protocol):
    """The part of the configuration that the page needs."""

    @property
    def web(self) -> Settings:
        """Addresses and ports."""

    @property
    def interval(self) -> float:
        """Seconds between two reconciles."""

    @property
    def platform(self) -> PlatformSettings:
        """What is scaled."""

    @property
    def prometheus(self) -> sources.Settings:
        """The Prometheus that charts query."""

    def target(self, function_name: str) -> Spec:
        """Return the settings of a function."""

    def gateway_slos(self) -> GatewaySlos:
        """Return the SLOs of functions without a watchdog."""

"""What is served: to Prometheus and probes on one port, to people on another.

- ``probes``        /healthz alone, for the kubelet
- ``listener``      /metrics, /healthz and /decisions, for machines; reachable from outside a pod
- ``page``          the status page's listener: Flask, on loopback unless configured otherwise
- ``server``        waitress for both, with its limits
- ``views``         its addresses: HTML for people, the same as JSON under /api
- ``rows``          decisions -> rows of the table, their order, what is wrong altogether; once a second
- ``charts`` [P]    which time series are drawn, as query text; answers -> columns; learned service times
- ``reader``        Prometheus for all of this: bounded, and no oftener than every few seconds

The ports share nothing but the decisions that they show: no user of the page can delay a scrape, and no
reader of either a probe.
"""

from typing import Protocol

from slo_autoscaler import sources
from slo_autoscaler.fields import Port, settings
from slo_autoscaler.platforms import PlatformSettings
from slo_autoscaler.spec import GatewaySlos, Spec


@settings
class Settings:
    """Where /metrics and /healthz are served, to machines, and where the status page is, to people."""

    host: str = "0.0.0.0"  # noqa: S104  (a pod is scraped from outside; the local platform sets loopback)
    """For /metrics, /healthz and /decisions, on ``port``."""
    port: Port = 8082
    """0 is any free port; the log says which."""
    probe_port: Port | None = 8084
    """For /healthz alone, so that no reader of the other ports keeps a probe waiting; None: no such port."""
    page_host: str = "127.0.0.1"
    """Address of the page, which has no authentication: beyond loopback, put a proxy with one in front."""
    page_port: Port | None = 8083
    """As ``port``; None: no page."""
    page_allowed_hosts: tuple[str, ...] = ()
    """Host names by which browsers may ask for the page, besides localhost and addresses."""


class Plan(Protocol):
    """What the page needs of the configuration."""

    @property
    def web(self) -> Settings:
        """Where it is served."""

    @property
    def interval(self) -> float:
        """Seconds between two reconciles."""

    @property
    def platform(self) -> PlatformSettings:
        """What is scaled."""

    @property
    def prometheus(self) -> sources.Settings:
        """What charts are drawn from."""

    def target(self, function_name: str) -> Spec:
        """Return how a function is scaled."""

    def gateway_slos(self) -> GatewaySlos:
        """Return the SLOs of functions without a watchdog."""

"""What is served: to Prometheus and probes on one port, to people on another.

- ``listener``      /metrics, /healthz and /decisions, for machines; reachable from outside a pod
- ``page``          the status page's listener: Flask under waitress, loopback unless it is told otherwise
- ``views``         its addresses: HTML for people, the same as JSON under /api
- ``board``         what is shown now, worked out once a second
- ``fleet``         decisions -> rows of the table, their order, what is wrong altogether
- ``series`` [P]    which time series are drawn, as query text; answers -> columns
- ``shown`` [P]     numbers as text
- ``reader``        Prometheus for all of this: bounded, and no oftener than every few seconds

The two ports have nothing in common but the decisions that they show, so that nothing that people do can keep
a probe or a scrape waiting.
"""

from slo_autoscaler.web.listener import Decisions, Web

__all__ = ["Decisions", "Web"]

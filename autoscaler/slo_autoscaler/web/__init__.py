"""What is served: to Prometheus and probes on one port, to people on another.

- ``listener``      /metrics, /healthz and /decisions, for machines; reachable from outside a pod
- ``page``          the status page's listener: Flask under waitress, on loopback unless configured otherwise
- ``views``         its addresses: HTML for people, the same as JSON under /api
- ``rows``          decisions -> rows of the table, their order, what is wrong altogether; once a second
- ``charts`` [P]    which time series are drawn, as query text; answers -> columns; learned service times
- ``reader``        Prometheus for all of this: bounded, and no oftener than every few seconds

The two ports share nothing but the decisions that they show, so that no user of the page can delay a probe or
a scrape.
"""

from slo_autoscaler.web.listener import Decisions, Web

__all__ = ["Decisions", "Web"]

"""The Kubernetes API, for any platform; knows no scaling.

- ``client``            requests, credentials, time limits, errors
- ``informer``          lists kept current by watches, with own writes laid over them
- ``loop``              a thread per duty: wake, back off, retry per object
- ``events``            events on the scaled objects
- ``pods``              pods for which no node has room
- ``resize``            boosted CPU of pods, given and taken back
- ``resize_rules`` [P]  its rules
- ``retire``            a program: stops an autoscaler before ``helm uninstall``
- ``lease``             leader election by a Lease
- ``lease_rules`` [P]   its rules
"""

from typing import Final

BOOST: Final = "tailbound.dev/boost"
"""Label of the pods that may be boosted. Its value is the maximum factor; empty: the configuration's."""

METRICS_PORTS: Final = ("tailbound.dev/metrics-port", "prometheus.io/port")
"""Annotations of pods with the port of the watchdog's metrics; the first that a pod has counts."""

PAUSED: Final = "tailbound.dev/paused"
"""Annotation of the Lease with which no autoscaler acts, for an operator: no repository has the Lease."""

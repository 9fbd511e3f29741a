"""The autoscaler: sizes functions from what Prometheus says, so that they meet their latency SLO.

The modules, in the order in which one reconcile passes them ([P] = pure: no I/O, no clock):

- ``config``               YAML text -> frozen ``Config``; wrong values are named with key, value and rule
- ``errors`` [P]           what can fail, and how it is said
- ``promql`` [P]           which signals are asked for, as query text; API answers -> numbers
- ``sources.prometheus``   the queries over HTTP, all functions in one query for each signal
- ``sources.replay``       the same from a recording
- ``platforms.openfaas``   functions, their replicas and bounds; scaling them
- ``platforms.kubernetes`` the same for plain Deployments that carry our annotation
- ``platforms.knative``    the same for Knative's Services: a class of our own, or a floor under Knative's
- ``platforms.knative_cluster`` the objects that it reads, and the loops in which it acts
- ``platforms.knative_revisions`` [P] what annotations and routes mean; a service's count for each revision
- ``platforms.knative_status`` [P] conditions, status and ServerlessService by Knative's rules
- ``platforms.knative_floor`` [P] a floor as annotations of a Revision
- ``platforms.kube_api``   the Kubernetes API: requests, and lists kept current by a watch
- ``platforms.kube_events`` events on what is scaled
- ``model`` [P]            the nouns: ``Observation``, ``Scale``, ``Decision``, ``TargetState`` and others
- ``window`` [P]           the last seconds of a value, and their maximum
- ``forecast`` [P]         the rate one start-up time ahead
- ``confidence`` [P]       what a share of few requests is worth
- ``restart`` [P]          what a new autoscaler learns from the history of the one before it
- ``policies`` [P]         how many replicas a policy wants: ``slo``, ``proportional``
- ``decide`` [P]           from wish to action: bounds, rate limits, cooldown, stabilization, reasons
- ``shadow`` [P]           what would be there in shadow mode, and the score of both
- ``journal``              the last decisions of each function; what is news
- ``rivals`` [P]           whether somebody else scales a function too
- ``leader``               which of several autoscalers acts, by a lock on a file
- ``platforms.lease``      the same by a Lease of the Kubernetes API; the law is ``platforms.lease_rules`` [P]
- ``controller``           the loop: observe, decide, act, record
- ``metrics``              every metric name and label
- ``explain``              decisions as sentences
- ``web``                  /metrics, /healthz and /decisions; the status page
- ``app``                  builds all of the above, runs and stops it
- ``status``               the status page's table in a terminal
"""

__version__ = "0.1.0"

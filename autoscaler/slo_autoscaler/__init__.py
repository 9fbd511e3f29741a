"""The autoscaler: sizes functions by Prometheus' metrics, so that they meet their latency SLO.

The modules, in the order in which one reconcile passes them ([P] = pure: no I/O, no clock):

- ``__main__``         the command's words: ``run``, ``explain``, ``status``, ``hold``
- ``app``              builds the parts below from the configuration, runs and stops them
- ``config``           YAML text -> frozen ``Config``, composed of the rooms' settings; error messages
- ``fields`` [P]       the kinds of values that settings hold
- ``spec`` [P]         ``Spec``: how one function is scaled
- ``schedule`` [P]     schedules and holds, as the configuration and annotations write them
- ``controller``       the loop: observe, decide, act
- ``observer``         reads the source and the platform, and answers their outages
- ``targets``          each function's state between reconciles, and its decisions by ``law``
- ``actor``            records and announces decisions, requests counts; backoff, and the leader's fence
- ``calls``            requests to the platform, side by side and with a time limit
- ``leader``           which of several autoscalers acts, by a lock on a file; by a Lease: ``kube.lease``
- ``session``          credentials, certificates and proxies of HTTP requests
- ``pages``            one page of metrics, fetched within limits
- ``sources``          where observations come from: Prometheus, and the replicas' own pages
- ``signals`` [P]      ``Observation``: one record for each signal
- ``platforms``        where functions run and are scaled: OpenFaaS, Kubernetes, Knative
- ``kube``             the Kubernetes API, for the platforms and the Lease
- ``model`` [P]        the nouns: ``Scale``, ``Recommendation``, ``Decision``, ``Reason``
- ``law`` [P]          the scaling policy: from an observation to a decision
- ``shadow`` [P]       the virtual replicas of shadow mode, and the score of both scalers
- ``conflict`` [P]     counts that an operator or another autoscaler sets
- ``journal``          the last decisions of each function; tells new ones from repetitions
- ``metrics``          every metric name and label
- ``words`` [P]        reasons and numbers as text, for log, page and terminal
- ``web``              /metrics, /healthz, /decisions and /api/v1/desired; the status page
- ``cli``              the commands beside ``run``
- ``errors`` [P]       the kinds of failure, and their messages
- ``changes``          logs a state once, and its end
- ``logs``             the log on stderr
"""

__version__ = "0.4.0"

"""The autoscaler: sizes functions from what Prometheus says, so that they meet their latency SLO.

In the order in which a reconcile meets them ([P] = pure: no I/O, no clock, no log, no randomness):

- ``__main__``        the commands: run, status, explain
- ``app``             builds all of the below, runs and stops it
- ``config``          YAML -> frozen ``Config``, composed of the sections of the rooms
- ``fields`` [P]      the kinds of values that settings hold: each rule once
- ``spec`` [P]        how one function is scaled: the keys of ``defaults`` and ``functions``
- ``controller``      the loop: observe, decide, act, record; back-off of a function that fails
- ``sources``         where observations come from: Prometheus, or a recording
- ``signals`` [P]     what is observed of a function: one record per signal
- ``platforms``       where functions run and are scaled: OpenFaaS, Kubernetes, Knative
- ``kube``            the Kubernetes API for whoever needs it; knows no scaling
- ``law`` [P]         the scaling policy: from an observation to a decision
- ``model`` [P]       the nouns that a reconcile passes along: ``Scale``, ``Decision``, ``Reason``
- ``shadow`` [P]      what would be there in shadow mode, and the score of both
- ``conflict`` [P]    whether another scaler is at work on a function
- ``leader``          which of several autoscalers acts
- ``journal``         the last decisions of each function; what is news
- ``metrics``         every metric name and label
- ``words`` [P]       reasons and numbers as text, for log, page and terminal
- ``web``             /metrics, /healthz and /decisions for machines; the status page for people
- ``cli``             the commands that ask a running autoscaler
- ``errors`` [P]      what can fail, and how it is said
- ``logs``            the format of the log
"""

__version__ = "0.1.0"

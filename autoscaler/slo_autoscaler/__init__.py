"""The autoscaler: sizes functions by Prometheus' metrics, so that they meet their latency SLO.

The rooms, in the order in which one reconcile passes them ([P] = pure: no I/O, no clock). Each package has a
map of its modules:

- ``__main__``      the command's words: ``run``, ``explain``, ``status``, ``hold``
- ``app``           builds the parts below from the configuration, runs and stops them
- ``config``        YAML text -> frozen ``Config``, composed of the rooms' settings; error messages
- ``settings`` [P]  how one function is scaled
- ``loop``          observe, decide, act
- ``signals``       what is observed of a function, and the sources that observe it
- ``platforms``     where functions run and are scaled: OpenFaaS, Kubernetes, Knative; which scaler leads
- ``kube``          the Kubernetes API, for the platforms and the Lease
- ``http``          sessions, calls and pages of other servers
- ``model`` [P]     the nouns: ``Scale``, ``Recommendation``, ``Decision``, ``Reason``
- ``law`` [P]       the scaling policy: from an observation to a decision
- ``show``          journal, metrics, words, the status page
- ``cli``           the commands beside ``run``
- ``errors`` [P]    the kinds of failure, and their messages
- ``logs``          the log on stderr; a state that lasts is logged once
"""

__version__ = "0.4.0"

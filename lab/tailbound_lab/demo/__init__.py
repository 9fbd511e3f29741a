"""The demo: a traffic peak against the functions of stack.yml, Tailbound beside what OpenFaaS does today.

Modules in the order of a run:

- ``traffic`` [P]: the table of functions, rates and bodies, and when a peak comes.
- ``shape`` [P]: rates over time, and the Poisson arrivals drawn from them.
- ``load``: the open-loop generator; a process of its own, and a tool of its own.
- ``sender``: starts that process and reads what it says.
- ``queries``: what is asked of Prometheus and of the provider.
- ``alerting`` [P] and ``baseline``: OpenFaaS CE's scaling, as a law and as the loop that obeys it.
- ``watch``: what Prometheus and the provider say each second.
- ``decisions`` [P]: what the autoscaler's log says it decided, and why.
- ``scoreboard`` [P]: records and samples in, attainment, percentiles, replica-seconds and the verdict out.
- ``table`` and ``report``: the terminal and the page that show them.
- ``errors``: what ends a run.
- ``session``: one run from "up" to the results; ``__main__`` is its command line.

Nothing here is imported by the platform; the demo is a client of it.
"""

"""Signals of functions, and where observations of them come from.

- ``record`` [P]    ``Observation``: one record for each signal
- ``gate`` [P]      what is no number, infinite or impossible is no data
- ``source``        the seams: what a source and a reader of the direct load offer; Prometheus' settings
- ``queries`` [P]   every PromQL text; the API's answers -> series
- ``answers`` [P]   series -> observations
- ``window`` [P]    the window of a slow function's rates
- ``charts`` [P]    the charts of a function's page, each line with its query
- ``prometheus``    the queries over HTTP, one per signal for all functions
- ``further``       the metrics of ``also``, beside another source's
- ``direct``        only the load, each second, from the pages that Prometheus scrapes
- ``counters`` [P]  their counters -> arrivals per second
"""

"""A real run, for demo and bench: the platform up, traffic sent, functions and their twins compared.

In reading order:

- ``session``  one run: traffic and display in, an ``Outcome`` out
- ``twins``    each function once more, served and scaled as OpenFaaS CE does
- ``watch``    what Prometheus, the provider and the autoscaler's log say meanwhile
- ``machine``  what it ran on, and how busy that was
"""

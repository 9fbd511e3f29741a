"""The Kubernetes API for any platform that needs it; knows no scaling.

- ``client``            requests, credentials, time limits, and lists kept current by watches
- ``events``            events on what is scaled
- ``lease``             leader election by a Lease
- ``lease_rules`` [P]   its rules
"""

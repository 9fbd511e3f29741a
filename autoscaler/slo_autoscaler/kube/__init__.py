"""The Kubernetes API for any platform that needs it; knows no scaling.

- ``client``            requests, credentials, time limits, errors
- ``informer``          lists kept current by watches, own writes laid over them
- ``loop``              a thread per duty: wake, back off, retry per object
- ``events``            events on what is scaled
- ``pods``              pods for which no node has room
- ``lease``             leader election by a Lease
- ``lease_rules`` [P]   its rules
"""

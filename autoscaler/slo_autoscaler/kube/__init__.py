"""The Kubernetes API, for any platform; knows no scaling.

- ``client``            requests, credentials, time limits, errors
- ``informer``          lists kept current by watches, with own writes laid over them
- ``loop``              a thread per duty: wake, back off, retry per object
- ``events``            events on the scaled objects
- ``pods``              pods for which no node has room
- ``resize``            boosted CPU of pods, given and taken back
- ``resize_rules`` [P]  its rules
- ``lease``             leader election by a Lease
- ``lease_rules`` [P]   its rules
"""

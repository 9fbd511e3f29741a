"""The commands beside ``run``.

- ``client``    asks it, and says what is wrong when it does not answer
- ``explain``   the last decisions of a function as sentences
- ``status``    the table of all functions
- ``openslo``   the SLOs that functions declare, as OpenSLO v1
- ``hold``      pauses a function, by an annotation on the platform
"""

"""The commands that ask a running autoscaler.

- ``client``    asks it, and says what is wrong when it does not answer
- ``explain``   the last decisions of a function as sentences
- ``status``    the table of all functions
"""

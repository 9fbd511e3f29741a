"""Settings of a function. [P]

- ``fields``    kinds of values, with their rules
- ``spec``      ``Spec``: how one function is scaled
- ``schedule``  schedules and holds, as the configuration and annotations write them
"""

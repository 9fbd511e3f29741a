"""The tools of every measurement of a replica: the systems, their processes, one measurement.

- ``systems``: the registry with the start of each system; ``peers``: its virtual environment.
- ``server``: starts, awaits and stops one system; ``processes``: the use of its processes.
- ``search`` [P]: chooses the next rate; ``measure``: tries it, and makes all other measurements.
"""

"""What every question about a replica needs: the systems, their processes, one measurement.

- ``systems``: the registry: how each system is started; ``peers``: its virtual environment.
- ``server``: one system, started, ready and stopped; ``processes``: what its processes use.
- ``search`` [P]: which rate to try next; ``measure``: tries it, and all else that is measured of a system.
- ``offline``: the model alone, without a server.
"""

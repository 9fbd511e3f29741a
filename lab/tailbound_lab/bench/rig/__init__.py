"""What the questions share.

- ``record``: the JSON record of a run; ``pool``: simulations on several cores; ``ticker``: acts beside a run.
- ``systems``: the registry with the start of each system; ``venvs``: its virtual environment.
- ``server``: starts, awaits and stops one system; ``processes``: the use of its processes.
- ``search`` [P]: chooses the next rate; ``measure``: tries it.
"""

"""The laboratory: the platform for one machine, traffic, simulator, demo and bench. Never shipped.

- ``load``      open-loop traffic, and what a run of it means
- ``local``     an OpenFaaS provider that runs replicas as processes
- ``simulate``  the scaling policies in virtual time
- ``demo``      the main job in one command
- ``bench``     one module per question

The only place that may import both distributions. Start reading at the folder you need.
"""

__version__ = "0.4.0"

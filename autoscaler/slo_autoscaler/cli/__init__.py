"""The commands beside ``run``, of ``slo-autoscaler`` and of ``kubectl slo``.

- ``client``    asks it, and says what is wrong when it does not answer; forwards a port to it
- ``explain``   the last decisions of a function as sentences
- ``status``    the table of all functions
- ``hold``      pauses a function, by an annotation on the platform
- ``complete``  completes a command line of ``kubectl slo``
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Caller:
    """The program whose command runs."""

    program: str
    forwards: bool
    """Whether it asks the autoscaler of the cluster, through kubectl, unless told where."""


SHELL: Final = Caller("slo-autoscaler", forwards=False)
KUBECTL: Final = Caller("kubectl slo", forwards=True)

"""What a user can get wrong in a simulation. [P]"""


class SimulationError(Exception):
    """What cannot be simulated: a trace, a function, a choice. The message names what, where and the rule."""

"""What a user can get wrong in a simulation. [P]"""


class SimulationError(Exception):
    """A trace, a function or a choice that cannot be simulated: the message names what, where and the rule."""

"""What ends a run of the demo, or of whatever else is built from its parts."""


class DemoError(Exception):
    """The run cannot go on; the message says what the user can do."""

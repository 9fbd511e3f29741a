"""Answers with the length of the body: what it costs to carry a body to the model and nothing else."""


def handle_batch(events, context):
    """One length for each event."""
    return [len(event.body) for event in events]


def example():
    """Return a small body."""
    return b"-"

"""A real run for demo and bench: the platform up, traffic sent, the clusters compared."""

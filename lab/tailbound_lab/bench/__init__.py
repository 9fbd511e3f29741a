"""Measures Tailbound's data plane beside its peers: ``python -m bench``, or ``make bench``."""

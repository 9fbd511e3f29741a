"""Questions about a fleet: how it is scaled, simulated and for real."""

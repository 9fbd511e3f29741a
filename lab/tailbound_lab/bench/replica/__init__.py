"""Questions about one replica: how much it serves, how that changes."""

"""What every question needs: systems under test, their processes, the search for a maximum."""

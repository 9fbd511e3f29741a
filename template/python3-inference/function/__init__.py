"""A package, so that one pytest run may test several functions."""

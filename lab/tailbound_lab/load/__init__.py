"""The bench's load generators: openload.c, and the same tool in Python where there is no C compiler."""

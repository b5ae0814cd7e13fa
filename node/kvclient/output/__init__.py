"""How kvctl shows results: one printer per format, all with the same methods."""

"""Pure: what is wanted, what was seen, what may be done, and how it is told."""

"""Leases: who grants, which keys hang on them, when they expire.  Pure: the caller says what time it is."""

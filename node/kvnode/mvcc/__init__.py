"""Revisions of keys: index, records, compaction, hashes and watches.  Pure: no clock, thread or socket."""

"""The state machine: one batch of committed entries becomes results, events and one write batch.

Deterministic: the same entries make the same state on every member, whatever its clock or flags.
"""

"""Raft as a pure state machine: messages, ticks and proposals in, ``Ready`` out.

No clock, no randomness, no thread, no socket and no log handler is in here, so every run can be replayed
from its inputs.
"""

"""The agent's failures: one sentence for a person, which ends up in the KVSnapshot's status."""

__all__ = ["AgentError"]


class AgentError(Exception):
    """The snapshot can't be taken or restored; the text says why."""

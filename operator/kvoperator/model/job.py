"""What is seen of a snapshot's Job."""

from dataclasses import dataclass

__all__ = ["ObservedJob"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedJob:
    """The Job and the last words of its agent."""

    name: str
    is_owned: bool = True
    has_succeeded: bool = False
    has_failed: bool = False
    failure: str = ""
    """Why the Job controller gave it up, such as DeadlineExceeded."""
    is_running: bool = False
    agent_message: str = ""
    """Termination message of the agent's container that ended last: one JSON object."""
    pod_message: str = ""
    """Why the agent has not started, such as an image or a volume that is not there."""

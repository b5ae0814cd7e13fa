"""The order in which a turn's work is done.

``Ready`` says what; this says in which order, and both the asyncio driver and the simulation
carry it out step by step, so the order that is tested with a crash between any two steps is
the order that runs.
"""

from collections.abc import Iterator
from typing import NamedTuple

from kvnode.raft.events import Event
from kvnode.raft.messages import Message
from kvnode.raft.ready import Persist, ReadState, Ready, SoftState
from kvnode.raft.types import Entry

__all__ = ["Apply", "Effect", "Report", "Send", "Write", "effects_of"]


class Report(NamedTuple):
    """Tell logs, metrics and waiting requests what happened."""

    events: tuple[Event, ...]
    soft_state: SoftState | None


class Send(NamedTuple):
    """Hand messages to the network."""

    messages: tuple[Message, ...]


class Write(NamedTuple):
    """Begin one synced write; its messages leave when it is on disk."""

    persist: Persist


class Apply(NamedTuple):
    """Apply committed entries, then let reads go whose index is reached."""

    entries: tuple[Entry, ...]
    read_states: tuple[ReadState, ...]


Effect = Report | Send | Write | Apply


def effects_of(ready: Ready) -> Iterator[Effect]:
    """Yield what ``ready`` asks for.

    Sending comes before writing, so that followers write while the leader does (Raft thesis
    10.2.1); writing is begun before applying, so that the disk works while state changes.
    """
    if ready.events or ready.soft_state is not None:
        yield Report(ready.events, ready.soft_state)
    if ready.messages:
        yield Send(ready.messages)
    if ready.persist is not None:
        yield Write(ready.persist)
    if ready.committed_entries or ready.read_states:
        yield Apply(ready.committed_entries, ready.read_states)

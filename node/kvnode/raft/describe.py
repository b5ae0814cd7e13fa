"""Text forms of messages, entries and events, for golden scripts and for logs at DEBUG.

Data is cut short: it is a client's, and a log must not hold it.
"""

from enum import Enum

from kvnode.raft.events import Event
from kvnode.raft.messages import Message
from kvnode.raft.types import ConfState, Entry, EntryKind, SnapshotMetadata, decode_conf_change

__all__ = ["describe_conf_state", "describe_entry", "describe_event", "describe_message"]

_ADDRESS_FIELDS = ("from_id", "to_id")
_DATA_SHOWN_BYTES = 12


def describe_message(message: Message) -> str:
    """Return a message in one line: who to whom, its kind, and the fields that say something."""
    fields = [
        f"{name}={_value(value)}"
        for name, value in zip(message._fields, message, strict=True)
        if name not in _ADDRESS_FIELDS and _says_something(value)
    ]
    return f"{message.from_id:x}->{message.to_id:x} {type(message).__name__} {' '.join(fields)}"


def describe_event(event: Event) -> str:
    """Return an event in one line: its name and fields."""
    fields = [f"{name}={_value(value)}" for name, value in zip(event._fields, event, strict=True)]
    return f"{type(event).__name__} {' '.join(fields)}"


def describe_entry(entry: Entry) -> str:
    """Return ``term/index`` and the beginning of the data."""
    if entry.kind is EntryKind.CONF_CHANGE:
        change = decode_conf_change(entry.data)
        return f"{entry.term}/{entry.index} {change.kind.name}({change.member_id:x})"
    data = entry.data[:_DATA_SHOWN_BYTES].decode("ascii", "backslashreplace")
    more = "..." if len(entry.data) > _DATA_SHOWN_BYTES else ""
    return f'{entry.term}/{entry.index} "{data}{more}"'


def describe_conf_state(conf_state: ConfState) -> str:
    """Return the voters and, if there are any, the learners."""
    voters = ",".join(f"{member:x}" for member in conf_state.voters)
    learners = ",".join(f"{member:x}" for member in conf_state.learners)
    return f"voters({voters})" + (f" learners({learners})" if learners else "")


def _says_something(value: object) -> bool:
    return value not in (False, b"", ())


def _value(value: object) -> str:
    """Return a field's value; nested values in their own form."""
    if isinstance(value, ConfState):
        return describe_conf_state(value)
    if isinstance(value, SnapshotMetadata):
        return f"{value.term}/{value.index} {describe_conf_state(value.conf_state)}"
    if isinstance(value, bytes):
        return value[:_DATA_SHOWN_BYTES].hex()
    if isinstance(value, tuple):
        return f"[{', '.join(describe_entry(v) if isinstance(v, Entry) else _value(v) for v in value)}]"
    if isinstance(value, bool):
        return "yes"
    if isinstance(value, Enum):
        return str(value.value)
    return str(value)

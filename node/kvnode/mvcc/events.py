"""Changes as the store makes them, and events as watchers see them.

Everybody who watches a key gets the same bytes: an event is encoded once per form (with or without the
previous pair) and a batch of them once per group of watchers, however many streams they go to.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kvnode.mvcc.records import encode_delete_event, encode_deletion, encode_put_event, varint
from kvnode.mvcc.revision import MAIN_SHIFT
from kvnode.pb.kv_pb2 import Event as EventMessage

__all__ = ["Change", "Event", "EventBatch", "RevisionChanges"]


class Change(NamedTuple):
    """One put or deletion, as applied.  A plain tuple: one is made for every write on every member."""

    key: bytes
    #: Packed revision, see ``revision``.
    packed: int
    #: The stored record: a KeyValue, of nothing but the key for a deletion.
    record: bytes
    #: Packed revision of the version that it replaced; 0 for a creation.
    previous: int

    @property
    def main(self) -> int:
        """The revision that clients see."""
        return self.packed >> MAIN_SHIFT

    @property
    def is_deletion(self) -> bool:
        """Whether the key was deleted."""
        return bool(self.packed & 1)


#: All changes of one main revision, in the order they were made.
RevisionChanges = tuple[int, Sequence[Change]]


class Event:
    """One change as told to watchers."""

    __slots__ = ("_encoded", "_encoded_with_previous", "is_deletion", "key", "mod_revision",
                 "previous", "record")  # fmt: skip

    def __init__(self, change: Change, previous: bytes | None) -> None:
        packed = change.packed
        self.key = change.key
        self.mod_revision = packed >> MAIN_SHIFT
        self.is_deletion = bool(packed & 1)
        #: Serialized KeyValue: what was put, or key and mod_revision of a deletion.
        self.record = encode_deletion(change.key, self.mod_revision) if self.is_deletion else change.record
        #: Serialized KeyValue before the change; None for a creation, when compacted, or not asked for.
        self.previous = previous
        self._encoded: bytes | None = None
        self._encoded_with_previous: bytes | None = None

    def encoded(self, with_previous: bool) -> bytes:
        """Return the serialized ``mvccpb.Event``."""
        if with_previous and self.previous is not None:
            if self._encoded_with_previous is None:
                self._encoded_with_previous = self._encode(self.previous)
            return self._encoded_with_previous
        if self._encoded is None:
            self._encoded = self._encode(None)
        return self._encoded

    def message(self, with_previous: bool) -> EventMessage:
        """Return the event as a message."""
        return EventMessage.FromString(self.encoded(with_previous))

    def _encode(self, previous: bytes | None) -> bytes:
        encode = encode_delete_event if self.is_deletion else encode_put_event
        return encode(self.record, previous)


class EventBatch:
    """Events for one delivery: in revision order, each revision whole.

    Shared by all watchers of one key or range that want the same form, so it must not be changed.
    """

    __slots__ = ("_encoded", "events", "with_previous")

    def __init__(self, events: Sequence[Event], with_previous: bool) -> None:
        self.events = tuple(events)
        self.with_previous = with_previous
        self._encoded: bytes | None = None

    def __len__(self) -> int:
        return len(self.events)

    @property
    def first_revision(self) -> int:
        """The revision of the first event."""
        return self.events[0].mod_revision

    @property
    def last_revision(self) -> int:
        """The revision of the last event."""
        return self.events[-1].mod_revision

    @property
    def encoded(self) -> bytes:
        """The events as the ``events`` field of a serialized ``WatchResponse``.

        Appended to a serialized response without events it makes the whole one.
        """
        if self._encoded is None:
            self._encoded = encode_events(self.events, self.with_previous)
        return self._encoded

    @property
    def size_bytes(self) -> int:
        """How much the events add to a response."""
        return len(self.encoded)

    def messages(self) -> list[EventMessage]:
        """The events as messages."""
        return [event.message(self.with_previous) for event in self.events]

    def fragments(self, limit_bytes: int) -> Iterator["EventBatch"]:
        """Yield batches of at most ``limit_bytes`` each; one event alone may be larger.

        For watches that allow a revision to be split over several responses.
        """
        if self.size_bytes <= limit_bytes or len(self.events) == 1:
            yield self
            return
        part: list[Event] = []
        part_bytes = 0
        for event in self.events:
            size = len(event.encoded(self.with_previous)) + _EVENT_OVERHEAD
            if part and part_bytes + size > limit_bytes:
                yield EventBatch(part, self.with_previous)
                part, part_bytes = [], 0
            part.append(event)
            part_bytes += size
        yield EventBatch(part, self.with_previous)


#: Tag and a length of at most three bytes: enough for an event below 2 MiB.
_EVENT_OVERHEAD = 4


def encode_events(events: Sequence[Event], with_previous: bool) -> bytes:
    """Return events as field 11 of a WatchResponse (tag byte 0x5a), one after the other."""
    parts: list[bytes] = []
    for event in events:
        encoded = event.encoded(with_previous)
        parts += (b"\x5a", varint(len(encoded)), encoded)
    return b"".join(parts)

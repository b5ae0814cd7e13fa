"""Alarms: what every member refuses until an operator has dealt with it."""

from collections.abc import Iterator
from typing import Final

from kvnode.pb.rpc_pb2 import AlarmType
from kvnode.storage.engine import ReadView, WriteBatch
from kvnode.storage.keyspace import ALARM_PREFIX, alarm_key, prefix_end

__all__ = ["UNKNOWN_MEMBER", "Alarms"]

#: Whom an alarm names that may concern any member, as nobody knows whose data are wrong.
UNKNOWN_MEMBER = 0

_TYPE_OFFSET: Final = 9


class Alarms:
    """The raised alarms: pairs of member ID and ``AlarmType``, iterated in order."""

    def __init__(self, raised: set[tuple[int, int]] | None = None) -> None:
        self._raised = raised or set()

    @classmethod
    def open(cls, engine: ReadView) -> "Alarms":
        """Read the alarms from the state database."""
        return cls(
            {
                (int.from_bytes(key[1:_TYPE_OFFSET], "big"), key[_TYPE_OFFSET])
                for key, _ in engine.iterate(ALARM_PREFIX, prefix_end(ALARM_PREFIX), include_value=False)
            }
        )

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(sorted(self._raised))

    def __len__(self) -> int:
        return len(self._raised)

    @property
    def has_no_space(self) -> bool:
        """Whether what would grow the data is refused."""
        return any(alarm == AlarmType.NOSPACE for _, alarm in self._raised)

    @property
    def corrupt_members(self) -> set[int]:
        """Whose data are wrong; ``UNKNOWN_MEMBER`` among them if they may be anybody's."""
        return {member_id for member_id, alarm in self._raised if alarm == AlarmType.CORRUPT}

    def raised(self, alarm: int = AlarmType.NONE) -> list[tuple[int, int]]:
        """The alarms of one type, or all for NONE."""
        return [pair for pair in self if alarm in (AlarmType.NONE, pair[1])]

    def activate(self, member_id: int, alarm: int, batch: WriteBatch) -> None:
        """Raise an alarm, here and in ``batch``."""
        self._raised.add((member_id, alarm))
        batch.put(alarm_key(member_id, alarm), b"")

    def deactivate(self, member_id: int, alarm: int, batch: WriteBatch) -> bool:
        """Take an alarm back, here and in ``batch``; returns whether it was raised."""
        if (member_id, alarm) not in self._raised:
            return False
        self._raised.discard((member_id, alarm))
        batch.delete(alarm_key(member_id, alarm))
        return True

"""A member and its disk: what it does when the disk stalls, and when the disk or the quota is full."""

import asyncio
import logging
import os
from typing import TYPE_CHECKING, NamedTuple

from kvnode.apply.commands import CommandKind
from kvnode.auth.caller import MEMBER
from kvnode.pb.rpc_pb2 import AlarmRequest, AlarmType
from kvnode.server.disk_watch import DiskWatch
from kvnode.server.storage_thread import StorageThread

if TYPE_CHECKING:
    from kvnode.server.member import Member

__all__ = ["Disk", "Room", "default_reserve_bytes"]

#: Room is looked at, and an alarm is told or taken back, this often.
SPACE_CHECK_S = 1.0

#: The alarm is taken back below this part of the quota, and above this multiple of the reserve, so that it
#: does not come and go with every write.
QUOTA_FREE_PART = 0.9
RESERVE_FREE_TIMES = 1.5

#: The reserve where none is given: enough for LevelDB to move one part of the state (64 MiB at a time),
#: but not more than a tenth of a small volume.
RESERVE_BYTES = 128 * 2**20
RESERVE_PART = 10

#: Rewriting the state needs about this much room, or that of the state if it is smaller.
REWRITE_BYTES = 80 * 2**20

log = logging.getLogger(__name__)


class Room(NamedTuple):
    """What a file system has."""

    free_bytes: int
    total_bytes: int


def default_reserve_bytes(total_bytes: int) -> int:
    """Return how much of a volume is kept free for deletions and compactions."""
    return min(RESERVE_BYTES, total_bytes // RESERVE_PART)


class Disk:
    """What one member knows of its disk."""

    def __init__(self, member: "Member", threads: tuple[StorageThread, ...], step_s: float) -> None:
        self._member = member
        self._threads = threads
        self._watch = DiskWatch(member.config.disk_stall_timeout_s, step_s)
        self._alarm_due_s = 0.0
        #: Up to where the state was compacted when it was last rewritten for room.
        self._rewritten_revision = 0
        self._is_low = False
        #: Whether to send clients away: what this member promises now it can't keep, and others can.
        self.refuses = False

    # Stalls.

    @property
    def stalled_s(self) -> float:
        """How long a write has been under way that ought to be done; 0: the disk answers."""
        return self._watch.waited_s if self._watch.is_stalled else 0.0

    def tick(self, elapsed_s: float) -> None:
        """A heartbeat interval has passed, or more: does the disk still answer?"""
        watch, member = self._watch, self._member
        waited_s = watch.waited_s
        if not watch.look([thread.job for thread in self._threads], elapsed_s):
            return
        if watch.is_stalled:
            member.stats.disk_stalls += 1
            log.error(
                "the disk has stalled: a write has been under way for %.1f s, --disk-stall-timeout is %.1f s;"
                " this member hands over leadership, and does not lead until the disk answers again",
                watch.waited_s,
                member.config.disk_stall_timeout_s,
            )
        else:
            log.warning("the disk answers again, after %.1f s", waited_s)
        member.stats.is_disk_stalled = watch.is_stalled
        self.refuses = watch.is_stalled and len(member.node.conf_state.voters) > 1
        member.node.report_fitness(is_fit=not watch.is_stalled)
        member.wake()

    # Room.

    async def keep_room(self) -> None:
        """Raise the NOSPACE alarm while the disk is nearly full, and take it back when there is room."""
        while True:
            await asyncio.sleep(SPACE_CHECK_S)
            try:
                # A file system that hangs, hangs here and not in the event loop.
                rooms = await asyncio.to_thread(self._look_at_room)
            except OSError as error:
                log.warning("can't tell how much room the disk has: %s", error)
                continue
            self._check_room(rooms)

    def _look_at_room(self) -> list[Room]:
        config = self._member.config
        rooms = []
        for path in {config.data_dir, config.wal_dir or config.data_dir}:
            found = os.statvfs(path)
            rooms.append(Room(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize))
        return rooms

    def _check_room(self, rooms: list[Room]) -> None:
        member = self._member
        given = member.config.disk_reserve_bytes
        free, reserve = min(
            ((r.free_bytes, default_reserve_bytes(r.total_bytes) if given is None else given) for r in rooms),
            key=lambda pair: pair[0] - pair[1],
        )
        stats = member.stats
        stats.disk_free_bytes, stats.disk_reserve_bytes = free, reserve
        if free < reserve:
            if not self._is_low:
                log.warning("the disk has %d bytes left, %d are kept in reserve", free, reserve)
            self._is_low = True
            self.raise_no_space("the disk is nearly full")
        elif free >= reserve * RESERVE_FREE_TIMES:
            self._is_low = False
        if member.is_leader:
            self._forget_removed()
        if not member.config.nospace_auto_disarm:
            return
        if (member.member_id, AlarmType.NOSPACE) in member.applier.alarms.raised(AlarmType.NOSPACE):
            self._make_room(free)

    def _make_room(self, free_bytes: int) -> None:
        """Take this member's alarm back, or rewrite the state if a compaction has left what can go."""
        member = self._member
        quota, store = member.quota_bytes, member.applier.store
        is_within_quota = quota is None or self.used_bytes < quota * QUOTA_FREE_PART
        if is_within_quota and not self._is_low:
            self._propose(AlarmRequest.DEACTIVATE, member.member_id, "there is room again")
        elif (
            store.compacted_revision > self._rewritten_revision
            and not store.is_compacting
            and not member.stats.is_defragmenting
            and free_bytes > min(member.db_size_bytes, REWRITE_BYTES)
        ):
            self._rewritten_revision = store.compacted_revision
            log.info("rewriting the state, to give back what compactions have freed")
            member.begin_defragment()

    @property
    def used_bytes(self) -> int:
        """What counts against the quota.

        Records count before compression, and at once: the size on disk is a little old, and what compresses
        well today may be rewritten by what does not.
        """
        return max(self._member.db_size_bytes, self._member.applier.store.retained_bytes)

    def raise_no_space(self, reason: str) -> None:
        """Tell the whole cluster that it is full here, once a second until it is known."""
        member = self._member
        if (member.member_id, AlarmType.NOSPACE) not in member.applier.alarms.raised(AlarmType.NOSPACE):
            self._propose(AlarmRequest.ACTIVATE, member.member_id, reason)

    def _forget_removed(self) -> None:
        member = self._member
        for member_id, alarm in member.applier.alarms:
            is_manual = alarm == AlarmType.NOSPACE and not member.config.nospace_auto_disarm
            if member.applier.membership.is_removed(member_id) and not is_manual:
                self._propose(AlarmRequest.DEACTIVATE, member_id, "the member was removed", alarm)

    def _propose(
        self,
        action: AlarmRequest.AlarmAction.ValueType,
        member_id: int,
        reason: str,
        alarm: int = AlarmType.NOSPACE,
    ) -> None:
        member = self._member
        if member.now_s() < self._alarm_due_s:
            return
        self._alarm_due_s = member.now_s() + SPACE_CHECK_S / 2
        kind = AlarmType.ValueType(alarm)
        verb = "raising" if action == AlarmRequest.ACTIVATE else "taking back"
        log.warning("%s: %s the %s alarm of member %x", reason, verb, AlarmType.Name(kind), member_id)
        request = AlarmRequest(action=action, memberID=member_id, alarm=kind)
        member.propose(CommandKind.ALARM, request.SerializeToString(), lambda _: None, MEMBER)

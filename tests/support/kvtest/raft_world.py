"""A raft cluster in one thread: every effect is a call, and a crash may fall between any two.

``World`` does what a shell does (send, persist, apply) in separate steps, so that whoever drives it, a
test, a golden script or a fuzzer, decides their order.  Nothing here is random.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kvnode.raft import (
    ConfChangeError,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    MemberId,
    MemoryLogStorage,
    Persist,
    ProposalDroppedError,
    RaftConfig,
    RawNode,
    ReadState,
    Ready,
    Role,
    SnapshotMetadata,
    genesis,
)
from kvnode.raft.confchange import changed
from kvnode.raft.events import Event
from kvnode.raft.messages import InstallSnapshot, Message
from kvnode.raft.types import ConfChange, decode_conf_change
from kvtest.raft_invariants import InvariantBrokenError, RaftChecker

__all__ = ["Machine", "Member", "World", "first_ticks", "ids", "last_ticks", "past_entries"]


M = TypeVar("M", bound=Message)
E = TypeVar("E", bound=Event)


def ids(*numbers: int) -> list[MemberId]:
    """Return member ids, for short tests."""
    return [MemberId(number) for number in numbers]


def first_ticks(lo: int, hi: int) -> int:
    """Be the chance of tests that want none: always the shortest timeout."""
    return lo


def last_ticks(lo: int, hi: int) -> int:
    """Be the chance of tests that want none: always the longest timeout."""
    return hi


def past_entries(terms: Sequence[int]) -> list[Entry]:
    """Return entries of these terms from index 2 on; equal term and index give equal data."""
    return [Entry(term, i, EntryKind.NORMAL, b"%d.%d" % (term, i)) for i, term in enumerate(terms, 2)]


@dataclass(frozen=True)
class Machine:
    """A replicated state at one index: a hash over all that was applied, and the membership."""

    applied_index: int
    digest: bytes
    conf_state: ConfState

    def apply(self, entry: Entry) -> tuple["Machine", ConfChange | None]:
        """Return the state after ``entry``, and the membership change that raft must hear of."""
        digest = hashlib.blake2b(self.digest + repr(tuple(entry)).encode(), digest_size=8).digest()
        conf_state, change = self.conf_state, None
        if entry.kind is EntryKind.CONF_CHANGE:
            try:
                change = decode_conf_change(entry.data)
                conf_state = changed(conf_state, change)
            except ConfChangeError:
                change = None
        return Machine(entry.index, digest, conf_state), change


@dataclass
class Member:
    """One member: a disk that survives crashes, and a process that does not."""

    id: MemberId
    disk: MemoryLogStorage
    machine: Machine
    node: RawNode | None = None
    persist: Persist | None = None
    """Under way to the disk."""
    incoming: dict[int, Machine] = field(default_factory=dict)
    """Received snapshots by index."""
    to_apply: list[Entry] = field(default_factory=list)
    read_states: list[ReadState] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    @property
    def running(self) -> RawNode:
        if self.node is None:
            raise LookupError(f"member {self.id} is down")
        return self.node


class World:
    """Members and the messages between them."""

    def __init__(
        self,
        voters: Sequence[int],
        learners: Sequence[int] = (),
        *,
        logs: Mapping[int, Sequence[int]] | None = None,
        random_ticks: Callable[[int, int], int] = first_ticks,
        **config: Any,
    ) -> None:
        """Start a bootstrapped cluster; ``config`` are fields of RaftConfig.

        ``logs`` gives members a past: the terms of their entries from index 2 on (1 is the genesis).
        """
        self._config = {"random_ticks": random_ticks, **config}
        self.network: list[Message] = []
        self.members: dict[MemberId, Member] = {}
        self.disks: dict[MemberId, MemoryLogStorage] = {}
        self.checker = RaftChecker(self.disks)
        self.severed: set[tuple[MemberId, MemberId]] = set()
        #: Members whose disk takes what is written, and never says so.
        self.stalled: set[int] = set()
        start = genesis(ids(*voters), ids(*learners))
        machine = Machine(start.index, b"", start.conf_state)
        self.states: dict[int, Machine] = {start.index: machine}
        """The one state that all members must have at an index."""
        for number in [*voters, *learners]:
            disk = MemoryLogStorage(start)
            if logs and logs.get(number):
                disk.save(HardState(logs[number][-1]), past_entries(logs[number]))
            self.add_member(number, disk, machine)

    def __getitem__(self, number: int) -> RawNode:
        return self.members[MemberId(number)].running

    # --- members

    def add_member(
        self, number: int, disk: MemoryLogStorage | None = None, machine: Machine | None = None
    ) -> Member:
        """Start a member; without a disk, an empty one that waits to be spoken to."""
        member_id = MemberId(number)
        disk = disk or MemoryLogStorage()
        self.disks[member_id] = disk
        member = Member(member_id, disk, machine or Machine(0, b"", ConfState()))
        self.members[member_id] = member
        self.restart(number)
        return member

    def crash(self, number: int, *, persist_survives: bool = False, applied_index: int | None = None) -> None:
        """Lose a member's process; what was under way to the disk may have arrived or not.

        The applied state falls back to ``applied_index``, as a state store without syncing may.
        """
        member = self.members[MemberId(number)]
        if applied_index is not None:
            member.machine = self.states[applied_index]
        if member.persist is not None and persist_survives:
            self._write(member, member.persist)
        member.node = member.persist = None
        member.to_apply, member.read_states = [], []

    def restart(self, number: int) -> RawNode:
        """Start a member's process from its disk."""
        member = self.members[MemberId(number)]
        config = RaftConfig(
            member_id=member.id,
            applied_index=member.machine.applied_index,
            conf_state=member.machine.conf_state,
            **self._config,
        )
        member.node = RawNode(config, member.disk)
        self.checker.restarted(member.id)
        return member.node

    def up(self) -> list[MemberId]:
        """Return the members that run."""
        return [member.id for member in self.members.values() if member.node is not None]

    def leader(self) -> MemberId:
        """Return the leader of the highest term; 0 without any."""
        leaders = [(self[i].term, i) for i in self.up() if self[i].role is Role.LEADER]
        return max(leaders, default=(0, MemberId(0)))[1]

    # --- a shell's steps

    def perform_ready(self, number: int) -> Ready:
        """Take a Ready: send its messages, start its persist, queue its entries for applying."""
        member = self.members[MemberId(number)]
        node = member.running
        self.checker.stepped(node)
        ready = node.ready()
        self.checker.ready_made(node, ready)
        self.network += ready.messages
        if ready.persist is not None:
            if member.persist is not None:
                raise InvariantBrokenError("two persists under way")
            member.persist = ready.persist
        member.to_apply += ready.committed_entries
        member.read_states += ready.read_states
        member.events += ready.events
        self.checker.stepped(node)
        return ready

    def finish_persist(self, number: int) -> None:
        """Let the write under way reach the disk, then send what it held back."""
        member = self.members[MemberId(number)]
        if number in self.stalled:
            return
        persist, member.persist = member.persist, None
        if persist is None:
            return
        self._write(member, persist)
        for message in persist.messages:
            self.checker.message_sent(message)
        self.network += persist.messages
        member.running.persisted()
        self.checker.stepped(member.running)

    def _write(self, member: Member, persist: Persist) -> None:
        member.disk.save(persist.hard_state, persist.entries, persist.snapshot)
        if persist.snapshot is not None:
            member.machine = member.incoming[persist.snapshot.index]

    def apply(self, number: int, count: int | None = None) -> None:
        """Apply queued entries, and tell raft."""
        member = self.members[MemberId(number)]
        now, member.to_apply = member.to_apply[:count], member.to_apply[count:] if count else []
        for entry in now:
            if entry.index != member.machine.applied_index + 1:
                raise InvariantBrokenError(f"{member.id} at {member.machine.applied_index} applies {entry}")
            member.machine, change = member.machine.apply(entry)
            if self.states.setdefault(entry.index, member.machine) != member.machine:
                raise InvariantBrokenError(f"state machine safety: {member.id} differs at {entry.index}")
            if change is not None:
                member.running.apply_conf_change(change)
            member.running.applied(entry.index)
        if now:
            self.checker.stepped(member.running)

    def turn(self, number: int) -> None:
        """Do everything that a member has to do."""
        member = self.members[MemberId(number)]
        while (
            member.to_apply
            or (member.persist is not None and number not in self.stalled)
            or member.running.has_ready()
        ):
            self.perform_ready(number)
            self.finish_persist(number)
            self.apply(number)

    # --- the network

    def deliver(self, message: Message) -> bool:
        """Hand a message to its receiver, who may be down, gone or cut off; say whether it arrived."""
        member = self.members.get(message.to_id)
        arrives = member is not None and member.node is not None
        if not arrives or (message.from_id, message.to_id) in self.severed:
            self._undelivered(message)
            return False
        if isinstance(message, InstallSnapshot):
            self._receive_snapshot(message)
        else:
            self[message.to_id].step(message)
        self.checker.stepped(self[message.to_id])
        return True

    def deliver_all(self) -> None:
        """Hand over what is on the way now, in order; what that brings about stays on the way."""
        for message in self.take_network():
            self.deliver(message)

    def _receive_snapshot(self, message: InstallSnapshot) -> None:
        """Stream the data first; apply what is queued, since raft's membership jumps with the snapshot."""
        receiver = self.members[message.to_id]
        self.apply(receiver.id)
        receiver.incoming[message.metadata.index] = self.states[message.metadata.index]
        receiver.running.step(message)
        sender = self.members[message.from_id]
        if sender.node is not None:
            sender.node.report_snapshot(message.to_id, True)

    def _undelivered(self, message: Message) -> None:
        """A broken connection is noticed by its sender."""
        sender = self.members[message.from_id].node
        if sender is not None:
            sender.report_unreachable(message.to_id)
            if isinstance(message, InstallSnapshot):
                sender.report_snapshot(message.to_id, False)

    def drop(self, message: Message) -> None:
        """Lose a message; only the loss of a whole snapshot is noticed."""
        if isinstance(message, InstallSnapshot):
            self._undelivered(message)

    def partition(self, *groups: Iterable[int]) -> None:
        """Cut every connection between members of different groups; who is in no group stands alone."""
        group_of = {number: i for i, group in enumerate(groups) for number in group}
        everyone = list(self.members)
        self.severed = {
            (a, b)
            for a in everyone
            for b in everyone
            if a != b and group_of.get(a, -a) != group_of.get(b, -b)
        }

    def heal(self) -> None:
        self.severed = set()

    # --- shortcuts for tests

    def settle(self, rounds: int = 200) -> None:
        """Deliver and work, in order, until nothing is left to do."""
        for _ in range(rounds):
            for number in self.up():
                self.turn(number)
            if not self.network:
                return
            self.deliver_all()
        raise AssertionError(f"not settled after {rounds} rounds")

    def tick(self, *numbers: int, count: int = 1) -> None:
        """Let time pass on some members, or on all that run."""
        for _ in range(count):
            for number in numbers or self.up():
                self[number].tick()

    def run(self, ticks: int) -> None:
        """Let time pass everywhere and everything settle after each tick."""
        for _ in range(ticks):
            self.tick()
            self.settle()

    def elect(self, number: int) -> None:
        """Make ``number`` the leader, with the votes of whoever can be reached."""
        self[number].campaign()
        self.settle()
        if self[number].role is not Role.LEADER:
            raise AssertionError(f"{number} was not elected but is {self[number].role}")

    def propose(self, number: int, *datas: bytes) -> bool:
        """Propose; say whether it was not refused at once."""
        try:
            self[number].propose(datas)
        except ProposalDroppedError:
            return False
        return True

    def read(self, number: int, context: bytes) -> None:
        """Start a linearizable read, which the checker watches."""
        self.checker.read_started(MemberId(number), context)
        self[number].read_index(context)

    def sent(self, kind: type[M]) -> list[M]:
        """Return the messages of a kind that are under way, in order."""
        return [message for message in self.network if isinstance(message, kind)]

    def take_network(self) -> list[Message]:
        """Return the messages under way; they count as lost unless the caller delivers them."""
        batch, self.network = self.network, []
        return batch

    def events(self, number: int, kind: type[E]) -> list[E]:
        """Return the facts of a kind that a member has reported so far."""
        return [event for event in self.members[MemberId(number)].events if isinstance(event, kind)]

    def snapshot(self, number: int, *, keep: int = 0) -> SnapshotMetadata:
        """Let a member regard its applied state as durable, and compact all but ``keep`` entries."""
        member = self.members[MemberId(number)]
        applied = member.machine.applied_index
        member.disk.create_snapshot(applied, member.machine.conf_state)
        member.disk.compact(max(applied - keep, member.disk.first_index() - 1))
        return member.disk.snapshot()

    def log_of(self, number: int) -> list[tuple[int, bytes]]:
        """Return term and data of every entry that is durable on a member."""
        return [(entry.term, entry.data) for entry in self.entries_of(number)]

    def entries_of(self, number: int) -> list[Entry]:
        """Return every entry that is durable on a member."""
        disk = self.disks[MemberId(number)]
        if disk.last_index() < disk.first_index():
            return []
        return disk.entries(disk.first_index(), disk.last_index() + 1, 1 << 40)

    def applied_data(self, number: int) -> list[bytes]:
        """Return what was proposed and applied, as far as it is still in a member's log."""
        applied = self.members[MemberId(number)].machine.applied_index
        return [
            entry.data
            for entry in self.entries_of(number)
            if entry.data and entry.kind is EntryKind.NORMAL and entry.index <= applied
        ]

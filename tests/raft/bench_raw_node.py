"""How long one turn of a steady member takes in the core; run it by hand:

    PYTHONPATH=node python tests/raft/bench_raw_node.py [turns] [entries a turn] [bytes an entry]

Three members in one process.  In a turn the leader steps both answers to its last append, takes one
proposal, makes a Ready and reports its persist and its applied entries; a follower steps one append and
does the same.  Storage is memory and is not part of the time.
"""

import sys
import time
from collections.abc import Callable

from kvnode.raft import MemberId, MemoryLogStorage, Message, RaftConfig, RawNode, genesis

IDS = [MemberId(number) for number in (1, 2, 3)]
LEADER, *FOLLOWERS = IDS
COMPACT_EVERY_TURNS = 1000


class Bench:
    def __init__(self) -> None:
        self.disks = {member: MemoryLogStorage(genesis(IDS)) for member in IDS}
        self.nodes = {
            member: RawNode(RaftConfig(member_id=member, random_ticks=min), disk)
            for member, disk in self.disks.items()
        }
        self.spent_s = dict.fromkeys(IDS, 0.0)

    def turn(self, member: MemberId, inputs: Callable[[RawNode], None]) -> list[Message]:
        """Let a member take ``inputs`` and do what follows; return what it sends."""
        node, disk = self.nodes[member], self.disks[member]
        start = time.perf_counter()
        inputs(node)
        sent: list[Message] = []
        while node.has_ready():
            ready = node.ready()
            sent += ready.messages
            if ready.persist is not None:
                self.spent_s[member] += time.perf_counter() - start
                disk.save(ready.persist.hard_state, ready.persist.entries, ready.persist.snapshot)
                start = time.perf_counter()
                node.persisted()
                sent += ready.persist.messages
            if ready.committed_entries:
                node.applied(ready.committed_entries[-1].index)
        self.spent_s[member] += time.perf_counter() - start
        return sent

    def exchange(self, sent: list[Message]) -> list[Message]:
        """Deliver messages to their receivers, one turn each; return the answers."""
        answers: list[Message] = []
        for member in IDS:
            mine = [message for message in sent if message.to_id == member]
            if mine:
                answers += self.turn(member, lambda node, mine=mine: step_all(node, mine))  # type: ignore[misc]
        return answers

    def elect(self) -> None:
        sent = self.turn(LEADER, RawNode.campaign)
        while sent:
            sent = self.exchange(sent)
        self.spent_s = dict.fromkeys(IDS, 0.0)

    def compact(self) -> None:
        for member, node in self.nodes.items():
            self.disks[member].create_snapshot(node.applied_index, node.conf_state)
            self.disks[member].compact(node.applied_index)


def step_all(node: RawNode, messages: list[Message]) -> None:
    for message in messages:
        node.step(message)


def main(turns: int = 20_000, entries: int = 1, size_bytes: int = 10_240) -> None:
    bench = Bench()
    bench.elect()
    datas = [bytes(size_bytes)] * entries

    def lead(node: RawNode) -> None:
        step_all(node, answers)
        node.propose(datas)

    answers: list[Message] = []
    for count in range(turns):
        answers = bench.exchange(bench.turn(LEADER, lead))
        if count % COMPACT_EVERY_TURNS == 0:
            bench.compact()
    for member, spent_s in bench.spent_s.items():
        role = bench.nodes[member].role
        print(f"{role} {member}: {spent_s / turns * 1e6:.1f} us/turn, {entries} x {size_bytes} bytes")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

"""Golden scripts: commands to a raft cluster, and what happened, side by side in a text file.

A file is a sequence of blocks.  A block is some commands, a line ``----``, and the expected output up to the
next blank line; ``#`` lines before it are prose.  Commands:

    cluster voters=1,2,3 learners=4 pre_vote=off logs=1:2,2/2:2   start; logs are entries' terms from 2 on
    verbose on|off             show every message that is delivered, not only what members report
    campaign 1 | tick 1 [3] | propose 1 a b | read 1 r | transfer 1 2 | unreachable 1 2
    change 1 add|learn|remove 4 | join 4
    ready 1 | persist 1 | apply 1                                 one step of a shell
    elect 1                    campaign and settle without a word, where the election is not the subject
    work [1 2]                 everything these members have to do, delivering nothing
    deliver [from=1] [to=2] [kind=Heartbeat] | drop ...           the messages under way that fit
    network                    show the messages under way
    settle                     work and deliver until nothing is left
    partition 1,2 3 | heal | crash 1 [kept] | restart 1 | snapshot 1
    status [1 2] | progress 1 | log 1
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from kvnode.raft import ConfChange, ConfChangeKind, MemberId, Persist, RaftError, Ready
from kvnode.raft.describe import describe_conf_state, describe_entry, describe_event, describe_message
from kvnode.raft.messages import Message
from kvtest.raft_world import World, ids

__all__ = ["Block", "ScriptRunner", "format_blocks", "parse_blocks"]

_SEPARATOR = "----"
_KINDS = {
    "add": ConfChangeKind.ADD_VOTER,
    "learn": ConfChangeKind.ADD_LEARNER,
    "remove": ConfChangeKind.REMOVE,
}


@dataclass
class Block:
    """Commands with their output; ``prose`` stands before them."""

    prose: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    output: list[str] = field(default_factory=list)


def parse_blocks(text: str) -> list[Block]:
    """Return the blocks of a script file."""
    blocks = []
    for chunk in text.strip("\n").split("\n\n"):
        block = Block()
        lines = iter(chunk.splitlines())
        for line in lines:
            if line == _SEPARATOR:
                block.output = list(lines)
            elif line.startswith("#"):
                block.prose.append(line)
            else:
                block.commands.append(line)
        blocks.append(block)
    return blocks


def format_blocks(blocks: list[Block]) -> str:
    """Return the text that ``parse_blocks`` reads."""
    chunks = []
    for block in blocks:
        lines = [*block.prose, *block.commands]
        if block.commands:
            lines += [_SEPARATOR, *block.output]
        chunks.append("\n".join(lines))
    return "\n\n".join(chunks) + "\n"


class ScriptRunner:
    """Runs the commands of one file on one cluster."""

    def __init__(self) -> None:
        self._world = World([1])
        self._verbose = False
        self._out: list[str] = []
        self._shown: dict[MemberId, int] = {}
        self._commands: dict[str, Callable[..., None]] = {
            name.removeprefix("_do_"): getattr(self, name) for name in dir(self) if name.startswith("_do_")
        }

    def run(self, block: Block) -> list[str]:
        """Run a block's commands; return its output."""
        self._out = []
        for line in block.commands:
            name, *words = line.split()
            options = dict(word.split("=", 1) for word in words if "=" in word)
            try:
                self._commands[name](*[word for word in words if "=" not in word], **options)
            except RaftError as error:
                self._out.append(f"error: {error}")
            self._show_events()
        return self._out or ["ok"]

    def _show_events(self) -> None:
        for member in self._world.members.values():
            for event in member.events[self._shown.get(member.id, 0) :]:
                self._out.append(f"{member.id:x} {describe_event(event)}")
            self._shown[member.id] = len(member.events)

    # --- the cluster

    def _do_cluster(self, voters: str, learners: str = "", logs: str = "", **config: str) -> None:
        settings: dict[str, Any] = {
            name: value == "on" if value in ("on", "off") else int(value) for name, value in config.items()
        }
        past = {}
        for part in filter(None, logs.split("/")):
            number, terms = part.split(":")
            past[int(number)] = _numbers(terms)
        self._world = World(_numbers(voters), _numbers(learners), logs=past, **settings)
        self._shown = {}

    def _do_verbose(self, mode: str) -> None:
        self._verbose = mode == "on"

    def _do_join(self, number: str) -> None:
        self._world.add_member(int(number))

    def _do_crash(self, number: str, disk: str = "lost") -> None:
        self._world.crash(int(number), persist_survives=disk == "kept")

    def _do_restart(self, number: str) -> None:
        self._world.restart(int(number))

    def _do_partition(self, *groups: str) -> None:
        self._world.partition(*[_numbers(group) for group in groups])

    def _do_heal(self) -> None:
        self._world.heal()

    def _do_snapshot(self, number: str) -> None:
        metadata = self._world.snapshot(int(number))
        self._out.append(f"{number} snapshot {metadata.term}/{metadata.index}")

    # --- what a member is asked for

    def _do_campaign(self, number: str) -> None:
        self._world[int(number)].campaign()

    def _do_elect(self, number: str) -> None:
        self._world.elect(int(number))
        self._shown = {member.id: len(member.events) for member in self._world.members.values()}

    def _do_tick(self, number: str, count: str = "1") -> None:
        self._world.tick(int(number), count=int(count))

    def _do_propose(self, number: str, *datas: str) -> None:
        self._world[int(number)].propose([data.encode() for data in datas])

    def _do_read(self, number: str, context: str) -> None:
        self._world.read(int(number), context.encode())

    def _do_transfer(self, number: str, to: str) -> None:
        self._world[int(number)].transfer_leadership(MemberId(int(to)))

    def _do_unreachable(self, number: str, other: str) -> None:
        self._world[int(number)].report_unreachable(MemberId(int(other)))

    def _do_change(self, number: str, kind: str, member: str) -> None:
        self._world[int(number)].propose_conf_change(ConfChange(_KINDS[kind], MemberId(int(member))))

    # --- a shell's steps

    def _do_ready(self, number: str) -> None:
        ready = self._world.perform_ready(int(number))
        self._show_ready(number, ready)

    def _show_ready(self, number: str, ready: Ready) -> None:
        for message in ready.messages:
            self._out.append(f"{number} sends {describe_message(message)}")
        if ready.persist is not None:
            self._show_persist(number, ready.persist)
        for entry in ready.committed_entries:
            self._out.append(f"{number} is to apply {describe_entry(entry)}")
        for read in ready.read_states:
            self._out.append(f"{number} may read {read.context.decode()} at {read.index}")

    def _show_persist(self, number: str, persist: Persist) -> None:
        parts = []
        if persist.hard_state is not None:
            term, vote, commit = persist.hard_state
            parts.append(f"term={term} vote={vote} commit={commit}")
        if persist.snapshot is not None:
            parts.append(f"snapshot {persist.snapshot.term}/{persist.snapshot.index}")
        parts += [describe_entry(entry) for entry in persist.entries]
        self._out.append(f"{number} writes {', '.join(parts)}")

    def _do_persist(self, number: str) -> None:
        before = len(self._world.network)
        self._world.finish_persist(int(number))
        for message in self._world.network[before:]:
            self._out.append(f"{number} sends {describe_message(message)}")

    def _do_apply(self, number: str) -> None:
        self._world.apply(int(number))

    def _do_work(self, *numbers: str) -> None:
        for number in [int(n) for n in numbers] or self._world.up():
            self._world.turn(number)

    # --- the network

    def _do_network(self) -> None:
        self._out += [describe_message(message) for message in self._world.network]

    def _do_deliver(self, **wanted: str) -> None:
        self._each(wanted, self._world.deliver)

    def _do_drop(self, **wanted: str) -> None:
        self._each(wanted, self._world.drop)

    def _each(self, wanted: dict[str, str], act: Callable[[Message], object]) -> None:
        batch, self._world.network = self._world.network, []
        for message in batch:
            if _fits(message, wanted):
                if self._verbose:
                    self._out.append(describe_message(message))
                act(message)
            else:
                self._world.network.append(message)

    def _do_settle(self) -> None:
        for _ in range(200):
            self._do_work()
            self._show_events()
            if not self._world.network:
                return
            self._each({}, self._world.deliver)
        raise AssertionError("not settled after 200 rounds")

    # --- what is to be seen

    def _do_status(self, *numbers: str) -> None:
        for number in [MemberId(int(n)) for n in numbers] or self._world.up():
            status = self._world[number].status()
            self._out.append(
                f"{number} {status.role.value} term={status.term} vote={status.vote} "
                f"leader={status.leader_id} commit={status.commit_index} applied={status.applied_index} "
                f"log={status.first_index}..{status.last_index} {describe_conf_state(status.conf_state)}"
            )

    def _do_progress(self, number: str) -> None:
        for member, view in self._world[int(number)].status().progress.items():
            notes = [view.state.value, *_notes(view.is_learner, "learner"), *_notes(view.is_paused, "paused")]
            self._out.append(f"{member} match={view.match_index} next={view.next_index} {' '.join(notes)}")

    def _do_log(self, number: str) -> None:
        self._out.append(", ".join(describe_entry(entry) for entry in self._world.entries_of(int(number))))


def _notes(holds: bool, word: str) -> Iterator[str]:
    if holds:
        yield word


def _numbers(text: str) -> list[int]:
    return [*ids(*[int(word) for word in text.split(",") if word])]


def _fits(message: Message, wanted: dict[str, str]) -> bool:
    facts = {"from": str(message.from_id), "to": str(message.to_id), "kind": type(message).__name__}
    return all(facts[name] == value for name, value in wanted.items())

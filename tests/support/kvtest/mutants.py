"""Deliberate faults in the core: does the simulation find each of them?

A mutant is data: where, what the source says there, and what it says instead.  It is switched on in a
process of its own by compiling the changed source into the running function; no product file is touched.  A
mutant whose text is no longer found is an error, so that the list can't quietly come to test nothing.

``make mutants`` runs them all and tells how many seeds each one needs.
"""

import argparse
import importlib
import inspect
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from types import CodeType, FunctionType
from typing import Any, NamedTuple

from kvtest.sim_plan import PLANS, schedule_of
from kvtest.sim_shrink import Failure, attempt

__all__ = ["MUTANTS", "Caught", "Mutant", "OutdatedError", "hunt", "mutated"]

#: Seeds tried before a mutant counts as not found.
SEEDS = 300


class OutdatedError(Exception):
    """The text that a mutant changes is not there, or not once."""


class Mutant(NamedTuple):
    """One deliberate fault."""

    name: str
    #: What is wrong with a member that has it.
    sentence: str
    #: ``module:function`` or ``module:class.method``.
    where: str
    old: str
    new: str
    #: Where it shows soonest; the others are tried too.
    plan: str = "three-members"
    #: Further places that have to change with it: where, old, new.
    also: tuple[tuple[str, str, str], ...] = ()

    @property
    def edits(self) -> tuple[tuple[str, str, str], ...]:
        """All places that are changed."""
        return ((self.where, self.old, self.new), *self.also)


MUTANTS = (
    # Disks.
    Mutant(
        "stalled-leader-stays",
        "leads on although its disk has stalled",
        "kvnode.raft.leader:tick",
        "elif not state.is_fit:",
        "elif False:",
        "stalled-disks",
    ),
    # Durability.
    Mutant(
        "promise-before-disk",
        "answers the leader, and votes, before its disk has what it promises",
        "kvnode.raft.raw_node:RawNode._take_persist",
        "messages = tuple(state.messages_after_persist)",
        "state.messages += state.messages_after_persist; messages = ()",
    ),
    Mutant(
        "count-own-copy-early",
        "a leader counts its own copy before its disk has it",
        "kvnode.raft.leader:propose",
        "state.log.append(entries)",
        "state.log.append(entries)\n"
        "        state.tracker.progress[state.member_id].advance(state.log.last_index)",
    ),
    Mutant(
        "failed-sync-ignored",
        "goes on after a failed write as if the disk had it",
        "kvnode.storage.log_store:PreparedSave.write",
        "self._engine.write(self._batch, sync=self._sync)",
        "try:\n"
        "        self._engine.write(self._batch, sync=self._sync)\n"
        "    except Exception:\n"
        "        self._engine._failure = None",
        "bad-disks",
    ),
    Mutant(
        "unsynced-writes",
        "does not wait for the disk to sync",
        "kvnode.storage.log_store:PreparedSave.write",
        "sync=self._sync",
        "sync=False",
    ),
    Mutant(
        "damaged-state-served",
        "leaves out what it can't read of its state, and serves the rest",
        "kvnode.mvcc.store:Store._restore",
        "for db_key, record in self.engine.iterate(REVISION_PREFIX, REVISIONS_END):",
        "def readable():\n"
        "        try:\n"
        "            yield from self.engine.iterate(REVISION_PREFIX, REVISIONS_END)\n"
        "        except StorageCorruptError:\n"
        "            return\n"
        "    for db_key, record in readable():",
        "bad-disks",
        (
            (
                "kvnode.mvcc.store:Store._recent_flips",
                "records = self.engine.iterate(REVISION_PREFIX, REVISIONS_END, reverse=True)",
                (
                    "def readable():\n"
                    "        try:\n"
                    "            yield from self.engine.iterate("
                    "REVISION_PREFIX, REVISIONS_END, reverse=True)\n"
                    "        except StorageCorruptError:\n"
                    "            return\n"
                    "    records = readable()"
                ),
            ),
        ),
    ),
    Mutant(
        "old-tail-stays",
        "leaves replaced entries behind the new ones on disk",
        "kvnode.storage.log_store:LogStore.prepare_save",
        "if new_last < last:",
        "if False:",
    ),
    Mutant(
        "wiped-disk-accepted",
        "comes back empty under its old identity",
        "kvnode.server.bootstrap:join",
        'if fields["name"] or member in (int(m) for m in answer["started"]):',
        "if False:",
        "bad-disks",
    ),
    # Elections.
    Mutant(
        "vote-twice",
        "votes for everybody who asks in a term",
        "kvnode.raft.election:_may_vote_for",
        "return state.vote == request.from_id or (state.vote == NO_MEMBER and state.leader_id == NO_MEMBER)",
        "return True",
    ),
    Mutant(
        "vote-forgotten",
        "forgets over a restart whom it voted for",
        "kvnode.raft.state:RaftState.__init__",
        "self.vote = hard_state.vote",
        "self.vote = NO_MEMBER",
        "unrest",
    ),
    Mutant(
        "vote-for-shorter-log",
        "votes for a candidate whose log lacks what it has",
        "kvnode.raft.log:Log.is_up_to_date",
        "return (last_term, last_index) >= (self.last_term, self.last_index)",
        "return True",
    ),
    Mutant(
        "own-vote-early",
        "a candidate counts its own vote before its disk has it",
        "kvnode.raft.election:_elect",
        "_request_votes(state, is_pre_vote=False, is_transfer=is_transfer)",
        "_request_votes(state, is_pre_vote=False, is_transfer=is_transfer)\n"
        "    state.messages += state.messages_after_persist; state.messages_after_persist = []\n"
        "    _tally(state, state.member_id, granted=True)",
    ),
    Mutant(
        "no-pre-vote",
        "campaigns without asking whether it could win",
        "kvnode.raft.election:campaign",
        "if state.config.pre_vote and not is_transfer:",
        "if False:",
    ),
    Mutant(
        "late-pre-votes-count",
        "counts what was said to an earlier candidacy",
        "kvnode.raft.election:handle_vote_response",
        "if message.is_pre_vote and message.granted and message.term != state.term + 1:",
        "if False:",
        "frozen-leaders",
    ),
    Mutant(
        "no-check-quorum",
        "leads on though a quorum is silent",
        "kvnode.raft.leader:tick",
        "if state.config.check_quorum and not state.tracker.quorum_active():",
        "if False:",
    ),
    # Quorums.
    Mutant(
        "learner-counts",
        "counts learners for the commit index",
        "kvnode.raft.tracker:Tracker._index",
        "[self.progress[i] for i in self.conf_state.voters]",
        "list(self.progress.values())",
        "one-member-grows",
    ),
    Mutant(
        "half-is-enough-to-commit",
        "takes half of the voters for a majority when committing",
        "kvnode.raft.quorum:reached_by_majority",
        "return ordered[(len(ordered) - 1) // 2]",
        "return ordered[len(ordered) // 2]",
        "one-member-grows",
    ),
    Mutant(
        "half-is-enough-to-lead",
        "takes half of the voters for a majority when electing",
        "kvnode.raft.quorum:majority",
        "return voter_count // 2 + 1",
        "return (voter_count + 1) // 2",
        "changing-members",
    ),
    Mutant(
        "old-term-committed",
        "commits entries of former terms by counting copies",
        "kvnode.raft.replication:maybe_commit",
        "if index < state.term_start_index or not state.log.commit_to(index):",
        "if not state.log.commit_to(index):",
        "unrest",
    ),
    # Replication.
    Mutant(
        "stale-append-truncates",
        "drops what follows a late append, though both logs agree",
        "kvnode.raft.log:Log.merge",
        "if not self.matches(entry.index, entry.term):",
        "if True:",
    ),
    Mutant(
        "append-anywhere",
        "takes entries that do not follow on its log",
        "kvnode.raft.follower:handle_append",
        "elif not log.matches(prev_index, message.prev_term):",
        "elif prev_index > log.last_index:",
    ),
    Mutant(
        "heartbeat-commits-all",
        "a leader tells members to commit what they may not have",
        "kvnode.raft.replication:_send_heartbeats",
        "known = min(progress.match_index, commit_index)",
        "known = commit_index",
    ),
    Mutant(
        "old-snapshot-taken",
        "goes back to a snapshot older than its state",
        "kvnode.raft.follower:_snapshot_refusal",
        "if metadata.index <= log.commit_index:",
        "if False:",
        "lagging-members",
    ),
    # Reads.
    Mutant(
        "read-unconfirmed",
        "answers linearizable reads without asking whether it still leads",
        "kvnode.raft.reading:start",
        "reads.add(state.log.commit_index, read)",
        "if read.from_id == state.member_id:\n"
        "        state.read_states.append(ReadState(state.log.commit_index, read.context))\n"
        "        return\n"
        "    reads.add(state.log.commit_index, read)",
        "frozen-leaders",
    ),
    Mutant(
        "read-before-first-commit",
        "answers linearizable reads before it has committed in its term",
        "kvnode.raft.reading:start",
        "if not state.committed_in_term():",
        "if False:",
        "unrest",
    ),
    Mutant(
        "read-before-applied",
        "answers linearizable reads before its state has come so far",
        "kvnode.server.reads:Reads.applied",
        "if needed <= index:",
        "if True:",
    ),
    Mutant(
        "late-confirmation-counts",
        "takes the answer to a former round of reads for that to the present one",
        "kvnode.server.reads:Reads.confirmed",
        "if context == self._context and self._asked:",
        "if self._asked:",
        "bad-network",
    ),
    # Applying.
    Mutant(
        "applied-twice",
        "applies the last entry again after a restart",
        "kvnode.apply.applier:read_applied",
        "AppliedPosition(seal.index, seal.term)",
        "AppliedPosition(max(seal.index - 1, 1), seal.term)",
    ),
    Mutant(
        "entries-skipped",
        "skips after a restart what was committed and not applied",
        "kvnode.raft.log:Log.__init__",
        "self.handed_index = applied\n",
        "self.handed_index = self.commit_index\n",
    ),
    Mutant(
        "swap-always-wins",
        "compares nothing in a transaction",
        "kvnode.apply.txn:choose_branch",
        "succeeded = False",
        "pass",
    ),
    Mutant(
        "newest-version-compacted",
        "compaction deletes the version that is still read",
        "kvnode.mvcc.key_index:KeyIndex.prune",
        "kept_from = position if last & 1 and last >> MAIN_SHIFT < compact_revision else position - 1",
        "kept_from = position if last >> MAIN_SHIFT < compact_revision and position < len(entry)"
        " else position - 1",
    ),
    Mutant(
        "proposed-twice",
        "proposes writes again that may still be committed",
        "kvnode.server.proposals:Proposals.term_passed",
        "if 0 < write.term < term",
        "if 0 < write.term <= term",
        "unrest",
    ),
    Mutant(
        "unknown-told-as-lost",
        "proposes again what a snapshot may hold already",
        "kvnode.server.proposals:Proposals.skipped_to",
        "self._fail(",
        "(lambda ids, _: self._queue_again(ids))(",
        "lagging-members",
    ),
    # Membership.
    Mutant(
        "two-changes-at-once",
        "begins a membership change while another one is under way",
        "kvnode.raft.membership:check_proposal",
        "if state.pending_conf_index > state.log.applied_index or not state.committed_in_term():",
        "if False:",
        "changing-members",
    ),
    Mutant(
        "change-counts-early",
        "counts by a membership that it would not remember after a crash",
        "kvnode.raft.log:Log.take_committed",
        "if entries[-1].index > self.durable_commit:",
        "if False:",
        "changing-members",
    ),
    Mutant(
        "promotion-not-counted",
        "does not count a voter that was promoted from learner",
        "kvnode.apply.applier:Applier._conf_change",
        "accepted.append(change)",
        "accepted.append(change) if not described.is_promotion else None",
        "changing-members",
    ),
    # Snapshots.
    Mutant(
        "snapshot-without-leases",
        "leaves leases out of the state that it sends",
        "kvnode.storage.snapshots:SnapshotWriter._frames",
        "needed = 8 + len(key) + len(value)",
        'needed = 8 + len(key) + len(value)\n        if key[:1] == b"l":\n            continue',
        "lagging-members",
    ),
    Mutant(
        "snapshot-unchecked",
        "takes a snapshot whose bytes were damaged on the way",
        "kvnode.storage.snapshots:SnapshotReader._next_frame",
        "if zlib.crc32(payload, zlib.crc32(_FRAME_BODY.pack(tag, length))) != checksum:",
        "if False:",
        "lagging-members",
        (
            (
                "kvnode.storage.snapshots:SnapshotReader._check_footer",
                "if count != self._record_count or digest != self._digest.digest():",
                "if False:",
            ),
        ),
    ),
    # Watches.
    Mutant(
        "watch-skips-compacted",
        "says nothing when what a watch needs next was compacted",
        "kvnode.mvcc.watch:WatchHub.catch_up",
        "if w.next_revision < self._store.compact_revision",
        "if False",
        "lagging-members",
    ),
    Mutant(
        "watch-loses-at-catch-up",
        "loses a revision between two slices of catching up",
        "kvnode.mvcc.watch:WatchHub._read_slice",
        "return main",
        "return main + 1",
        "lagging-members",
    ),
    Mutant(
        "watch-loses-refused",
        "forgets events that a slow client had no room for",
        "kvnode.mvcc.watch:WatchHub._offer_again",
        "if not watcher.sink.deliver(watcher, revision, batch):\n        return",
        "watcher.sink.deliver(watcher, revision, batch)",
        "lagging-members",
    ),
    Mutant(
        "watch-loses-snapshot",
        "leaves watches where they are when a snapshot replaces the state",
        "kvnode.mvcc.watch:WatchHub.reset",
        "watcher.next_revision = max(watcher.next_revision, self.revision + 1)",
        "watcher.next_revision = max(watcher.next_revision, store.current_revision + 1)",
        "lagging-members",
    ),
    Mutant(
        "watch-from-the-future-hears-all",
        "tells a watch of revisions before its start",
        "kvnode.mvcc.watch:WatchHub.notify",
        "if revision < watcher.next_revision:",
        "if False:",
        "lagging-members",
    ),
    Mutant(
        "progress-ahead",
        "reports progress to a watch that is behind",
        "kvnode.mvcc.watch:WatchHub.progress",
        "if watcher.state != _SYNCED or watcher.spec.start_revision > self.revision:",
        "if False:",
        "lagging-members",
    ),
    # Leases.
    Mutant(
        "lease-ends-with-leader",
        "a new leader gives leases what is left by nobody's clock",
        "kvnode.lease.lessor:Lessor.promote",
        "expiry_s = now_s + extend_s + (lease.remaining_s or lease.ttl_s)",
        "expiry_s = now_s + (lease.remaining_s or lease.ttl_s) / 4",
        "changes-of-leader",
    ),
    Mutant(
        "old-leaders-clock",
        "revokes leases by the clock of a leader that was deposed",
        "kvnode.server.proposals:Proposals.take",
        "if write.only_term and write.only_term != term:",
        "if False:",
        "frozen-leaders",
    ),
    Mutant(
        "renewal-forgotten",
        "answers renewals of leases and does not renew them",
        "kvnode.lease.lessor:Lessor.renew",
        "lease.expiry_s = max(lease.expiry_s, now_s + lease.ttl_s)",
        "pass",
    ),
    Mutant(
        "checkpoint-stays",
        "leaves the old remainder of a lease in the log when it is renewed",
        "kvnode.lease.lessor:Lessor.has_checkpoint",
        "return lease is not None and (lease.remaining_s > 0 or lease_id in self._checkpointing)",
        "return False",
        "leases",
    ),
    # Users.
    Mutant(
        "users-unchecked",
        "does not look at permissions when a write is applied",
        "kvnode.apply.auth_commands:AuthCommands._as_user",
        "if self._auth.is_enabled and caller != MEMBER:",
        "if False:",
        "changing-users",
    ),
    Mutant(
        "old-permissions",
        "goes on by the permissions that a user had once",
        "kvnode.auth.store:AuthStore._changed",
        "self._allowed.clear()",
        "pass",
        "changing-users",
    ),
    Mutant(
        "auth-enabled-late",
        "lets through what was asked for before auth was on",
        "kvnode.apply.auth_commands:AuthCommands._enable",
        "self._guard()",
        "pass",
        "changing-users",
    ),
)


def _function(where: str) -> FunctionType:
    module_name, _, path = where.partition(":")
    found: Any = importlib.import_module(module_name)
    for name in path.split("."):
        found = inspect.getattr_static(found, name)
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    if isinstance(found, property):
        found = found.fget
    if not isinstance(found, FunctionType):
        raise OutdatedError(f"{where} is no function")
    return found


def _changed_code(function: FunctionType, where: str, old: str, new: str) -> CodeType:
    source = textwrap.dedent(inspect.getsource(function))
    head = "async def " if inspect.iscoroutinefunction(function) else "def "
    source = source[source.index(head) :]  # without decorators
    if old not in source:
        raise OutdatedError(f"{where} no longer says {old!r}")
    source = source.replace(old, new, 1)
    namespace: dict[str, Any] = {}
    exec(compile(source, where, "exec", dont_inherit=True), function.__globals__, namespace)
    changed: FunctionType = namespace[function.__name__]
    return changed.__code__


@contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """Let this process run with the fault."""
    functions = [_function(where) for where, _, _ in mutant.edits]
    originals = [function.__code__ for function in functions]
    changed = [_changed_code(f, *edit) for f, edit in zip(functions, mutant.edits, strict=True)]
    try:
        for function, code in zip(functions, changed, strict=True):
            function.__code__ = code
        yield
    finally:
        for function, code in zip(functions, originals, strict=True):
            function.__code__ = code


class Caught(NamedTuple):
    """How a mutant was found."""

    seeds: int
    seconds: float
    #: Empty: it was not.
    by: str
    name: str = ""


def hunt(mutant: Mutant, seeds: int = SEEDS, plan_name: str = "") -> Caught:
    """Run seeds with the fault until a check fails."""
    begun_s = time.monotonic()
    names = [plan_name or mutant.plan]
    if not plan_name:
        names += [name for name in PLANS if name != mutant.plan]
    with mutated(mutant):
        for seed in range(seeds):
            # Most seeds where it should show, the rest anywhere.
            name = names[0] if seed < 20 or seed % 2 else names[seed // 2 % len(names)]
            plan = PLANS[name]
            failure = attempt(plan, seed, schedule_of(seed, plan))
            if failure is not None:
                return Caught(seed + 1, time.monotonic() - begun_s, _short(failure), f"{name}/{seed}")
    return Caught(seeds, time.monotonic() - begun_s, "")


def _short(failure: Failure) -> str:
    text = " ".join(str(failure).split())
    return text[:100]


def main() -> int:
    """Hunt all mutants, or those named; 1 if one was not found."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    chosen = [m for m in MUTANTS if not options.names or m.name in options.names]
    missed: list[str] = []
    counts: Counter[int] = Counter()
    print("| mutant | a member that | seeds | s | found by |\n|---|---|---|---|---|", flush=True)
    # A process for each: the fault must not outlive its turn.
    context = get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=context, max_tasks_per_child=1) as pool:
        running = {pool.submit(hunt, mutant, options.seeds): mutant for mutant in chosen}
        for future in as_completed(running):
            mutant, caught = running[future], future.result()
            counts[caught.seeds] += 1
            if not caught.by:
                missed.append(mutant.name)
            print(
                f"| {mutant.name} | {mutant.sentence} | {caught.seeds if caught.by else 'none'} |"
                f" {caught.seconds:.0f} | {caught.by or 'NOT FOUND'} |",
                flush=True,
            )
    print(f"\n{len(chosen) - len(missed)} of {len(chosen)} found" + (f", not: {missed}" if missed else ""))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

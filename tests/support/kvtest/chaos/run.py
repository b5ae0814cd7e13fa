"""One run: load and faults for a while, then peace, and a judgement of all that was seen."""

import asyncio
import gc
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from kvclient import Client, FutureRevisionError, KvClientError, Watcher, prefix
from kvclient.keys import everything
from kvtest.chaos import checks, linear
from kvtest.chaos.clients import LEASE_PREFIX, Load
from kvtest.chaos.clock import Clock
from kvtest.chaos.cluster import Cluster
from kvtest.chaos.history import Change, History
from kvtest.chaos.nemesis import FAULTS, Nemesis
from kvtest.commands import run_kvctl
from kvtest.processes import MemberProcess
from kvtest.workload import eventually

__all__ = ["Outcome", "Settings", "run"]

_SETTLE_S = 120.0
#: Of one kind; the rest is in the saved history.
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run is made of."""

    minutes: float
    members: int
    seed: int
    directory: Path
    disk_mib: int = 512
    pause_s: float = 0.08
    """At most between two calls of a client."""
    kinds: tuple[str, ...] = tuple(FAULTS)


@dataclass(slots=True)
class Outcome:
    """What was seen, and what was wrong with it."""

    settings: Settings
    history: History
    delay: str = ""
    has_clock: bool = False
    problems: dict[str, list[str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def judge(self, check: str, problems: Iterable[str]) -> None:
        """Add what a check has found."""
        self.problems.setdefault(check, []).extend(problems)

    @property
    def violations(self) -> list[str]:
        return [
            f"{check}: {problem}"
            for check, problems in self.problems.items()
            for problem in problems[:_SHOWN]
        ]


async def run(settings: Settings) -> Outcome:
    """Run and judge; the members are gone when it returns."""
    history = History()
    clock = Clock.build()
    outcome = Outcome(settings, history)
    cluster = Cluster(
        settings.members, settings.directory, seed=settings.seed, disk_mib=settings.disk_mib, clock=clock
    )
    outcome.delay, outcome.has_clock = cluster.network.delay, clock is not None
    load = Load(history, cluster.endpoints, settings.seed, pause_s=settings.pause_s)
    nemesis = Nemesis(cluster, history, settings.seed, settings.directory, list(settings.kinds))
    try:
        await cluster.start()
        load.start()
        try:
            await _until_one_ends(nemesis.run(settings.minutes * 60), nemesis.look_after(), load)
        except (TimeoutError, RuntimeError) as error:
            outcome.judge("members serve again", [str(error)])
        outcome.judge("members do as they must", nemesis.problems)
        if not outcome.violations:
            await load.finish_calls()
            await _at_peace(cluster, load, nemesis, outcome)
    finally:
        await cluster.close()
        history.save(settings.directory)
        if outcome.violations:
            cluster.keep_data()
    return outcome


async def _spare_the_collector() -> None:
    """Keep Python's garbage collector from walking through a history that only grows: it takes seconds."""
    while True:
        gc.collect(1)
        gc.freeze()
        await asyncio.sleep(2.0)


async def _until_one_ends(
    faults: Coroutine[None, None, None], upkeep: Coroutine[None, None, None], load: Load
) -> None:
    """Do the faults, and upkeep beside them, unless a client fails of itself before."""
    going_on = (faults, upkeep, load.first_failure(), _spare_the_collector())
    tasks = [asyncio.create_task(each) for each in going_on]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def _at_peace(cluster: Cluster, load: Load, nemesis: Nemesis, outcome: Outcome) -> None:
    """Everything is healed, nobody writes any more."""
    history = outcome.history
    cluster.network.heal()
    await cluster.until_healthy()

    async def leases_are_gone() -> bool:
        return not (await cluster.client.range(prefix(LEASE_PREFIX), count_only=True)).count

    begun_s = time.monotonic()
    try:
        await eventually(leases_are_gone, what="keys of leases that nobody keeps go", timeout_s=_SETTLE_S)
    except TimeoutError as error:
        outcome.judge("leases end", [str(error)])
    outcome.counts["last lease gone after, s"] = int(time.monotonic() - begun_s)
    revision = (await cluster.client.range(everything(), count_only=True, limit=1)).header.revision
    outcome.judge("watches catch up", await load.finish_watches(revision))
    judge_history(outcome)
    reference = checks.Reference(history.watches)
    expected = reference.state(revision)
    for host in cluster.hosts.values():
        outcome.judge("every member holds what was written", await _holds(host.member, revision, expected))
    hashes = {
        host.name: await _hash(cluster.client, host.member, revision) for host in cluster.hosts.values()
    }
    first = max(1, *(compacted + 1 for _, compacted in hashes.values()))
    outcome.judge("equal hashes", [f"{hashes}"] if len(set(hashes.values())) > 1 else [])
    for host in cluster.hosts.values():
        told = await _replay(host.member, first, revision)
        right = [(each, list(reference.changes[each])) for each in sorted(told)]
        outcome.judge(
            "every member's own history",
            [] if sorted(told.items()) == right else [f"{host.name}'s differs from what watches were told"],
        )
        missing = [each for each in range(first, revision + 1) if each not in told]
        outcome.judge("every member's own history", [f"{host.name} lacks {missing[:5]}"] if missing else [])
    outcome.judge("no alarm is left", await _alarms(cluster.client))
    snapshot = nemesis.snapshot or await nemesis.save_snapshot(cluster.endpoints[0])
    outcome.judge("a snapshot restores", await _restore(snapshot, outcome.settings.directory, reference))
    outcome.counts["revisions"] = revision


def judge_history(outcome: Outcome) -> None:
    """Everything that follows from the history alone."""
    history = outcome.history
    reference = checks.Reference(history.watches)
    outcome.judge("watches of everything agree", reference.problems)
    for watch in history.watches:
        outcome.judge("watches: ordered, unique, whole, complete", checks.check_watch(watch, reference))
    outcome.judge("no acknowledged write lost", checks.check_acknowledged(history.calls, reference))
    outcome.judge("no write done twice or unasked", checks.check_at_most_once(history.calls, reference))
    outcome.judge("revisions in the order of time", checks.check_order(history.calls))
    outcome.judge("leases never early", checks.check_leases(history.leases, history.watches))
    outcome.judge("one holder of the lock", checks.check_holds(history.holds))
    outcome.judge("one holder of the lock", checks.check_fence(reference.changes))
    judged = [call for call in history.calls if call.group != checks.FENCE_KEY.rpartition("/")[0]]
    verdict = linear.check(judged, outcome.settings.directory)
    outcome.judge("linearizable (porcupine)", verdict.problems)
    outcome.counts |= {
        "calls judged by porcupine": verdict.calls,
        "groups of keys": verdict.groups,
        "events watched": sum(len(events) for watch in history.watches for _, events in watch.batches),
        "watch bookmarks": sum(len(watch.bookmarks) for watch in history.watches),
        "watches resumed": sum(watch.resumptions for watch in history.watches),
        "watches cut off by compaction": sum(len(watch.gaps) for watch in history.watches),
        "leases": len(history.leases),
        "lease renewals": sum(len(lease.renewals) - 1 for lease in history.leases),
        "lock acquisitions": len(history.holds),
    }


async def _holds(member: MemberProcess, revision: int, expected: dict[str, str]) -> list[str]:
    """Compare all that a member holds itself, asked once it has all up to ``revision``."""
    async with Client(member.client_url, timeout_s=10.0) as client:
        await client.range(everything(), count_only=True, limit=1)  # linearizable: it has caught up
        found: dict[str, str] = {}
        async for page in client.pages(everything(), revision=revision):
            found |= {pair.key.decode(): pair.value.decode() for pair in page.kvs}
    if found == expected:
        return []
    wrong = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
    return [f"{member.name} has {key}={found.get(key)!r}, written was {expected.get(key)!r}" for key in wrong]


async def _alarms(client: Client) -> list[str]:
    """The alarms that don't end by themselves."""

    async def are_none() -> bool:
        return not (await client.maintenance.alarms()).alarms

    try:
        await eventually(are_none, what="alarms end", timeout_s=_SETTLE_S)
    except TimeoutError:
        return [str(alarm) for alarm in (await client.maintenance.alarms()).alarms]
    return []


async def _hash(client: Client, member: MemberProcess, revision: int) -> tuple[int, int]:
    async with asyncio.timeout(_SETTLE_S):
        while True:
            try:
                answer = await client.maintenance.hash_kv(
                    member.client_url, revision=revision, timeout_s=30.0
                )
                return answer.hash, answer.compact_revision
            except FutureRevisionError:
                await asyncio.sleep(0.1)


async def _replay(member: MemberProcess, first: int, last: int) -> dict[int, list[Change]]:
    """What a member's own history says happened between two revisions."""
    told: dict[int, list[Change]] = {}
    if first > last:
        return told
    async with (
        Client(member.client_url, timeout_s=10.0) as client,
        client.watch(everything(), start_revision=first) as watcher,
        asyncio.timeout(_SETTLE_S),
    ):
        await _collect(watcher, last, told)
    return told


async def _collect(watcher: Watcher, last: int, told: dict[int, list[Change]]) -> None:
    async for batch in watcher:
        for event in batch.events:
            value = None if event.type else event.kv.value.decode()
            told.setdefault(event.kv.mod_revision, []).append(Change(event.kv.key.decode(), value))
        if told and max(told) >= last:
            return


async def _restore(snapshot: Path, directory: Path, reference: checks.Reference) -> list[str]:
    """Start a member from a snapshot and compare it with what was written up to the revision it is of."""
    member = MemberProcess("restored", directory)
    done = await asyncio.to_thread(
        run_kvctl,
        [],
        *("snapshot", "restore", str(snapshot), "--data-dir", str(member.data_dir), "--name", member.name),
        *("--initial-cluster", f"{member.name}={member.peer_url}", "--initial-cluster-token", "restored"),
        *("--initial-advertise-peer-urls", member.peer_url),
    )
    if done.code != 0:
        return [f"the snapshot is refused: {done.error_text}"]
    member.flags["initial-cluster-token"] = "restored"
    member.start()
    try:
        await asyncio.to_thread(member.wait_serving)
        async with Client(member.client_url) as client:
            revision = (await client.range(everything(), count_only=True, limit=1)).header.revision
            # Leases that it brings end in time, which nobody who wrote the history did.
            expected = {
                key: value
                for key, value in reference.state(revision).items()
                if not key.startswith((LEASE_PREFIX, "lock/"))
            }
            found: dict[str, str] = {}
            async for page in client.pages(everything(), revision=revision):
                found |= {pair.key.decode(): pair.value.decode() for pair in page.kvs}
        found = {key: value for key, value in found.items() if not key.startswith((LEASE_PREFIX, "lock/"))}
        return (
            [] if found == expected else [f"the store that was restored at {revision} holds something else"]
        )
    except (TimeoutError, RuntimeError, KvClientError) as error:
        return [f"the snapshot could not be used: {error}"]
    finally:
        member.kill()

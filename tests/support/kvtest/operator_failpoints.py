"""Every point between two effects of every operation: the operator ends there, and another one goes on.

An effect is a request of the operator that changes something: a write to the API server, events included, or
a change of the membership.  Each operation is lived once to count its effects and what they do to the
cluster.  Then, for each effect and each way to fail there, it is lived anew.  It must end as it should and
have disturbed the cluster no more than the first time: no further member added, removed or promoted, no
further volume or running pod deleted, no further member started.

``python -m kvtest.operator_failpoints`` tries them all and prints the table, ``--only`` some of its rows.
"""

import argparse
import asyncio
import copy
import json
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import repeat
from typing import Any, Final

from kvoperator.clients.kube import (
    CLAIMS,
    CLUSTERS,
    JOBS,
    PODS,
    SNAPSHOTS,
    STATEFUL_SETS,
    Manifest,
)
from kvoperator.errors import KubeError, KubeUnavailableError, MemberError
from kvoperator.events import EventRecorder
from kvoperator.model import names
from kvoperator.snapshots import SnapshotReconciler
from kvtest.operator_world import (
    NAME,
    NAMESPACE,
    AlwaysLeading,
    InvariantError,
    OperatorCrashError,
    World,
)

__all__ = [
    "OPERATIONS",
    "Failure",
    "Life",
    "Operation",
    "Outcome",
    "Point",
    "live",
    "points_of",
]

MAX_PASSES: Final = 400
SNAPSHOT: Final = "daily"


class Failure(StrEnum):
    """What happens at an effect."""

    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"
    REQUEST_LOST = "request lost"
    """It was not carried out, and the operator gets an error."""
    ANSWER_LOST = "answer lost"
    """It was carried out, and the operator gets an error."""


@dataclass(frozen=True, slots=True)
class Point:
    """One failure at the effect of that number, from 0."""

    effect: int
    failure: Failure


@dataclass(slots=True)
class Life:
    """What one run of an operation did."""

    effects: list[str] = field(default_factory=list)
    """Each request that changes something, in order, whether or not it was carried out."""
    disturbances: Counter[str] = field(default_factory=Counter)


class FailpointWorld(World):
    """A world in which the operator fails at one point, and which counts what the cluster has to bear."""

    def __init__(self, *, replicas: int = 3, spec: dict[str, Any] | None = None) -> None:
        self.life = Life()
        self.point: Point | None = None
        self.is_counting = False
        self.may_be_away = 0
        super().__init__(1, replicas=replicas, spec=spec)

    def begin(self, point: Point | None, *, may_be_away: int) -> None:
        self.life = Life()
        self.point = point
        self.may_be_away = may_be_away
        self.is_counting = True

    def restart_operator(self) -> None:
        super().restart_operator()
        self.snapshots = SnapshotReconciler(
            kube=self.kube,
            events=EventRecorder(self.kube, "test"),
            guard=AlwaysLeading(),
            agent_image="operator:1",
            clock=self.clock,
        )

    async def turn(self) -> None:
        """A second goes by: all controllers, and one pass of the operator."""
        self.now_s += 1
        self.run_controllers()
        before = self._roles()
        await self.operator_pass()
        self._note_changes(before)
        self.check()

    async def until_settled(self) -> None:
        for _ in range(3):
            await self.turn()
        for _ in range(MAX_PASSES):
            await self.turn()
            if self.is_settled():
                return
        raise InvariantError(f"not settled after {MAX_PASSES} passes: {self.describe()}")

    async def survive(self, work: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        """Do the work of one pass again and again until it says that all is done."""
        for _ in range(MAX_PASSES):
            self.now_s += 1
            self.is_operator_acting = True
            try:
                if await work():
                    return
            except OperatorCrashError:
                self.restart_operator()
            except KubeError as error:
                self.say(f"the pass failed: {error}")
            finally:
                self.is_operator_acting = False
        raise InvariantError(f"not done after {MAX_PASSES} passes")

    def check(self) -> None:
        super().check()
        if self.cluster is None or not self.is_counting:
            return
        away = {one.id for one in self.voters()} - self.running_ids()
        self._require(len(away) <= self.may_be_away, f"{len(away)} voters are away at once")

    def _before(self, verb: str, plural: str, obj: Manifest | None) -> None:
        if self.is_operator_acting and self.is_counting and verb not in ("get", "list"):
            self.life.effects.append(f"{verb} {plural}")
        super()._before(verb, plural, obj)

    def _after(self, verb: str, plural: str, obj: Manifest | None) -> None:
        if self.is_operator_acting and self.is_counting and (verb == "delete" or plural == "jobs"):
            assert obj is not None
            # A pod in which nothing runs is no loss.
            if plural != "pods" or obj["metadata"]["uid"] in self.processes:
                self.life.disturbances[f"{verb} {plural} {obj['metadata']['name']}"] += 1
        if self.is_operator_acting and self.is_counting and plural == "events":
            assert obj is not None
            # Nor may a user be told that what is done was refused.
            if obj["reason"] == "RequestRefused":
                self.life.disturbances[f"told: {obj['message']}"] += 1
        super()._after(verb, plural, obj)

    def _maybe_fail(self, verb: str, *, is_after: bool) -> None:
        if verb in ("get", "list") or not self.is_counting:
            return
        if verb == "member" and not is_after:
            self.life.effects.append(self.log[-1].partition("operator: ")[2])
        if self.point is None or len(self.life.effects) - 1 != self.point.effect:
            return
        failure = self.point.failure
        if is_after != (failure in (Failure.KILLED_AFTER, Failure.ANSWER_LOST)):
            return
        self.point = None
        self.say(f"world: {failure} {self.life.effects[-1]}")
        if failure in (Failure.KILLED_BEFORE, Failure.KILLED_AFTER):
            raise OperatorCrashError
        if verb == "member":
            raise MemberError(str(failure))
        raise KubeUnavailableError(str(failure), code=0)

    def _run(self, pod: Manifest, member_id: int, claim_uid: str) -> None:
        super()._run(pod, member_id, claim_uid)
        if self.is_counting:
            self.life.disturbances[f"start {pod['metadata']['name']}"] += 1

    def _roles(self) -> dict[int, bool]:
        """Who is a learner."""
        return {one.id: one.is_learner for one in self.cluster.members.values()} if self.cluster else {}

    def _note_changes(self, before: Mapping[int, bool]) -> None:
        after = self._roles()
        noted = self.life.disturbances
        noted["member added"] += len(after.keys() - before.keys())
        noted["member removed"] += len(before.keys() - after.keys())
        noted["member promoted"] += sum(
            before[one] and not after[one] for one in before.keys() & after.keys()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    name: str
    begin: Callable[[FailpointWorld], None]
    """What the user or the world does to set it going."""
    replicas: int
    """Members at the end, with a volume each; after a deletion only the volumes."""
    replicas_before: int = 3
    """0 for an operation that begins with nothing."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    may_be_away: int = 0
    """Voters that may be away at a time: the one that the operation is about."""
    is_deletion: bool = False
    run: Callable[[FailpointWorld], Coroutine[Any, Any, None]] = FailpointWorld.until_settled


@dataclass(frozen=True, slots=True)
class Outcome:
    point: Point | None
    life: Life
    trouble: str = ""
    """What went wrong; empty when the operation ended as it should."""
    log: tuple[str, ...] = ()


async def live(operation: Operation, point: Point | None, wanted: Life | None = None) -> Outcome:
    """Live the operation once, with one failure at most; ``wanted`` is its life without any."""
    world = await _start(operation)
    try:
        operation.begin(world)
        world.begin(point, may_be_away=operation.may_be_away)
        await operation.run(world)
        if not operation.is_deletion:
            _require_members(world, operation.replicas)
        _require_volumes(world, operation.replicas)
        _require(world.point is None, "the failure never happened")
        if wanted is not None:
            # Fewer are none of its doing: a controller was quicker than the operator that was away.
            more = world.life.disturbances - wanted.disturbances
            _require(not more, f"disturbed more than needed: {dict(more)}")
    except InvariantError as error:
        return Outcome(point, world.life, str(error), tuple(world.log[-60:]))
    return Outcome(point, world.life)


_starts: Final[dict[tuple[int, str], FailpointWorld]] = {}


async def _start(operation: Operation) -> FailpointWorld:
    """The world before the operation: lived once for each size and spec, and copied from then on."""
    key = (operation.replicas_before, json.dumps(operation.spec))
    if key not in _starts:
        world = FailpointWorld(
            replicas=operation.replicas_before or operation.replicas, spec=dict(operation.spec)
        )
        if operation.replicas_before == 0:
            return world
        await world.settle()
        for _ in range(3):
            await world.turn()
        # Its metrics are none that could be copied; and every operation begins with a fresh operator.
        del world.reconciler, world.snapshots
        _starts[key] = world
    world = copy.deepcopy(_starts[key])
    world.restart_operator()
    return world


def points_of(life: Life) -> list[Point]:
    return [Point(effect, failure) for effect in range(len(life.effects)) for failure in Failure]


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise InvariantError(what)


def _require_members(world: FailpointWorld, count: int) -> None:
    """No member without a pod, no pod without a member, and no volume of neither."""
    wanted = [names.pod_name(NAME, ordinal) for ordinal in range(count)]
    _require(sorted(one.name for one in world.voters()) == wanted, f"voters are {world.describe()}")
    _require(all(not is_learner for is_learner in world._roles().values()), "a learner is left")
    pods = [pod["metadata"]["name"] for pod in world.kube.all(PODS, NAMESPACE)]
    _require([name for name in pods if name in wanted] == wanted, f"pods are {pods}")


def _require_volumes(world: FailpointWorld, count: int) -> None:
    claims = [claim["metadata"]["name"] for claim in world.kube.all(CLAIMS, NAMESPACE)]
    _require(claims == [names.claim_name(NAME, n) for n in range(count)], f"claims are {claims}")


# -- the operations ------------------------------------------------------------


def _nothing(world: FailpointWorld) -> None:
    """It begins by itself."""


def _scaled(replicas: int) -> Callable[[FailpointWorld], None]:
    return lambda world: world.set_replicas(replicas)


def _changed(fields: Mapping[str, Any]) -> Callable[[FailpointWorld], None]:
    return lambda world: world.change_spec(fields)


def _pod(world: World, ordinal: int) -> Manifest:
    pod = world.kube.find(PODS, NAMESPACE, names.pod_name(NAME, ordinal))
    assert pod is not None
    return pod


def _claim(world: World, ordinal: int) -> Manifest:
    claim = world.kube.find(CLAIMS, NAMESPACE, names.claim_name(NAME, ordinal))
    assert claim is not None
    return claim


def _annotated(name: str, value: str) -> Callable[[FailpointWorld], None]:
    def annotate(world: FailpointWorld) -> None:
        live = world.kube.find(CLUSTERS, NAMESPACE, NAME)
        assert live is not None
        world.kube.update(CLUSTERS, live, lambda one: one["metadata"].update(annotations={name: value}))

    return annotate


def _wipe(world: FailpointWorld) -> None:
    """The second member's volume is empty when its container starts again."""
    world._stop(_pod(world, 1)["metadata"]["uid"])
    world.disks[_claim(world, 1)["metadata"]["uid"]] = None


def _damage(world: FailpointWorld) -> None:
    world._stop(_pod(world, 1)["metadata"]["uid"])
    disk = world.disks[_claim(world, 1)["metadata"]["uid"]]
    assert disk is not None
    disk.is_damaged = True


def _lose(world: FailpointWorld) -> None:
    """Pod and volume of the second member are deleted."""
    pod, claim = _pod(world, 1), _claim(world, 1)
    world._stop(pod["metadata"]["uid"])
    world.kube.mark_deleted(CLAIMS, claim)
    world.kube.remove(PODS, pod)


def _lose_quorum(*lost: int, chosen: int) -> Callable[[FailpointWorld], None]:
    """Members don't run, with their data as it is; the user gives them up."""

    def lose(world: FailpointWorld) -> None:
        for ordinal in lost:
            pod = _pod(world, ordinal)
            world._stop(pod["metadata"]["uid"])
            world.backoff_until[pod["metadata"]["uid"]] = float("inf")
            world.kube.update(PODS, pod, lambda one: one.update(status={"phase": "Running"}))
        _annotated(names.ANNOTATION_RECOVER_FROM, names.pod_name(NAME, chosen))(world)

    return lose


def _lose_workload(world: FailpointWorld) -> None:
    """The StatefulSet is deleted, and its pods with it."""
    workload = world.kube.find(STATEFUL_SETS, NAMESPACE, NAME)
    assert workload is not None
    world.kube.remove(STATEFUL_SETS, workload)


def _evict(world: FailpointWorld) -> None:
    pod = _pod(world, 1)
    world._stop(pod["metadata"]["uid"])
    world.kube.update(PODS, pod, lambda one: one.update(status={"phase": "Failed", "reason": "Evicted"}))


def _ask_for_snapshot(world: FailpointWorld) -> None:
    world.kube.put(
        SNAPSHOTS,
        {
            "apiVersion": SNAPSHOTS.api_version,
            "kind": SNAPSHOTS.kind,
            "metadata": {"name": SNAPSHOT, "namespace": NAMESPACE},
            "spec": {
                "clusterRef": {"name": NAME},
                "target": {"pvc": {"claimName": "backups"}},
                "activeDeadlineSeconds": 600,
            },
        },
    )


def _have_snapshot(world: FailpointWorld) -> None:
    _ask_for_snapshot(world)
    snapshot = world.kube.find(SNAPSHOTS, NAMESPACE, SNAPSHOT)
    assert snapshot is not None
    artifact = {"uri": "pvc://backups/daily.snap", "sha256": "ab" * 32}
    status = {"phase": "Succeeded", "artifact": artifact}
    world.kube.update(SNAPSHOTS, snapshot, lambda one: one.update(status=status))


async def _take_snapshot(world: FailpointWorld) -> None:
    async def work() -> bool:
        for job in list(world.kube.all(JOBS, NAMESPACE)):
            _finish(world, job)
        await world.snapshots.run_pass(NAMESPACE, SNAPSHOT)
        snapshot = world.kube.find(SNAPSHOTS, NAMESPACE, SNAPSHOT)
        assert snapshot is not None
        return (snapshot.get("status") or {}).get("phase") == "Succeeded"

    await world.survive(work)


def _finish(world: FailpointWorld, job: Manifest) -> None:
    """The agent's last words, and the Job controller's conclusion."""
    if job.get("status"):
        return
    result = {"bytes": 4096, "sha256": "ab" * 32, "revision": 12, "clusterID": "c0ffee"}
    ended = {"terminated": {"exitCode": 0, "message": json.dumps(result)}}
    world.kube.put(
        PODS,
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{job['metadata']['name']}-x",
                "namespace": NAMESPACE,
                "labels": job["spec"]["template"]["metadata"]["labels"],
                "ownerReferences": [{"uid": job["metadata"]["uid"]}],
            },
            "spec": {},
            "status": {"containerStatuses": [{"name": "snapshot", "state": ended}]},
        },
    )
    complete = {"conditions": [{"type": "Complete", "status": "True"}]}
    world.kube.update(JOBS, job, lambda one: one.update(status=complete))


def _delete(world: FailpointWorld) -> None:
    live = world.kube.find(CLUSTERS, NAMESPACE, NAME)
    assert live is not None
    live["metadata"]["finalizers"] = [names.FINALIZER]
    world.kube.mark_deleted(CLUSTERS, live)


async def _until_deleted(world: FailpointWorld) -> None:
    await world.survive(lambda: world.reconciler.run_deletion(NAMESPACE, NAME))
    for _ in range(5):
        world.run_stateful_set()
        for pod in list(world.kube.all(PODS, NAMESPACE)):
            world.kube.remove(PODS, pod)
        world.run_claim_controller()


_FROM_SNAPSHOT: Final = {"bootstrap": {"restore": {"snapshotRef": {"name": SNAPSHOT}}}}
_VOLUMES_GO: Final = {"storage": {"size": "1Gi", "retention": {"whenDeleted": "Delete"}}}

OPERATIONS: Final = (
    Operation(name="create, 1 member", begin=_nothing, replicas_before=0, replicas=1),
    Operation(name="create, 3 members", begin=_nothing, replicas_before=0, replicas=3),
    Operation(
        name="create from a snapshot",
        begin=_have_snapshot,
        replicas_before=0,
        replicas=3,
        spec=_FROM_SNAPSHOT,
    ),
    Operation(name="scale out 1 to 3", begin=_scaled(3), replicas_before=1, replicas=3),
    Operation(name="scale out 3 to 5", begin=_scaled(5), replicas=5),
    Operation(name="scale in 5 to 3", begin=_scaled(3), replicas_before=5, replicas=3),
    Operation(name="scale in 3 to 1", begin=_scaled(1), replicas=1),
    Operation(name="replace: volume empty", begin=_wipe, replicas=3, may_be_away=1),
    Operation(name="replace: volume damaged", begin=_damage, replicas=3, may_be_away=1),
    Operation(name="replace: pod and volume deleted", begin=_lose, replicas=3, may_be_away=1),
    Operation(
        name="replace: asked by annotation",
        begin=_annotated(names.ANNOTATION_REPLACE_MEMBER, "demo-1"),
        replicas=3,
        may_be_away=1,
    ),
    Operation(name="replace an evicted pod", begin=_evict, replicas=3, may_be_away=1),
    Operation(
        name="rolling update",
        begin=_changed({"resources": {"requests": {"cpu": "1"}}}),
        replicas=3,
        may_be_away=1,
    ),
    Operation(
        name="rolling update and scale out 3 to 5",
        begin=_changed({"resources": {"requests": {"cpu": "1"}}, "replicas": 5}),
        replicas=5,
        may_be_away=1,
    ),
    Operation(
        name="grow the volumes", begin=_changed({"storage": {"size": "2Gi"}}), replicas=3, may_be_away=0
    ),
    Operation(name="StatefulSet deleted", begin=_lose_workload, replicas=3, may_be_away=3),
    Operation(
        name="quorum lost, recover from the last of 3",
        begin=_lose_quorum(0, 1, chosen=2),
        replicas=3,
        may_be_away=3,
    ),
    Operation(
        name="quorum lost, recover from the first of 5",
        begin=_lose_quorum(1, 3, 4, chosen=0),
        replicas_before=5,
        replicas=5,
        may_be_away=5,
    ),
    Operation(name="take a snapshot", begin=_ask_for_snapshot, replicas=3, run=_take_snapshot),
    Operation(
        name="delete with its volumes",
        begin=_delete,
        replicas=0,
        is_deletion=True,
        run=_until_deleted,
        may_be_away=3,
        spec=_VOLUMES_GO,
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="every failure at every effect of every operation")
    parser.add_argument("--only", default="", metavar="WORDS", help="operations whose name has these words")
    chosen = [one for one in OPERATIONS if parser.parse_args().only in one.name]
    failed: list[tuple[Operation, Outcome]] = []
    print("| operation | effects | points | survived |\n|---|---|---|---|", flush=True)
    with ProcessPoolExecutor(initializer=logging.disable) as pool:
        for operation in chosen:
            undisturbed, outcomes = _survive_all(operation, pool)
            bad = [(operation, one) for one in (undisturbed, *outcomes) if one.trouble]
            effects, points = len(undisturbed.life.effects), len(outcomes)
            survived = sum(not one.trouble for one in outcomes)
            # At once: who ends it halfway has what was done by then.
            print(f"| {operation.name} | {effects} | {points} | {survived} |", flush=True)
            failed += bad
    for operation, one in failed:
        print(f"{operation.name}, {one.point}: {one.trouble}", *one.log, sep="\n")
    return 1 if failed or not chosen else 0


def _survive_all(operation: Operation, pool: ProcessPoolExecutor) -> tuple[Outcome, list[Outcome]]:
    """The operation without a failure, and at every one of its points if that went well."""
    number = OPERATIONS.index(operation)
    undisturbed = pool.submit(_live, number, None, None).result()
    if undisturbed.trouble:
        return undisturbed, []
    points = points_of(undisturbed.life)
    lives = pool.map(_live, repeat(number), points, repeat(undisturbed.life), chunksize=8)
    return undisturbed, list(lives)


def _live(number: int, point: Point | None, wanted: Life | None) -> Outcome:
    # By number: what an operation begins with can't be sent to another process.
    return asyncio.run(live(OPERATIONS[number], point, wanted))


if __name__ == "__main__":
    raise SystemExit(main())

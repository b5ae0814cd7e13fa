"""A Kubernetes cluster in memory, with a StatefulSet controller, kubelets and members, for the operator.

The operator's own code runs against it unchanged: observe, plan, act.  What stands in for the real world is
simple and strict.  Members follow the rules that the real ones promise (exit codes by what the volume
holds, no start under a lost identity), and every rule of safety is checked the moment the operator asks for a
change: breaking one raises `InvariantError`.

Nothing here waits: time is a number, and every part moves only when `step` picks it.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kvoperator.clients.kube import CLAIMS, CLUSTERS, PODS, STATEFUL_SETS, Manifest
from kvoperator.clients.member import MemberReport
from kvoperator.errors import KubeConflictError, KubeUnavailableError, MemberError, MemberNotReadyError
from kvoperator.events import EventRecorder
from kvoperator.model import names
from kvoperator.model.observed import ClusterId, MemberId, Membership, MemberStatus, MemberView
from kvoperator.model.status import Images, to_timestamp
from kvoperator.reconcile import ClusterReconciler
from kvtest.fake_kube import FakeKube

__all__ = ["InvariantError", "OperatorCrashError", "World"]

NAMESPACE = "apps"
NAME = "demo"
EPOCH_S = 1_700_000_000.0


class InvariantError(AssertionError):
    """The operator did what it must never do."""


class OperatorCrashError(BaseException):
    """The operator's process ends here; nothing in it may catch this."""


@dataclass(slots=True)
class Disk:
    """What a volume holds; None in ``World.disks`` is an empty one."""

    member_id: int
    match: int = 0
    is_damaged: bool = False


@dataclass(slots=True)
class Member:
    id: int
    peer_url: str
    is_learner: bool
    name: str = ""


@dataclass(slots=True)
class Process:
    """A running kvnode."""

    member_id: int
    claim_uid: str


@dataclass(slots=True)
class Cluster:
    """The membership that the members agree upon, and how much they have agreed upon."""

    id: int
    members: dict[int, Member] = field(default_factory=dict)
    removed: set[int] = field(default_factory=set)
    given_up: set[int] = field(default_factory=set)
    """Members that a recovery went on without; unlike removed ones they have not been told."""
    committed: int = 1
    leader: int | None = None
    term: int = 1


class AlwaysLeading:
    """The Lease is ours."""

    is_held = True

    async def confirm(self) -> None:
        return None


class World:
    """One KVCluster and all around it; the same seed lives the same life."""

    def __init__(self, seed: int, *, replicas: int = 3, spec: dict[str, Any] | None = None) -> None:
        self.random = random.Random(seed)
        self.now_s = EPOCH_S
        self.kube = FakeKube(self.clock)
        self.cluster: Cluster | None = None
        self.disks: dict[str, Disk | None] = {}
        self.processes: dict[str, Process] = {}
        """By pod uid."""
        self.backoff_until: dict[str, float] = {}
        self.log: list[str] = []
        self.is_operator_acting = False
        self.fault_rate = 0.0
        self.has_two_voter_window = False
        self._ids = iter(range(0x1000, 0x100000))
        self.kube.before, self.kube.after = self._before, self._after
        self.restart_operator()
        self.kube.put(
            CLUSTERS,
            {
                "apiVersion": CLUSTERS.api_version,
                "kind": CLUSTERS.kind,
                "metadata": {"name": NAME, "namespace": NAMESPACE},
                "spec": {"replicas": replicas, "storage": {"size": "1Gi"}, **(spec or {})},
            },
        )

    def clock(self) -> float:
        return self.now_s

    def say(self, text: str) -> None:
        self.log.append(f"{self.now_s - EPOCH_S:7.0f} {text}")

    # -- the operator ----------------------------------------------------------

    def restart_operator(self) -> None:
        async def connect(_namespace: str, _spec: object) -> "FakeMembers":
            return FakeMembers(self)

        self.reconciler = ClusterReconciler(
            kube=self.kube,
            connect=connect,
            events=EventRecorder(self.kube, "test"),
            guard=AlwaysLeading(),
            default_images=Images(node="node:1", agent="operator:1"),
            clock=self.clock,
        )

    async def operator_pass(self) -> float | None:
        """One pass; a crash or an API failure in it is survived as the real process would."""
        self.is_operator_acting = True
        try:
            return await self.reconciler.run_pass(NAMESPACE, NAME)
        except OperatorCrashError:
            self.say("operator crashed")
            self.restart_operator()
            return 0.0
        except KubeUnavailableError:
            return 2.0
        finally:
            self.is_operator_acting = False

    def _before(self, verb: str, plural: str, obj: Manifest | None) -> None:
        if not self.is_operator_acting:
            return
        if verb not in ("get", "list") and plural != "events":
            self.say(f"operator: {verb} {plural} {(obj or {}).get('metadata', {}).get('name', '')}")
            self._check_write(verb, plural, obj)
        self._maybe_fail(verb, is_after=False)

    def _after(self, verb: str, _plural: str, _obj: Manifest | None) -> None:
        if self.is_operator_acting:
            self._maybe_fail(verb, is_after=True)

    def _maybe_fail(self, verb: str, *, is_after: bool) -> None:
        """Crashes and lost answers on either side of a request; conflicts only where nothing happened."""
        if self.random.random() >= self.fault_rate:
            return
        kind = self.random.choice(["crash", "lost", "conflict"])
        if kind == "crash":
            raise OperatorCrashError
        if kind == "conflict" and not is_after and verb not in ("get", "list"):
            raise KubeConflictError("injected", code=409)
        raise KubeUnavailableError("injected", code=0)

    # -- rules of safety -------------------------------------------------------

    def voters(self) -> list[Member]:
        return [one for one in self.cluster.members.values() if not one.is_learner] if self.cluster else []

    def running_ids(self) -> set[int]:
        return {process.member_id for process in self.processes.values()}

    def healthy_ids(self) -> set[int]:
        """Running, and with everything that was agreed upon."""
        assert self.cluster is not None
        return {
            process.member_id
            for process in self.processes.values()
            if process.member_id in self.cluster.members and self._is_caught_up(process)
        }

    def _is_caught_up(self, process: Process) -> bool:
        assert self.cluster is not None
        disk = self.disks.get(process.claim_uid)
        return disk is not None and disk.match >= self.cluster.committed

    def has_quorum(self, *, without: int | None = None, removed: int | None = None) -> bool:
        voters = [one.id for one in self.voters() if one.id != removed]
        healthy = self.healthy_ids() - {without}
        return sum(one in healthy for one in voters) >= len(voters) // 2 + 1

    def _check_write(self, verb: str, plural: str, obj: Manifest | None) -> None:
        if verb == "delete" and plural == "persistentvolumeclaims" and obj is not None:
            disk = self.disks.get(obj["metadata"]["uid"])
            live = self.kube.find(CLUSTERS, NAMESPACE, NAME)
            is_cluster_gone = live is None or "deletionTimestamp" in live["metadata"]
            if disk is not None and self.cluster is not None and not is_cluster_gone:
                self._require(
                    disk.member_id not in self.cluster.members,
                    f"volume {obj['metadata']['name']} of member {disk.member_id:x} is deleted",
                )
        if verb == "delete" and plural == "pods" and obj is not None and self.cluster is not None:
            process = self.processes.get(obj["metadata"]["uid"])
            if process is not None and len(self.voters()) > 1:
                member = self.cluster.members.get(process.member_id)
                if member is not None and not member.is_learner:
                    self._require(
                        self.has_quorum(without=member.id) or not self.has_quorum(),
                        f"deleting pod {obj['metadata']['name']} stops the quorum",
                    )
        if plural == "services" and obj is not None and obj["metadata"].get("name") == NAME:
            live = self.kube.find(CLUSTERS, NAMESPACE, NAME)
            assert live is not None
            self._require("clusterID" in (live.get("status") or {}), "clients before the cluster id")
            for pod in self.kube.all(PODS, NAMESPACE):
                state = pod["metadata"]["annotations"].get(names.ANNOTATION_INITIAL_STATE)
                gone = "deletionTimestamp" in pod["metadata"]
                self._require(gone or state != "new", "clients while a pod could still found a cluster")

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise InvariantError(what)

    # -- members ---------------------------------------------------------------

    def elect(self) -> None:
        """A leader needs a majority that runs, and everything that was agreed upon."""
        cluster = self.cluster
        if cluster is None:
            return
        voters = [one.id for one in self.voters()]
        running = self.running_ids()
        has_majority = sum(one in running for one in voters) >= len(voters) // 2 + 1
        candidates = sorted(one for one in voters if one in self.healthy_ids())
        if not has_majority or not candidates:
            cluster.leader = None
        elif cluster.leader not in candidates:
            cluster.leader = self.random.choice(candidates)
            cluster.term += 1

    def replicate(self) -> None:
        """Running members take what they lack from the leader."""
        if self.cluster is None or self.cluster.leader is None:
            return
        for process in self.processes.values():
            disk = self.disks.get(process.claim_uid)
            if disk is not None and process.member_id in self.cluster.members:
                disk.match = min(self.cluster.committed, disk.match + 40)

    def commit(self, count: int = 1) -> bool:
        """Agree on something more: a majority of the voters stores it at once."""
        self.elect()
        if self.cluster is None or self.cluster.leader is None or not self.has_quorum():
            return False
        healthy = self.healthy_ids()
        self.cluster.committed += count
        for process in self.processes.values():
            disk = self.disks[process.claim_uid]
            if disk is not None and process.member_id in healthy:
                disk.match = self.cluster.committed
        return True

    def _start_member(self, pod: Manifest, claim: Manifest) -> int | None:
        """What kvnode does at its start; the exit code, None when it runs."""
        claim_uid = claim["metadata"]["uid"]
        disk = self.disks[claim_uid]
        name = pod["metadata"]["name"]
        url = self._peer_url(name)
        state = pod["metadata"]["annotations"][names.ANNOTATION_INITIAL_STATE]
        forced = pod["metadata"]["annotations"].get(names.ANNOTATION_FORCED_MEMBER, "")
        if forced and (forced != name or disk is None):
            return 1
        if disk is None and state == "new":
            if self.cluster is not None:
                founders = [one for one in self.disks.values() if one is not None]
                live = self.kube.find(CLUSTERS, NAMESPACE, NAME) or {}
                is_latched = "clusterID" in (live.get("status") or {})
                self._require(not founders and not is_latched, "the cluster is founded a second time")
            member = Member(id=next(self._ids), peer_url=url, is_learner=False, name=name)
            self.cluster = Cluster(id=next(self._ids), members={member.id: member})
            self.disks[claim_uid] = Disk(member_id=member.id, match=1)
            self._run(pod, member.id, claim_uid)
            self.say(f"{name} founded the cluster as {member.id:x}")
            return None
        if disk is None:
            known = next(
                (one for one in (self.cluster or Cluster(0)).members.values() if one.peer_url == url), None
            )
            if self.cluster is None or self.cluster.leader is None or known is None:
                return 1
            if known.name:
                return 10
            if not self.commit():
                return 1
            known.name = name
            self.disks[claim_uid] = Disk(member_id=known.id)
            self._run(pod, known.id, claim_uid)
            self.say(f"{name} joined as {known.id:x}")
            return None
        if disk.is_damaged:
            return 13
        if forced:
            self._go_on_alone(disk)
        if self.cluster is not None:
            self._require(disk.member_id not in self.cluster.given_up, f"{name} starts as a former member")
        if self.cluster is None or disk.member_id not in self.cluster.members:
            return 12
        self._run(pod, disk.member_id, claim_uid)
        return None

    def _go_on_alone(self, disk: Disk) -> None:
        """``--force-new-cluster``: the membership is this member's, and so is what was agreed upon."""
        assert self.cluster is not None
        others = set(self.cluster.members) - {disk.member_id}
        self._require(not others & self.running_ids(), "others run while one member goes on alone")
        if others:
            self.say(f"{disk.member_id:x} goes on alone")
            self._require(not self.has_quorum(), "members are given up that have a quorum")
        self.cluster.members = {disk.member_id: self.cluster.members[disk.member_id]}
        self.cluster.given_up |= others
        self.cluster.committed = disk.match

    def _run(self, pod: Manifest, member_id: int, claim_uid: str) -> None:
        for other in self.processes.values():
            self._require(other.member_id != member_id, f"member {member_id:x} runs twice")
        self.processes[pod["metadata"]["uid"]] = Process(member_id=member_id, claim_uid=claim_uid)

    def _peer_url(self, pod_name: str) -> str:
        ordinal = names.ordinal_of(NAME, pod_name)
        assert ordinal is not None
        return names.peer_url(NAME, NAMESPACE, ordinal, has_tls=False)

    # -- controllers -----------------------------------------------------------

    def run_stateful_set(self) -> None:
        """The StatefulSet controller: pods and claims by template, OnDelete and Parallel."""
        workload = self.kube.find(STATEFUL_SETS, NAMESPACE, NAME)
        replicas = workload["spec"]["replicas"] if workload is not None else 0
        for pod in list(self.kube.all(PODS, NAMESPACE)):
            ordinal = names.ordinal_of(NAME, pod["metadata"]["name"])
            assert ordinal is not None
            has_ended = pod["status"]["phase"] in ("Failed", "Succeeded")
            if (ordinal >= replicas or (has_ended and self.random.random() < 0.3)) and (
                "deletionTimestamp" not in pod["metadata"]
            ):
                self.kube.mark_deleted(PODS, pod)
        if workload is None:
            return
        template = workload["spec"]["template"]
        for ordinal in range(replicas):
            name = names.pod_name(NAME, ordinal)
            if self.kube.find(PODS, NAMESPACE, name) is not None:
                continue
            claim = self.kube.find(CLAIMS, NAMESPACE, names.claim_name(NAME, ordinal))
            if claim is not None and "deletionTimestamp" in claim["metadata"]:
                continue
            if claim is None:
                self._make_claim(workload, ordinal)
            self.kube.put(
                PODS,
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "name": name,
                        "namespace": NAMESPACE,
                        "labels": dict(template["metadata"]["labels"]),
                        "annotations": dict(template["metadata"]["annotations"]),
                    },
                    "spec": {},
                    "status": {"phase": "Pending"},
                },
            )

    def _make_claim(self, workload: Manifest, ordinal: int) -> None:
        template = workload["spec"]["volumeClaimTemplates"][0]
        claim = self.kube.put(
            CLAIMS,
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {
                    "name": names.claim_name(NAME, ordinal),
                    "namespace": NAMESPACE,
                    "labels": dict(template["metadata"]["labels"]),
                },
                "spec": template["spec"],
                "status": {"phase": "Bound"},
            },
        )
        self.disks[claim["metadata"]["uid"]] = None

    def run_claim_controller(self) -> None:
        """Claims in deletion go when no pod uses them, and their data with them."""
        for claim in list(self.kube.all(CLAIMS, NAMESPACE)):
            ordinal = names.ordinal_of(NAME, claim["metadata"]["name"])
            assert ordinal is not None
            in_use = self.kube.find(PODS, NAMESPACE, names.pod_name(NAME, ordinal)) is not None
            if "deletionTimestamp" in claim["metadata"] and not in_use:
                self.disks.pop(claim["metadata"]["uid"], None)
                self.kube.remove(CLAIMS, claim)

    def run_kubelet(self, pod: Manifest) -> None:
        """One look of a kubelet at a pod."""
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        if "deletionTimestamp" in pod["metadata"]:
            self._stop(uid)
            self.kube.remove(PODS, pod)
            return
        if pod["status"]["phase"] in ("Failed", "Succeeded"):
            return
        if uid in self.processes:
            self._show_running(pod)
            return
        if self.backoff_until.get(uid, 0) > self.now_s:
            return
        ordinal = names.ordinal_of(NAME, name)
        assert ordinal is not None
        claim = self.kube.find(CLAIMS, NAMESPACE, names.claim_name(NAME, ordinal))
        if claim is None:
            return
        code = self._start_member(pod, claim)
        if code is None:
            self._show_running(pod)
        else:
            self.say(f"{name} exited with {code}")
            self._show_exit(pod, code)

    def _stop(self, pod_uid: str) -> None:
        self.processes.pop(pod_uid, None)
        self.elect()

    def _show_running(self, pod: Manifest) -> None:
        process = self.processes[pod["metadata"]["uid"]]
        assert self.cluster is not None
        member = self.cluster.members.get(process.member_id)
        if member is None:
            # A member that finds itself removed stops.
            self._stop(pod["metadata"]["uid"])
            self._show_exit(pod, 12)
            return
        is_ready = not member.is_learner and self._is_caught_up(process)

        def change(pod: Manifest) -> None:
            statuses = pod["status"].get("containerStatuses") or [{}]
            pod["status"] = {
                "phase": "Running",
                "conditions": [{"type": "Ready", "status": str(is_ready)}],
                "containerStatuses": [
                    {
                        "name": names.CONTAINER,
                        "state": {"running": {}},
                        "lastState": statuses[0].get("lastState", {}),
                    }
                ],
            }

        self.kube.update(PODS, pod, change)

    def _show_exit(self, pod: Manifest, code: int) -> None:
        ended = {"terminated": {"exitCode": code, "finishedAt": to_timestamp(self.now_s)}}
        self.backoff_until[pod["metadata"]["uid"]] = self.now_s + self.random.choice([2, 10, 40])

        def change(pod: Manifest) -> None:
            pod["status"] = {
                "phase": "Running",
                "conditions": [
                    {"type": "Ready", "status": "False", "lastTransitionTime": to_timestamp(self.now_s)}
                ],
                "containerStatuses": [
                    {
                        "name": names.CONTAINER,
                        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                        "lastState": ended,
                    }
                ],
            }

        self.kube.update(PODS, pod, change)

    # -- what goes wrong -------------------------------------------------------

    def can_lose(self, pod: Manifest) -> bool:
        """Whether the data of this pod's member can go without the quorum's going: the tests' own limit."""
        if self.cluster is None:
            return False
        name = pod["metadata"]["name"]
        ordinal = names.ordinal_of(NAME, name)
        claim = self.kube.find(CLAIMS, NAMESPACE, names.claim_name(NAME, ordinal or 0))
        disk = self.disks.get(claim["metadata"]["uid"]) if claim is not None else None
        if disk is None or disk.member_id not in self.cluster.members:
            return False
        intact = {
            one.member_id
            for one in self.disks.values()
            if one is not None and not one.is_damaged and one.match >= self.cluster.committed
        } - {disk.member_id}
        voters = [one.id for one in self.voters()]
        return sum(one in intact for one in voters) >= len(voters) // 2 + 1

    def break_something(self) -> None:
        pods = list(self.kube.all(PODS, NAMESPACE))
        if not pods:
            return
        pod = self.random.choice(pods)
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        kind = self.random.choice(["kill", "delete", "evict", "lose", "damage", "kill all"])
        if kind in ("lose", "damage") and not self.can_lose(pod):
            return
        self.say(f"world: {kind} {name}")
        ordinal = names.ordinal_of(NAME, name)
        assert ordinal is not None
        claim = self.kube.find(CLAIMS, NAMESPACE, names.claim_name(NAME, ordinal))
        if kind == "kill":
            self._stop(uid)
        elif kind == "kill all":
            self.processes.clear()
            self.elect()
        elif kind == "delete":
            self.kube.mark_deleted(PODS, pod)
        elif kind == "evict":
            self._stop(uid)

            def evict(pod: Manifest) -> None:
                pod["status"] = {"phase": "Failed", "reason": "Evicted"}

            self.kube.update(PODS, pod, evict)
        elif kind == "lose" and claim is not None:
            self._stop(uid)
            self.kube.mark_deleted(CLAIMS, claim)
            self.kube.remove(PODS, pod)
        elif kind == "damage" and claim is not None:
            disk = self.disks[claim["metadata"]["uid"]]
            self._stop(uid)
            if disk is not None:
                disk.is_damaged = True

    def set_replicas(self, replicas: int) -> None:
        self.change_spec({"replicas": replicas})

    def change_spec(self, fields: Mapping[str, Any]) -> None:
        self.say(f"user: {dict(fields)}")
        live = self.kube.find(CLUSTERS, NAMESPACE, NAME)
        assert live is not None
        self.kube.update(CLUSTERS, live, lambda obj: obj["spec"].update(fields))

    # -- steps -----------------------------------------------------------------

    def run_controllers(self) -> None:
        """Everything but the operator, once, in random order."""
        parts = [self.run_stateful_set, self.run_claim_controller, self.elect, self.replicate]
        self.random.shuffle(parts)
        for part in parts:
            part()
        pods = list(self.kube.all(PODS, NAMESPACE))
        self.random.shuffle(pods)
        for pod in pods:
            live = self.kube.find(PODS, NAMESPACE, pod["metadata"]["name"])
            if live is not None:
                self.run_kubelet(live)
        self.elect()

    async def step(self) -> None:
        """One random thing happens."""
        self.now_s += self.random.choice([0, 1, 1, 2, 5])
        kind = self.random.choices(
            ["operator", "controllers", "write", "stateful set", "claims"], weights=[5, 5, 3, 1, 1]
        )[0]
        if kind == "operator":
            await self.operator_pass()
        elif kind == "controllers":
            self.run_controllers()
        elif kind == "write":
            self.commit(self.random.choice([1, 1, 10, 100]))
        elif kind == "stateful set":
            self.run_stateful_set()
        else:
            self.run_claim_controller()
        self.check()

    async def settle(self, limit: int = 400) -> int:
        """Run without trouble until the cluster is as specified; returns the passes it took."""
        self.fault_rate = 0.0
        for count in range(limit):
            self.now_s += 1
            self.run_controllers()
            await self.operator_pass()
            self.check()
            if self.is_settled():
                return count
        raise InvariantError(f"not settled after {limit} passes: {self.describe()}")

    def check(self) -> None:
        """What must hold at every moment."""
        if self.cluster is None:
            return
        learners = [one for one in self.cluster.members.values() if one.is_learner]
        self._require(len(learners) <= 1, "two learners at a time")
        self._require(bool(self.voters()), "no voter is left")

    def status(self) -> dict[str, Any]:
        live = self.kube.find(CLUSTERS, NAMESPACE, NAME)
        assert live is not None
        status: dict[str, Any] = live.get("status") or {}
        return status

    def condition(self, kind: str) -> dict[str, Any]:
        return next((one for one in self.status().get("conditions", ()) if one["type"] == kind), {})

    def is_settled(self) -> bool:
        live = self.kube.find(CLUSTERS, NAMESPACE, NAME)
        assert live is not None
        ready = self.condition("Ready")
        return (
            ready.get("status") == "True"
            and ready.get("observedGeneration") == live["metadata"]["generation"]
            and "operation" not in self.status()
        )

    def describe(self) -> str:
        members = self.cluster.members.values() if self.cluster else ()
        return (
            f"members {[(hex(one.id), one.peer_url[7:13], one.is_learner, one.name) for one in members]}, "
            f"running {[hex(one) for one in sorted(self.running_ids())]}, status {self.status()}"
        )


class FakeMembers:
    """`MemberApi` of the world's members; every change is judged before it is made."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _process(self, ordinal: int) -> Process | None:
        pod = self._world.kube.find(PODS, NAMESPACE, names.pod_name(NAME, ordinal))
        return self._world.processes.get(pod["metadata"]["uid"]) if pod is not None else None

    async def observe(self, endpoints: Mapping[int, str]) -> MemberReport:
        world = self._world
        world.elect()
        cluster = world.cluster
        statuses: dict[int, MemberStatus] = {}
        if cluster is None:
            return MemberReport(membership=None, statuses={})
        is_reachable = False
        for ordinal in endpoints:
            process = self._process(ordinal)
            # Now and then nobody answers: not knowing must never be taken for something.
            if process is None or world.random.random() < world.fault_rate * 2:
                continue
            disk = world.disks.get(process.claim_uid)
            member = cluster.members.get(process.member_id)
            if disk is None or member is None:
                continue
            is_reachable = True
            statuses[ordinal] = MemberStatus(
                member_id=MemberId(process.member_id),
                cluster_id=ClusterId(cluster.id),
                leader_id=MemberId(cluster.leader) if cluster.leader is not None else None,
                term=cluster.term,
                applied_index=disk.match,
                is_learner=member.is_learner,
                # A member answers such a read only with everything applied that was agreed upon before it.
                is_linearizable=(
                    cluster.leader is not None and not member.is_learner and disk.match >= cluster.committed
                ),
                version="3.6.0",
            )
        membership = None
        if is_reachable and cluster.leader is not None:
            membership = Membership(
                cluster_id=ClusterId(cluster.id),
                members=tuple(
                    MemberView(
                        id=MemberId(one.id),
                        name=one.name,
                        peer_urls=(one.peer_url,),
                        is_learner=one.is_learner,
                    )
                    for one in cluster.members.values()
                ),
            )
        return MemberReport(membership=membership, statuses=statuses)

    def _agree(self, endpoints: Sequence[str], what: str) -> Cluster:
        world = self._world
        world.say(f"operator: {what}")
        world._maybe_fail("member", is_after=False)
        if not endpoints or world.cluster is None or not world.commit():
            raise MemberError("no quorum")
        return world.cluster

    async def add_learner(self, endpoints: Sequence[str], peer_url: str) -> MemberId:
        world = self._world
        cluster = self._agree(endpoints, f"add learner {peer_url}")
        if any(one.peer_url == peer_url for one in cluster.members.values()):
            raise MemberError("peer URL exists")
        if any(one.is_learner for one in cluster.members.values()):
            raise MemberError("too many learner members in cluster")
        member = Member(id=next(world._ids), peer_url=peer_url, is_learner=True)
        cluster.members[member.id] = member
        world.check()
        world._maybe_fail("member", is_after=True)
        return MemberId(member.id)

    async def promote(self, endpoints: Sequence[str], member_id: MemberId) -> None:
        world = self._world
        cluster = self._agree(endpoints, f"promote {member_id:x}")
        member = cluster.members.get(member_id)
        if member is None or not member.is_learner:
            raise MemberError("no learner")
        process = next((one for one in world.processes.values() if one.member_id == member_id), None)
        disk = world.disks.get(process.claim_uid) if process is not None else None
        if disk is None or cluster.committed - disk.match > 100:
            raise MemberNotReadyError("can only promote a learner member which is in sync with leader")
        disk.match = cluster.committed
        member.is_learner = False
        world._require(world.has_quorum(), f"promoting {member_id:x} breaks the quorum")
        world._maybe_fail("member", is_after=True)

    async def remove(self, endpoints: Sequence[str], member_id: MemberId) -> None:
        world = self._world
        cluster = self._agree(endpoints, f"remove {member_id:x}")
        member = cluster.members.get(member_id)
        if member is None:
            raise MemberError("member not found")
        world._require(member_id != cluster.leader, "the leader is removed")
        if not member.is_learner:
            world._require(world.has_quorum(removed=member_id), f"removing {member_id:x} breaks the quorum")
        del cluster.members[member_id]
        cluster.removed.add(member_id)
        world.elect()
        world._maybe_fail("member", is_after=True)

    async def move_leader(self, endpoints: Sequence[str], target_id: MemberId) -> None:
        world = self._world
        cluster = self._agree(endpoints, f"move leader to {target_id:x}")
        if target_id not in world.healthy_ids() or cluster.members[target_id].is_learner:
            raise MemberError("transfer failed")
        cluster.leader = target_id
        cluster.term += 1
        world._maybe_fail("member", is_after=True)

"""One KVCluster as the end-to-end tests see it: its resource, its pods, and etcdctl in a pod."""

import json
from dataclasses import dataclass
from urllib.parse import urlsplit

from kvtest.e2e.kubernetes import JsonObject, Kubernetes, condition, eventually

TOOLS_POD = "tools"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    kubernetes: Kubernetes
    name: str

    @property
    def endpoint(self) -> str:
        """The client Service, by its DNS name."""
        return f"{self.name}.{self.kubernetes.namespace}.svc:2379"

    def member_endpoint(self, pod: str) -> str:
        """One member, by its DNS name."""
        return f"{pod}.{self.name}-peers.{self.kubernetes.namespace}.svc:2379"

    def create(self, **spec: object) -> None:
        self.kubernetes.apply(
            {
                "apiVersion": "kvcluster.dev/v1alpha1",
                "kind": "KVCluster",
                "metadata": {"name": self.name},
                "spec": spec,
            }
        )

    def resource(self) -> JsonObject:
        return self.kubernetes.get("kvcluster", self.name)

    def condition(self, kind: str) -> JsonObject:
        return condition(self.resource(), kind)

    def scale(self, replicas: int) -> None:
        self.kubernetes.kubectl("scale", f"kvcluster/{self.name}", f"--replicas={replicas}")

    def pause(self, paused: bool) -> None:
        self.kubernetes.patch("kvcluster", self.name, {"spec": {"paused": paused}})

    def annotate(self, name: str, value: str) -> None:
        """Ask the operator for something: ``kvcluster.dev/<name>=<value>``."""
        self.kubernetes.kubectl(
            "annotate", "--overwrite", f"kvcluster/{self.name}", f"kvcluster.dev/{name}={value}"
        )

    def pods(self) -> dict[str, JsonObject]:
        pods = self.kubernetes.list("pods", f"kvcluster.dev/cluster={self.name}")
        return {
            pod["metadata"]["name"]: pod
            for pod in pods
            if any(owner["kind"] == "StatefulSet" for owner in pod["metadata"].get("ownerReferences", []))
        }

    def pod_uids(self) -> set[str]:
        """What tells pods from those that come in their place."""
        return {pod["metadata"]["uid"] for pod in self.pods().values()}

    def wait_available(self, timeout_s: float) -> None:
        eventually(
            f"{self.name} is Available",
            lambda: self.condition("Available").get("status") == "True",
            timeout_s,
        )

    def wait_settled(self, replicas: int, timeout_s: float) -> None:
        """Wait until the spec is reached: that many voters, all ready, and nothing in flight."""
        eventually(
            f"{self.name} has {replicas} ready voters and nothing in flight",
            lambda: self._is_settled(replicas),
            timeout_s,
        )

    def _is_settled(self, replicas: int) -> bool:
        resource = self.resource()
        status = resource.get("status", {})
        counts = [status.get(field) for field in ("replicas", "readyReplicas", "voters", "learners")]
        return (
            status.get("observedGeneration") == resource["metadata"]["generation"]
            and counts == [replicas, replicas, replicas, 0]
            and condition(resource, "Ready").get("status") == "True"
        )

    def etcdctl(self, *arguments: str, timeout_s: float = 30) -> str:
        """Run etcdctl in its pod, against the client Service."""
        return self.kubernetes.execute(
            TOOLS_POD, "etcdctl", "--endpoints", self.endpoint, *arguments, timeout_s=timeout_s
        )

    def member_ids(self) -> dict[str, str]:
        """Return the ID of each member by its pod's name, as the cluster itself lists them.

        The name is taken from the peer URL: a member that has not started yet has no other.
        """
        listed = json.loads(self.etcdctl("member", "list", "-w", "json"))
        return {
            urlsplit(member["peerURLs"][0]).netloc.partition(".")[0]: f"{member['ID']:x}"
            for member in listed["members"]
        }

    def cluster_id(self) -> str:
        listed = json.loads(self.etcdctl("member", "list", "-w", "json"))
        return f"{listed['header']['cluster_id']:x}"

    def leader(self) -> str:
        """Return the name of the leader's pod, as the members themselves see it now."""
        status = json.loads(self.etcdctl("endpoint", "status", "-w", "json"))[0]["Status"]
        names = {member_id: name for name, member_id in self.member_ids().items()}
        return names[f"{status['leader']:x}"]

    def move_leader(self, pod: str) -> None:
        """Make one member the leader; only the present one takes the order."""
        leader = self.leader()
        if leader == pod:
            return
        self.kubernetes.execute(
            *(TOOLS_POD, "etcdctl", "--endpoints", self.member_endpoint(leader)),
            *("move-leader", self.member_ids()[pod]),
        )
        eventually(f"{pod} leads", lambda: self.leader() == pod, 30)

"""The nodes: each has a network namespace, a containerd, a kubelet and a cgroup of its own."""

import contextlib
import json
import os
import signal
import textwrap
import time
from pathlib import Path

from kubelab import images, keys, layout, network
from kubelab.shell import LabError, start, stop, succeeds, wait

CGROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd")


def create_node(name: str) -> None:
    index = layout.node_index(name)
    home = layout.NODES / name
    for directory in ("cni", "kubelet", "containerd", "run", "log"):
        (home / directory).mkdir(parents=True, exist_ok=True)
    (home / "cni" / "10-lab.conflist").write_text(json.dumps(_pod_network(home, index)))
    (home / "containerd.toml").write_text(_containerd_config(home))
    (home / "kubelet.json").write_text(json.dumps(_kubelet_config(name, home)))
    keys.issue(
        name,
        f"/O=system:nodes/CN=system:node:{name}",
        f"DNS:{name},IP:{layout.node_address(index)}",
    )
    keys.write_kubeconfig(name)
    _make_cgroups(name)
    start_node(name)


def start_node(name: str) -> None:
    home = layout.NODES / name
    network.plug(name, connected=True)
    start(f"{name}-containerd", "containerd", "--config", home / "containerd.toml", netns=name)
    socket = home / "run" / "containerd.sock"
    wait(f"{name}'s containerd", lambda: succeeds("ctr", "-a", socket, "version"))
    for archive in sorted(layout.IMAGES.glob("*.tar")):
        images.load(name, archive)
    start(
        f"{name}-kubelet",
        *(layout.BIN / "kubelet", "--kubeconfig", layout.STATE / f"{name}.kubeconfig"),
        *("--config", home / "kubelet.json", "--root-dir", home / "kubelet"),
        *("--hostname-override", name, "--node-ip", layout.node_address(layout.node_index(name))),
        netns=name,
    )


def stop_node(name: str) -> None:
    """Take the node away as a power cut would: nothing on it is asked to end."""
    for part in ("kubelet", "proxy", "containerd"):
        stop(f"{name}-{part}")
    kill_containers(name)
    network.plug(name, connected=False)


def write_proxy_config() -> None:
    """Write the settings of every kube-proxy, once: each of them ends when the file is written again."""
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(layout.STATE / "proxy.kubeconfig")},
        "clusterCIDR": layout.POD_CIDR,
        "conntrack": {"maxPerCore": 0},  # the kernel's limit stays: it is the whole machine's
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    }
    (layout.STATE / "proxy.json").write_text(json.dumps(config))


def start_proxy(name: str, *, node: str, netns: str) -> None:
    """Start kube-proxy, once the nodes are there: it waits long for one that it can't find."""
    start(
        f"{name}-proxy",
        *(layout.BIN / "kube-proxy", "--config", layout.STATE / "proxy.json", "--hostname-override", node),
        netns=netns,
    )


def kill_containers(name: str) -> None:
    """Kill one node's shims and container processes, found through its cgroup and its directory."""
    deadline = time.monotonic() + 5
    while (found := _container_pids(name)) and time.monotonic() < deadline:
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it ended since it was listed
        time.sleep(0.1)


def kill_pod(uid: str) -> None:
    """Kill what runs in a pod, but for the pause process that holds its network.

    Raises:
        LabError: Nothing of that pod runs here.
    """
    killed = 0
    for node in (CGROUPS / "pids").glob("node-*"):
        # Groups of ended containers go at any moment, which a walk bears and a glob does not.
        for directory, _, files in os.walk(node):
            if f"pod{uid}" not in directory or "cgroup.procs" not in files:
                continue
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for pid in (Path(directory) / "cgroup.procs").read_text().split():
                    if images.PAUSE_MARK in Path(f"/proc/{pid}/cmdline").read_bytes():
                        continue
                    os.kill(int(pid), signal.SIGKILL)
                    killed += 1
    if not killed:
        raise LabError(f"no process of pod {uid} runs here")


def remove_cgroups(name: str) -> None:
    for controller in sorted(CGROUPS.glob("*")):
        if (controller / name).is_dir():
            below = sorted((path for path in (controller / name).rglob("*") if path.is_dir()), reverse=True)
            for group in (*below, controller / name):
                try:
                    group.rmdir()
                except OSError:
                    continue  # a process is still on its way out; the empty group does no harm


def _container_pids(name: str) -> set[int]:
    pids: set[int] = set()
    for group in (CGROUPS / "pids" / name).rglob("cgroup.procs"):
        try:
            pids.update(int(pid) for pid in group.read_text().split())
        except OSError:
            continue  # the container's group went away while it was read
    home = f"{layout.NODES}/{name}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if b"containerd-shim" in command and home in command:
            pids.add(int(process.name))
    return pids


def _make_cgroups(name: str) -> None:
    """Give the node a group under each controller that this machine mounts (cgroup v1)."""
    for controller in CONTROLLERS:
        parent = CGROUPS / controller
        if not parent.exists():
            continue
        (parent / name).mkdir(exist_ok=True)
        if controller == "cpuset":  # an empty cpuset takes no process
            for file in ("cpuset.cpus", "cpuset.mems"):
                (parent / name / file).write_text((parent / file).read_text())


def _pod_network(home: Path, index: int) -> dict[str, object]:
    ipam = {
        "type": "host-local",
        "dataDir": str(home / "ipam"),
        "ranges": [[{"subnet": layout.node_pod_cidr(index)}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": ipam,
    }
    port_map = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "1.0.0", "name": "lab", "plugins": [bridge, port_map]}


def _containerd_config(home: Path) -> str:
    return textwrap.dedent(f"""\
        version = 2
        root = "{home}/containerd"
        state = "{home}/run/containerd"
        [grpc]
          address = "{home}/run/containerd.sock"
        [plugins."io.containerd.grpc.v1.cri"]
          sandbox_image = "{layout.PAUSE_IMAGE}"
          disable_apparmor = true
          restrict_oom_score_adj = true
          [plugins."io.containerd.grpc.v1.cri".cni]
            bin_dir = "/usr/lib/cni"
            conf_dir = "{home}/cni"
          [plugins."io.containerd.grpc.v1.cri".containerd]
            snapshotter = "overlayfs"
            [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
              runtime_type = "io.containerd.runc.v2"
        """)


def _kubelet_config(name: str, home: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "authentication": {
            "x509": {"clientCAFile": str(layout.PKI / "ca.crt")},
            "webhook": {"enabled": True},
            "anonymous": {"enabled": False},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [layout.DNS_SERVICE_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": "",  # the machine's resolver is out of reach
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{name}",
        "cgroupsPerQOS": True,
        "enforceNodeAllocatable": [],
        "failSwapOn": False,
        "failCgroupV1": False,
        "containerRuntimeEndpoint": f"unix://{home}/run/containerd.sock",
        "podLogsDir": str(home / "log"),
        # All nodes share one disk, whose fullness is not theirs to clean up.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "1Mi"},
        "localStorageCapacityIsolation": False,
        "nodeStatusUpdateFrequency": "4s",
        "syncFrequency": "10s",
    }

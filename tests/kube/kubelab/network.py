"""The lab's network: one namespace a node, joined by a bridge in the control plane's namespace.

There is no way out of it, and kube-proxy in the control plane's namespace lets
a process there reach Services, as a pod would.
"""

from pathlib import Path

from kubelab import layout
from kubelab.shell import run, succeeds

FORWARDING = ("net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1")


def make_network(nodes: list[str]) -> None:
    control = layout.CONTROL_NETNS
    run("ip", "netns", "add", control)
    _ip(control, "link set lo up")
    _ip(control, "link add lab0 type bridge")
    _ip(control, f"addr add {layout.CONTROL_ADDRESS}/24 dev lab0")
    _ip(control, "link set lab0 up")
    _ip(control, f"route add default via {layout.CONTROL_ADDRESS} dev lab0")
    for index, name in enumerate(nodes, 1):
        _join_node(name, index, nodes)
    for netns in (control, *nodes):
        for setting in FORWARDING:
            # The bridge setting exists only where the kernel's bridge filter is loaded; without it
            # bridged packets pass the rules by, and Services still work through the node's own route.
            succeeds("ip", "netns", "exec", netns, "sysctl", "-qw", setting)


def _join_node(name: str, index: int, nodes: list[str]) -> None:
    control = layout.CONTROL_NETNS
    run("ip", "netns", "add", name)
    run(*f"ip link add l{name} netns {control} type veth peer name eth0 netns {name}".split())
    _ip(control, f"link set l{name} master lab0")
    _ip(control, f"link set l{name} up")
    _ip(name, "link set lo up")
    _ip(name, f"addr add {layout.node_address(index)}/24 dev eth0")
    _ip(name, "link set eth0 up")
    _ip(name, f"route add default via {layout.CONTROL_ADDRESS} dev eth0")
    for other in range(1, len(nodes) + 1):
        if other != index:
            _ip(name, f"route add {layout.node_pod_cidr(other)} via {layout.node_address(other)}")
    _ip(control, f"route add {layout.node_pod_cidr(index)} via {layout.node_address(index)}")


def remove_network(nodes: list[str]) -> None:
    """Remove the nodes' namespaces, the control plane's, and those that containerd made for pods."""
    pods = [path.name for path in Path("/run/netns").glob("cni-*")] if nodes else []
    for netns in (*pods, *nodes, layout.CONTROL_NETNS):
        succeeds("ip", "netns", "del", netns)


def plug(node: str, *, connected: bool) -> None:
    """Put the node's cable in, or pull it."""
    _ip(layout.CONTROL_NETNS, f"link set l{node} {'up' if connected else 'down'}")


def _ip(netns: str, arguments: str) -> None:
    run("ip", "-n", netns, *arguments.split())

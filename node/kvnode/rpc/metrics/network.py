"""What goes over the network, to clients and to other members."""

from collections.abc import Iterator

from kvnode.api.member_port import MemberPort
from kvnode.counting import Histogram
from kvnode.rpc.metrics.text import Family, Labels, counter, histograms, labelled
from kvnode.rpc.stats import RpcStats
from kvnode.server.stats import PeerStats

__all__ = ["network_metrics"]

_PEER_COUNTERS = (
    ("peer_sent_bytes_total", "To", "sent_bytes", "Bytes sent to other members."),
    ("peer_received_bytes_total", "From", "received_bytes", "Bytes received from other members."),
    ("peer_sent_failures_total", "To", "send_failures", "Times that messages could not be sent."),
    ("peer_received_failures_total", "From", "receive_failures", "Messages received that make no sense."),
    ("snapshot_send_success", "To", "snapshots_sent", "Snapshots sent."),
    ("snapshot_send_failures", "To", "snapshots_not_sent", "Snapshots that could not be sent."),
    ("snapshot_receive_success", "From", "snapshots_received", "Snapshots received."),
    ("snapshot_receive_failures", "From", "snapshots_not_received", "Snapshots that could not be received."),
)
_PEER_GAUGES = (
    ("snapshot_send_inflights_total", "To", "snapshots_sending", "Snapshots being sent."),
    ("snapshot_receive_inflights_total", "From", "snapshots_receiving", "Snapshots being received."),
)
_PEER_HISTOGRAMS = (
    ("peer_round_trip_time_seconds", "To", "round_trip_s", "Round trips to other members."),
    ("snapshot_send_total_duration_seconds", "To", "snapshot_send_s", "Snapshots sent."),
    ("snapshot_receive_total_duration_seconds", "From", "snapshot_receive_s", "Snapshots received."),
)


def network_metrics(member: MemberPort, rpc: RpcStats) -> Iterator[Family]:
    """Yield the families."""
    yield counter("etcd_network_client_grpc_sent_bytes_total", "Bytes sent to clients.", rpc.sent_bytes)
    yield counter(
        "etcd_network_client_grpc_received_bytes_total", "Bytes received from clients.", rpc.received_bytes
    )
    own_id = f"{member.member_id:x}"
    peers = {f"{member_id:x}": stats for member_id, stats in sorted(member.stats.peers.items())}

    def pair(other_id: str) -> Labels:
        return (("Local", own_id), ("Remote", other_id))

    yield labelled(
        "gauge",
        "etcd_network_known_peers",
        "Members of the cluster.",
        [(pair(f"{other_id:x}"), 1) for other_id in sorted(member.applier.membership.members)],
    )
    yield labelled(
        "gauge",
        "etcd_network_active_peers",
        "Whether a member is connected.",
        [(pair(other_id), stats.is_connected) for other_id, stats in peers.items()],
    )
    yield labelled(
        "counter",
        "etcd_network_disconnected_peers_total",
        "Connections to a member that were lost.",
        [(pair(other_id), stats.disconnects) for other_id, stats in peers.items()],
    )
    for kind, described in (("counter", _PEER_COUNTERS), ("gauge", _PEER_GAUGES)):
        for name, label, field, text in described:
            yield labelled(
                kind,
                f"etcd_network_{name}",
                text,
                [(((label, other_id),), getattr(stats, field)) for other_id, stats in peers.items()],
            )
    for name, label, field, text in _PEER_HISTOGRAMS:
        yield _histograms(name, label, field, text, peers)


def _histograms(name: str, label: str, field: str, text: str, peers: dict[str, PeerStats]) -> Family:
    values: dict[Labels, Histogram] = {
        ((label, other_id),): getattr(stats, field) for other_id, stats in peers.items()
    }
    return histograms(f"etcd_network_{name}", text, values)

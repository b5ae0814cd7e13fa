"""Where cluster and member IDs come from.

Founders of a cluster compute the same IDs from the same ``--initial-cluster`` and token, without
talking to each other; a member that is added later gets an ID that was never used before.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["added_member_id", "cluster_id", "founding_member_ids"]


def _id(parts: Iterable[bytes]) -> int:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part)
    # 0 stands for "nobody" on the wire and in the core.
    return int.from_bytes(digest.digest()[:8], "big") or 1


def founding_member_ids(initial_cluster: Mapping[str, Sequence[str]], token: str) -> dict[str, int]:
    """Return the ID of each named founder."""
    return {
        name: _id([b"founder", token.encode(), *(url.encode() for url in sorted(urls))])
        for name, urls in initial_cluster.items()
    }


def added_member_id(peer_urls: Sequence[str], token: str, entropy: bytes) -> int:
    """Return an ID for a new member; ``entropy`` makes it differ from those of its predecessors."""
    return _id([b"added", token.encode(), entropy, *(url.encode() for url in sorted(peer_urls))])


def cluster_id(member_ids: Iterable[int], token: str) -> int:
    """Return the ID of the cluster that these founders form."""
    return _id([b"cluster", token.encode(), *(m.to_bytes(8, "big") for m in sorted(member_ids))])

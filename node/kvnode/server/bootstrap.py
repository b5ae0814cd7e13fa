"""How a member begins: founding a cluster, joining one, or going on after a restart.

The one mistake that can't be undone is to come back empty under an old identity: such a member
has forgotten its vote and the entries it acknowledged, and can help elect a leader that lacks
them.  So an empty directory is filled only after the other members were asked, and whoever
finds that the cluster knows it already stops with its own exit code (operators act on it).
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from kvnode.apply.membership import MemberRecord
from kvnode.server.config import InitialClusterState, NodeConfig
from kvnode.server.errors import ExitCode, StartError
from kvnode.server.ids import cluster_id, founding_member_ids

__all__ = ["AskCluster", "Beginning", "begin", "check_owner", "find_mismatch", "found", "join"]

#: How long a founder waits for the others to say whether they know it already.
FOUND_TIMEOUT_S = 1.0
#: How long a joining member looks for a cluster that lists it.
JOIN_TIMEOUT_S = 30.0
JOIN_ATTEMPT_S = 2.0
JOIN_RETRY_S = 0.25
#: A member without a leader asks its neighbours this often whether it is in the wrong place, and
#: believes them when they say so this many times in a row.
MISMATCH_RETRY_S = 1.0
MISMATCH_ANSWERS = 2

log = logging.getLogger(__name__)


class AskCluster(Protocol):
    """Asks the member at a peer URL for its cluster's membership."""

    async def __call__(self, url: str, timeout_s: float) -> dict[str, Any]:
        """Return the JSON object of ``PeerHandler.describe_cluster``; raises when it can't be had."""
        ...


class Beginning:
    """Who a new member is: ``members`` is set for a founder only."""

    def __init__(
        self, cluster: int, member: int, founders: Mapping[str, tuple[int, tuple[str, ...]]] | None
    ) -> None:
        self.cluster_id = cluster
        self.member_id = member
        self.founders = founders


async def found(config: NodeConfig, ask: AskCluster) -> Beginning:
    """Decide who a member of a new cluster is.

    Raises:
        StartError: The cluster exists and knows this member: its disk was lost.
    """
    ids = founding_member_ids(config.initial_cluster, config.initial_cluster_token)
    own = ids[config.name]
    cluster = cluster_id(ids.values(), config.initial_cluster_token)
    if len(set(ids.values())) != len(ids):
        raise StartError("--initial-cluster names one peer URL twice", exit_code=ExitCode.CONFIG)
    others = [url for name, urls in config.initial_cluster.items() if name != config.name for url in urls]
    answers = await _ask_all(others, ask, FOUND_TIMEOUT_S)
    if foreign := _foreign(answers, cluster):
        raise StartError(
            "the members that --initial-cluster names have formed another cluster already"
            f" ({_hex(foreign)}; these flags make {cluster:x}): --initial-cluster or"
            " --initial-cluster-token differs from theirs",
            exit_code=ExitCode.CONFIG,
        )
    for answer in answers:
        if int(answer["cluster_id"]) != cluster:
            continue
        if own in (int(m) for m in answer["removed"]):
            raise _removed(own)
        if own in (int(m) for m in answer["started"]):
            raise _lost(config, own, cluster)
    founders = {name: (ids[name], tuple(urls)) for name, urls in config.initial_cluster.items()}
    return Beginning(cluster, own, founders)


async def join(config: NodeConfig, ask: AskCluster) -> Beginning:
    """Find the cluster that this member was added to.

    Raises:
        StartError: No member answers, none lists this one, or the cluster knows it already.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + JOIN_TIMEOUT_S
    own_urls = set(config.initial_advertise_peer_urls)
    others = sorted({url for urls in config.initial_cluster.values() for url in urls} - own_urls)
    if not others:
        raise StartError(
            f"--initial-cluster-state is existing and the data directory {config.data_dir} is empty, but"
            " --initial-cluster names no other member to join: the data of this cluster's only member"
            " is gone",
            exit_code=ExitCode.LOST,
        )
    said = ""
    while True:
        answers = await _ask_all(others, ask, JOIN_ATTEMPT_S)
        clusters = {int(answer["cluster_id"]) for answer in answers}
        if len(clusters) > 1:
            raise StartError(
                f"the members in --initial-cluster are of different clusters: {_hex(clusters)}",
                exit_code=ExitCode.CONFIG,
            )
        # The one that has applied most knows best who belongs to the cluster.
        for answer in sorted(answers, key=lambda a: int(a["applied"]), reverse=True)[:1]:
            for fields in answer["members"]:
                if own_urls & set(fields["peer_urls"]):
                    member, cluster = int(fields["id"]), int(answer["cluster_id"])
                    if fields["name"] or member in (int(m) for m in answer["started"]):
                        raise _lost(config, member, cluster)
                    return Beginning(cluster, member, None)
        now = (
            f"none of the {len(answers)} members that answer lists {', '.join(sorted(own_urls))}"
            if answers
            else f"no member answers at {', '.join(others)}"
        )
        if now != said:
            log.info("waiting to be added to the cluster: %s", now)
            said = now
        if loop.time() >= deadline_s:
            raise StartError(
                f"{now}; add this member to the cluster first (member add --peer-urls)",
                exit_code=ExitCode.OTHER,
            )
        await asyncio.sleep(JOIN_RETRY_S)


async def begin(config: NodeConfig, ask: AskCluster) -> Beginning:
    """Decide who a member with an empty data directory is; see ``found`` and ``join``."""
    if config.initial_cluster_state is InitialClusterState.NEW:
        return await found(config, ask)
    return await join(config, ask)


def check_owner(config: NodeConfig, cluster: int, own: MemberRecord | None) -> None:
    """Refuse a data directory that was written under another name and at other addresses.

    Either alone is a member that was renamed or has moved, which is allowed; the flags that found
    a cluster are no evidence, since they are ignored after the first start.

    Raises:
        StartError: The directory belongs to another member, most likely of another cluster.
    """
    if own is None or not own.name or own.name == config.name:
        return
    if set(own.peer_urls) & set(config.initial_advertise_peer_urls):
        return
    raise StartError(
        f"the data directory {config.data_dir} belongs to another member: {own.name} ({own.id:x}) of cluster"
        f" {cluster:x} at {', '.join(own.peer_urls)}; this one is --name {config.name} at"
        f" {', '.join(config.initial_advertise_peer_urls)}",
        exit_code=ExitCode.FOREIGN,
    )


async def find_mismatch(
    config: NodeConfig, cluster: int, ask: AskCluster, is_led: Callable[[], bool]
) -> StartError | None:
    """Watch a restarted member until it has a leader, or its neighbours are of another cluster.

    A directory that was copied or mounted in the wrong place holds members that nobody here
    answers for; without this, such a member would wait for ever.

    Args:
        config: Its ``initial_cluster`` names the neighbours.
        cluster: The cluster of the data directory.
        ask: How they are asked.
        is_led: Whether a leader is known.
    """
    own_urls = set(config.initial_advertise_peer_urls)
    others = sorted({url for urls in config.initial_cluster.values() for url in urls} - own_urls)
    count = 0
    while others and count < MISMATCH_ANSWERS:
        await asyncio.sleep(MISMATCH_RETRY_S)
        foreign = _foreign(await _ask_all(others, ask, FOUND_TIMEOUT_S), cluster)
        if is_led():
            return None
        count = count + 1 if foreign else 0
    if not others:
        return None
    return StartError(
        f"the data directory {config.data_dir} holds data of cluster {cluster:x}, but the members that"
        f" --initial-cluster names belong to {_hex(foreign)}",
        exit_code=ExitCode.FOREIGN,
    )


def _foreign(answers: Iterable[Mapping[str, Any]], cluster: int) -> set[int]:
    """The clusters that those who answer belong to; empty if any belongs to ``cluster``."""
    clusters = {int(answer["cluster_id"]) for answer in answers}
    return set() if cluster in clusters else clusters


def _hex(clusters: Iterable[int]) -> str:
    return ", ".join(f"{cluster:x}" for cluster in sorted(clusters))


async def _ask_all(urls: Iterable[str], ask: AskCluster, timeout_s: float) -> list[dict[str, Any]]:
    async def one(url: str) -> dict[str, Any] | None:
        try:
            return await ask(url, timeout_s)
        except Exception as error:
            log.debug("no answer from %s: %s", url, error)
            return None

    answers = await asyncio.gather(*(one(url) for url in urls))
    return [answer for answer in answers if answer is not None]


def _lost(config: NodeConfig, member: int, cluster: int) -> StartError:
    return StartError(
        f"the data directory {config.data_dir} is empty, but cluster {cluster:x} knows this member as"
        f" {member:x}, which has already joined: its disk was lost; remove {member:x} from the cluster"
        " and add it anew",
        exit_code=ExitCode.LOST,
    )


def _removed(member: int) -> StartError:
    return StartError(
        f"member {member:x} was removed from the cluster and can't come back under this identity",
        exit_code=ExitCode.REMOVED,
    )

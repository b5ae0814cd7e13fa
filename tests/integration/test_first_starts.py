"""The first moments of a member, cut short."""

import contextlib
import random
from collections.abc import Callable

from kvtest.commands import run_kvctl
from kvtest.processes import ClusterProcesses, wait_until

MakeCluster = Callable[..., ClusterProcesses]


def test_a_member_killed_at_any_moment_of_its_first_start_starts_again(cluster: MakeCluster) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    trio = cluster(3, is_started=False)
    for _ in range(5):
        for member in trio:
            member.start()
        # A start takes about half a second, so this ends within one.
        with contextlib.suppress(TimeoutError):
            trio[0].wait_exit(chance.uniform(0.1, 0.8))
        for member in trio:
            assert member.returncode is None, member.log_tail
            member.kill()
    trio.start()
    assert run_kvctl(trio.endpoints, "put", "k", "v").code == 0


def test_a_member_told_to_stop_while_it_waits_for_the_others_exits_in_good_order(
    cluster: MakeCluster,
) -> None:
    trio = cluster(3, is_started=False)
    lonely = trio[0]
    for sign in ("starting kvnode", "founds cluster"):
        lonely.start()
        wait_until(lambda sign=sign: sign in lonely.log_text, what=f"{lonely.name} says: {sign}")
        assert lonely.terminate(timeout_s=3.0) == 0
        lonely.log_path.write_text("")
    trio.start()


def test_members_that_start_one_after_another_form_one_cluster(cluster: MakeCluster) -> None:
    trio = cluster(3, is_started=False)
    for member in trio:
        member.start()
        member.wait_listening()
    trio.start()
    assert len({member.status().header.cluster_id for member in trio}) == 1


def test_a_member_without_the_others_is_alive_and_says_what_it_lacks(cluster: MakeCluster) -> None:
    lonely = cluster(3, is_started=False)[0]
    lonely.start()
    lonely.wait_listening()
    wait_until(lambda: lonely.http_get("/livez")[0] == 200, what="it is alive")
    # Not /readyz: it waits for a leader as long as a read does, like etcd's.
    # The HTTP side answers before the member's own data are open, and says that first.
    wait_until(
        lambda: "RAFT NO LEADER" in lonely.http_get("/health")[1], what="it says that it lacks a leader"
    )
    assert lonely.http_get("/health")[0] == 503


def test_a_new_cluster_has_a_leader_long_before_an_election_timeout(cluster: MakeCluster) -> None:
    # Two heartbeats, after which a member asks for votes that can't know better, take longer than this waits.
    trio = cluster(3, is_started=False, heartbeat_interval="10000", election_timeout="50000")
    for member in trio:
        member.start()
    for member in trio:
        member.wait_serving(timeout_s=15.0)


def test_the_member_whose_peer_url_comes_first_leads_a_new_cluster(cluster: MakeCluster) -> None:
    # Of two, each needs the other, and whoever asks for votes is elected.  Identities are as good as random.
    for number in range(3):
        pair = cluster(2, f"pair-{number}")
        first = min(pair, key=lambda member: member.peer_url).status()
        assert first.leader == first.header.member_id

"""Who a member with an empty directory may be: asked of the others, never assumed."""

from pathlib import Path
from typing import Any

import pytest
from kvnode.server import bootstrap
from kvnode.server.bootstrap import begin
from kvnode.server.config import InitialClusterState, NodeConfig, parse_urls
from kvnode.server.errors import ExitCode, StartError
from kvnode.server.ids import added_member_id, cluster_id, founding_member_ids

URLS = {"m1": ("http://127.0.0.1:1",), "m2": ("http://127.0.0.1:2",), "m3": ("http://127.0.0.1:3",)}
IDS = founding_member_ids(URLS, "token")
CLUSTER = cluster_id(IDS.values(), "token")


def config(state: InitialClusterState, cluster: dict[str, tuple[str, ...]] = URLS) -> NodeConfig:
    return NodeConfig(
        name="m1",
        data_dir=Path("data"),
        listen_peer_urls=parse_urls("http://127.0.0.1:1"),
        listen_client_urls=parse_urls("http://127.0.0.1:9"),
        initial_advertise_peer_urls=URLS["m1"],
        advertise_client_urls=("http://127.0.0.1:9",),
        initial_cluster=cluster,
        initial_cluster_state=state,
        initial_cluster_token="token",
    )


def answer(**changes: Any) -> dict[str, Any]:
    return {
        "cluster_id": CLUSTER,
        "applied": 10,
        "members": [{"id": IDS["m1"], "name": "", "peer_urls": list(URLS["m1"])}],
        "removed": [],
        "started": [],
        **changes,
    }


def asking(answers: dict[str, dict[str, Any]]):
    async def ask(url: str, timeout_s: float) -> dict[str, Any]:
        if url not in answers:
            raise ConnectionError("refused")
        return answers[url]

    return ask


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(bootstrap, "JOIN_TIMEOUT_S", 0.05)
    monkeypatch.setattr(bootstrap, "JOIN_RETRY_S", 0.01)


async def test_founders_agree_on_their_ids_without_talking():
    beginning = await begin(config(InitialClusterState.NEW), asking({}))
    assert (beginning.cluster_id, beginning.member_id) == (CLUSTER, IDS["m1"])
    assert beginning.founders == {name: (IDS[name], URLS[name]) for name in URLS}


async def test_a_founder_whom_the_cluster_knows_has_lost_its_disk():
    answers = {"http://127.0.0.1:2": answer(started=[IDS["m1"]])}
    with pytest.raises(StartError, match="its disk was lost") as caught:
        await begin(config(InitialClusterState.NEW), asking(answers))
    assert caught.value.exit_code == ExitCode.LOST


async def test_a_founder_that_starts_late_joins_the_others():
    answers = {"http://127.0.0.1:2": answer(started=[IDS["m2"], IDS["m3"]])}
    beginning = await begin(config(InitialClusterState.NEW), asking(answers))
    assert beginning.member_id == IDS["m1"]


async def test_a_founder_that_was_removed_stays_out():
    answers = {"http://127.0.0.1:3": answer(removed=[IDS["m1"]])}
    with pytest.raises(StartError) as caught:
        await begin(config(InitialClusterState.NEW), asking(answers))
    assert caught.value.exit_code == ExitCode.REMOVED


async def test_a_joiner_takes_the_identity_that_the_cluster_has_for_its_urls():
    answers = {"http://127.0.0.1:2": answer(cluster_id=5, members=[
        {"id": 77, "name": "", "peer_urls": list(URLS["m1"])}
    ])}  # fmt: skip
    beginning = await begin(config(InitialClusterState.EXISTING), asking(answers))
    assert (beginning.cluster_id, beginning.member_id, beginning.founders) == (5, 77, None)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"members": [{"id": 77, "name": "m1", "peer_urls": list(URLS["m1"])}]}, id="it-has-a-name"
        ),
        pytest.param({"started": [IDS["m1"]]}, id="the-leader-knows-its-log"),
    ],
)
async def test_a_joiner_that_has_joined_before_has_lost_its_disk(changes):
    with pytest.raises(StartError) as caught:
        await begin(config(InitialClusterState.EXISTING), asking({"http://127.0.0.1:2": answer(**changes)}))
    assert caught.value.exit_code == ExitCode.LOST


async def test_a_joiner_believes_the_member_that_has_applied_most():
    stale = answer(applied=3, members=[{"id": 1, "name": "m1", "peer_urls": list(URLS["m1"])}])
    fresh = answer(applied=9, members=[{"id": 2, "name": "", "peer_urls": list(URLS["m1"])}])
    answers = {"http://127.0.0.1:2": stale, "http://127.0.0.1:3": fresh}
    beginning = await begin(config(InitialClusterState.EXISTING), asking(answers))
    assert beginning.member_id == 2


async def test_a_joiner_whom_nobody_lists_gives_up_with_what_to_do():
    with pytest.raises(StartError, match="add this member to the cluster first"):
        await begin(config(InitialClusterState.EXISTING), asking({"http://127.0.0.1:2": answer(members=[])}))


async def test_a_joiner_without_anyone_to_ask_is_the_last_member_without_its_disk():
    alone = config(InitialClusterState.EXISTING, {"m1": URLS["m1"]})
    with pytest.raises(StartError) as caught:
        await begin(alone, asking({}))
    assert caught.value.exit_code == ExitCode.LOST


async def test_members_of_two_clusters_are_not_mixed():
    answers = {"http://127.0.0.1:2": answer(cluster_id=5), "http://127.0.0.1:3": answer(cluster_id=6)}
    with pytest.raises(StartError, match="different clusters"):
        await begin(config(InitialClusterState.EXISTING), asking(answers))


def test_an_added_member_never_gets_its_predecessors_id():
    assert added_member_id(URLS["m1"], "token", b"1") != added_member_id(URLS["m1"], "token", b"2")


def test_another_token_makes_another_cluster():
    other = founding_member_ids(URLS, "other")
    assert not set(other.values()) & set(IDS.values())
    assert cluster_id(other.values(), "other") != CLUSTER

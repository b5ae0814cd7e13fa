"""Starts that must not succeed: each ends with its own exit status and one clear sentence."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from kvclient import Client
from kvtest.commands import run_kvctl
from kvtest.processes import ClusterProcesses, MemberProcess

MakeCluster = Callable[..., ClusterProcesses]

OTHER, CONFIG, FOREIGN, DAMAGED, IN_USE = 1, 2, 11, 13, 14


def last_line(member: MemberProcess) -> str:
    return member.log_text.splitlines()[-1]


def test_a_directory_of_another_cluster_is_refused(cluster: MakeCluster) -> None:
    ours, theirs = cluster(1, "ours"), cluster(1, "theirs", is_started=False)
    ours[0].terminate()
    stranger = theirs[0]
    stranger.name = stranger.flags["name"] = "stranger"
    stranger.flags["initial-cluster"] = f"stranger={stranger.peer_url}"
    stranger.flags["data-dir"] = str(ours[0].data_dir)
    stranger.start()
    assert stranger.wait_exit() == FOREIGN
    assert str(ours[0].data_dir) in last_line(stranger)
    assert "m1" in last_line(stranger)
    # Untouched: its owner goes on with it.
    ours[0].restart()


def test_a_directory_of_another_cluster_is_noticed_by_its_neighbours(cluster: MakeCluster) -> None:
    """Same names in both clusters, as in two namespaces of Kubernetes."""
    ours, theirs = cluster(3, "ours"), cluster(3, "theirs")
    ours.stop()
    victim = theirs[0]
    victim.kill()
    victim.wipe()
    shutil.copytree(ours[0].data_dir, victim.data_dir)
    victim.start()
    assert victim.wait_exit() == FOREIGN
    assert "cluster" in last_line(victim)


def test_other_flags_for_the_same_cluster_change_nothing(cluster: MakeCluster) -> None:
    trio = cluster(3)
    trio.stop()
    for member in trio:
        member.flags["initial-cluster"] = f"{member.name}={member.peer_url}"
        member.flags["initial-cluster-token"] = "another token"
    trio[2].flags["initial-cluster-state"] = "existing"
    trio.start()


async def test_a_renamed_member_goes_on_under_its_new_name(cluster: MakeCluster) -> None:
    member = cluster(1)[0]
    member.terminate()
    member.flags["name"] = "renamed"
    member.flags["initial-cluster"] = f"renamed={member.peer_url}"
    await asyncio.to_thread(member.restart)
    async with Client(member.client_url) as client:
        async with asyncio.timeout(10):
            while (await client.cluster.list_members()).members[0].name != "renamed":
                await asyncio.sleep(0.01)


def test_a_restored_directory_starts_under_the_flags_that_it_was_restored_for(
    cluster: MakeCluster, tmp_path: Path
) -> None:
    old = cluster(1, "old")
    assert run_kvctl(old.endpoints, "put", "k", "v").code == 0
    saved = tmp_path / "snapshot"
    assert run_kvctl(old.endpoints, "snapshot", "save", str(saved)).code == 0
    new = cluster(3, "new", is_started=False)
    for member in new:
        done = run_kvctl(
            [],
            "snapshot",
            "restore",
            str(saved),
            f"--data-dir={member.data_dir}",
            f"--name={member.name}",
            f"--initial-cluster={member.flags['initial-cluster']}",
            f"--initial-advertise-peer-urls={member.peer_url}",
            "--initial-cluster-token=new",
        )
        assert done.code == 0, done.error_text
    new.start()
    assert run_kvctl(new.endpoints, "get", "k", "--print-value-only").stdout.strip() == b"v"
    assert new[0].status().header.cluster_id != old[0].status().header.cluster_id
    for member in new:
        member.restart()


def flip(path: Path, position: int = -10) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def damage_identity(data_dir: Path) -> None:
    flip(data_dir / "identity.json", 20)


def delete_log(data_dir: Path) -> None:
    shutil.rmtree(data_dir / "log")


def delete_state(data_dir: Path) -> None:
    for state in data_dir.glob("state-*"):
        shutil.rmtree(state)


def damage_log(data_dir: Path) -> None:
    for segment in (data_dir / "log").glob("*.wal"):
        flip(segment, 10)


def damage_manifest(data_dir: Path) -> None:
    for manifest in data_dir.glob("state-*/MANIFEST-*"):
        flip(manifest, 10)


def damage_table(data_dir: Path) -> None:
    tables = [*data_dir.glob("*/*.ldb"), *data_dir.glob("*/*.sst")]
    assert tables
    for table in tables:
        flip(table, 5)
        flip(table, -5)


@pytest.mark.parametrize(
    "damage", [damage_identity, delete_log, delete_state, damage_log, damage_manifest, damage_table]
)
async def test_damaged_data_are_not_started_with(
    cluster: MakeCluster, damage: Callable[[Path], None]
) -> None:
    member = cluster(1)[0]
    async with Client(member.client_url) as client:
        for number in range(100):
            await client.put(f"k{number}", "v" * 100)
    # A restart moves what LevelDB has in its own log into tables.
    member.terminate()
    await asyncio.to_thread(member.restart)
    member.terminate()
    damage(member.data_dir)
    member.start()
    assert await asyncio.to_thread(member.wait_exit) == DAMAGED
    assert str(member.data_dir) in last_line(member)


@pytest.mark.parametrize("flag", ["listen-client-urls", "listen-peer-urls", "listen-metrics-urls"])
def test_a_port_in_use_is_named_with_its_flag(cluster: MakeCluster, flag: str) -> None:
    running = cluster(1, "running")[0]
    late = cluster(1, "late", is_started=False)[0]
    late.flags[flag] = running.flags[flag]
    late.start()
    assert late.wait_exit() == IN_USE
    assert f"cannot listen on {running.flags[flag]}: address already in use (--{flag})" in last_line(late)
    # Nothing was written, so that the mistake can simply be mended.
    late.flags[flag] = (
        late.peer_url if flag == "listen-peer-urls" else f"http://127.0.0.1:{late.metrics_port}"
    )
    if flag == "listen-client-urls":
        late.flags[flag] = late.client_url
    late.restart()


def test_two_members_on_one_data_directory_are_refused(cluster: MakeCluster) -> None:
    first = cluster(1, "first")[0]
    second = cluster(1, "second", is_started=False)[0]
    second.flags["data-dir"] = str(first.data_dir)
    second.start()
    assert second.wait_exit() == OTHER
    assert f"{first.data_dir}: another process uses this directory" in last_line(second)
    assert first.http_get("/health")[0] == 200


def test_a_founder_whose_neighbours_belong_to_another_cluster_says_so(cluster: MakeCluster) -> None:
    theirs = cluster(3, "theirs")
    late = cluster(1, "late", is_started=False)[0]
    late.flags["name"] = "late"
    late.flags["initial-cluster"] = f"late={late.peer_url},m2={theirs[1].peer_url},m3={theirs[2].peer_url}"
    late.start()
    assert late.wait_exit() == CONFIG
    assert "another cluster" in last_line(late)
    assert not (late.data_dir / "identity.json").exists()

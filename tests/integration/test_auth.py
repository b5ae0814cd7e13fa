"""Auth in a cluster of three: known to all members, kept over restarts, snapshots and the loss of members.

With etcdctl, which logs in at one of its endpoints at every call.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from kvnode.pb import rpc_pb2 as pb
from kvtest.certificates import TestAuthority
from kvtest.commands import run_client, run_kvctl
from kvtest.processes import ClusterProcesses, MemberProcess, wait_until
from kvtest.programs import program

FLAGS = {"bcrypt_cost": "4"}

TIMEOUT_S = 20.0


class Etcdctl:
    """`etcdctl` against some members, as one user or another."""

    def __init__(self, path: str) -> None:
        self._path = path

    def run(self, members: MemberProcess | ClusterProcesses, *words: str, user: str = "") -> tuple[int, str]:
        """Exit code, and output or the error's last line."""
        endpoints = [members.client_url] if isinstance(members, MemberProcess) else list(members.endpoints)
        login = [f"--user={user}:{user}-pw"] if user else []
        done = run_client([self._path], endpoints, *login, *words)
        return done.code, done.text if done.code == 0 else done.error_text.splitlines()[-1]

    def say(self, members: MemberProcess | ClusterProcesses, *words: str, user: str = "") -> str:
        """Output of a command that must succeed."""
        code, text = self.run(members, *words, user=user)
        assert code == 0, text
        return text

    def refused(self, members: MemberProcess | ClusterProcesses, *words: str, user: str = "") -> str:
        """Error of a command that must fail."""
        code, text = self.run(members, *words, user=user)
        assert code != 0, text
        return text


@pytest.fixture(scope="session")
def etcdctl() -> Etcdctl:
    path = program("etcdctl")
    if path is None:
        pytest.skip("no etcdctl: `tests/kube/kube build` makes one, or KVTEST_ETCDCTL names one")
    return Etcdctl(path)


@pytest.fixture
def guarded(cluster: Callable[..., ClusterProcesses], etcdctl: Etcdctl) -> ClusterProcesses:
    """Three members with auth on; alice may read and write below a/."""
    members = cluster(3, **FLAGS)
    enable(etcdctl, members)
    return members


def enable(etcdctl: Etcdctl, members: ClusterProcesses) -> None:
    for words in (
        "user add root:root-pw",
        "user add alice:alice-pw",
        "role add clerk",
        "role grant-permission clerk readwrite a/ --prefix",
        "user grant-role alice clerk",
        "user grant-role root root",
        "auth enable",
    ):
        etcdctl.say(members[0], *words.split())
    wait_all_guard(etcdctl, members)


def wait_all_guard(etcdctl: Etcdctl, members: ClusterProcesses) -> None:
    """Wait until no member takes a request of nobody any more."""
    for member in members:
        wait_until(
            lambda member=member: etcdctl.run(member, "get", "a/", "--consistency=s")[0] != 0,
            what=f"{member.name} has auth on",
        )


def leader_of(etcdctl: Etcdctl, members: ClusterProcesses) -> MemberProcess:
    """The member that leads."""
    for member in members:
        if not member.is_running:
            continue
        text = etcdctl.say(member, "endpoint", "status", "-w", "json", user="root")
        status = json.loads(text)[0]["Status"]
        if status["leader"] == status["header"]["member_id"]:
            return member
    raise AssertionError("nobody leads")


def test_every_member_serves_users_and_refuses_others(guarded: ClusterProcesses, etcdctl: Etcdctl) -> None:
    for number, member in enumerate(guarded):
        etcdctl.say(member, "put", f"a/{number}", "v", user="alice")
        assert etcdctl.say(member, "get", f"a/{number}", user="alice") == f"a/{number}\nv\n"
        assert etcdctl.refused(member, "put", "b/", "v", user="alice").endswith("permission denied")
        assert etcdctl.refused(member, "get", "b/", user="alice").endswith("permission denied")
        assert etcdctl.refused(member, "get", "a/0").endswith("user name is empty")
        assert etcdctl.refused(member, "member", "list").endswith("user name is empty")
        assert etcdctl.say(member, "user", "list", user="root") == "alice\nroot\n"
    # A login at one endpoint, a request at another.
    for _ in range(5):
        assert etcdctl.say(guarded, "get", "a/", "--prefix", "--count-only", "-w", "fields", user="alice")


def test_users_and_roles_survive_the_restart_of_one_and_of_all(
    guarded: ClusterProcesses, etcdctl: Etcdctl
) -> None:
    etcdctl.say(guarded[0], "put", "a/1", "v", user="alice")
    guarded[1].restart()
    assert etcdctl.say(guarded[1], "get", "a/1", user="alice") == "a/1\nv\n"
    assert etcdctl.refused(guarded[1], "get", "a/1").endswith("user name is empty")
    status = etcdctl.say(guarded[1], "auth", "status", user="root")
    for member in guarded:
        member.kill()
    guarded.start()
    for member in guarded:
        assert etcdctl.refused(member, "get", "a/1", "--consistency=s").endswith("user name is empty")
        assert etcdctl.say(member, "get", "a/1", user="alice") == "a/1\nv\n"
        assert etcdctl.refused(member, "get", "b/", user="alice").endswith("permission denied")
        assert etcdctl.say(member, "auth", "status", user="root") == status


def test_logins_go_on_when_the_leader_dies(guarded: ClusterProcesses, etcdctl: Etcdctl) -> None:
    leader = leader_of(etcdctl, guarded)
    leader.kill()
    others = [member for member in guarded if member is not leader]
    for member in others:
        etcdctl.say(member, "put", "a/1", member.name, user="alice")
        assert etcdctl.refused(member, "put", "b/1", "v", user="alice").endswith("permission denied")
    etcdctl.say(others[0], "user", "revoke-role", "alice", "clerk", user="root")
    leader.restart()
    assert etcdctl.refused(leader, "get", "a/1", user="alice").endswith("permission denied")


def test_leases_are_kept_alive_and_expire_with_auth_on(guarded: ClusterProcesses, etcdctl: Etcdctl) -> None:
    leader = leader_of(etcdctl, guarded)
    follower = next(member for member in guarded if member is not leader)
    lease = etcdctl.say(follower, "lease", "grant", "60", user="alice").split()[1]
    etcdctl.say(follower, "put", "a/leased", "v", f"--lease={lease}", user="alice")
    for member in (follower, leader):
        text = etcdctl.say(member, "lease", "keep-alive", "--once", lease, user="alice")
        assert text == f"lease {lease} keepalived with TTL(60)\n"
        assert "a/leased" in etcdctl.say(member, "lease", "timetolive", lease, "--keys", user="alice")
    etcdctl.say(leader, "user", "add", "bob:bob-pw", user="root")
    assert "permission denied" in etcdctl.refused(follower, "lease", "revoke", lease, user="bob")
    # Expiry is the members' own doing and needs no user.
    brief = etcdctl.say(follower, "lease", "grant", "2", user="alice").split()[1]
    etcdctl.say(follower, "put", "a/brief", "v", f"--lease={brief}", user="alice")
    wait_until(
        lambda: etcdctl.say(follower, "get", "a/brief", user="alice") == "",
        what="the lease has run out",
        timeout_s=TIMEOUT_S,
    )


def test_health_is_told_to_users_without_any_permission(guarded: ClusterProcesses, etcdctl: Etcdctl) -> None:
    etcdctl.say(guarded[0], "user", "add", "bob:bob-pw", user="root")
    text = etcdctl.say(guarded, "endpoint", "health", user="bob")
    assert text.count("is healthy: successfully committed proposal") == 3
    for member in guarded:
        assert member.http_get("/health")[0] == 200
        assert member.http_get("/readyz")[0] == 200


def test_a_new_member_and_one_that_was_away_long_know_the_users(
    cluster: Callable[..., ClusterProcesses], etcdctl: Etcdctl
) -> None:
    """Both get a snapshot instead of the log."""
    members = cluster(3, snapshot_count="20", snapshot_catchup_entries="5", **FLAGS)
    away = members[2]
    away.terminate()
    for words in (
        "user add root:root-pw",
        "user add alice:alice-pw",
        "role add clerk",
        "role grant-permission clerk readwrite a/ --prefix",
        "user grant-role alice clerk",
        "user grant-role root root",
        "auth enable",
    ):
        etcdctl.say(members[0], *words.split())
    with members[0]._channel() as channel:
        token = login(channel, "alice")
        put = channel.unary_unary("/etcdserverpb.KV/Put")
        for number in range(200):
            request = pb.PutRequest(key=b"a/%d" % number, value=b"v")
            put(request.SerializeToString(), metadata=(("token", token),), timeout=TIMEOUT_S)
    away.start()
    away.wait_serving()
    wait_until(
        lambda: etcdctl.run(away, "get", "a/199", "--consistency=s", user="alice") == (0, "a/199\nv\n"),
        what="the member that was away has caught up",
    )
    assert etcdctl.refused(away, "get", "a/1", "--consistency=s").endswith("user name is empty")
    assert etcdctl.refused(away, "put", "b", "v", user="alice").endswith("permission denied")
    joining = members.new_member()
    add = ("member", "add", joining.name, f"--peer-urls={joining.peer_url}")
    # Not before all have been connected for a while.
    wait_until(
        lambda: etcdctl.run(members[0], *add, user="root")[0] == 0,
        what="a member is added",
        timeout_s=TIMEOUT_S,
    )
    joining.start()
    joining.wait_serving()
    assert etcdctl.say(joining, "get", "a/1", user="alice") == "a/1\nv\n"
    assert etcdctl.refused(joining, "get", "a/1", "--consistency=s").endswith("user name is empty")


def login(channel: grpc.Channel, user: str) -> str:
    request = pb.AuthenticateRequest(name=user, password=f"{user}-pw")
    answer = channel.unary_unary("/etcdserverpb.Auth/Authenticate")(
        request.SerializeToString(), timeout=TIMEOUT_S
    )
    return pb.AuthenticateResponse.FromString(answer).token


def test_a_token_of_one_member_is_good_at_every_other_at_once(guarded: ClusterProcesses) -> None:
    channels = [member._channel() for member in guarded]
    try:
        request = pb.RangeRequest(key=b"a/", serializable=True).SerializeToString()
        for _ in range(30):
            for here in channels:
                token = login(here, "alice")
                for there in channels:
                    there.unary_unary("/etcdserverpb.KV/Range")(
                        request, metadata=(("token", token),), timeout=TIMEOUT_S
                    )
    finally:
        for channel in channels:
            channel.close()


def test_tokens_are_lost_with_a_restart_and_a_login_brings_new_ones(guarded: ClusterProcesses) -> None:
    member = guarded[1]
    with member._channel() as channel:
        token = login(channel, "alice")
    member.restart(is_clean=True)
    with member._channel() as channel:
        call = channel.unary_unary("/etcdserverpb.KV/Range")
        request = pb.RangeRequest(key=b"a/").SerializeToString()
        with pytest.raises(grpc.RpcError) as caught:
            call(request, metadata=(("token", token),), timeout=TIMEOUT_S, wait_for_ready=True)
        assert caught.value.details() == "etcdserver: invalid auth token"
        call(request, metadata=(("token", login(channel, "alice")),), timeout=TIMEOUT_S)


def test_a_restored_snapshot_has_the_users(
    guarded: ClusterProcesses,
    etcdctl: Etcdctl,
    cluster: Callable[..., ClusterProcesses],
    tmp_path: Path,
) -> None:
    etcdctl.say(guarded[0], "put", "a/1", "v", user="alice")
    assert etcdctl.refused(guarded[0], "snapshot", "save", str(tmp_path / "no"), user="alice").endswith(
        "permission denied"
    )
    file = tmp_path / "snapshot"
    etcdctl.say(guarded[0], "snapshot", "save", str(file), user="root")
    restored = cluster(1, "restored", is_started=False, **FLAGS)
    member = restored[0]
    done = run_kvctl(
        [],
        "snapshot",
        "restore",
        str(file),
        f"--data-dir={member.data_dir}",
        f"--name={member.name}",
        f"--initial-cluster={member.name}={member.peer_url}",
        f"--initial-advertise-peer-urls={member.peer_url}",
        "--initial-cluster-token=restored",
    )
    assert done.code == 0, done.error_text
    restored.start()
    assert etcdctl.refused(member, "get", "a/1").endswith("user name is empty")
    assert etcdctl.say(member, "get", "a/1", user="alice") == "a/1\nv\n"
    assert etcdctl.refused(member, "get", "b/1", user="alice").endswith("permission denied")
    assert etcdctl.say(member, "role", "list", user="root") == "clerk\n"


def test_signed_tokens_survive_a_restart_and_are_checked_by_those_that_can_not_sign(
    cluster: Callable[..., ClusterProcesses], etcdctl: Etcdctl, tmp_path: Path
) -> None:
    files = TestAuthority(tmp_path / "keys").issue("token")
    keys = f"pub-key={files.cert_file},priv-key={files.key_file},sign-method=ES256"
    members = cluster(3, auth_token=f"jwt,{keys},ttl=10m", is_started=False, **FLAGS)
    members[2].flags["auth-token"] = f"jwt,pub-key={files.cert_file},sign-method=ES256"
    members.start()
    enable(etcdctl, members)
    with members[0]._channel() as channel:
        token = login(channel, "alice")
    members[0].restart(is_clean=True)
    request = pb.RangeRequest(key=b"a/").SerializeToString()
    for member in members:
        with member._channel() as channel:
            channel.unary_unary("/etcdserverpb.KV/Range")(
                request, metadata=(("token", token),), timeout=TIMEOUT_S, wait_for_ready=True
            )
    # A lease ends without any token: it is the members' own doing.
    assert etcdctl.refused(members[2], "get", "a/", user="alice").endswith(
        "token signing attempted with verify-only key"
    )


def test_keys_that_can_not_be_used_end_the_start_with_a_sentence(
    cluster: Callable[..., ClusterProcesses], tmp_path: Path
) -> None:
    members = cluster(1, auth_token=f"jwt,priv-key={tmp_path}/none,sign-method=RS256", is_started=False)
    members[0].start()
    assert members[0].wait_exit() == 2
    assert "--auth-token can't be used" in members[0].log_text
    assert not members[0].data_dir.exists()


def test_the_log_and_the_data_hold_no_password(guarded: ClusterProcesses, etcdctl: Etcdctl) -> None:
    secret = "correct-horse-battery-staple"
    etcdctl.say(guarded[0], "user", "add", f"carol:{secret}", user="root")
    etcdctl.run(guarded[0], f"--user=carol:{secret}", "get", "a/")
    etcdctl.run(guarded[0], f"--user=carol:not-{secret}", "get", "a/")
    for member in guarded:
        member.terminate()
    for member in guarded:
        files = [member.log_path, *(path for path in member.data_dir.rglob("*") if path.is_file())]
        assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_a_storm_of_logins_delays_nobody_else(
    cluster: Callable[..., ClusterProcesses], etcdctl: Etcdctl
) -> None:
    """At the cost of production; wrong passwords, as they cost the same and leave nothing behind."""
    members = cluster(1, bcrypt_cost="10")
    enable(etcdctl, members)
    with members[0]._channel() as channel:
        token = login(channel, "alice")
        authenticate = channel.unary_unary("/etcdserverpb.Auth/Authenticate")
        wrong = pb.AuthenticateRequest(name="alice", password="wrong").SerializeToString()
        storm = [authenticate.future(wrong, timeout=60.0) for _ in range(20)]
        read = channel.unary_unary("/etcdserverpb.KV/Range")
        request = pb.RangeRequest(key=b"a/").SerializeToString()
        took_s: list[float] = []
        while not all(each.done() for each in storm):
            begun_s = time.monotonic()
            read(request, metadata=(("token", token),), timeout=TIMEOUT_S)
            took_s.append(time.monotonic() - begun_s)
        assert {each.code() for each in storm} == {grpc.StatusCode.INVALID_ARGUMENT}
    took_s.sort()
    print(f"{len(took_s)} reads meanwhile, median {took_s[len(took_s) // 2] * 1000:.1f} ms")
    assert len(took_s) > 20
    assert took_s[len(took_s) // 2] < 0.1

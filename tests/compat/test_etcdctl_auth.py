"""`etcdctl auth|user|role`, and every other command with auth on.

etcd 3.6 tells the auth status to root only, later versions to everybody, and so does kvnode: the status
is asked for as root here.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kvtest.certificates import TestAuthority
from kvtest.etcdctl import Followed, Side, Sides, Step, assert_same, on_both, two_sides

#: Hashing passwords is no part of what is compared.
FLAGS = {"bcrypt-cost": "4"}


def by(user: str, *commands: str) -> list[Step]:
    """The commands as a user whose password is the name."""
    return [f"--user {user}:{user} {command}" for command in commands]


ROOT = ["user add root:root", "user grant-role root root"]

#: root, and alice who may do everything below c/ and read d, with auth on.
ON: list[Step] = [
    *ROOT,
    "user add alice:alice",
    "role add clerk",
    "role grant-permission clerk readwrite c/ --prefix",
    "role grant-permission clerk read d",
    "user grant-role alice clerk",
    "user add bob:bob",
    "auth enable",
]

#: Without auth.
OFF_CASES: dict[str, list[Step]] = {
    "status": ["auth status", "auth status -w json", "auth status -w fields", "auth status -w protobuf"],
    "status-refused": ["auth status now", "auth", "auth nothing"],
    "enable-without-root": ["auth enable"],
    "enable-makes-the-role-root": [
        "user add root:root",
        "auth enable",
        *by("root", "user get root", "role list", "auth status"),
    ],
    "enable-and-disable": [
        *ROOT,
        "auth enable",
        "--user root:root auth enable",
        "--user root:root auth disable",
        "auth disable",
        "auth status",
    ],
    "enable-json": [*ROOT, "auth enable -w json", "--user root:root auth disable -w json", "auth status"],
    "enable-refused": ["auth enable now", "auth disable now"],
    "login-while-off": ["user add alice:alice", "--user alice:alice get c/a"],
    "user-add": ["user add alice:secret", "user list", "user get alice", "user get alice --detail"],
    "user-add-json": ["user add alice:secret -w json", "user add bob:x -w fields", "user list -w json"],
    "user-add-new-password": ["user add alice --new-user-password secret", "user list"],
    "user-add-no-password": ["user add alice --no-password", "user get alice"],
    "user-add-typed": [("user add alice --interactive=false", "secret\n"), "user list"],
    "user-add-typed-nothing": [("user add alice --interactive=false", "")],
    "user-add-twice": ["user add alice:a", "user add alice:b"],
    "user-add-empty": ["user add :a", "user add ''", "user add", "user add a:b c"],
    "user-add-empty-password": ["user add alice:", "user list"],
    "user-add-colons": ["user add alice:a:b:c", "user list"],
    "user-add-other-letters": ["user add ünï:code", "user get ünï", "user list -w json"],
    "user-add-long-password": [f"user add alice:{'x' * 72}", f"user add bob:{'x' * 73}", "user list"],
    "user-get-refused": ["user get nobody", "user get", "user get a b"],
    "user-get-json": [
        "user add alice:a",
        "role add clerk",
        "user grant-role alice clerk",
        "user get alice -w json",
        "user get alice -w fields",
    ],
    "user-get-detail": [
        "user add alice:a",
        "role add clerk",
        "role grant-permission clerk read c/a",
        "user grant-role alice clerk",
        "user get alice --detail",
        "user get alice --detail -w json",
    ],
    "user-list": ["user list", "user add b:b", "user add a:a", "user list", "user list -w json"],
    "user-list-refused": ["user list all"],
    "user-delete": ["user add alice:a", "user delete alice", "user list", "user delete alice"],
    "user-delete-json": ["user add alice:a", "user delete alice -w json"],
    "user-delete-refused": ["user delete", "user delete a b"],
    "user-passwd": [
        "user add alice:a",
        ("user passwd alice --interactive=false", "new\n"),
        ("user passwd nobody --interactive=false", "new\n"),
        ("user passwd alice --interactive=false -w json", "new\n"),
    ],
    "user-passwd-refused": ["user passwd", "user passwd a b"],
    "user-grant-role": [
        "user add alice:a",
        "role add r2",
        "role add r1",
        "user grant-role alice r2",
        "user grant-role alice r1",
        "user grant-role alice r1",
        "user get alice",
        "auth status",
    ],
    "user-grant-role-json": ["user add alice:a", "role add r", "user grant-role alice r -w json"],
    "user-grant-role-root-that-is-not": ["user add alice:a", "user grant-role alice root", "user get alice"],
    "user-grant-role-refused": [
        "user grant-role nobody r",
        "user add alice:a",
        "user grant-role alice none",
        "user grant-role alice",
        "user grant-role",
    ],
    "user-revoke-role": [
        "user add alice:a",
        "role add r",
        "user grant-role alice r",
        "user revoke-role alice r",
        "user revoke-role alice r",
        "user get alice",
    ],
    "user-revoke-role-refused": ["user revoke-role nobody r", "user revoke-role alice", "user revoke-role"],
    "user-refused": ["user", "user nothing"],
    "role-add": ["role add clerk", "role list", "role get clerk", "role add clerk"],
    "role-add-json": ["role add clerk -w json", "role add other -w fields", "role list -w json"],
    "role-add-refused": ["role add ''", "role add", "role add a b"],
    "role-list": ["role list", "role add b", "role add a", "role list", "role list -w fields"],
    "role-list-refused": ["role list all"],
    "role-get-refused": ["role get nobody", "role get", "role get a b"],
    "role-get-root": ["role add root", "role get root", "role get root -w json"],
    "role-delete": ["role add clerk", "role delete clerk", "role delete clerk", "role list"],
    "role-delete-takes-it-from-users": [
        "user add alice:a",
        "role add r1",
        "role add r2",
        "user grant-role alice r1",
        "user grant-role alice r2",
        "role delete r1",
        "user get alice",
    ],
    "role-delete-refused": ["role delete", "role delete a b"],
    "role-grant": [
        "role add clerk",
        "role grant-permission clerk read c/a",
        "role grant-permission clerk write c/b c/f",
        "role grant-permission clerk readwrite c/x --prefix",
        "role grant-permission clerk read c/y --from-key",
        "role grant-permission clerk write '' --prefix",
        "role get clerk",
        "role get clerk -w json",
        "role get clerk -w fields",
    ],
    "role-grant-again": [
        "role add clerk",
        "role grant-permission clerk read c/a",
        "role grant-permission clerk write c/a",
        "role grant-permission clerk read c/a c/b",
        "role get clerk",
    ],
    "role-grant-json": ["role add clerk", "role grant-permission clerk read c/a -w json"],
    "role-grant-out-of-order": [
        "role add clerk",
        "role grant-permission clerk read z",
        "role grant-permission clerk read m n",
        "role grant-permission clerk read a",
        "role get clerk -w json",
    ],
    "role-grant-refused": [
        "role grant-permission none read c/a",
        "role add clerk",
        "role grant-permission clerk execute c/a",
        "role grant-permission clerk read",
        "role grant-permission clerk",
        "role grant-permission clerk read c/b c/a",
        "role grant-permission clerk read c/a c/a",
        "role grant-permission clerk read ''",
        "role grant-permission clerk read a b c",
        "role grant-permission clerk read c/a --prefix --from-key",
        "role grant-permission clerk read c/a c/b --prefix",
    ],
    "role-revoke": [
        "role add clerk",
        "role grant-permission clerk read c/a",
        "role grant-permission clerk read c/a c/b",
        "role grant-permission clerk read c/y --from-key",
        "role revoke-permission clerk c/a",
        "role get clerk",
        "role revoke-permission clerk c/a c/b -w json",
        "role revoke-permission clerk c/y --from-key",
        "role get clerk",
    ],
    "role-revoke-refused": [
        "role revoke-permission none c/a",
        "role add clerk",
        "role revoke-permission clerk c/a",
        "role grant-permission clerk read c/a c/c",
        "role revoke-permission clerk c/a c/b",
        "role revoke-permission clerk c/a",
        "role revoke-permission clerk",
        "role revoke-permission",
    ],
    "role-refused": ["role", "role nothing"],
    "revisions": [
        "auth status",
        "user add alice:a",
        "auth status",
        "role add r",
        "role add r",
        "auth status",
        "role grant-permission r read k",
        "role grant-permission r read k",
        "auth status",
        "user grant-role alice r",
        "user grant-role alice r",
        "auth status",
        "role delete r",
        "auth status",
        "user delete alice",
        "auth status",
    ],
}

#: With auth on.
ON_CASES: dict[str, list[Step]] = {
    "put-and-get": by("alice", "put c/a 1", "get c/a", "get c/ --prefix -w json", "del c/a"),
    "put-elsewhere": by("alice", "put d 1", "put x 1", "get d", "get x", "del d", "get '' --prefix"),
    "put-by-nobody": ["put c/a 1", "get c/a", "del c/a", "get c/a --consistency=s"],
    "put-by-one-without-roles": by("bob", "put c/a 1", "get c/a", "del c/a"),
    "put-by-root": by("root", "put x 1", "get x", "del x"),
    "user-and-password": [
        "--user alice --password alice put c/a 1",
        "--user alice:wrong put c/a 1",
        "--user nobody:x put c/a 1",
        "--user alice: put c/a 1",
        "--user : put c/a 1",
    ],
    "user-without-password": [
        *by("root", "user add cn --no-password", "user grant-role cn clerk"),
        "--user cn:x get c/a",
    ],
    "range-of-two-grants": [
        *by(
            "root",
            "role grant-permission clerk read e f",
            "role grant-permission clerk read f h",
            "role grant-permission clerk read hh",
        ),
        *by("alice", "get e h", "get e hh", "get h", "get hh", "get e --from-key", "get g", "get f e"),
    ],
    "range-that-is-empty": by("alice", "get c/b c/a", "get c/a c/a", "get c/b b", "get x a"),
    "range-open": [
        *by("root", "role grant-permission clerk read p --from-key"),
        *by("alice", "get p --from-key", "get q --from-key", "get o --from-key", "get p zz", "get q p"),
    ],
    "prev-kv": [
        *by(
            "root",
            "role add w",
            "role grant-permission w write w/ --prefix",
            "user grant-role bob w",
            "put w/a 1",
        ),
        *by("bob", "put w/a 2", "put w/a 3 --prev-kv", "del w/a --prev-kv", "get w/a", "del w/a"),
    ],
    "txn": [
        ("--user alice:alice txn", 'mod("c/a") = "0"\n\nput c/a 1\n\nget c/a\n\n'),
        ("--user alice:alice txn", 'mod("d") = "0"\n\nput c/a 2\n\n\n'),
        ("--user alice:alice txn", 'mod("x") = "0"\n\nput c/a 3\n\n\n'),
        ("--user alice:alice txn", 'mod("c/a") > "0"\n\nget c/a\n\nput x 1\n\n'),
        ("--user alice:alice txn", 'mod("c/a") > "0"\n\nget c/a\n\nget x\n\n'),
        ("--user alice:alice txn", 'mod("c/a") > "0"\n\nget c/a\n\nget d\n\n'),
        ("txn", 'mod("c/a") > "0"\n\nget c/a\n\n\n'),
        *by("alice", "get c/a"),
    ],
    "watch": [
        Followed(
            command="--user alice:alice watch c/ --prefix",
            then=["--user root:root put c/a 1", "--user root:root del c/a"],
            lines=5,
        ),
    ],
    "watch-elsewhere": [
        Followed(command="--user alice:alice watch x", watchers=0, lines=0),
        Followed(command="--user alice:alice watch c/ --from-key", watchers=0, lines=0),
        Followed(command="watch c/a", watchers=0, lines=0),
    ],
    "lease": [
        *by("alice", "lease grant 600", "put c/a v --lease={lease}", "lease timetolive {lease} --keys"),
        *by("alice", "lease keep-alive --once {lease}", "lease list", "lease revoke {lease}"),
    ],
    "lease-of-others": [
        *by("root", "lease grant 600", "put x v --lease={lease}"),
        *by("alice", "lease timetolive {lease}", "lease timetolive {lease} --keys", "lease list"),
        *by("alice", "put c/a v --lease={lease}", "lease keep-alive --once {lease}", "lease revoke {lease}"),
        *by("root", "lease timetolive {lease} --keys", "lease keep-alive --once {lease}", "lease list"),
        *by("root", "lease revoke {lease}"),
    ],
    "lease-without-keys": [
        *by("root", "lease grant 600"),
        *by("bob", "lease timetolive {lease} --keys", "lease list", "lease revoke {lease}"),
    ],
    "lease-by-nobody": [
        "lease grant 600",
        "lease list",
        "lease timetolive 77",
        "lease revoke 77",
        "lease keep-alive --once 77",
    ],
    "administration-by-others": by(
        "alice",
        "user list",
        "user get root",
        "user add x:x",
        "user delete bob",
        "user grant-role alice root",
        "user revoke-role alice clerk",
        "role list",
        "role get root",
        "role add x",
        "role delete clerk",
        "role grant-permission clerk read x",
        "role revoke-permission clerk d",
        "auth enable",
        "auth disable",
    ),
    "administration-by-nobody": [
        "user list",
        "user get alice",
        "user add x:x",
        "role list",
        "role get clerk",
        "role add x",
        "auth enable",
        "auth disable",
    ],
    "own-user-and-roles": by("alice", "user get alice", "user get alice --detail", "role get clerk"),
    "passwd-by-others": [
        ("--user alice:alice user passwd alice --interactive=false", "new\n"),
        ("--user root:root user passwd alice --interactive=false", "new\n"),
        "--user alice:alice get c/a",
        "--user alice:new get c/a",
    ],
    "root-stays": by(
        "root", "user delete root", "role delete root", "user revoke-role root root", "user get root"
    ),
    "another-root": [
        *by("root", "user grant-role alice root"),
        *by("alice", "user list", "put x 1", "get x", "user revoke-role root root"),
        *by("root", "user revoke-role alice root"),
        *by("alice", "user list", "get x"),
    ],
    "roles-that-change": [
        *by("alice", "put c/a 1"),
        *by("root", "role revoke-permission clerk c/ --prefix"),
        *by("alice", "put c/a 1", "get d"),
        *by("root", "user revoke-role alice clerk"),
        *by("alice", "get d"),
        *by("root", "user delete alice"),
        *by("alice", "get d"),
    ],
    "maintenance": [
        *by("root", "put c/a 1", "compaction 2", "defrag", "alarm list", "endpoint hashkv", "alarm disarm"),
        *by("alice", "compaction 3", "defrag", "alarm list", "endpoint hashkv", "snapshot save /dev/null"),
        *by("alice", "member list", "endpoint status -w simple", "move-leader {id1}"),
        *by("alice", "member add m9 --peer-urls=http://127.0.0.1:1", "member remove 77"),
        *by("alice", "member promote 77", "member update 77 --peer-urls=http://127.0.0.1:1"),
        *by("alice", "downgrade validate 3.5"),
    ],
    "maintenance-by-nobody": [
        "compaction 2",
        "defrag",
        "alarm list",
        "alarm disarm",
        "endpoint hashkv",
        "endpoint status",
        "member list",
        "member add m9 --peer-urls=http://127.0.0.1:1",
        "move-leader {id1}",
    ],
    "health": [*by("root", "endpoint health"), *by("bob", "endpoint health"), "endpoint health"],
    "lock": [
        "--user alice:alice lock c/lock echo held",
        "--user alice:alice lock x/lock echo held",
        "--user bob:bob lock c/lock echo held",
        "lock c/lock echo held",
    ],
    "disable-and-enable-again": [
        *by("root", "auth disable"),
        "get c/a",
        "auth enable",
        "get c/a",
        *by("alice", "get c/a"),
        *by("root", "auth status", "auth status -w json"),
    ],
}


@pytest.fixture(scope="module")
def guarded(etcdctl: str, etcd: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """One member each, whose users and roles are these tests' own."""
    directory = tmp_path_factory.mktemp("auth")
    with two_sides(directory, 1, etcdctl=etcdctl, etcd=etcd, flags=FLAGS) as sides:
        yield sides


@pytest.fixture
def off(guarded: Sides) -> Sides:
    """Nobody there, auth off, nothing stored."""
    on_both(guarded, clear)
    return guarded


@pytest.fixture
def on(off: Sides) -> Sides:
    """The people of ``ON``."""
    on_both(off, lambda side: [side.run(str(command)) for command in ON])
    return off


def clear(side: Side) -> None:
    side.run("--user root:root auth disable")
    for kind in ("user", "role"):
        for name in side.run(f"{kind} list")[1].decode().split():
            side.run(f"{kind} delete {name}")
    for lease in side.run("lease list")[1].decode().splitlines()[1:]:
        side.run(f"lease revoke {lease}")
    side.run("del '' --prefix")
    side.prepare()


@pytest.mark.parametrize("case", OFF_CASES)
def test_etcdctl_says_the_same_of_users_and_roles(off: Sides, case: str) -> None:
    assert_same(off, OFF_CASES[case])


@pytest.mark.parametrize("case", ON_CASES)
def test_etcdctl_says_the_same_with_auth_on(on: Sides, case: str) -> None:
    assert_same(on, ON_CASES[case])


# Certificates instead of passwords.

CERTIFICATE_CASES: dict[str, list[Step]] = {
    "the-name-in-the-certificate": ["put c/a 1", "get c/a", "put x 1", "user get alice", "user list"],
    "a-password-outweighs-it": ["--user root:root user list", "--user bob:bob put c/a 1"],
    "a-wrong-password-too": ["--user bob:wrong put c/a 1"],
    "members-and-leases": ["member list", "lease grant 600", "put c/a v --lease={lease}", "lease list"],
    "watch": [Followed(command="watch c/a", then=["put c/a 1"], lines=3)],
}


@pytest.fixture(scope="module")
def certified(
    etcdctl: str, etcd: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Sides, TestAuthority]]:
    """One member each that asks for certificates, with the people of ``ON``."""
    authority = TestAuthority(tmp_path_factory.mktemp("authority"))
    directory = tmp_path_factory.mktemp("certified")
    files = authority.issue("server")
    with two_sides(directory, 1, etcdctl=etcdctl, etcd=etcd, flags=FLAGS, tls=files) as sides:

        def begin(side: Side) -> None:
            side.options = certificate_options(authority, "root")
            side.prepare()
            for command in ON:
                side.run(str(command))

        on_both(sides, begin)
        yield sides, authority


def certificate_options(authority: TestAuthority, name: str) -> list[str]:
    files = authority.issue(name)
    return [f"--cacert={files.ca_file}", f"--cert={files.cert_file}", f"--key={files.key_file}"]


@pytest.mark.parametrize("case", CERTIFICATE_CASES)
def test_etcdctl_says_the_same_to_those_with_a_certificate(
    certified: tuple[Sides, TestAuthority], case: str
) -> None:
    sides, authority = certified
    for side in sides:
        side.options = certificate_options(authority, "alice")
    assert_same(sides, CERTIFICATE_CASES[case])


def test_etcdctl_says_the_same_to_a_certificate_of_nobody_it_knows(
    certified: tuple[Sides, TestAuthority],
) -> None:
    sides, authority = certified
    for side in sides:
        side.options = certificate_options(authority, "stranger")
    assert_same(sides, ["get c/a", "put c/a 1", "member list", "user list", "lease grant 60", "auth enable"])


# Signed tokens.


@pytest.fixture(scope="module")
def signed(etcdctl: str, etcd: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """One member each with signed tokens."""
    directory: Path = tmp_path_factory.mktemp("signed")
    authority = TestAuthority(directory / "keys")
    files = authority.issue("token")
    flags = FLAGS | {
        "auth-token": f"jwt,pub-key={files.cert_file},priv-key={files.key_file},sign-method=ES256,ttl=10m"
    }
    with two_sides(directory, 1, etcdctl=etcdctl, etcd=etcd, flags=flags) as sides:
        on_both(sides, lambda side: (side.prepare(), [side.run(str(command)) for command in ON]))
        yield sides


def test_etcdctl_says_the_same_with_signed_tokens(signed: Sides) -> None:
    assert_same(
        signed,
        [
            *by("alice", "put c/a 1", "get c/a", "get x", "user get alice", "lease grant 60"),
            *by("root", "user list", "role grant-permission clerk read x", "user revoke-role alice clerk"),
            *by("alice", "get c/a", "--command-timeout=3s lease keep-alive --once {lease}"),
            "--user alice:wrong get c/a",
            "get c/a",
        ],
    )

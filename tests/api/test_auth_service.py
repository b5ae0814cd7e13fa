"""The Auth service over gRPC: logging in, users, roles, and what clients are told."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from kvnode.api.gate import Gate
from kvnode.api.passwords import Passwords
from kvnode.apply.auth_commands import TokenAssigned
from kvnode.apply.commands import CommandKind
from kvnode.auth.caller import MEMBER, Caller
from kvnode.auth.errors import InvalidTokenError, UserEmptyError
from kvnode.pb import auth_pb2 as auth
from kvnode.pb import rpc_pb2 as pb
from kvnode.server.errors import StoppedError, TooManyRequestsError
from kvtest.local_member import LocalMember, local_config
from kvtest.secured_member import SecuredMember, jwt_config, secured
from kvtest.served_member import ServedMember, WatchStream, serve, until

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
FAILED = (INVALID_ARGUMENT, "etcdserver: authentication failed, invalid user ID or password")
INVALID_TOKEN = (grpc.StatusCode.UNAUTHENTICATED, "etcdserver: invalid auth token")
OLD = (INVALID_ARGUMENT, "etcdserver: revision of auth store is old")

GET = pb.RangeRequest(key=b"r/1")


@pytest.fixture
async def member() -> AsyncIterator[SecuredMember]:
    async with secured() as secured_member:
        yield secured_member


def credentials(user: str, password: str) -> pb.AuthenticateRequest:
    return pb.AuthenticateRequest(name=user, password=password)


# Before auth is on.


async def test_auth_status_tells_switch_and_revision(served: ServedMember) -> None:
    status = await served.client.kv("Auth/AuthStatus", pb.AuthStatusRequest())
    assert (status.enabled, status.authRevision, status.header.revision) == (False, 1, 1)
    await served.client.kv("Auth/RoleAdd", pb.AuthRoleAddRequest(name="r"))
    status = await served.client.kv("Auth/AuthStatus", pb.AuthStatusRequest())
    assert (status.enabled, status.authRevision, status.header.revision) == (False, 2, 1)


async def test_nobody_logs_in_while_auth_is_off(served: ServedMember) -> None:
    assert await served.client.refused("Auth/Authenticate", credentials("root", "pw")) == (
        PRECONDITION,
        "etcdserver: authentication is not enabled",
    )


async def test_auth_is_not_enabled_without_root(served: ServedMember) -> None:
    client = served.client
    enable = pb.AuthEnableRequest()
    assert await client.refused("Auth/AuthEnable", enable) == (
        PRECONDITION,
        "etcdserver: root user does not exist",
    )
    await client.kv("Auth/UserAdd", pb.AuthUserAddRequest(name="root", password="pw"))
    assert await client.refused("Auth/AuthEnable", enable) == (
        PRECONDITION,
        "etcdserver: root user does not have root role",
    )


@pytest.mark.parametrize(
    ("method", "request_", "code", "text"),
    [
        ("UserAdd", pb.AuthUserAddRequest(password="p"), INVALID_ARGUMENT, "user name is empty"),
        ("UserAdd", pb.AuthUserAddRequest(name="u", password="p"), PRECONDITION, "user name already exists"),
        ("UserGet", pb.AuthUserGetRequest(name="x"), PRECONDITION, "user name not found"),
        ("UserDelete", pb.AuthUserDeleteRequest(name="x"), PRECONDITION, "user name not found"),
        (
            "UserChangePassword",
            pb.AuthUserChangePasswordRequest(name="x", password="p"),
            PRECONDITION,
            "user name not found",
        ),
        ("UserGrantRole", pb.AuthUserGrantRoleRequest(user="x"), PRECONDITION, "user name not found"),
        ("UserGrantRole", pb.AuthUserGrantRoleRequest(user="u"), PRECONDITION, "role name not found"),
        ("UserRevokeRole", pb.AuthUserRevokeRoleRequest(name="x"), PRECONDITION, "user name not found"),
        (
            "UserRevokeRole",
            pb.AuthUserRevokeRoleRequest(name="u", role="r"),
            PRECONDITION,
            "role is not granted to the user",
        ),
        ("RoleAdd", pb.AuthRoleAddRequest(), INVALID_ARGUMENT, "role name is empty"),
        ("RoleAdd", pb.AuthRoleAddRequest(name="r"), PRECONDITION, "role name already exists"),
        ("RoleGet", pb.AuthRoleGetRequest(role="x"), PRECONDITION, "role name not found"),
        ("RoleDelete", pb.AuthRoleDeleteRequest(role="x"), PRECONDITION, "role name not found"),
        (
            "RoleGrantPermission",
            pb.AuthRoleGrantPermissionRequest(name="r"),
            INVALID_ARGUMENT,
            "permission not given",
        ),
        (
            "RoleGrantPermission",
            pb.AuthRoleGrantPermissionRequest(name="r", perm=auth.Permission()),
            INVALID_ARGUMENT,
            "invalid auth management",
        ),
        (
            "RoleGrantPermission",
            pb.AuthRoleGrantPermissionRequest(name="r", perm=auth.Permission(key=b"b", range_end=b"a")),
            INVALID_ARGUMENT,
            "invalid auth management",
        ),
        (
            "RoleGrantPermission",
            pb.AuthRoleGrantPermissionRequest(name="x", perm=auth.Permission(key=b"b")),
            PRECONDITION,
            "role name not found",
        ),
        (
            "RoleRevokePermission",
            pb.AuthRoleRevokePermissionRequest(role="x"),
            PRECONDITION,
            "role name not found",
        ),
        (
            "RoleRevokePermission",
            pb.AuthRoleRevokePermissionRequest(role="r", key=b"k"),
            PRECONDITION,
            "permission is not granted to the role",
        ),
        ("UserAdd", pb.AuthUserAddRequest(name="n" * 1_600_000), INVALID_ARGUMENT, "request is too large"),
    ],
)
async def test_a_wrong_request_is_told_why(
    served: ServedMember, method: str, request_: pb.AuthUserAddRequest, code: grpc.StatusCode, text: str
) -> None:
    await served.client.kv("Auth/UserAdd", pb.AuthUserAddRequest(name="u", password="p"))
    await served.client.kv("Auth/RoleAdd", pb.AuthRoleAddRequest(name="r"))
    before = served.member.applier.auth.revision
    assert await served.client.refused(f"Auth/{method}", request_) == (code, f"etcdserver: {text}")
    assert served.member.applier.auth.revision == before


@pytest.mark.parametrize("method", ["UserAdd", "UserChangePassword", "Authenticate", "RoleGrantPermission"])
async def test_bytes_that_are_no_request_are_refused(served: ServedMember, method: str) -> None:
    code, message = await served.client.refused(f"Auth/{method}", b"\xff\xff\xff")
    assert code == grpc.StatusCode.INTERNAL
    assert message.startswith("grpc: error unmarshalling request")


async def test_a_name_that_is_no_text_is_refused(served: ServedMember) -> None:
    code, _ = await served.client.refused("Auth/UserAdd", b"\x0a\x02\xff\xfe")
    assert code == grpc.StatusCode.INTERNAL


async def test_users_and_roles_are_listed_in_order_and_shown(member: SecuredMember) -> None:
    users = await member.administer("UserList", pb.AuthUserListRequest())
    roles = await member.administer("RoleList", pb.AuthRoleListRequest())
    assert list(users.users) == ["both", "nothing", "reader", "root", "writer"]
    assert list(roles.roles) == ["both", "reader", "root", "writer"]
    await member.administer("UserGrantRole", pb.AuthUserGrantRoleRequest(user="both", role="reader"))
    user = await member.administer("UserGet", pb.AuthUserGetRequest(name="both"))
    assert list(user.roles) == ["both", "reader"]
    role = await member.administer("RoleGet", pb.AuthRoleGetRequest(role="reader"))
    assert list(role.perm) == [auth.Permission(permType=auth.Permission.READ, key=b"r", range_end=b"s")]


async def test_the_role_root_is_shown_to_hold_every_key(member: SecuredMember) -> None:
    role = await member.administer("RoleGet", pb.AuthRoleGetRequest(role="root"))
    assert list(role.perm) == [auth.Permission(permType=auth.Permission.READWRITE, key=b"", range_end=b"\0")]


async def test_root_can_not_be_taken_apart_while_auth_is_on(member: SecuredMember) -> None:
    for method, request in (
        ("UserDelete", pb.AuthUserDeleteRequest(name="root")),
        ("RoleDelete", pb.AuthRoleDeleteRequest(role="root")),
        ("UserRevokeRole", pb.AuthUserRevokeRoleRequest(name="root", role="root")),
    ):
        assert await member.client.refused(f"Auth/{method}", request, await member.as_user("root")) == (
            INVALID_ARGUMENT,
            "etcdserver: invalid auth management",
        )


async def test_every_header_is_complete(member: SecuredMember) -> None:
    revision = member.member.applier.store.current_revision
    for method, request in (
        ("AuthStatus", pb.AuthStatusRequest()),
        ("Authenticate", credentials("both", "both-pw")),
        ("RoleAdd", pb.AuthRoleAddRequest(name="new")),
        ("RoleGet", pb.AuthRoleGetRequest(role="new")),
        ("UserList", pb.AuthUserListRequest()),
        ("AuthEnable", pb.AuthEnableRequest()),
    ):
        header = (await member.administer(method, request)).header
        assert (header.cluster_id, header.member_id, header.revision, header.raft_term) == (
            member.member.cluster_id,
            member.member.member_id,
            revision,
            member.member.term,
        ), method


# Logging in.


async def test_a_wrong_name_and_a_wrong_password_are_told_the_same(member: SecuredMember) -> None:
    for user, password in (("both", "wrong"), ("both", ""), ("nobody", "both-pw"), ("", ""), ("Both", "x")):
        assert await member.client.refused("Auth/Authenticate", credentials(user, password)) == FAILED


async def test_a_user_without_password_can_not_log_in(member: SecuredMember) -> None:
    options = auth.UserAddOptions(no_password=True)
    await member.administer("UserAdd", pb.AuthUserAddRequest(name="cn", options=options, password="pw"))
    assert await member.client.refused("Auth/Authenticate", credentials("cn", "pw")) == (
        grpc.StatusCode.UNKNOWN,
        "auth: authentication failed, password was given for no password user",
    )
    change = pb.AuthUserChangePasswordRequest(name="cn", password="new")
    await member.administer("UserChangePassword", change)
    code, _ = await member.client.refused("Auth/Authenticate", credentials("cn", "new"))
    assert code == grpc.StatusCode.UNKNOWN


async def test_an_empty_new_password_lets_nobody_in(member: SecuredMember) -> None:
    await member.administer("UserChangePassword", pb.AuthUserChangePasswordRequest(name="both"))
    for password in ("", "both-pw"):
        assert await member.client.refused("Auth/Authenticate", credentials("both", password)) == FAILED


async def test_a_user_may_be_added_with_an_empty_password(member: SecuredMember) -> None:
    await member.administer("UserAdd", pb.AuthUserAddRequest(name="open"))
    assert await member.login("open", "")
    assert await member.client.refused("Auth/Authenticate", credentials("open", "x")) == FAILED


async def test_a_password_that_bcrypt_would_cut_off_is_refused(member: SecuredMember) -> None:
    for method, request in (
        ("UserAdd", pb.AuthUserAddRequest(name="long", password="x" * 73)),
        ("UserChangePassword", pb.AuthUserChangePasswordRequest(name="both", password="ü" * 37)),
    ):
        assert await member.client.refused(f"Auth/{method}", request, await member.as_user("root")) == (
            grpc.StatusCode.UNKNOWN,
            "bcrypt: password length exceeds 72 bytes",
        )
    await member.administer("UserAdd", pb.AuthUserAddRequest(name="long", password="x" * 72))
    assert await member.login("long", "x" * 72)
    for password in ("x" * 73, "x" * 71):
        assert await member.client.refused("Auth/Authenticate", credentials("long", password)) == FAILED


@pytest.mark.parametrize("password", ["ü€😀", " ", "a b", "p\0q", "\n", "'\";--"])
async def test_any_text_may_be_a_password(member: SecuredMember, password: str) -> None:
    change = pb.AuthUserChangePasswordRequest(name="both", password=password)
    await member.administer("UserChangePassword", change)
    assert await member.login("both", password)
    assert await member.client.refused("Auth/Authenticate", credentials("both", password + "x")) == FAILED


async def test_the_log_holds_no_password(member: SecuredMember) -> None:
    seen: list[bytes] = []
    apply = member.member.apply

    def spy(kind: object, data: bytes) -> object:
        seen.append(data)
        return apply(kind, data)  # type: ignore[arg-type]

    member.member.apply = spy  # type: ignore[method-assign]
    secret = "correct horse battery staple"
    options = auth.UserAddOptions(no_password=True)
    for method, request in (
        ("UserAdd", pb.AuthUserAddRequest(name="a", password=secret)),
        ("UserAdd", pb.AuthUserAddRequest(name="b", password=secret, options=options)),
        ("UserChangePassword", pb.AuthUserChangePasswordRequest(name="a", password=secret)),
        ("UserChangePassword", pb.AuthUserChangePasswordRequest(name="b", password=secret)),
    ):
        await member.administer(method, request)
    await member.login("a", secret)
    assert len(seen) >= 5
    assert not any(secret.encode() in data for data in seen)


async def test_a_hash_can_not_be_smuggled_in(member: SecuredMember) -> None:
    """Hashes are made here: a client's own could cost years to compare."""
    change = pb.AuthUserChangePasswordRequest(name="both", hashedPassword="bm90IGEgaGFzaA==")
    await member.administer("UserChangePassword", change)
    user = member.member.applier.auth.user("both")
    assert user is not None
    assert user.password_hash == b""


async def test_passwords_are_hashed_at_the_cost_that_was_asked_for(member: SecuredMember) -> None:
    user = member.member.applier.auth.user("both")
    assert user is not None
    assert user.password_hash.startswith(b"$2b$04$")


async def test_a_password_that_changes_while_it_is_compared_is_compared_again(
    member: SecuredMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = Passwords.matches
    rounds: list[bool] = []

    async def slow(passwords: Passwords, password: str, password_hash: bytes | None) -> bool:
        result = await matches(passwords, password, password_hash)
        rounds.append(result)
        if len(rounds) == 1:
            # Somebody else changes it between the comparison and the token.
            request = pb.AuthUserChangePasswordRequest(name="both")
            member.member.propose(
                CommandKind.USER_CHANGE_PASSWORD, request.SerializeToString(), lambda answer: None, MEMBER
            )
        return result

    monkeypatch.setattr(Passwords, "matches", slow)
    assert await member.client.refused("Auth/Authenticate", credentials("both", "both-pw")) == FAILED
    assert rounds == [True, False]


async def test_a_change_of_others_while_a_password_is_compared_costs_another_round_only(
    member: SecuredMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    matches = Passwords.matches
    rounds: list[bool] = []

    async def slow(passwords: Passwords, password: str, password_hash: bytes | None) -> bool:
        rounds.append(await matches(passwords, password, password_hash))
        if len(rounds) == 1:
            request = pb.AuthRoleAddRequest(name="meanwhile")
            member.member.propose(
                CommandKind.ROLE_ADD, request.SerializeToString(), lambda answer: None, MEMBER
            )
        return rounds[-1]

    monkeypatch.setattr(Passwords, "matches", slow)
    token = await member.login("both")
    assert rounds == [True, True]
    await member.client.kv("KV/Range", GET, (("token", token),))


async def test_more_logins_than_can_wait_are_refused_and_the_loop_goes_on() -> None:
    passwords = Passwords(4)
    hashed = await passwords.hashed("right")
    answers = await asyncio.gather(
        *(passwords.matches("right", hashed) for _ in range(1000)), return_exceptions=True
    )
    refused = [answer for answer in answers if isinstance(answer, TooManyRequestsError)]
    assert [answer for answer in answers if answer is True] == [True] * (1000 - len(refused))
    assert 0 < len(refused) < 1000
    assert await passwords.matches("right", hashed)
    passwords.close()


async def test_logins_that_wait_when_the_member_stops_are_told_so() -> None:
    passwords = Passwords(8)
    hashed = await passwords.hashed("right")
    waiting = [asyncio.ensure_future(passwords.matches("right", hashed)) for _ in range(20)]
    await asyncio.sleep(0)
    passwords.close()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(answer, StoppedError) for answer in answers) >= 20 - (os.cpu_count() or 1)
    with pytest.raises(StoppedError):
        await passwords.hashed("another")


async def test_users_are_not_told_of_to_one_who_asked_when_auth_was_about_to_be_enabled() -> None:
    async with secured() as member:
        await member.administer("AuthDisable", pb.AuthDisableRequest())
        local = member.member
        for method, request in (
            ("Auth/UserList", pb.AuthUserListRequest()),
            ("Auth/UserGet", pb.AuthUserGetRequest(name="both")),
            ("Auth/RoleGet", pb.AuthRoleGetRequest(role="both")),
            ("Auth/RoleList", pb.AuthRoleListRequest()),
            ("KV/Range", GET),
        ):
            local.applier.auth.is_enabled = False
            local.holds_reads = True
            waiting = asyncio.ensure_future(member.client.refused(method, request))
            await until(lambda: len(local._held) > 0)
            local.applier.auth.is_enabled = True
            local.release()
            assert await waiting == (INVALID_ARGUMENT, "etcdserver: user name is empty"), method


# Tokens.


async def test_a_token_is_sixteen_letters_and_the_index_of_its_entry(member: SecuredMember) -> None:
    token = await member.login("both")
    prefix, index = token.split(".")
    assert len(prefix) == 16
    assert prefix.isalpha()
    assert int(index) == member.member.applied_index
    assert await member.login("both") != token


@pytest.mark.parametrize("name", ["token", "authorization"])
@pytest.mark.parametrize("prefix", ["", "Bearer ", "bearer "])
async def test_a_token_is_shown_under_either_name(member: SecuredMember, name: str, prefix: str) -> None:
    token = await member.login("both")
    await member.client.kv("KV/Range", GET, ((name, prefix + token),))


async def test_a_token_that_is_not_used_dies(member: SecuredMember) -> None:
    shown = await member.as_user("both")
    for _ in range(3):
        member.member.elapsed_s += 299
        await member.client.kv("KV/Range", GET, shown)
    member.member.elapsed_s += 301
    assert await member.client.refused("KV/Range", GET, shown) == INVALID_TOKEN


async def test_tokens_live_as_long_as_they_are_told_to() -> None:
    async with secured(auth_token_ttl_s=5.0) as member:
        shown = await member.as_user("both")
        member.member.elapsed_s += 6
        assert await member.client.refused("KV/Range", GET, shown) == INVALID_TOKEN


async def test_another_password_ends_the_tokens_of_the_old_one(member: SecuredMember) -> None:
    shown = await member.as_user("both")
    change = pb.AuthUserChangePasswordRequest(name="both", password="new")
    await member.administer("UserChangePassword", change)
    assert await member.client.refused("KV/Range", GET, shown) == INVALID_TOKEN
    assert await member.client.refused("Auth/Authenticate", credentials("both", "both-pw")) == FAILED
    await member.client.kv("KV/Range", GET, (("token", await member.login("both", "new")),))


async def test_a_simple_token_outlives_a_change_of_roles_and_has_the_new_ones(member: SecuredMember) -> None:
    shown = await member.as_user("nothing")
    await member.administer("UserGrantRole", pb.AuthUserGrantRoleRequest(user="nothing", role="reader"))
    await member.client.kv("KV/Range", GET, shown)
    await member.administer("UserRevokeRole", pb.AuthUserRevokeRoleRequest(name="nothing", role="reader"))
    code, _ = await member.client.refused("KV/Range", GET, shown)
    assert code == grpc.StatusCode.PERMISSION_DENIED


async def test_disabling_auth_ends_all_tokens(member: SecuredMember) -> None:
    shown = await member.as_user("both")
    await member.administer("AuthDisable", pb.AuthDisableRequest())
    await member.client.kv("KV/Range", GET, shown)
    await member.client.kv("Auth/AuthEnable", pb.AuthEnableRequest())
    assert await member.client.refused("KV/Range", GET, shown) == INVALID_TOKEN


async def test_a_signed_token_from_before_a_change_is_told_to_be_old(tmp_path: Path) -> None:
    async with secured(auth_token=jwt_config(tmp_path)) as member:
        shown = await member.as_user("both")
        await member.client.kv("KV/Range", GET, shown)
        await member.administer("RoleAdd", pb.AuthRoleAddRequest(name="new"))
        assert await member.client.refused("KV/Range", GET, shown) == OLD
        assert await member.client.refused("KV/Put", pb.PutRequest(key=b"r/1"), shown) == OLD
        await member.client.kv("KV/Range", GET, (("token", await member.login("both")),))


async def test_a_signed_token_that_is_newer_than_this_member_reads_nothing(tmp_path: Path) -> None:
    """A member that lags behind must not decide by users and roles that are no more."""
    async with secured(auth_token=jwt_config(tmp_path)) as member:
        token = member.member.tokens.issue("both", member.member.applier.auth.revision + 1, "")
        shown = (("token", token),)
        for request in (GET, pb.RangeRequest(key=b"r/1", serializable=True)):
            assert await member.client.refused("KV/Range", request, shown) == OLD
        txn = pb.TxnRequest(success=[pb.RequestOp(request_range=GET)])
        assert await member.client.refused("KV/Txn", txn, shown) == OLD


async def test_users_that_change_while_a_read_waits_are_noticed(tmp_path: Path) -> None:
    async with secured(auth_token=jwt_config(tmp_path)) as member:
        shown = await member.as_user("both")
        local = member.member
        local.holds_reads = True
        waiting = asyncio.ensure_future(member.client.refused("KV/Range", GET, shown))
        async with asyncio.timeout(10):
            while not local._held:
                await asyncio.sleep(0.001)
        request = pb.AuthUserRevokeRoleRequest(name="both", role="both")
        local.propose(CommandKind.USER_REVOKE_ROLE, request.SerializeToString(), lambda answer: None, MEMBER)
        local.release()
        assert await waiting == OLD


async def test_a_stream_of_a_range_ends_when_users_change(member: SecuredMember) -> None:
    for number in range(3000):
        request = pb.PutRequest(key=b"r/%05d" % number, value=b"x" * 2000)
        member.member.propose(CommandKind.PUT, request.SerializeToString(), lambda answer: None, MEMBER)
    path, request = "/etcdserverpb.KV/RangeStream", pb.RangeRequest(key=b"r", range_end=b"s")
    stream = member.client.server_stream(path, request, await member.as_user("reader"))
    await stream.read()
    change = pb.AuthUserRevokeRoleRequest(name="reader", role="reader")
    await member.administer("UserRevokeRole", change)
    with pytest.raises(grpc.aio.AioRpcError):
        await read_to_the_end(stream)
    assert (await stream.code(), await stream.details()) == OLD


async def read_to_the_end(stream: grpc.aio.UnaryStreamCall) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_a_member_that_lags_waits_for_the_token_it_is_shown(member: SecuredMember) -> None:
    """The login is committed but not applied here yet: what the quorum knows of decides."""
    local = member.member
    token = f"abcdefghijklmnop.{local.applied_index + 1}"
    local.holds_reads = True
    waiting = asyncio.ensure_future(
        member.client.kv("Cluster/MemberList", pb.MemberListRequest(), (("token", token),))
    )
    stream = WatchStream(member.client, (("token", token),))
    await stream.send(create_request=pb.WatchCreateRequest(key=b"r/1"))
    async with asyncio.timeout(10):
        while len(local._held) < 2:
            await asyncio.sleep(0.001)
    local.tokens.apply([TokenAssigned("both", token)])
    local.release()
    assert len((await waiting).members) == 1
    assert (await stream.next()).created
    stream.cancel()


async def test_an_invented_token_costs_a_round_of_the_quorum_and_is_refused(member: SecuredMember) -> None:
    shown = (("token", "abcdefghijklmnop.999999999"),)
    assert await member.client.refused("KV/Range", GET, shown) == INVALID_TOKEN
    assert await member.client.refused("KV/Put", pb.PutRequest(key=b"r/1"), shown) == INVALID_TOKEN


# Watches.


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        ((), "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
        (
            (("token", "abc.1"),),
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
        ),
    ],
)
async def test_a_watch_of_nobody_is_told_why(
    member: SecuredMember, shown: tuple[tuple[str, str], ...], reason: str
) -> None:
    stream = WatchStream(member.client, shown)
    response = await stream.create(b"r/1")
    assert (response.created, response.canceled, response.watch_id) == (True, True, -1)
    assert response.cancel_reason == reason
    stream.cancel()


async def test_one_stream_may_hold_watches_that_are_allowed_beside_those_that_are_not(
    member: SecuredMember,
) -> None:
    stream = WatchStream(member.client, await member.as_user("reader"))
    assert (await stream.create(b"other")).canceled
    allowed = await stream.create(b"r", b"s")
    assert not allowed.canceled
    await member.by("root", "KV/Put", pb.PutRequest(key=b"other"))
    await member.by("root", "KV/Put", pb.PutRequest(key=b"r/1"))
    response = await stream.next()
    assert [event.kv.key for event in response.events] == [b"r/1"]
    stream.cancel()


async def test_a_watch_goes_on_when_its_user_loses_the_role(member: SecuredMember) -> None:
    """As in etcd: permission is asked for when a watch begins."""
    stream = WatchStream(member.client, await member.as_user("reader"))
    await stream.create(b"r", b"s")
    await member.administer("UserRevokeRole", pb.AuthUserRevokeRoleRequest(name="reader", role="reader"))
    await member.by("root", "KV/Put", pb.PutRequest(key=b"r/1"))
    assert len((await stream.next()).events) == 1
    assert (await stream.create(b"r/1")).canceled
    stream.cancel()


# Certificates.


class Call:
    """A call as transports show it."""

    def __init__(self, common_name: str | None, **metadata: str) -> None:
        self.common_name = common_name
        self.metadata = {name.replace("_", "-"): value for name, value in metadata.items()}
        self.peer = "peer"
        self.deadline_s = None
        self.is_cancelled = False


def gate_of(*, common_name_is_user: bool) -> Gate:
    local = LocalMember(local_config(common_name_is_user=common_name_is_user))
    local.applier.auth.is_enabled = True
    return Gate(local)


async def test_the_name_in_a_certificate_is_the_user_where_certificates_are_asked_for() -> None:
    gate = gate_of(common_name_is_user=True)
    assert gate.caller(Call("alice")) == Caller("alice", 1)
    with pytest.raises(UserEmptyError):
        gate.caller(Call(None))
    with pytest.raises(UserEmptyError):
        gate_of(common_name_is_user=False).caller(Call("alice"))


async def test_a_token_outweighs_the_certificate() -> None:
    with pytest.raises(InvalidTokenError):
        gate_of(common_name_is_user=True).caller(Call("alice", token="wrong.1"))


async def test_the_certificate_of_a_gateway_is_nobody() -> None:
    with pytest.raises(UserEmptyError):
        gate_of(common_name_is_user=True).caller(Call("gateway", grpcgateway_accept="*/*"))


async def test_without_auth_nobody_is_asked_who_they_are() -> None:
    local = LocalMember()
    assert Gate(local).caller(Call(None, token="wrong.1")) is None


async def test_what_is_said_before_a_login_changes_nothing_for_others() -> None:
    async with serve(LocalMember(local_config(bcrypt_cost=4))) as served:
        await served.put(b"k")
        code, _ = await served.client.refused("Auth/Authenticate", credentials("x" * 100_000, "y"))
        assert code == PRECONDITION
        await served.put(b"k")

"""Every method with every kind of caller: who is let in and what the others are told.

What a method does once its caller is let in is tested elsewhere: here every error that is not auth's own
counts as having been let in.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from grpc import aio
from kvnode.apply.commands import CommandKind
from kvnode.auth.caller import MEMBER
from kvnode.pb import election_pb2 as election
from kvnode.pb import lock_pb2 as lock
from kvnode.pb import rpc_pb2 as pb
from kvnode.pb.health_pb2 import HealthCheckRequest
from kvnode.rpc.gateway import Gateway
from kvnode.rpc.gateway_routes import METHOD_OF_PATH
from kvnode.rpc.http import HttpServer
from kvnode.rpc.stats import RpcStats
from kvnode.server.config import parse_url
from kvnode.server.tokens import SimpleTokens
from kvtest.secured_member import LEASE_OF_OTHERS, LEASE_OF_R, SecuredMember, jwt_config, secured

EMPTY = "etcdserver: user name is empty"
INVALID = "etcdserver: invalid auth token"
DENIED = "etcdserver: permission denied"
OLD = "etcdserver: revision of auth store is old"
NOT_FOUND = "etcdserver: user name not found"
LET_IN = "let in"
VERDICTS = (EMPTY, INVALID, DENIED, OLD, NOT_FOUND)

DEADLINE_S = 10.0

Metadata = tuple[tuple[str, str], ...]

# Who may: names of users.
ANYBODY, ANY_USER, ROOT = "anybody", "any user", "root"
READ, WRITE, BOTH = "readers", "writers", "readers and writers"
ALLOWED = {
    ANY_USER: {"nothing", "reader", "writer", "both", "root"},
    READ: {"reader", "both", "root"},
    WRITE: {"writer", "both", "root"},
    BOTH: {"both", "root"},
    ROOT: {"root"},
}


class Case(NamedTuple):
    path: str
    request: Message
    access: str
    what: str = ""


def op(request: Message) -> pb.RequestOp:
    return {
        pb.PutRequest: lambda: pb.RequestOp(request_put=request),
        pb.DeleteRangeRequest: lambda: pb.RequestOp(request_delete_range=request),
        pb.RangeRequest: lambda: pb.RequestOp(request_range=request),
        pb.TxnRequest: lambda: pb.RequestOp(request_txn=request),
    }[type(request)]()


def nested(request: Message, depth: int, *, fails: bool) -> pb.TxnRequest:
    """The request, so many transactions deep; ``fails``: always in the branch that does not run."""
    for _ in range(depth):
        request = pb.TxnRequest(failure=[op(request)]) if fails else pb.TxnRequest(success=[op(request)])
    assert isinstance(request, pb.TxnRequest)
    return request


KEY, END = b"r/1", b"r/9"
GET = pb.RangeRequest(key=KEY, range_end=END)
PUT = pb.PutRequest(key=KEY, value=b"v")
DELETE = pb.DeleteRangeRequest(key=b"r/gone", range_end=END)
TXN_PARTS = [
    ("get", GET, READ),
    ("get elsewhere", pb.RangeRequest(key=b"other"), ROOT),
    ("get from key", pb.RangeRequest(key=KEY, range_end=b"\0"), ROOT),
    ("put", PUT, WRITE),
    ("put elsewhere", pb.PutRequest(key=b"other"), ROOT),
    ("put with prev_kv", pb.PutRequest(key=KEY, prev_kv=True), BOTH),
    ("put on a lease", pb.PutRequest(key=KEY, lease=LEASE_OF_R), WRITE),
    ("put on a lease of others", pb.PutRequest(key=KEY, lease=LEASE_OF_OTHERS), ROOT),
    ("delete", DELETE, WRITE),
    ("delete with prev_kv", pb.DeleteRangeRequest(key=b"r/gone", prev_kv=True), BOTH),
    ("delete from key", pb.DeleteRangeRequest(key=b"r/gone", range_end=b"\0"), ROOT),
    ("compare", pb.TxnRequest(compare=[pb.Compare(key=KEY)]), READ),
    ("compare a range", pb.TxnRequest(compare=[pb.Compare(key=b"q", range_end=END)]), ROOT),
]

KV, LEASE, CLUSTER = "/etcdserverpb.KV/", "/etcdserverpb.Lease/", "/etcdserverpb.Cluster/"
MAINTENANCE, AUTH = "/etcdserverpb.Maintenance/", "/etcdserverpb.Auth/"
LOCK, ELECTION = "/v3lockpb.Lock/", "/v3electionpb.Election/"
LEADER = election.LeaderKey(name=b"r", key=b"r/lead", rev=1, lease=LEASE_OF_R)

CASES = [
    Case(KV + "Range", GET, READ),
    Case(KV + "Range", pb.RangeRequest(key=KEY, serializable=True), READ, "serializable"),
    Case(KV + "Range", pb.RangeRequest(key=KEY, range_end=END, count_only=True), READ, "count only"),
    Case(KV + "Range", pb.RangeRequest(key=b"health"), ROOT, "elsewhere"),
    Case(KV + "Range", pb.RangeRequest(key=KEY, range_end=b"\0"), ROOT, "from key"),
    Case(KV + "Range", pb.RangeRequest(key=b"\0", range_end=b"\0"), ROOT, "everything"),
    Case(KV + "RangeStream", GET, READ),
    Case(KV + "RangeStream", pb.RangeRequest(key=KEY, serializable=True), READ, "serializable"),
    Case(KV + "RangeStream", pb.RangeRequest(key=KEY, range_end=b"\0"), ROOT, "from key"),
    Case(KV + "Put", PUT, WRITE),
    Case(KV + "Put", pb.PutRequest(key=KEY, prev_kv=True), BOTH, "prev_kv"),
    Case(KV + "Put", pb.PutRequest(key=KEY, lease=LEASE_OF_R), WRITE, "lease"),
    Case(KV + "Put", pb.PutRequest(key=KEY, lease=LEASE_OF_OTHERS), ROOT, "lease of others"),
    Case(KV + "DeleteRange", DELETE, WRITE),
    Case(KV + "DeleteRange", pb.DeleteRangeRequest(key=b"r/gone", prev_kv=True), BOTH, "prev_kv"),
    Case(KV + "DeleteRange", pb.DeleteRangeRequest(key=b"r/gone", range_end=b"\0"), ROOT, "from key"),
    *(
        Case(KV + "Txn", nested(request, depth, fails=fails), access, f"{what}, {depth} deep, {branch}")
        for what, request, access in TXN_PARTS
        for depth in (1, 2, 3)
        for fails, branch in ((False, "run"), (True, "not run"))
    ),
    Case(KV + "Compact", pb.CompactionRequest(revision=2), ROOT),
    Case(KV + "Compact", pb.CompactionRequest(revision=2, physical=True), ROOT, "physical"),
    Case("/etcdserverpb.Watch/Watch", pb.WatchCreateRequest(key=KEY), READ),
    Case("/etcdserverpb.Watch/Watch", pb.WatchCreateRequest(key=KEY, range_end=END), READ, "range"),
    Case("/etcdserverpb.Watch/Watch", pb.WatchCreateRequest(key=KEY, range_end=b"\0"), ROOT, "open"),
    Case("/etcdserverpb.Watch/Watch", pb.WatchCreateRequest(range_end=b"\0"), ROOT, "everything"),
    Case(LEASE + "LeaseGrant", pb.LeaseGrantRequest(TTL=60), ANY_USER),
    Case(LEASE + "LeaseRevoke", pb.LeaseRevokeRequest(ID=LEASE_OF_R), WRITE),
    Case(LEASE + "LeaseRevoke", pb.LeaseRevokeRequest(ID=LEASE_OF_OTHERS), ROOT, "of others"),
    Case(LEASE + "LeaseRevoke", pb.LeaseRevokeRequest(ID=99), ANY_USER, "without keys"),
    Case(LEASE + "LeaseKeepAlive", pb.LeaseKeepAliveRequest(ID=LEASE_OF_R), WRITE),
    Case(LEASE + "LeaseKeepAlive", pb.LeaseKeepAliveRequest(ID=LEASE_OF_OTHERS), ROOT, "of others"),
    Case(LEASE + "LeaseKeepAlive", pb.LeaseKeepAliveRequest(ID=99), ANY_USER, "without keys"),
    Case(LEASE + "LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=LEASE_OF_OTHERS), ANY_USER),
    Case(LEASE + "LeaseTimeToLive", pb.LeaseTimeToLiveRequest(ID=LEASE_OF_R, keys=True), READ, "keys"),
    Case(
        LEASE + "LeaseTimeToLive",
        pb.LeaseTimeToLiveRequest(ID=LEASE_OF_OTHERS, keys=True),
        ROOT,
        "keys of others",
    ),
    Case(LEASE + "LeaseLeases", pb.LeaseLeasesRequest(), ROOT),
    Case(CLUSTER + "MemberAdd", pb.MemberAddRequest(peerURLs=["http://127.0.0.1:1"]), ROOT),
    Case(CLUSTER + "MemberRemove", pb.MemberRemoveRequest(ID=1), ROOT),
    Case(CLUSTER + "MemberUpdate", pb.MemberUpdateRequest(ID=1, peerURLs=["http://127.0.0.1:1"]), ROOT),
    Case(CLUSTER + "MemberPromote", pb.MemberPromoteRequest(ID=1), ROOT),
    Case(CLUSTER + "MemberList", pb.MemberListRequest(), ANY_USER),
    Case(CLUSTER + "MemberList", pb.MemberListRequest(linearizable=True), ANY_USER, "linearizable"),
    Case(MAINTENANCE + "Alarm", pb.AlarmRequest(), ANY_USER, "get"),
    Case(MAINTENANCE + "Alarm", pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE), ROOT, "activate"),
    Case(MAINTENANCE + "Alarm", pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE), ROOT, "deactivate"),
    Case(MAINTENANCE + "Status", pb.StatusRequest(), ANY_USER),
    Case(MAINTENANCE + "Defragment", pb.DefragmentRequest(), ROOT),
    Case(MAINTENANCE + "Hash", pb.HashRequest(), ROOT),
    Case(MAINTENANCE + "HashKV", pb.HashKVRequest(), ROOT),
    Case(MAINTENANCE + "Snapshot", pb.SnapshotRequest(), ROOT),
    Case(MAINTENANCE + "MoveLeader", pb.MoveLeaderRequest(targetID=1), ROOT),
    *(
        Case(MAINTENANCE + "Downgrade", pb.DowngradeRequest(action=action, version="3.0"), ROOT, what)
        for what, action in pb.DowngradeRequest.DowngradeAction.items()
    ),
    Case(AUTH + "AuthEnable", pb.AuthEnableRequest(), ROOT),
    Case(AUTH + "AuthDisable", pb.AuthDisableRequest(), ROOT),
    Case(AUTH + "AuthStatus", pb.AuthStatusRequest(), ANYBODY),
    Case(AUTH + "Authenticate", pb.AuthenticateRequest(name="both", password="both-pw"), ANYBODY),
    Case(AUTH + "UserAdd", pb.AuthUserAddRequest(name="new", password="p"), ROOT),
    Case(AUTH + "UserGet", pb.AuthUserGetRequest(name="victim"), ROOT),
    Case(AUTH + "UserGet", pb.AuthUserGetRequest(name="nothing"), "only nothing", "own"),
    Case(AUTH + "UserList", pb.AuthUserListRequest(), ROOT),
    Case(AUTH + "UserDelete", pb.AuthUserDeleteRequest(name="victim"), ROOT),
    Case(AUTH + "UserChangePassword", pb.AuthUserChangePasswordRequest(name="victim", password="p"), ROOT),
    Case(AUTH + "UserGrantRole", pb.AuthUserGrantRoleRequest(user="victim", role="root"), ROOT),
    Case(AUTH + "UserRevokeRole", pb.AuthUserRevokeRoleRequest(name="both", role="both"), ROOT),
    Case(AUTH + "RoleAdd", pb.AuthRoleAddRequest(name="new"), ROOT),
    Case(AUTH + "RoleGet", pb.AuthRoleGetRequest(role="root"), ROOT),
    Case(AUTH + "RoleGet", pb.AuthRoleGetRequest(role="reader"), "only reader", "own"),
    Case(AUTH + "RoleList", pb.AuthRoleListRequest(), ROOT),
    Case(AUTH + "RoleDelete", pb.AuthRoleDeleteRequest(role="both"), ROOT),
    Case(AUTH + "RoleGrantPermission", pb.AuthRoleGrantPermissionRequest(name="both"), ROOT),
    Case(AUTH + "RoleRevokePermission", pb.AuthRoleRevokePermissionRequest(role="both", key=b"r"), ROOT),
    Case(LOCK + "Lock", lock.LockRequest(name=b"r"), BOTH),
    Case(LOCK + "Lock", lock.LockRequest(name=b"other"), ROOT, "elsewhere"),
    Case(LOCK + "Unlock", lock.UnlockRequest(key=b"r/gone"), WRITE),
    Case(LOCK + "Unlock", lock.UnlockRequest(key=b"gone"), ROOT, "elsewhere"),
    Case(ELECTION + "Campaign", election.CampaignRequest(name=b"r", lease=LEASE_OF_R), BOTH),
    Case(ELECTION + "Campaign", election.CampaignRequest(name=b"other"), ROOT, "elsewhere"),
    Case(ELECTION + "Proclaim", election.ProclaimRequest(leader=LEADER), BOTH),
    Case(ELECTION + "Leader", election.LeaderRequest(name=b"r"), READ),
    Case(ELECTION + "Leader", election.LeaderRequest(name=b"other"), ROOT, "elsewhere"),
    Case(ELECTION + "Observe", election.LeaderRequest(name=b"r"), READ),
    Case(ELECTION + "Observe", election.LeaderRequest(name=b"other"), ROOT, "elsewhere"),
    Case(ELECTION + "Resign", election.ResignRequest(leader=LEADER), BOTH),
    Case("/grpc.health.v1.Health/Check", HealthCheckRequest(), ANYBODY),
    Case("/grpc.health.v1.Health/Watch", HealthCheckRequest(), ANYBODY),
]
EVERY_CASE = pytest.mark.parametrize(
    "case", CASES, ids=[f"{case.path.rsplit('/')[-1]} {case.what}".strip() for case in CASES]
)

TWO_WAY_STREAMS = {
    "/etcdserverpb.Watch/Watch",
    LEASE + "LeaseKeepAlive",
}
STREAMS = TWO_WAY_STREAMS | {
    KV + "RangeStream",
    MAINTENANCE + "Snapshot",
    ELECTION + "Observe",
    "/grpc.health.v1.Health/Watch",
}
#: A caller who is let in here waits for somebody else.
WAITING = {ELECTION + "Observe"}


async def verdict(member: SecuredMember, case: Case, metadata: Metadata) -> str:
    """How the caller with this metadata fares."""
    message = await (_of_stream if case.path in STREAMS else _of_call)(member, case, metadata)
    if isinstance(case.request, lock.LockRequest | election.CampaignRequest):
        # Or the next one would wait for this one.
        _release(member, case.request.name)
    found = [each for each in VERDICTS if message.endswith(each)]
    return found[0] if found else LET_IN


def _release(member: SecuredMember, name: bytes) -> None:
    request = pb.DeleteRangeRequest(key=name + b"/", range_end=name + b"0")
    member.member.propose(CommandKind.DELETE_RANGE, request.SerializeToString(), lambda answer: None, MEMBER)


async def _of_call(member: SecuredMember, case: Case, metadata: Metadata) -> str:
    method = member.client.method(case.path)
    try:
        await method(case.request.SerializeToString(), metadata=metadata, timeout=DEADLINE_S)
    except aio.AioRpcError as error:
        return error.details() or ""
    return LET_IN


async def _of_stream(member: SecuredMember, case: Case, metadata: Metadata) -> str:
    request = case.request
    is_watch = isinstance(request, pb.WatchCreateRequest)
    if is_watch:
        request = pb.WatchRequest(create_request=request)
    is_two_way = case.path in TWO_WAY_STREAMS
    client = member.client
    call = (
        client.stream(case.path, metadata)
        if is_two_way
        else client.server_stream(case.path, request, metadata)
    )
    try:
        if is_two_way:
            await call.write(request.SerializeToString())
        if case.path in WAITING:
            # Let in, it is silent: what it waits for is made here.
            await _make_leader(member, case)
        async with asyncio.timeout(DEADLINE_S):
            answer = await call.read()
        if answer is aio.EOF:
            return str(await call.details())
        return pb.WatchResponse.FromString(answer).cancel_reason if is_watch else LET_IN
    except aio.AioRpcError as error:
        return error.details() or ""
    finally:
        call.cancel()


async def _make_leader(member: SecuredMember, case: Case) -> None:
    assert isinstance(case.request, election.LeaderRequest)
    await member.by("root", "KV/Put", pb.PutRequest(key=case.request.name + b"/lead", value=b"v"))


@pytest.fixture
async def simple() -> AsyncIterator[SecuredMember]:
    """A member with simple tokens."""
    async with secured() as member:
        await member.administer("UserAdd", pb.AuthUserAddRequest(name="victim", password="p"))
        yield member


@pytest.fixture
async def signed(tmp_path: Path) -> AsyncIterator[SecuredMember]:
    """A member with signed tokens."""
    async with secured(auth_token=jwt_config(tmp_path)) as member:
        await member.administer("UserAdd", pb.AuthUserAddRequest(name="victim", password="p"))
        yield member


def allowed(case: Case) -> set[str]:
    if case.access.startswith("only "):
        return {"root", case.access.removeprefix("only ")}
    return ALLOWED.get(case.access, set())


@EVERY_CASE
async def test_a_caller_is_let_in_or_told_why_not(simple: SecuredMember, case: Case) -> None:
    told = {"nobody": await verdict(simple, case, ())}
    told["wrong token"] = await verdict(simple, case, (("token", "abcdefghijklmnop.3"),))
    told["empty token"] = await verdict(simple, case, (("token", ""),))
    gone = (("token", await simple.login("victim", "p")),)
    await simple.administer("UserDelete", pb.AuthUserDeleteRequest(name="victim"))
    told["token of a deleted user"] = await verdict(simple, case, gone)
    await simple.administer("UserAdd", pb.AuthUserAddRequest(name="victim", password="p"))
    # Logged in beforehand: what is let in may turn auth off.
    users = {name: await simple.as_user(name) for name in ("nothing", "reader", "writer", "both", "root")}
    for name, metadata in users.items():
        told[name] = await verdict(simple, case, tuple(metadata))
    if case.access == ANYBODY:
        assert set(told.values()) == {LET_IN}
        return
    assert told == {
        "nobody": EMPTY,
        "wrong token": INVALID,
        "empty token": INVALID,
        "token of a deleted user": INVALID,
        **{name: LET_IN if name in allowed(case) else DENIED for name in users},
    }


@EVERY_CASE
async def test_a_signed_token_from_before_a_change_touches_no_data(signed: SecuredMember, case: Case) -> None:
    """Signed tokens carry their revision; administration goes by present roles, as in etcd."""
    old = {name: await signed.as_user(name) for name in ("both", "root")}
    gone = (("token", await signed.login("victim", "p")),)
    await signed.administer("UserDelete", pb.AuthUserDeleteRequest(name="victim"))
    told = {"gone": await verdict(signed, case, gone)}
    await signed.administer("UserAdd", pb.AuthUserAddRequest(name="victim", password="p"))
    told |= {name: await verdict(signed, case, tuple(metadata)) for name, metadata in old.items()}
    if case.access in (ANYBODY, ANY_USER):
        assert set(told.values()) == {LET_IN}
    elif (
        case.access in (READ, WRITE, BOTH)
        or case.path.startswith((KV, "/etcdserverpb.Watch/", LOCK, ELECTION))
    ) and not case.path.endswith("/Compact"):
        of_leases = case.path.startswith(LEASE)
        assert told == {"gone": OLD, "both": OLD, "root": LET_IN if of_leases else OLD}
    elif case.path.startswith(LEASE):
        assert told == {"gone": OLD, "both": OLD, "root": LET_IN}
    else:
        assert told == {"gone": NOT_FOUND, "both": DENIED, "root": LET_IN}


async def test_no_method_is_missing_here(simple: SecuredMember) -> None:
    served = {method.path for method in simple.served.services.methods}
    assert served == {case.path for case in CASES}


async def test_nothing_is_asked_of_anybody_once_auth_is_off(simple: SecuredMember) -> None:
    await simple.administer("AuthDisable", pb.AuthDisableRequest())
    told = {
        (case.path, case.what): await verdict(simple, case, (("token", "abc.1"),))
        for case in CASES
        if case.path not in (AUTH + "AuthEnable", AUTH + "UserDelete") and case.path not in WAITING
    }
    assert {key for key, value in told.items() if value != LET_IN} == set()


# What was taken away from a user counts at once.


async def _revoke_role(member: SecuredMember) -> None:
    await member.administer("UserRevokeRole", pb.AuthUserRevokeRoleRequest(name="both", role="both"))


async def _revoke_permission(member: SecuredMember) -> None:
    request = pb.AuthRoleRevokePermissionRequest(role="both", key=b"r", range_end=b"s")
    await member.administer("RoleRevokePermission", request)


async def _delete_role(member: SecuredMember) -> None:
    await member.administer("RoleDelete", pb.AuthRoleDeleteRequest(role="both"))


async def _change_password(member: SecuredMember) -> None:
    request = pb.AuthUserChangePasswordRequest(name="both", password="another")
    await member.administer("UserChangePassword", request)


async def _delete_user(member: SecuredMember) -> None:
    await member.administer("UserDelete", pb.AuthUserDeleteRequest(name="both"))


async def _expire(member: SecuredMember) -> None:
    tokens = member.member.tokens
    assert isinstance(tokens, SimpleTokens)
    later_s = tokens._now_s() + tokens._ttl_s
    tokens._now_s = lambda: later_s  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("take_away", "refused"),
    [
        pytest.param(_revoke_role, DENIED, id="role-revoked"),
        pytest.param(_revoke_permission, DENIED, id="permission-revoked"),
        pytest.param(_delete_role, DENIED, id="role-deleted"),
        pytest.param(_change_password, INVALID, id="password-changed"),
        pytest.param(_delete_user, INVALID, id="user-deleted"),
        pytest.param(_expire, INVALID, id="token-expired"),
    ],
)
async def test_what_is_taken_away_counts_at_once_for_every_method(
    simple: SecuredMember, take_away: Callable[[SecuredMember], Awaitable[None]], refused: str
) -> None:
    metadata = tuple(await simple.as_user("both"))
    before = Case(KV + "Put", PUT, WRITE)
    assert await verdict(simple, before, metadata) == LET_IN
    await take_away(simple)
    told = {f"{case.path} {case.what}": await verdict(simple, case, metadata) for case in CASES}
    open_to = {ANYBODY} if refused == INVALID else {ANYBODY, ANY_USER}
    assert told == {
        f"{case.path} {case.what}": LET_IN if case.access in open_to else refused for case in CASES
    }


async def test_a_watch_that_is_open_goes_on_without_its_permission_and_no_new_one_is_made(
    simple: SecuredMember,
) -> None:
    """As in etcd: permission is asked for when a watch is created, by the stream's token at that time."""
    stream = simple.served.watch(await simple.as_user("both"))
    assert not (await stream.create(b"r/1")).canceled
    await _revoke_role(simple)
    await simple.by("root", "KV/Put", PUT)
    assert [event.kv.key for event in (await stream.next()).events] == [b"r/1"]
    rejected = await stream.create(b"r/1")
    assert rejected.canceled
    assert rejected.cancel_reason.endswith(DENIED)


# The same through the gateway.


async def _post(port: int, path: str, body: str, token: str | None) -> str:
    """The answer's error, or "": let in.  Of streams the first line decides."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    authorization = f"Authorization: {token}\r\n" if token is not None else ""
    try:
        data = body.encode()
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: x\r\n{authorization}Content-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        async with asyncio.timeout(DEADLINE_S):
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if b"chunked" in head:
                size = int(await reader.readline(), 16)
                answer = await reader.readexactly(size)
            else:
                [length] = [each for each in head.split(b"\r\n") if each.startswith(b"content-length")]
                answer = await reader.readexactly(int(length.split(b":")[1]))
        said = json.loads(answer.splitlines()[0]) if answer else {}
        result = said.get("result", {})
        return str(
            said.get("message") or said.get("error", {}).get("message") or result.get("cancel_reason", "")
        )
    finally:
        writer.close()


async def test_the_gateway_asks_the_same_of_every_caller(simple: SecuredMember) -> None:
    http = HttpServer()
    port = await http.listen(parse_url("http://127.0.0.1:0"), serves_clients=True)
    services = simple.served.services
    gateway = Gateway(services.methods, RpcStats(), max_request_bytes=2**21)
    http.member_started(services.probes, lambda: b"", gateway)
    paths = {method: path for path, method in METHOD_OF_PATH.items()}
    users = ("nothing", "reader", "writer", "both")
    tokens = {name: dict(await simple.as_user(name))["token"] for name in users}
    callers: dict[str, str | None] = {"nobody": None, "wrong token": "abc.3", **tokens}
    told, expected = {}, {}
    for case in CASES:
        # Who waits for others when let in was asked above.
        if case.path not in paths or case.access == ANYBODY or case.path in WAITING:
            continue
        request = case.request
        if isinstance(request, pb.WatchCreateRequest):
            request = pb.WatchRequest(create_request=request)
        body = MessageToJson(request)
        for name, token in callers.items():
            is_allowed = name in allowed(case)
            if is_allowed and isinstance(
                request, lock.LockRequest | election.CampaignRequest | pb.LeaseRevokeRequest
            ):
                # What the next ones ask for would be gone, or taken.
                continue
            message = await _post(port, paths[case.path], body, token)
            found = [each for each in VERDICTS if message.endswith(each)]
            key = f"{name}: {case.path} {case.what}"
            told[key] = found[0] if found else LET_IN
            otherwise = {"nobody": EMPTY, "wrong token": INVALID}.get(name, DENIED)
            expected[key] = LET_IN if is_allowed else otherwise
    await http.close()
    assert len(told) > 500
    assert told == expected

"""Requests that are wrong in every way that can be thought of, for each method, as bytes on the wire.

A case is run against any server of the API and its outcome is text: for an error its code and message,
else what was answered, without what differs from server to server.  ``tests/api/golden/bad_input.json``
holds the outcomes of etcd 3.7, and ours where they differ on purpose.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import grpc
from google.protobuf.message import DecodeError, Message
from kvnode.pb import rpc_pb2 as pb
from kvnode.pb.auth_pb2 import Permission

__all__ = ["ACCEPTED_BEFORE_3_7", "CASES", "DELIBERATE", "SINCE_3_7", "Case", "outcome", "prepare"]

#: No message of the API: a tag of a wire type that does not exist.
GARBAGE: Final = b"\xff\xff\xff\xff"
#: Field 1 of five bytes, of which two are there.
TRUNCATED: Final = b"\x0a\x05ab"
#: Field 1 as a fixed32 where bytes or a varint belong; protobuf takes it for an unknown field.
OTHER_TYPE: Final = b"\x0d\x01\x02\x03\x04"
UNKNOWN_FIELD: Final = b"\xf8\x3f\x01"
#: An unfinished varint.
ENDLESS: Final = b"\x08\xff\xff"

MAX_INT64: Final = 2**63 - 1
MIN_INT64: Final = -(2**63)
FUTURE: Final = 10**12
#: Compacted by ``prepare``.
COMPACTED: Final = 2
LEASE: Final = 7
MIB: Final = 1024 * 1024

DEADLINE_S: Final = 10.0

#: Where this server answers otherwise than etcd, and why.
DELIBERATE: Final = {
    "Maintenance/Alarm-unknown-action": "etcd dies of it",
    "Maintenance/Alarm-negative-action": "etcd dies of it",
    "Watch/Watch-progress-of-no-watch": "etcd does not answer; a client that asks is better told",
}

#: Where etcd's answer changed with 3.7.
SINCE_3_7: Final = {
    "Cluster/MemberAdd-bad-utf-8",
    "Cluster/MemberUpdate-bad-utf-8",
    "Maintenance/Downgrade-bad-utf-8",
}

#: What 3.6 takes: names that no message which carries them can be read back from.
ACCEPTED_BEFORE_3_7: Final = {
    "Auth/Authenticate-bad-utf-8",
    "Auth/RoleAdd-bad-utf-8",
    "Auth/UserAdd-bad-utf-8",
}


class Case(NamedTuple):
    """One request, or a stream of them."""

    id: str
    method: str
    payloads: tuple[bytes, ...]

    @property
    def is_stream(self) -> bool:
        """Whether the server answers with a stream."""
        return self.method in _STREAMS


_STREAMS: Final = {"Watch/Watch", "Lease/LeaseKeepAlive", "Maintenance/Snapshot", "KV/RangeStream"}

_RESPONSES: Final[dict[str, type[Message]]] = {
    "KV/Compact": pb.CompactionResponse,
    "Watch/Watch": pb.WatchResponse,
}


def _response_type(method: str) -> type[Message]:
    found = _RESPONSES.get(method)
    if found is None:
        service, _, name = method.partition("/")
        prefix = "Auth" if service == "Auth" and not name.startswith("Auth") else ""
        found = getattr(pb, f"{prefix}{name}Response")
    return found


def prepare(target: str) -> None:
    """Put what the cases refer to into an empty server."""
    with grpc.insecure_channel(target) as channel:

        def call(method: str, request: Message) -> None:
            payload = request.SerializeToString()
            channel.unary_unary(f"/etcdserverpb.{method}")(payload, timeout=DEADLINE_S)

        for key, value in ((b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"")):
            call("KV/Put", pb.PutRequest(key=key, value=value))
        call("Lease/LeaseGrant", pb.LeaseGrantRequest(ID=LEASE, TTL=3600))
        call("KV/Compact", pb.CompactionRequest(revision=3))
        call("Auth/UserAdd", pb.AuthUserAddRequest(name="u", password="p"))
        call("Auth/RoleAdd", pb.AuthRoleAddRequest(name="r"))


def outcome(target: str, case: Case) -> str:
    """Run a case; return what came of it."""
    with grpc.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)]) as channel:
        path = f"/etcdserverpb.{case.method}"
        answers: list[str] = []
        try:
            if case.is_stream:
                for answer in channel.stream_stream(path)(iter(case.payloads), timeout=DEADLINE_S):
                    answers.append(_described(case.method, answer))
                    if case.method == "Watch/Watch" and len(answers) == _watch_answers(case):
                        break
            else:
                answer = channel.unary_unary(path)(case.payloads[0], timeout=DEADLINE_S)
                answers.append(_described(case.method, answer))
        except grpc.RpcError as error:
            # Whether what came before it is still sent is a matter of chance.
            answers = [f"{error.code().name}: {_masked(error.details() or '')}"]
    return " | ".join(answers)


def _watch_answers(case: Case) -> int:
    """How many answers a watch stream gives before it falls silent."""
    count = 0
    for payload in case.payloads:
        try:
            request = pb.WatchRequest.FromString(payload)
        except DecodeError:
            return -1
        # A creation below the compact revision is answered, and then cancelled.
        is_compacted = 0 < request.create_request.start_revision <= COMPACTED
        count += 2 if is_compacted else request.WhichOneof("request_union") is not None
        if request.HasField("cancel_request") and request.cancel_request.watch_id > 100:
            count -= 1
    return count


def _masked(message: str) -> str:
    """Leave out what libraries say: protobuf of the place of a fault, gRPC of who counted bytes."""
    message = message.replace("SERVER: Received message larger", "grpc: received message larger")
    for prefix in ("grpc: error unmarshalling request: ", "grpc: failed to unmarshal the received message: "):
        if message.startswith(prefix):
            return prefix + "..."
    return message


def _described(method: str, answer: bytes) -> str:
    if method == "Maintenance/Snapshot":
        return "part"
    response = _response_type(method).FromString(answer)
    if "header" in response.DESCRIPTOR.fields_by_name:
        response.ClearField("header")
    if isinstance(response, pb.RangeStreamResponse):
        response = response.range_response
    if isinstance(response, pb.RangeResponse):
        return f"{min(len(response.kvs), 3)} pairs, more: {response.more}"
    if isinstance(response, pb.TxnResponse):
        kinds = [answer.WhichOneof("response") for answer in response.responses]
        return f"succeeded: {response.succeeded} {','.join(map(str, kinds[:3]))}"
    if isinstance(response, pb.StatusResponse | pb.HashKVResponse | pb.HashResponse):
        return "answered"
    if isinstance(response, pb.LeaseGrantResponse) and response.ID > 1000:
        response.ID = 1000
    if isinstance(response, pb.LeaseTimeToLiveResponse):
        response.TTL = min(response.TTL, 1)
    if isinstance(response, pb.MemberListResponse):
        return "listed"
    if isinstance(response, pb.LeaseLeasesResponse):
        return "listed"
    if isinstance(response, pb.AuthStatusResponse | pb.AuthUserListResponse | pb.AuthRoleListResponse):
        return "answered"
    if isinstance(response, pb.DowngradeResponse):
        return "version"
    return " ".join(str(response).split())


def _bytes(message: Message | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def _put(key: bytes = b"t", value: bytes = b"v", **fields: object) -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, **fields))  # type: ignore[arg-type]


def _del(key: bytes, range_end: bytes = b"") -> pb.RequestOp:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key, range_end=range_end))


def _get(key: bytes = b"a", **fields: object) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key, **fields))  # type: ignore[arg-type]


def _txn(*success: pb.RequestOp, failure: Sequence[pb.RequestOp] = ()) -> pb.TxnRequest:
    return pb.TxnRequest(success=success, failure=failure)


def _nested(*success: pb.RequestOp, failure: Sequence[pb.RequestOp] = ()) -> pb.RequestOp:
    return pb.RequestOp(request_txn=_txn(*success, failure=failure))


def _deep(depth: int) -> pb.TxnRequest:
    txn = _txn(_put())
    for _ in range(depth):
        txn = pb.TxnRequest(success=[pb.RequestOp(request_txn=txn)])
    return txn


def _compare(**fields: object) -> pb.TxnRequest:
    return pb.TxnRequest(compare=[pb.Compare(**fields)], success=[_get()])  # type: ignore[arg-type]


def _raw_enum(field: int, number: int) -> bytes:
    """One varint field, whatever the generated code would think of its value."""
    out = bytearray()
    number &= 2**64 - 1
    tag = field << 3
    for part in (tag, number):
        while part > 0x7F:
            out.append(part & 0x7F | 0x80)
            part >>= 7
        out.append(part)
    return bytes(out)


def _string(field: int, value: bytes) -> bytes:
    return bytes((field << 3 | 2, len(value))) + value


_R, _P, _D, _L = pb.RangeRequest, pb.PutRequest, pb.DeleteRangeRequest, pb.LeaseGrantRequest
_BAD_UTF8: Final = b"\xff\xfe"

#: Method -> case -> payload.
_UNARY: Final[dict[str, dict[str, Message | bytes]]] = {
    "KV/Range": {
        "empty": b"",
        "no-key-but-an-end": _R(range_end=b"z"),
        "end-below-key": _R(key=b"b", range_end=b"a"),
        "end-is-key": _R(key=b"b", range_end=b"b"),
        "everything": _R(key=b"\0", range_end=b"\0"),
        "negative-limit": _R(key=b"a", range_end=b"d", limit=-1),
        "least-limit": _R(key=b"a", range_end=b"d", limit=MIN_INT64),
        "greatest-limit": _R(key=b"a", range_end=b"d", limit=MAX_INT64),
        "negative-revision": _R(key=b"a", revision=-5),
        "future-revision": _R(key=b"a", revision=FUTURE),
        "greatest-revision": _R(key=b"a", revision=MAX_INT64),
        "compacted-revision": _R(key=b"a", revision=COMPACTED),
        "compacted-revision-of-no-key": _R(key=b"none", revision=1),
        "compacted-revision-of-an-empty-range": _R(key=b"b", range_end=b"a", revision=1),
        "unknown-order": _bytes(_R(key=b"a")) + _raw_enum(5, 3),
        "negative-order": _bytes(_R(key=b"a")) + _raw_enum(5, -1),
        "unknown-target": _bytes(_R(key=b"a")) + _raw_enum(6, 5),
        "huge-target": _bytes(_R(key=b"a")) + _raw_enum(6, 2**31 - 1),
        "unknown-order-without-key": _raw_enum(5, 9),
        "crossed-filters": _R(key=b"a", range_end=b"d", min_mod_revision=9, max_mod_revision=3),
        "negative-filters": _R(key=b"a", range_end=b"d", min_mod_revision=-9, max_create_revision=-3),
        "limit-with-target-but-no-order": _R(key=b"a", range_end=b"d", limit=1, sort_target=4),
        "count-only-with-limit": _R(key=b"a", range_end=b"d", limit=1, count_only=True, keys_only=True),
        "key-of-2-MiB": _R(key=b"k" * (2 * MIB - 100)),
        "above-the-largest-message": _R(key=b"k" * (2 * MIB)),
    },
    "KV/Put": {
        "empty": b"",
        "no-key": _P(value=b"v"),
        "no-key-and-both-flags": _P(ignore_lease=True, ignore_value=True),
        "value-to-ignore": _P(key=b"a", value=b"v", ignore_value=True),
        "lease-to-ignore": _P(key=b"a", lease=5, ignore_lease=True),
        "both-to-ignore": _P(key=b"a", value=b"v", lease=5, ignore_lease=True, ignore_value=True),
        "ignored-value-of-no-key": _P(key=b"none", ignore_value=True),
        "ignored-lease-of-no-key": _P(key=b"none", value=b"v", ignore_lease=True),
        "unknown-lease": _P(key=b"a", lease=99),
        "negative-lease": _P(key=b"a", lease=-1),
        "unknown-lease-and-no-key-to-ignore": _P(key=b"none", lease=99, ignore_value=True),
        "request-too-large": _P(key=b"a", value=b"v" * (3 * MIB // 2)),
        "key-too-large": _P(key=b"k" * (3 * MIB // 2)),
        "above-the-largest-message": _P(key=b"k", value=b"v" * (2 * MIB)),
        "far-above-the-largest-message": _P(key=b"k", value=b"v" * (5 * MIB)),
        "binary-key": _P(key=bytes(range(256)), value=bytes(range(256))),
        "field-twice": _bytes(_P(key=b"x")) + _bytes(_P(key=b"y")),
    },
    "KV/DeleteRange": {
        "empty": b"",
        "no-key-but-an-end": _D(range_end=b"z"),
        "end-below-key": _D(key=b"b", range_end=b"a", prev_kv=True),
        "no-such-key": _D(key=b"none"),
    },
    "KV/Txn": {
        "empty": b"",
        "empty-operation": pb.TxnRequest(success=[pb.RequestOp()]),
        "empty-operation-in-the-other-branch": pb.TxnRequest(failure=[pb.RequestOp()]),
        "put-without-key": _txn(_put(b"")),
        "put-without-key-in-the-other-branch": _txn(failure=[_put(b"")]),
        "range-without-key": _txn(_get(b"")),
        "delete-without-key": _txn(_del(b"")),
        "compare-without-key": _compare(target=pb.Compare.VALUE, value=b"1"),
        "compare-without-anything-to-compare": _compare(key=b"a", target=pb.Compare.VALUE),
        "compare-of-another-kind-than-the-target": _compare(key=b"a", target=pb.Compare.VALUE, version=1),
        "compare-with-unknown-target": b"\x0a\x07\x10\x09\x1a\x01a\x20\x01" + _bytes(_txn(_get())),
        "compare-with-unknown-result": b"\x0a\x07\x08\x09\x1a\x01a\x20\x01" + _bytes(_txn(_get())),
        "compare-of-an-empty-range": _compare(key=b"z", range_end=b"b", target=pb.Compare.CREATE),
        "sort-unknown": _txn(pb.RequestOp.FromString(_string(1, _bytes(_R(key=b"a")) + _raw_enum(5, 9)))),
        "a-key-twice": _txn(_put(), _put()),
        "a-key-twice-in-the-other-branch": _txn(failure=[_put(), _put()]),
        "a-key-in-both-branches": _txn(_put(), failure=[_put()]),
        "put-and-delete": _txn(_put(b"x"), _del(b"x")),
        "delete-and-put": _txn(_del(b"x"), _put(b"x")),
        "put-in-a-deleted-range": _txn(_del(b"a", b"z"), _put(b"m")),
        "put-behind-a-deleted-range": _txn(failure=[_del(b"x", b"z"), _put(b"z")]),
        "put-after-deletion-without-end": _txn(failure=[_del(b"x", b"\0"), _put(b"y")]),
        "put-after-deletion-of-everything": _txn(failure=[_del(b"\0", b"\0"), _put(b"y")]),
        "put-in-an-upside-down-deletion": _txn(failure=[_del(b"z", b"a"), _put(b"m")]),
        "overlapping-deletions": _txn(failure=[_del(b"x", b"z"), _del(b"y", b"zz")]),
        "nested-duplicate": _txn(_put(b"x"), _nested(_put(b"x"))),
        "nested-duplicate-in-its-other-branch": _txn(_put(b"x"), _nested(failure=[_put(b"x")])),
        "two-nested-with-one-key": _txn(_nested(_put(b"x")), _nested(_put(b"x"))),
        "nested-branches-with-one-key": _txn(_nested(_put(b"x"), failure=[_put(b"x")])),
        "nested-delete-of-a-put-key": _txn(_put(b"x"), _nested(_del(b"x"))),
        "nested-put-of-a-deleted-key": _txn(_del(b"x"), _nested(_put(b"x"))),
        "nested-delete-of-an-earlier-nested-put": _txn(_nested(_put(b"x")), _nested(_del(b"x"))),
        "nested-put-after-an-earlier-nested-delete": _txn(_nested(_del(b"x")), _nested(_put(b"x"))),
        "nested-empty-operation": _txn(_nested(pb.RequestOp())),
        "128-operations": _txn(*(_put(b"t%d" % n) for n in range(128))),
        "129-operations": _txn(*(_put(b"t%d" % n) for n in range(129))),
        "129-in-the-other-branch": _txn(failure=[_put(b"t%d" % n) for n in range(129)]),
        "129-compares": pb.TxnRequest(compare=[pb.Compare(key=b"a")] * 129),
        "too-many-with-the-nested": _txn(_nested(*(_get() for _ in range(128)))),
        "as-many-as-fit-with-the-nested": _txn(_nested(*(_get() for _ in range(127)))),
        "nested-20-deep": _deep(20),
        "future-revision": _txn(_get(revision=FUTURE)),
        "future-revision-after-a-put": _txn(_put(b"x"), _get(revision=FUTURE)),
        "negative-revision": _txn(_put(b"x"), _get(revision=-1)),
        "compacted-revision": _txn(_put(b"x"), _get(revision=COMPACTED)),
        "negative-revision-only-reads": _txn(_get(revision=-1)),
        "compacted-revision-in-the-branch-not-taken": _txn(_get(), failure=[_get(revision=1)]),
        "unknown-lease": _txn(_put(b"x", lease=99)),
        "unknown-lease-after-a-put": _txn(_put(b"y"), _put(b"x", lease=99)),
        "ignored-value-of-no-key": _txn(_put(b"none", b"", ignore_value=True)),
        "value-to-ignore": _txn(_put(b"a", b"v", ignore_value=True)),
        "request-too-large": _txn(_put(b"x", b"v" * (3 * MIB // 2))),
        "bad-operation-of-an-unknown-kind": pb.TxnRequest.FromString(b"\x12\x03\x4a\x01a"),
    },
    "KV/Compact": {
        "empty": b"",
        "negative": pb.CompactionRequest(revision=-1),
        "least": pb.CompactionRequest(revision=MIN_INT64),
        "future": pb.CompactionRequest(revision=FUTURE),
        "again": pb.CompactionRequest(revision=3),
        "compacted": pb.CompactionRequest(revision=1, physical=True),
    },
    "Lease/LeaseGrant": {
        "empty": b"",
        "negative-ttl": _L(ID=1001, TTL=-5),
        "ttl-0": _L(ID=1002),
        "ttl-1": _L(ID=1003, TTL=1),
        "ttl-above-the-largest": _L(ID=1004, TTL=9_000_000_001),
        "greatest-ttl": _L(ID=1005, TTL=MAX_INT64),
        "negative-id": _L(ID=-7, TTL=60),
        "id-in-use": _L(ID=LEASE, TTL=60),
        "id-in-use-and-ttl-too-large": _L(ID=LEASE, TTL=MAX_INT64),
    },
    "Lease/LeaseRevoke": {
        "empty": b"",
        "unknown": pb.LeaseRevokeRequest(ID=99),
        "negative": pb.LeaseRevokeRequest(ID=-1),
    },
    "Lease/LeaseTimeToLive": {
        "empty": b"",
        "unknown": pb.LeaseTimeToLiveRequest(ID=99, keys=True),
        "negative": pb.LeaseTimeToLiveRequest(ID=MIN_INT64),
    },
    "Lease/LeaseLeases": {},
    "Cluster/MemberAdd": {
        "empty": b"",
        "learner-without-urls": pb.MemberAddRequest(isLearner=True),
        "no-url": pb.MemberAddRequest(peerURLs=["nonsense"]),
        "empty-url": pb.MemberAddRequest(peerURLs=[""]),
        "no-port": pb.MemberAddRequest(peerURLs=["http://127.0.0.1"]),
        "path": pb.MemberAddRequest(peerURLs=["http://127.0.0.1:1/path"]),
        "other-scheme": pb.MemberAddRequest(peerURLs=["ftp://127.0.0.1:1"]),
        "bad-port": pb.MemberAddRequest(peerURLs=["http://127.0.0.1:port"]),
        "one-bad-of-two": pb.MemberAddRequest(peerURLs=["http://127.0.0.1:1", ":"]),
        "control-character": pb.MemberAddRequest(peerURLs=["http://127.0.0\n.1:1"]),
        "space": pb.MemberAddRequest(peerURLs=["http://127.0.0 .1:1"]),
        "bad-utf-8": _string(1, _BAD_UTF8),
    },
    "Cluster/MemberRemove": {
        "empty": b"",
        "unknown": pb.MemberRemoveRequest(ID=99),
        "greatest": pb.MemberRemoveRequest(ID=2**64 - 1),
    },
    "Cluster/MemberUpdate": {
        "empty": b"",
        "unknown": pb.MemberUpdateRequest(ID=99, peerURLs=["http://127.0.0.1:1"]),
        "unknown-with-a-bad-url": pb.MemberUpdateRequest(ID=99, peerURLs=["nonsense"]),
        "bad-utf-8": _bytes(pb.MemberUpdateRequest(ID=99)) + _string(2, _BAD_UTF8),
    },
    "Cluster/MemberList": {},
    "Cluster/MemberPromote": {"empty": b"", "unknown": pb.MemberPromoteRequest(ID=99)},
    "Maintenance/Alarm": {
        "unknown-action": _raw_enum(1, 9),
        "negative-action": _raw_enum(1, -1),
        "get-of-an-unknown-type": _raw_enum(3, 9),
        "activate-none": pb.AlarmRequest(action=1),
        "deactivate-none": pb.AlarmRequest(action=2),
        "deactivate-what-is-not-raised": pb.AlarmRequest(action=2, memberID=9, alarm=1),
    },
    "Maintenance/Status": {},
    "Maintenance/Defragment": {},
    "Maintenance/Hash": {},
    "Maintenance/HashKV": {
        "negative": pb.HashKVRequest(revision=-1),
        "future": pb.HashKVRequest(revision=FUTURE),
        "compacted": pb.HashKVRequest(revision=COMPACTED),
    },
    "Maintenance/MoveLeader": {
        "empty": b"",
        "unknown": pb.MoveLeaderRequest(targetID=99),
    },
    "Maintenance/Downgrade": {
        "empty": b"",
        "unknown-action": _raw_enum(1, 9),
        "validate-nonsense": pb.DowngradeRequest(version="nonsense"),
        "validate-with-v": pb.DowngradeRequest(version="v3.5"),
        "validate-too-far-down": pb.DowngradeRequest(version="3.2"),
        "validate-upwards": pb.DowngradeRequest(version="3.99.0"),
        "enable-nonsense": pb.DowngradeRequest(action=1, version="3"),
        "enable-too-far-down": pb.DowngradeRequest(action=1, version="3.1.5"),
        "bad-utf-8": _string(2, _BAD_UTF8),
    },
}

_UNARY["Auth/AuthEnable"] = {"without-root": b""}
_UNARY["Auth/AuthDisable"] = {"empty": b""}
_UNARY["Auth/AuthStatus"] = {"empty": b""}
_UNARY["Auth/Authenticate"] = {
    "empty": b"",
    "while-disabled": pb.AuthenticateRequest(name="u", password="p"),
    "bad-utf-8": _string(1, _BAD_UTF8),
}
_UNARY["Auth/UserAdd"] = {
    "empty": b"",
    "no-name": pb.AuthUserAddRequest(password="p"),
    "in-use": pb.AuthUserAddRequest(name="u", password="p"),
    "no-password": pb.AuthUserAddRequest(name="u2"),
    "bad-hash": pb.AuthUserAddRequest(name="u3", hashedPassword="%%%"),
    "bad-utf-8": _string(1, _BAD_UTF8),
}
_UNARY["Auth/UserGet"] = {"empty": b"", "unknown": pb.AuthUserGetRequest(name="none")}
_UNARY["Auth/UserList"] = {}
_UNARY["Auth/UserDelete"] = {"empty": b"", "unknown": pb.AuthUserDeleteRequest(name="none")}
_UNARY["Auth/UserChangePassword"] = {
    "empty": b"",
    "unknown": pb.AuthUserChangePasswordRequest(name="none", password="p"),
    "no-password": pb.AuthUserChangePasswordRequest(name="u"),
}
_UNARY["Auth/UserGrantRole"] = {
    "empty": b"",
    "unknown-user": pb.AuthUserGrantRoleRequest(user="none", role="r"),
    "unknown-role": pb.AuthUserGrantRoleRequest(user="u", role="none"),
}
_UNARY["Auth/UserRevokeRole"] = {
    "empty": b"",
    "unknown-user": pb.AuthUserRevokeRoleRequest(name="none", role="r"),
    "not-granted": pb.AuthUserRevokeRoleRequest(name="u", role="r"),
}
_UNARY["Auth/RoleAdd"] = {
    "empty": b"",
    "in-use": pb.AuthRoleAddRequest(name="r"),
    "bad-utf-8": _string(1, _BAD_UTF8),
}
_UNARY["Auth/RoleGet"] = {"empty": b"", "unknown": pb.AuthRoleGetRequest(role="none")}
_UNARY["Auth/RoleList"] = {}
_UNARY["Auth/RoleDelete"] = {"empty": b"", "unknown": pb.AuthRoleDeleteRequest(role="none")}


def _grant(role: str, *, kind: int = 0, key: bytes = b"", range_end: bytes = b"") -> bytes:
    permission = _raw_enum(1, kind) + Permission(key=key, range_end=range_end).SerializeToString()
    return _string(1, role.encode()) + _string(2, permission)


_UNARY["Auth/RoleGrantPermission"] = {
    "empty": b"",
    "unknown-role": _grant("none", key=b"a"),
    "no-permission": _string(1, b"r"),
    "no-key": _grant("r", range_end=b"z"),
    "end-below-key": _grant("r", key=b"z", range_end=b"a"),
    "end-is-key": _grant("r", key=b"z", range_end=b"z"),
    "unknown-kind": _grant("r", kind=9, key=b"a"),
}
_UNARY["Auth/RoleRevokePermission"] = {
    "empty": b"",
    "unknown-role": pb.AuthRoleRevokePermissionRequest(role="none", key=b"a"),
    "not-granted": pb.AuthRoleRevokePermissionRequest(role="r", key=b"never"),
}

_CREATE = pb.WatchCreateRequest


def _watch(**fields: object) -> bytes:
    return pb.WatchRequest(create_request=_CREATE(**fields)).SerializeToString()  # type: ignore[arg-type]


def _cancel(watch_id: int) -> bytes:
    return pb.WatchRequest(cancel_request=pb.WatchCancelRequest(watch_id=watch_id)).SerializeToString()


_PROGRESS: Final = pb.WatchRequest(progress_request=pb.WatchProgressRequest()).SerializeToString()


def _renew(lease_id: int) -> bytes:
    return pb.LeaseKeepAliveRequest(ID=lease_id).SerializeToString()


_STREAMED: Final[dict[str, dict[str, tuple[Message | bytes, ...]]]] = {
    "Watch/Watch": {
        "garbage": (GARBAGE,),
        "garbage-behind-a-watch": (_watch(key=b"a"), GARBAGE),
        "truncated": (TRUNCATED,),
        "nothing-asked-then-a-watch": (b"", _watch(key=b"a")),
        "no-key": (_watch(),),
        "negative-start": (_watch(key=b"a", start_revision=-1),),
        "future-start": (_watch(key=b"a", start_revision=FUTURE),),
        "compacted-start": (_watch(key=b"none", start_revision=1),),
        "end-below-key": (_watch(key=b"b", range_end=b"a"),),
        "end-is-key": (_watch(key=b"b", range_end=b"b"),),
        "no-key-and-an-end-below-every-key": (_watch(range_end=b"\0"),),
        "id-in-use": (_watch(key=b"a", watch_id=5), _watch(key=b"b", watch_id=5)),
        "negative-id": (_watch(key=b"a", watch_id=-2),),
        "id-minus-one": (_watch(key=b"a", watch_id=-1),),
        "greatest-id": (_watch(key=b"a", watch_id=MAX_INT64),),
        "chosen-and-given-ids": (_watch(key=b"a", watch_id=1), _watch(key=b"b"), _watch(key=b"c")),
        "cancel-of-an-unknown-id": (_cancel(999), _watch(key=b"a")),
        "cancel-twice": (_watch(key=b"a"), _cancel(0), _cancel(0 + 999), _watch(key=b"b")),
        "unknown-filter": (_bytes(pb.WatchRequest.FromString(b"\x0a\x06\x0a\x01a\x2a\x01\x09")),),
        "every-filter": (_watch(key=b"a", filters=[0, 1], prev_kv=True, fragment=True),),
        "progress-of-no-watch": (_PROGRESS,),
        "progress-of-a-watch": (_watch(key=b"a"), _PROGRESS),
    },
    "Lease/LeaseKeepAlive": {
        "garbage": (GARBAGE,),
        "garbage-behind-a-renewal": (_renew(LEASE), GARBAGE),
        "empty": (b"",),
        "unknown": (_renew(99),),
        "negative": (_renew(-1),),
        "known-and-unknown": (_renew(LEASE), _renew(99), _renew(LEASE)),
        "nothing": (),
    },
    "Maintenance/Snapshot": {"garbage": (GARBAGE,)},
    "KV/RangeStream": {
        "garbage": (GARBAGE,),
        "empty": (b"",),
        "no-key-but-an-end": (_R(range_end=b"z"),),
        "end-below-key": (_R(key=b"b", range_end=b"a"),),
        "unknown-order": (_bytes(_R(key=b"a")) + _raw_enum(5, 3),),
        "unknown-target": (_bytes(_R(key=b"a")) + _raw_enum(6, 5),),
        "descending": (_R(key=b"a", sort_order=2),),
        "by-value": (_R(key=b"a", range_end=b"z", sort_order=1, sort_target=4),),
        "by-value-without-order": (_R(key=b"a", range_end=b"c", sort_target=4),),
        "filtered": (_R(key=b"a", max_mod_revision=9),),
        "future-revision": (_R(key=b"a", revision=FUTURE),),
        "compacted-revision": (_R(key=b"a", revision=COMPACTED),),
        "negative-revision": (_R(key=b"a", revision=-1),),
        "negative-limit": (_R(key=b"a", range_end=b"c", limit=-1),),
        "above-the-largest-message": (_R(key=b"k" * (2 * MIB)),),
    },
}


def _cases() -> Iterator[Case]:
    for method, payloads in _UNARY.items():
        malformed = {
            "garbage": GARBAGE,
            "truncated": TRUNCATED,
            "endless-number": ENDLESS,
            "unknown-field": UNKNOWN_FIELD,
        }
        for name, payload in {**payloads, **malformed}.items():
            yield Case(f"{method}-{name}", method, (_bytes(payload),))
    for method, streams in _STREAMED.items():
        for name, requests in streams.items():
            yield Case(f"{method}-{name}", method, tuple(_bytes(request) for request in requests))


CASES: Final = tuple(_cases())

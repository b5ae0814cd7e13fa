"""The same HTTP requests to etcd and to kvnode: status, content type and body are the same, byte for byte.

Identities, times, sizes and Raft's own numbers are masked; revisions are not, so that every case does the
same to both sides, in the same order.
"""

import base64
import contextlib
import difflib
import http.client
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from kvtest.ports import free_port
from kvtest.processes import ClusterProcesses

#: How long an answer may take.
TIMEOUT_S = 10.0

#: What differs from run to run whatever the server.
VARYING = [
    (
        re.compile(r'("(?:cluster_id|member_id|raft_term|leader|dbSize|dbSizeInUse|dbSizeQuota)":)"\d+"'),
        r"\1N",
    ),
    (re.compile(r'("(?:raftIndex|raftTerm|raftAppliedIndex)":)"\d+"'), r"\1N"),
    (re.compile(r'("(?:hash)":)\d+'), r"\1N"),
    (re.compile(r'("version":)"3\.\d+\.\d+"'), r"\1VERSION"),
    (re.compile(r'("(?:ID|lease)":)"\d{10,}"'), r"\1N"),
    (re.compile(r'("TTL":)"\d+"(,"grantedTTL")'), r"\1N\2"),
    (re.compile(r'("token":)"[^"]*"'), r"\1N"),
    (re.compile(r"127\.0\.0\.1:\d+"), "HOST"),
    # Whichever of its two ends etcd hears from first when the time is over.
    (re.compile(r"stream terminated by RST_STREAM with error code: CANCEL"), "context deadline exceeded"),
]


class Request(NamedTuple):
    """One request; ``lines`` is how many lines of an endless stream are read, 0 for an answer that ends."""

    target: str
    body: bytes = b"{}"
    method: str = "POST"
    lines: int = 0
    headers: Sequence[tuple[str, str]] = ()


class HttpSide:
    """One of the two servers."""

    def __init__(self, cluster: ClusterProcesses, port: int) -> None:
        self._cluster = cluster
        self._port = port
        self.token = ""

    def ask(self, request: Request) -> str:
        """Return status, content type, redirection and body, masked."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        headers = {name: value.replace("{token}", self.token) for name, value in request.headers}
        with contextlib.closing(connection):
            connection.request(request.method, request.target, request.body or None, headers)
            response = connection.getresponse()
            if request.lines:
                body = b"".join(response.readline() for _ in range(request.lines))
            else:
                body = response.read()
        head = [str(response.status)]
        for name in ("Content-Type", "Location", "WWW-Authenticate", "Access-Control-Allow-Origin"):
            head.append(response.headers.get(name, "-"))
        if request.target == "/v3/auth/authenticate" and response.status == 200:
            self.token = json.loads(body)["token"]
        return "\n".join([" ".join(head), masked(body.decode())])


HttpSides = tuple[HttpSide, HttpSide]


def masked(text: str) -> str:
    for pattern, replacement in VARYING:
        text = pattern.sub(replacement, text)
    return text


@contextlib.contextmanager
def one_side(directory: Path, command: Sequence[str] | None) -> Iterator[HttpSide]:
    directory.mkdir()
    port = free_port()
    flags = {"listen-client-http-urls": f"http://127.0.0.1:{port}"}
    with ClusterProcesses(directory, 1, flags=flags, command=command) as cluster:
        yield HttpSide(cluster, port)


@pytest.fixture(scope="module")
def http_sides(etcd: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpSides]:
    directory = tmp_path_factory.mktemp("gateway")
    with one_side(directory / "etcd", [etcd]) as theirs, one_side(directory / "kvnode", None) as ours:
        yield theirs, ours


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def call(path: str, *, lines: int = 0, headers: Sequence[tuple[str, str]] = (), **fields: object) -> Request:
    """A call with the JSON of ``fields``."""
    return Request(f"/v3/{path}", json.dumps(fields).encode(), lines=lines, headers=headers)


def raw(path: str, text: str, *, lines: int = 0) -> Request:
    """A call whose body is ``text``."""
    return Request(f"/v3/{path}", text.encode("utf-8", "surrogateescape"), lines=lines)


K, A, B, Z = (b64(f"g/{name}") for name in ("k", "a", "b", "z"))
END = b64("g0")
BINARY = b64("g/\x00\x7f")
FILL = (
    call("kv/put", key=A, value=b64("1")),
    call("kv/put", key=B, value=b64("<&>")),
    call("kv/put", key=K, value=b64("3"), prev_kv=True),
)
ROOT = (("Authorization", "{token}"),)

CASES: dict[str, Sequence[Request]] = {
    # KV.
    "put": FILL,
    "put-again": [*FILL, call("kv/put", key=K, value=b64("4"), prevKv=True)],
    "put-ignore-value": [*FILL, call("kv/put", key=K, ignore_value=True)],
    "put-no-key": [call("kv/put"), call("kv/put", key="")],
    "put-value-and-ignore": [call("kv/put", key=K, value="eA==", ignore_value=True)],
    "put-unknown-lease": [call("kv/put", key=K, lease="77")],
    "put-binary": [call("kv/put", key=BINARY, value="/+8="), call("kv/range", key=BINARY)],
    "range": [*FILL, call("kv/range", key=K), call("kv/range", key=Z)],
    "range-all": [*FILL, call("kv/range", key=A, range_end=END)],
    "range-limit": [*FILL, call("kv/range", key=A, range_end=END, limit=2)],
    "range-descend": [*FILL, call("kv/range", key=A, range_end=END, sort_order="DESCEND", sortTarget="MOD")],
    "range-keys-only": [*FILL, call("kv/range", key=A, range_end=END, keys_only=True)],
    "range-count-only": [*FILL, call("kv/range", key=A, rangeEnd=END, countOnly=True)],
    "range-serializable": [*FILL, call("kv/range", key=K, serializable=True)],
    "range-future": [call("kv/range", key=K, revision=1000000)],
    "range-invalid-sort": [call("kv/range", key=K, sort_order=77)],
    "range-unknown-enum-name": [*FILL, call("kv/range", key=K, sort_order="SIDEWAYS")],
    "delete": [*FILL, call("kv/deleterange", key=K), call("kv/deleterange", key=K)],
    "delete-range": [*FILL, call("kv/deleterange", key=A, range_end=END, prev_kv=True)],
    "delete-no-key": [call("kv/deleterange")],
    "txn": [
        *FILL,
        call(
            "kv/txn",
            compare=[{"target": "VALUE", "result": "EQUAL", "key": A, "value": b64("1")}],
            success=[
                {"request_put": {"key": Z, "value": b64("5")}},
                {"requestRange": {"key": A, "range_end": END}},
                {"request_delete_range": {"key": Z}},
            ],
            failure=[],
        ),
    ],
    "txn-fails": [
        *FILL,
        call(
            "kv/txn",
            compare=[{"target": "CREATE", "key": A, "create_revision": "0"}],
            success=[{"request_put": {"key": Z}}],
            failure=[{"request_range": {"key": A}}],
        ),
    ],
    "txn-nested": [
        call("kv/txn", success=[{"request_txn": {"success": [{"request_put": {"key": Z}}]}}]),
        call("kv/deleterange", key=Z),
    ],
    "txn-empty": [call("kv/txn")],
    "txn-empty-op": [call("kv/txn", success=[{}])],
    "txn-duplicate": [call("kv/txn", success=[{"request_put": {"key": Z}}, {"request_put": {"key": Z}}])],
    "txn-two-in-one-op": [raw("kv/txn", '{"success":[{"request_put":{},"requestRange":{}}]}')],
    "txn-two-targets": [raw("kv/txn", '{"compare":[{"version":1,"value":""}]}')],
    "compaction-future": [call("kv/compaction", revision=1000000)],
    "compaction": [
        *FILL,
        call("kv/compaction", revision="2"),
        call("kv/compaction", revision=2, physical=True),
        call("kv/range", key=K, revision=1),
    ],
    # Lease.
    "lease": [
        call("lease/grant", TTL=100, ID=4242),
        call("lease/grant", TTL="100", ID="4242"),
        call("kv/put", key=K, lease=4242),
        call("lease/timetolive", ID=4242, keys=True),
        call("kv/lease/timetolive", ID=4242),
        call("lease/leases"),
        call("kv/lease/leases"),
        raw("lease/keepalive", '{"ID":4242}{"ID":"1"}\n{"ID":"4242"}'),
        call("kv/lease/revoke", ID=4242),
        call("lease/revoke", ID=4242),
        call("lease/timetolive", ID=4242),
    ],
    "lease-too-long": [call("lease/grant", TTL=9000000001)],
    "lease-names-are-capital": [call("lease/timetolive", id=5, Keys=True)],
    "keepalive-of-nothing": [Request("/v3/lease/keepalive", b"")],
    # Watch.
    "watch-history": [
        *FILL,
        call("kv/deleterange", key=B),
        call(
            "watch",
            lines=2,
            create_request={"key": A, "range_end": END, "start_revision": "{first}", "prev_kv": True},
        ),
    ],
    "watch-twice-and-cancel": [
        raw(
            "watch",
            '{"create_request":{"key":"aw=="}} {"createRequest":{"key":"bA==","watchId":"7"}}'
            '{"cancel_request":{"watch_id":7}}',
            lines=3,
        )
    ],
    "watch-empty-range": [call("watch", lines=1, create_request={"key": "eg==", "range_end": "YQ=="})],
    "watch-compacted": [
        *FILL,
        call("kv/compaction", revision="{current}"),
        call("watch", lines=2, create_request={"key": K, "start_revision": "1"}),
    ],
    # Cluster and Maintenance.
    "member-list": [call("cluster/member/list"), call("cluster/member/list", linearizable=True)],
    "member-unknown": [
        call("cluster/member/remove", ID=5),
        call("cluster/member/promote", ID="5"),
        call("cluster/member/update", ID=5, peerURLs=["http://127.0.0.1:1"]),
        call("cluster/member/add", peerURLs=[]),
        call("cluster/member/add", peerURLs=["nonsense"]),
    ],
    "status": [call("maintenance/status")],
    "alarms": [
        call("maintenance/alarm", action="GET"),
        call("maintenance/alarm", action="ACTIVATE", memberID=1, alarm="NOSPACE"),
        call("kv/put", key=K),
        call("maintenance/alarm", action=0),
        call("maintenance/alarm", action="DEACTIVATE", memberID="1", alarm=1),
    ],
    "defragment": [call("maintenance/defragment")],
    "hash": [
        call("maintenance/hash"),
        call("maintenance/hashkv"),
        call("maintenance/hashkv", revision=1000000),
    ],
    "transfer-to-nobody": [call("maintenance/transfer-leadership", targetID=5)],
    "downgrade": [
        call("maintenance/downgrade", action="VALIDATE", version="3.5"),
        call("maintenance/downgrade", action="VALIDATE", version="2.0"),
        call("maintenance/downgrade", action="VALIDATE", version="x"),
        call("maintenance/downgrade", action="CANCEL"),
    ],
    # Lock and Election.
    "lock": [
        call("lease/grant", TTL=100, ID=51),
        call("lock/lock", name=b64("l"), lease=51),
        call("lock/lock", name=b64("l"), lease="51"),
        call("lock/unlock", key=b64("l/33")),
        call("lock/unlock", key=b64("l/33")),
        call("lock/unlock"),
        call("lock/lock", name=b64("l"), lease=999),
        call("lease/revoke", ID=51),
    ],
    "lock-in-vain": [
        call("lease/grant", TTL=100, ID=52),
        call("lease/grant", TTL=100, ID=53),
        call("lock/lock", name=b64("v"), lease=52),
        call("lock/lock", name=b64("v"), lease=53, headers=[("Grpc-Timeout", "300m")]),
        call("lease/revoke", ID=52),
        call("lease/revoke", ID=53),
    ],
    "election": [
        call("election/leader", name=b64("e")),
        call("lease/grant", TTL=100, ID=61),
        call("election/campaign", name=b64("e"), lease=61, value=b64("v")),
        call("election/leader", name=b64("e")),
        call("election/observe", name=b64("e"), lines=1),
        call("election/campaign", name=b64("e"), lease=61, value=b64("w")),
        call("election/proclaim", leader={"name": b64("e"), "key": b64("e/3d"), "rev": 1}, value="eA=="),
        call("election/proclaim", value="eA=="),
        call("election/resign", leader={"name": b64("e"), "key": b64("e/3d"), "rev": 1}),
        call("election/resign"),
        call("election/resign", leader={}),
        call("election/campaign", name=b64("e"), lease=999),
        call("lease/revoke", ID=61),
        call("election/leader", name=b64("e")),
    ],
    # Auth.
    "auth-off": [
        call("auth/status"),
        call("auth/enable"),
        call("auth/disable"),
        call("auth/authenticate", name="a", password="b"),
        call("auth/user/list"),
        call("auth/role/list"),
    ],
    "auth-refused": [
        call("auth/user/get", name="nobody"),
        call("auth/user/add"),
        call("auth/user/delete", name="nobody"),
        call("auth/user/changepw", name="nobody", password="p"),
        call("auth/user/grant", user="nobody", role="none"),
        call("auth/user/revoke", name="nobody", role="none"),
        call("auth/role/get", role="none"),
        call("auth/role/add"),
        call("auth/role/delete", role="none"),
        call("auth/role/grant", name="none", perm={"permType": "READ", "key": K}),
        call("auth/role/revoke", role="none", key=K),
    ],
    "auth": [
        call("auth/user/add", name="root", password="p"),
        call("auth/user/add", name="root", password="p"),
        call("auth/role/add", name="root"),
        call("auth/user/grant", user="root", role="root"),
        call("auth/role/add", name="reader"),
        call("auth/role/grant", name="reader", perm={"permType": "READ", "key": A, "range_end": END}),
        call("auth/role/get", role="reader"),
        call("auth/user/add", name="u", options={"no_password": False}, password="q"),
        call("auth/user/grant", user="u", role="reader"),
        call("auth/user/get", name="u"),
        call("auth/enable"),
        call("kv/range", key=A),
        call("maintenance/snapshot"),
        raw("lease/keepalive", '{"ID":1}'),
        call("lock/lock", name=A),
        call("cluster/member/list"),
        call("watch", lines=1, create_request={"key": A}),
        call("kv/range", key=A, headers=[("Authorization", "nonsense")]),
        call("auth/authenticate", name="u", password="wrong"),
        call("auth/authenticate", name="u", password="q"),
        call("kv/range", key=A, keys_only=True, headers=ROOT),
        call("kv/range", key=A, headers=[("Authorization", "Bearer {token}")], count_only=True),
        call("kv/range", key=A, headers=[("Grpc-Metadata-Token", "{token}")], count_only=True),
        call("kv/put", key=A, headers=ROOT),
        call("kv/compaction", revision=1, headers=ROOT),
        call("auth/user/list", headers=ROOT),
        call("lock/lock", name=b64("g"), headers=ROOT),
        call("auth/authenticate", name="root", password="p"),
        call("auth/user/list", headers=ROOT),
        call("auth/role/list", headers=ROOT),
        call("auth/user/revoke", name="u", role="reader", headers=ROOT),
        call("auth/role/revoke", role="reader", key=A, range_end=END, headers=ROOT),
        call("auth/user/changepw", name="u", password="r", headers=ROOT),
        call("auth/user/delete", name="root", headers=ROOT),
        call("auth/user/delete", name="u", headers=ROOT),
        call("auth/role/delete", role="reader", headers=ROOT),
        call("auth/disable", headers=ROOT),
        call("auth/user/delete", name="root"),
        call("auth/role/delete", role="root"),
    ],
    # What JSON can be.
    "json-empty": [Request("/v3/kv/range", b""), raw("kv/range", "  \n")],
    "json-trailing": [raw("kv/range", '{"key":"eg=="} trailing'), raw("kv/range", '{"key":"eg=="}{')],
    "json-cut-off": [
        raw("kv/range", text) for text in ("{", '{"key"', '{"key":', '{"key":"Zg', "[1", "tru", "-")
    ],
    "json-wrong": [
        raw("kv/range", text)
        for text in (
            "hello", "{key:1}", "{'key':1}", '{"key" 1}', '{"key":1 "a"}', '{"key":1,}', "[1,]", "[1 2]",
            "tru1", "nul", "01", "1.x", "1e", "-x", '{"key":01}', '{"key":1.}', '{"key":"\\x"}',
            '{"key":"\\u12g4"}', '{"key":"a\nb"}', '{"key":"\x01"}',
            "}", "]", ",", ":", "\x00", "\u00e9", "\u20ac",
            "\U0001f600", "\x7f", "\x85", "\xff",
            '{"a":{"b":[{"c":}]}}', '{"key":5,"x":}', "\\", "\u2028", "{\u00a0}",
        )
    ],
    "json-other-types": [raw("kv/range", text) for text in ("[]", '"x"', "null", "5", "true", "-1.5e3")],
    "json-bytes": [
        raw("kv/range", f'{{"key":{value}}}')
        for value in (
            "5", "true", "null", "{}", "[]", '"***"', '"Zm9"', '"Zm9v"', '"_-8="', '"_-8"', '"/+8"', '"_+8="',
            '"Zm9vYg="', '"Zm9vYg=="', '"Z"', '"Zg="', '"Zm9v\\n"', '"Z\\u006d9v"', '"Zm9v===="',
            '"=Zm9"', '" Zm9v"', '"Zg==Zg=="', '"Zh=="', '"Zm9v\u00e9"',
        )
    ],
    "json-integers": [
        raw("kv/range", f'{{"key":"eg==","limit":{value}}}')
        for value in (
            "1", '"1"', "-1", '"-1"', "1.0", "1.5", '"1.0"', '"1e2"', "1e2", "100e-2", "15e-1", "1e30", '""',
            '" 1"', '"x"', "99999999999999999999", "9223372036854775807", "9223372036854775808",
            "-9223372036854775808", "true", "null", "{}", "[1]", "0", "-0", '"0x1"', '"+1"', '"01"',
            "0.0", "1E+1", '"1 2"',
        )
    ],
    "json-unsigned": [
        raw("cluster/member/remove", f'{{"ID":{value}}}')
        for value in ("5", "-5", '"-5"', "18446744073709551615", "18446744073709551616", "1.5", '"a"')
    ],
    "json-booleans": [
        raw("kv/range", f'{{"key":"eg==","keys_only":{value}}}')
        for value in ("true", "false", "null", "1", '"true"', "{}")
    ],
    "json-enums": [
        raw("kv/range", f'{{"key":"eg==","sort_order":{value}}}')
        for value in (
            '"ASCEND"', '"ascend"', "1", "1.0", "-1", "99", "null", "true", "[1]", '"1"', "1.5", "3000000000",
        )
    ],
    "json-strings": [
        raw("auth/role/get", f'{{"role":{value}}}')
        for value in (
            '"\\u00e9\\n"', "5", "null", "true", "{}", '"\\ud83d\\ude00"', '"\\ud83d"', '"\\ud83d------"',
            '"\\ud83d\\ud83d\\ude00"', '"\\ude00\\ud83d"', '"\\\\ud83d"', '"\udcff"',
            '"a\udc80"', '"\udcc3\udcbf"',
        )
    ],
    "json-lists": [
        raw("kv/txn", f'{{"success":{value}}}')
        for value in ("{}", "5", "null", "[null]", "[5]", "[[]]", '["x"]', "[{}]", "[]")
    ]
    + [raw("cluster/member/add", f'{{"peerURLs":{value}}}') for value in ('"x"', "[5]", "[null]", "[[]]")],
    "json-messages": [
        raw("watch", '{"create_request":{"key":"eg==","range_end":"YQ=="}}', lines=1),
        raw("kv/txn", '{"success":[{"request_range":5}]}'),
        raw("kv/txn", '{"success":[{"request_range":null}]}'),
        raw("kv/txn", '{"success":[{"request_range":{"key":[]}}]}'),
    ],
    "json-fields": [
        raw("kv/range", text)
        for text in (
            '{"key":"eg==","key":"eg=="}', '{"rangeEnd":"eg==","range_end":"eg=="}', '{"KEY":"eg=="}',
            '{"key":"eg==","x":{"a":[1,{"b":[]}],"c":null}}', '{"key":null,"key":"eg=="}',
            '{"":5,"key":"eg=="}', '{"k\\u0065y":"eg=="}', '{"key":"eg==","\\ud83d":1}',
            '{"x":1,"x":2,"key":"eg=="}',
            '\n{\n  "key": "eg==",\n  "limit": x}', '\n{\n  "key": "eg==",\n\t"limit": "x"}',
            '{"é":1,"limit":"x"}', '{"\udcff":1,"key":"eg=="}', '{"x":"\udcff","key":"eg=="}',
        )
    ],
    # What HTTP can be.
    "methods": [
        Request("/v3/kv/put", b"", method) for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD")
    ]
    + [Request("/v3/watch", b"", "GET"), Request("/v3/nothing", b"", "OPTIONS")],
    "paths": [
        Request("/v3/kv/nothing"),
        Request("/v3/kv/nothing", b"", "GET"),
        Request("/v3/"),
        Request("/v3"),
        Request("/v3", b"", "GET"),
        Request("/v3/kv/range/"),
        Request("/v3//kv/range"),
        Request("/v3/kv/../kv/range?a=b"),
        Request("/v3alpha/kv/range"),
        Request("/v3beta/kv/range", b'{"key":"eg=="}'),
        Request("/v3/kv/%72ange?x=1", b'{"key":"eg=="}'),
        Request("/v2/keys"),
        Request("/"),
    ],
    "too-large": [
        call("kv/put", key=K, value=base64.b64encode(bytes(1_600_000)).decode()),
        call("kv/put", key=K, value=base64.b64encode(bytes(2_200_000)).decode()),
    ],
    "timeouts": [
        call("kv/range", key=Z, headers=[("Grpc-Timeout", value)])
        for value in ("5S", "abc", "S", "1", "-1S", "0S", "+5S", "5s", "999999999999999H")
    ]
    + [
        Request("/v3/watch", headers=[("Grpc-Timeout", "200m")]),
        Request(
            "/v3/watch", b'{"create_request":{"key":"eg=="}}', headers=[("Grpc-Timeout", "200m")]
        ),
    ],
    "cors": [call("kv/range", key=Z, headers=[("Origin", "http://page")])],
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_gateway_answers_as_etcd_does(http_sides: HttpSides, name: str) -> None:
    answers = []
    for side in http_sides:
        side.ask(call("kv/deleterange", key=b64("g/"), range_end=END))
        first = json.loads(side.ask(call("kv/range", key=Z)).split("\n", 1)[1].replace(":N", ":0"))
        revision = int(first["header"]["revision"])
        said = []
        for number, request in enumerate(CASES[name]):
            body = request.body.replace(b"{first}", b"%d" % (revision + 1)).replace(
                b"{current}", b"%d" % (revision + number)
            )
            said.append(f"{request.method} {request.target} {request.body[:200]!r}")
            said.append(side.ask(request._replace(body=body)))
        answers.append("\n".join(said))
    theirs, ours = answers
    difference = difflib.unified_diff(
        theirs.split("\n"), ours.split("\n"), "etcd", "kvnode", lineterm="", n=2
    )
    assert not (shown := "\n".join(difference)), shown

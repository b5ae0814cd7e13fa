"""kvctl's output beside etcdctl's, on the same server, byte for byte.

Runs when there is an etcdctl of version 3.6: see ``kvtest.programs``.
"""

import asyncio
import re

import pytest
from kvclient import Client, prefix
from kvtest.commands import run_client, run_kvctl
from kvtest.processes import ClusterProcesses
from kvtest.programs import program

ETCDCTL = program("etcdctl") or ""

pytestmark = pytest.mark.skipif(
    not ETCDCTL, reason="no etcdctl: `tests/kube/kube build` makes one, or KVTEST_ETCDCTL names one"
)

LEASE = 0x1234ABCD

JSON_NUMBERS = (
    "revision|mod_revision|create_revision|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|hash|hash_revision"
)
FIELD_NUMBERS = "RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|Hash|HashRevision"

# Numbers that differ from one run to the next, by what stands around them.
VARYING = [
    (re.compile(rf'("(?:{JSON_NUMBERS})":)\d+'), r"\1N"),
    (re.compile(r'(?m)^("(?:Prev)?(?:Create|Mod)?Revision" :) \d+'), r"\1 N"),
    (re.compile(rf'(?m)^("(?:{FIELD_NUMBERS})" :) \d+'), r"\1 N"),
    (re.compile(r"remaining\(\d+s\)"), "remaining(Ns)"),
    (re.compile(r'("ttl":|"TTL" : )\d+'), r"\1N"),
    (re.compile(r"\d+(\.\d+)?(ms|µs|s)\b"), "DURATION"),
    (re.compile(r"(?m)^(http\S+), \d+, \d+$"), r"\1, N, N"),
    (re.compile(r"[\d.]+ .?B, [\d.]+ .?B, \d+%"), "SIZE, SIZE, N%"),
    (re.compile(r"(true|false), (true|false), (\d+), \d+, \d+,"), r"\1, \2, \3, N, N,"),
]


async def make_same(endpoints: list[str]) -> None:
    """Bring keys and leases to the same state each time, except for their revisions."""
    async with Client(endpoints) as client:
        for lease in (await client.lease.list()).leases:
            await client.lease.revoke(lease.ID)
        await client.delete(prefix("versus/"))
        await client.lease.grant(600, lease_id=LEASE)
        for name in ("a", "b", "c"):
            await client.put(f"versus/{name}", f"value of {name}")
        await client.put("versus/d", b'\x00\xff "q" \n\xc3\xa9', lease_id=LEASE)


def normalised(text: str) -> str:
    for pattern, replacement in VARYING:
        text = pattern.sub(replacement, text)
    return text


TXN = """mod("versus/a") > "0"

put versus/a "new value"
get versus/ --prefix
del versus/b

get versus/c

"""


@pytest.mark.parametrize("output", ["simple", "json", "fields"])
@pytest.mark.parametrize(
    ("command", "stdin"),
    [
        pytest.param("get versus/a", "", id="get"),
        pytest.param("get versus/ --prefix", "", id="get-prefix"),
        pytest.param("get versus/b --from-key --limit 2", "", id="get-from-key"),
        pytest.param("get versus/a versus/c", "", id="get-range"),
        pytest.param("get versus/ --prefix --keys-only", "", id="get-keys-only"),
        pytest.param("get versus/ --prefix --sort-by MODIFY --order DESCEND", "", id="get-sorted"),
        pytest.param("get versus/nothing", "", id="get-nothing"),
        pytest.param("put versus/a 2", "", id="put"),
        pytest.param("put versus/a 2 --prev-kv", "", id="put-prev"),
        pytest.param("put versus/e", "from stdin\n", id="put-stdin"),
        pytest.param(f"put versus/e v --lease {LEASE:x}", "", id="put-lease"),
        pytest.param("del versus/a --prev-kv", "", id="del-prev"),
        pytest.param("del versus/ --prefix", "", id="del-prefix"),
        pytest.param("del versus/nothing", "", id="del-nothing"),
        pytest.param("txn", TXN, id="txn"),
        pytest.param(f"lease timetolive {LEASE:x} --keys", "", id="lease-ttl"),
        pytest.param("lease timetolive 77", "", id="lease-ttl-gone"),
        pytest.param("lease list", "", id="lease-list"),
        pytest.param(f"lease keep-alive {LEASE:x} --once", "", id="lease-keep-alive"),
        pytest.param(f"lease revoke {LEASE:x}", "", id="lease-revoke"),
        pytest.param("member list", "", id="member-list"),
        pytest.param("endpoint status", "", id="endpoint-status"),
        pytest.param("endpoint health", "", id="endpoint-health"),
        pytest.param("endpoint hashkv", "", id="endpoint-hashkv"),
        pytest.param("alarm list", "", id="alarm-list"),
    ],
)
def test_output_is_the_same(single: ClusterProcesses, command: str, stdin: str, output: str) -> None:
    words = [*command.split(), "-w", output]
    asyncio.run(make_same(single.endpoints))
    theirs = run_client([ETCDCTL], single.endpoints, *words, stdin=stdin.encode())
    asyncio.run(make_same(single.endpoints))
    ours = run_kvctl(single.endpoints, *words, stdin=stdin.encode())
    assert ours.error_text == ""
    assert normalised(ours.stdout.decode("utf-8", "surrogateescape")) == normalised(
        theirs.stdout.decode("utf-8", "surrogateescape")
    )
    assert ours.code == theirs.code


@pytest.mark.parametrize(
    "command",
    [
        pytest.param("get versus/a --rev 1000000000", id="future-revision"),
        pytest.param("put versus/zz --ignore-value", id="ignore-value-of-nothing"),
        pytest.param("put versus/a v --lease 77", id="unknown-lease"),
        pytest.param("member remove 1234", id="unknown-member"),
        pytest.param("move-leader 1234", id="unknown-transferee"),
        pytest.param("compaction 1000000000", id="future-compaction"),
    ],
)
def test_refusals_exit_alike_and_name_the_same_reason(single: ClusterProcesses, command: str) -> None:
    theirs = run_client([ETCDCTL], single.endpoints, *command.split())
    ours = run_kvctl(single.endpoints, *command.split())
    their_reason = theirs.error_text.splitlines()[-1]
    assert ours.error_text == f"{their_reason} (endpoint {single.endpoints[0]})\n"
    assert ours.code == theirs.code

"""What etcdctl printed, made comparable with what it printed on another cluster.

Identities, addresses, times, sizes and Raft's own numbers are masked; revisions are not.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message
from kvnode.pb import rpc_pb2

__all__ = ["Masks", "without_log"]

#: What differs from run to run whatever the server: times, sizes, hashes, Raft's own numbers.
_VARYING: list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]] = [
    (re.compile(r"\b(\d+(\.\d+)?(m|h|ms|µs|ns|s))+(?![\w/])"), "TIME"),
    (re.compile(r"\b\d+(\.\d+)? ?[kMG]?i?B\b"), "SIZE"),
    (re.compile(r"\b\d+%"), "N%"),
    (re.compile(r"\b3\.\d+\.\d+\b"), "VERSION"),
    # Reset or ended: whether the server had read all that was there when it hung up.
    (re.compile(r"(error reading server preface: )(?:EOF|[^\\\"]*connection reset by peer)"), r"\1HUNG UP"),
    (
        re.compile(r'("(?:raft_term|raftTerm|raftIndex|raftAppliedIndex|dbSize|dbSizeInUse|hash)": ?)\d+'),
        r"\1N",
    ),
    (re.compile(r'("(?:Term|RaftTerm|RaftIndex|RaftAppliedIndex|DBSize|DBSizeInUse|Hash)" : )\d+'), r"\1N"),
    (re.compile(r"\b((?:raft_term|TTL): )\d+"), r"\1N"),
    (re.compile(r'("(?:TTL|ttl)" ?: ?)\d+'), r"\1N"),
    (re.compile(r"\b(true|false), (true|false), \d+, \d+, \d+,"), r"\1, \2, N, N, N,"),
    (re.compile(r"\| (true|false) \| (true|false) \| \d+ \| \d+ \| \d+ \|"), r"| \1 | \2 | N | N | N |"),
    (re.compile(r"(ENDPOINT\d)(,| \|) \d+(,| \|) (\d+)"), r"\1\2 HASH\3 \4"),
    # What a client that has no more time hears first is a race within the client.
    (
        re.compile(r"desc = (stream terminated by RST_STREAM with error code: CANCEL|Deadline Exceeded)"),
        "desc = context deadline exceeded",
    ),
    # etcd declares this code and yet sends Unknown; clients go by the text.
    (
        re.compile(r"code = \w+ (desc = etcdserver: re-configuration failed)"),
        r"code = FailedPrecondition \1",
    ),
    # Lowered within 4 s of the wish for it, so before or after it is taken back.
    (re.compile(r"(Downgrade cancel success, cluster version )3\.\d+"), r"\1VERSION"),
    (re.compile(r"(larger than max \()\d+( vs\. \d+\))"), r"\1N\2"),
    # Keys of locks and elections end with the lease of their session.
    (re.compile(r"(?<=(?:lock|vote)/)[0-9a-f]{9,16}\b"), "SESSION"),
    (re.compile(r'("Lease" : |"lease": ?)\d{9,}'), r"\1LEASE"),
    # A lease's keys come in no order.
    (
        re.compile(r"attached keys\(\[([^\]]*)\]\)"),
        lambda match: f"attached keys([{' '.join(sorted(match[1].split()))}])",
    ),
    (
        re.compile(r'(ETCD_INITIAL_CLUSTER=")([^"]*)'),
        lambda match: match[1] + ",".join(sorted(match[2].split(","))),
    ),
]

#: What ``-w protobuf`` prints, by the command's first words.
_MESSAGES: dict[str, type[Message]] = {
    "get": rpc_pb2.RangeResponse,
    "put": rpc_pb2.PutResponse,
    "del": rpc_pb2.DeleteRangeResponse,
    "txn": rpc_pb2.TxnResponse,
    "watch": rpc_pb2.WatchResponse,
    # Of these etcdctl prints the header alone.
    "lease": rpc_pb2.ResponseHeader,
    "alarm": rpc_pb2.AlarmResponse,
    "member list": rpc_pb2.MemberListResponse,
    "member add": rpc_pb2.MemberAddResponse,
    "member remove": rpc_pb2.MemberRemoveResponse,
    "user add": rpc_pb2.AuthUserAddResponse,
    "user get": rpc_pb2.AuthUserGetResponse,
    "user list": rpc_pb2.AuthUserListResponse,
    "role add": rpc_pb2.AuthRoleAddResponse,
    "role get": rpc_pb2.AuthRoleGetResponse,
    "role list": rpc_pb2.AuthRoleListResponse,
    "auth status": rpc_pb2.AuthStatusResponse,
}


class Masks:
    """Words for the identities and addresses of one cluster."""

    def __init__(self) -> None:
        #: Only ever added to: what a case learnt stays known.
        self._words: dict[str, str] = {}

    def text(self, text: str, word: str) -> None:
        """Show ``text`` as ``word`` from now on."""
        self._words[text] = word

    def identity(self, word: str, value: int) -> None:
        """Show ``value``, in decimal or hex, as ``word`` from now on."""
        for text in (f"{value:016x}", f"{value:x}", str(value)):
            self._words[text] = word

    def stdout(self, command: str, output: bytes) -> str:
        """``output`` of ``command``, masked; a binary message as text."""
        if "protobuf" in command and output:
            for words, message in _MESSAGES.items():
                if command.startswith(words):
                    return self.masked(text_format.MessageToString(_in_order(message.FromString(output))))
        return self.masked(output.decode(errors="backslashreplace"))

    def masked(self, text: str) -> str:
        """``text`` without what is different on every cluster, in an order that IDs don't decide."""
        for value in sorted(self._words, key=len, reverse=True):
            if value in text:
                text = re.sub(rf"(?<![0-9a-zA-Z]){re.escape(value)}(?![0-9a-zA-Z])", self._words[value], text)
        # etcdctl pads a short ID with spaces in some places, and cells of tables always.
        text = re.sub(r" {2,}(?=(?:ID\d|ADDED|CLUSTER|LEASE)\b)", " ", text)
        lines = text.splitlines(keepends=True)
        lines = [_cell_text(line) if line.startswith(("|", "+-")) else line for line in lines]
        text = "".join(lines)
        for pattern, replacement in _VARYING:
            text = pattern.sub(replacement, text)
        lines = _blocks_in_order(text.splitlines(keepends=True))
        if lines and all(
            re.match(r"(ID\d|ADDED), |ENDPOINT\d( is |, )|\||\+|Finished", line) for line in lines
        ):
            lines.sort()
        return "".join(_json_in_order(line) for line in lines)


def without_log(error_text: str) -> str:
    """What etcdctl says, without what its client library logs: addresses of memory and of sockets."""
    kept: list[str] = []
    for line in error_text.splitlines(keepends=True):
        if line.startswith("goroutine "):
            break  # etcdctl has panicked: where, in addresses of memory
        if line.startswith("{"):
            try:
                entry = json.loads(line)
            except ValueError:
                kept.append(line)
                continue
            line = json.dumps({key: entry.get(key) for key in ("msg", "method", "error")}) + "\n"
        kept.append(line)
    return "".join(kept)


def _in_order(message: Message) -> Message:
    """Members in the order of their names instead of IDs."""
    if isinstance(message, rpc_pb2.MemberListResponse):
        message.members.sort(key=lambda member: member.name)
    return message


def _cell_text(line: str) -> str:
    """A line of a table without what only depends on the width of its cells."""
    return "+\n" if line.startswith("+") else re.sub(r" +", " ", line)


def _blocks_in_order(lines: list[str]) -> list[str]:
    """``-w fields`` shows members one after the other: in the order of their text instead of IDs."""
    starts = [number for number, line in enumerate(lines) if line.startswith('"ID" : ')]
    if len(starts) < 2:
        return lines
    blocks = [lines[start:end] for start, end in zip(starts, [*starts[1:], len(lines)], strict=True)]
    blocks = [[line for line in block if line.strip()] for block in blocks]
    return [*lines[: starts[0]], *(line for block in sorted(blocks) for line in block)]


def _json_in_order(line: str) -> str:
    """A line of JSON with members and endpoints in the order of their names instead of IDs or answers."""
    if not line.startswith(("{", "[")):
        return line
    words = re.sub(r"(?<=[:,\[ ])((?:ID\d|N|LEASE|ADDED|CLUSTER|HASH)\b)", r'"\1"', line)
    try:
        document: Any = json.loads(words)
    except ValueError:
        return line
    if isinstance(document, list):
        document.sort(key=lambda answer: str(answer.get("endpoint", answer.get("Endpoint"))))
    elif "members" in document:
        document["members"].sort(key=lambda member: str(member["peerURLs"]))
    elif "keys" in document and isinstance(document["keys"], list):
        document["keys"].sort()
    return json.dumps(document) + "\n"

"""Tables, for people.

On a terminal a table is drawn with lines and fitted to the window; in a pipe or a file it
is etcdctl's: ASCII, and as wide as its content.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from kvnode.pb import kv_pb2, rpc_pb2
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvclient.output import stdout
from kvclient.output.go_text import duration, hex_id, quoted, size
from kvclient.output.printer import (
    AnswerView,
    EndpointDefrag,
    EndpointHash,
    EndpointHealth,
    EndpointStatus,
    FileHash,
    Printer,
    RangeView,
    RestoredSnapshot,
    SavedFile,
    SnapshotFileStatus,
    TxnViews,
)
from kvclient.output.simple import SimplePrinter, member_row, status_row
from kvclient.watch import WatchBatch

if TYPE_CHECKING:
    from kvclient.output.printer import AnyResponse

__all__ = ["TablePrinter"]

_KV_COLUMNS = ("KEY", "VALUE", "CREATED", "MODIFIED", "VERSION", "LEASE")


class TablePrinter(Printer):
    """Rows and columns."""

    def __init__(self) -> None:
        stdout.flush()
        self._is_terminal = stdout.is_terminal()
        self._console = Console()
        self._plain = SimplePrinter()

    def answer(self, response: "AnyResponse", view: AnswerView) -> None:
        self._plain.answer(response, view)

    def put(self, response: rpc_pb2.PutResponse) -> None:
        rows = [_kv_row(response.prev_kv)] if response.HasField("prev_kv") else []
        self._table(_KV_COLUMNS, rows, title=f"put at revision {response.header.revision}")

    def range(self, response: rpc_pb2.RangeResponse, view: RangeView) -> None:
        more = ", more follow" if response.more else ""
        self._table(
            _KV_COLUMNS,
            [_kv_row(kv) for kv in response.kvs],
            title=f"{_keys(response.count)} at revision {response.header.revision}{more}",
        )

    def delete(self, response: rpc_pb2.DeleteRangeResponse) -> None:
        self._table(
            _KV_COLUMNS,
            [_kv_row(kv) for kv in response.prev_kvs],
            title=f"{_keys(response.deleted)} deleted at revision {response.header.revision}",
        )

    def txn(self, response: rpc_pb2.TxnResponse, views: TxnViews) -> None:
        self._say("SUCCESS" if response.succeeded else "FAILURE")
        self.txn_responses(response, views)

    def compact(self, revision: int, response: rpc_pb2.CompactionResponse) -> None:
        self._plain.compact(revision, response)

    def watch(self, batch: WatchBatch) -> None:
        rows = []
        for event in batch.events:
            previous = quoted(event.prev_kv.value) if event.HasField("prev_kv") else ""
            kind = kv_pb2.Event.EventType.Name(event.type)
            rows.append([kind, *_kv_row(event.kv), previous])
        title = f"progress: revision {batch.revision}" if batch.is_progress else ""
        self._table(("EVENT", *_KV_COLUMNS, "PREVIOUS"), rows, title=title)

    def lease_granted(self, response: rpc_pb2.LeaseGrantResponse) -> None:
        self._table(("LEASE", "TTL"), [[f"{response.ID:016x}", f"{response.TTL}s"]])

    def lease_revoked(self, lease_id: int, response: rpc_pb2.LeaseRevokeResponse) -> None:
        self._plain.lease_revoked(lease_id, response)

    def lease_renewed(self, response: rpc_pb2.LeaseKeepAliveResponse) -> None:
        self._plain.lease_renewed(response)

    def lease_time_to_live(self, response: rpc_pb2.LeaseTimeToLiveResponse, *, with_keys: bool) -> None:
        keys = "\n".join(quoted(key) for key in response.keys)
        remaining = f"{response.TTL}s" if response.TTL >= 0 else "expired"
        row = [f"{response.ID:016x}", f"{response.grantedTTL}s", remaining, keys]
        self._table(("LEASE", "GRANTED", "REMAINING", "KEYS"), [row])

    def leases(self, response: rpc_pb2.LeaseLeasesResponse) -> None:
        self._table(("LEASE",), [[f"{lease.ID:016x}"] for lease in response.leases])

    def members(self, response: rpc_pb2.MemberListResponse) -> None:
        self._members(response.members)

    def member_added(self, name: str, response: rpc_pb2.MemberAddResponse) -> None:
        self._plain.member_added(name, response)

    def member_removed(self, member_id: int, response: rpc_pb2.MemberRemoveResponse) -> None:
        self._plain.member_removed(member_id, response)

    def member_updated(self, member_id: int, response: rpc_pb2.MemberUpdateResponse) -> None:
        self._plain.member_updated(member_id, response)

    def member_promoted(self, member_id: int, response: rpc_pb2.MemberPromoteResponse) -> None:
        self._plain.member_promoted(member_id, response)

    def endpoint_status(self, reports: Sequence[EndpointStatus]) -> None:
        columns = (
            "ENDPOINT",
            "ID",
            "VERSION",
            "STORAGE VERSION",
            "DB SIZE",
            "IN USE",
            "PERCENTAGE NOT IN USE",
            "QUOTA",
            "IS LEADER",
            "IS LEARNER",
            "RAFT TERM",
            "RAFT INDEX",
            "RAFT APPLIED INDEX",
            "ERRORS",
            "DOWNGRADE TARGET VERSION",
            "DOWNGRADE ENABLED",
        )
        rows = [status_row(report) for report in reports]
        self._table(columns, rows, wanted_on_terminal=_STATUS_ON_TERMINAL)

    def endpoint_health(self, reports: Sequence[EndpointHealth]) -> None:
        self._table(
            ("ENDPOINT", "HEALTH", "TOOK", "ERROR"),
            [
                [
                    report.endpoint,
                    "true" if report.is_healthy else "false",
                    duration(report.took_s),
                    report.error,
                ]
                for report in reports
            ],
        )

    def endpoint_hashes(self, reports: Sequence[EndpointHash]) -> None:
        self._table(
            ("ENDPOINT", "HASH", "HASH REVISION"),
            [
                [
                    report.endpoint,
                    str(report.response.hash),
                    str(report.response.hash_revision),
                ]
                for report in reports
            ],
        )

    def defragmented(self, reports: Sequence[EndpointDefrag]) -> None:
        self._table(
            ("ENDPOINT", "TOOK", "ERROR"),
            [[report.endpoint, duration(report.took_s), report.error] for report in reports],
        )

    def alarms(self, response: rpc_pb2.AlarmResponse) -> None:
        self._table(
            ("MEMBER", "ALARM"),
            [[hex_id(a.memberID), rpc_pb2.AlarmType.Name(a.alarm)] for a in response.alarms],
        )

    def leader_moved(self, from_id: int, to_id: int, response: rpc_pb2.MoveLeaderResponse) -> None:
        self._plain.leader_moved(from_id, to_id, response)

    def file_hash(self, result: FileHash) -> None:
        self._table(
            ("HASH", "HASH REVISION", "COMPACT REVISION"),
            [[str(result.hash), str(result.hash_revision), str(result.compact_revision)]],
        )

    def snapshot_saved(self, saved: SavedFile) -> None:
        self._table(
            ("PATH", "SIZE", "SERVER VERSION", "SHA-256"),
            [[str(saved.path), size(saved.size_bytes), saved.server_version, saved.sha256]],
        )

    def snapshot_status(self, status: SnapshotFileStatus) -> None:
        self._table(
            ("HASH", "REVISION", "COMPACTED", "TOTAL KEYS", "TOTAL SIZE", "VERSION", "CLUSTER"),
            [
                [
                    f"{status.hash:x}",
                    str(status.revision),
                    str(status.compact_revision),
                    str(status.total_keys),
                    size(status.size_bytes),
                    status.version,
                    hex_id(status.cluster_id),
                ]
            ],
        )

    def snapshot_restored(self, restored: RestoredSnapshot) -> None:
        self._table(
            ("DATA DIR", "NAME", "MEMBER", "CLUSTER", "REVISION"),
            [
                [
                    str(restored.data_dir),
                    restored.name,
                    hex_id(restored.member_id),
                    hex_id(restored.cluster_id),
                    str(restored.revision),
                ]
            ],
        )

    # -- private ---------------------------------------------------------------

    def _members(self, members: Sequence[rpc_pb2.Member]) -> None:
        columns = ("ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER")
        self._table(columns, [member_row(member) for member in members])

    def _table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        title: str = "",
        wanted_on_terminal: frozenset[str] | None = None,
    ) -> None:
        shown = [
            position
            for position, column in enumerate(columns)
            if wanted_on_terminal is None or not self._is_terminal or column in wanted_on_terminal
        ]
        if title:
            self._say(title)
            if not rows:
                return
        if not self._is_terminal:
            # etcdctl's drawing, to the letter: scripts cut columns out of it.
            for line in _ascii_table(columns, rows):
                stdout.write_line(line)
            return
        table = Table(box=box.ROUNDED)
        for position in shown:
            table.add_column(columns[position], overflow="fold")
        for row in rows:
            # Text, not markup: a key may well contain square brackets.
            table.add_row(*(Text(row[position]) for position in shown))
        self._console.print(table)

    def _say(self, line: str) -> None:
        if self._is_terminal:
            self._console.print(Text(line))
        else:
            stdout.write_line(line)


_STATUS_ON_TERMINAL = frozenset(
    {
        "ENDPOINT",
        "ID",
        "VERSION",
        "DB SIZE",
        "IN USE",
        "IS LEADER",
        "IS LEARNER",
        "RAFT TERM",
        "RAFT INDEX",
        "RAFT APPLIED INDEX",
        "ERRORS",
    }
)


def _kv_row(kv: kv_pb2.KeyValue) -> list[str]:
    return [
        quoted(kv.key),
        quoted(kv.value),
        str(kv.create_revision),
        str(kv.mod_revision),
        str(kv.version),
        f"{kv.lease:016x}" if kv.lease else "",
    ]


def _ascii_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Names in the middle of their columns, cells at the right; as wide as the content."""
    cells = [[cell.split("\n") for cell in row] for row in rows]
    widths = [
        max([len(name), *(len(line) for row in cells for line in row[position])])
        for position, name in enumerate(columns)
    ]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    yield rule
    names = []
    for name, width in zip(columns, widths, strict=True):
        left = (width - len(name)) // 2
        names.append(" " * left + name + " " * (width - len(name) - left))
    yield "| " + " | ".join(names) + " |"
    yield rule
    for row in cells:
        for at in range(max(len(lines) for lines in row)):
            parts = [lines[at] if at < len(lines) else "" for lines in row]
            padded = (part.rjust(width) for part, width in zip(parts, widths, strict=True))
            yield "| " + " | ".join(padded) + " |"
    if rows:
        yield rule


def _keys(count: int) -> str:
    return "1 key" if count == 1 else f"{count} keys"

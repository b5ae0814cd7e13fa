"""Who did what: one JSON line for each request, written by a thread of its own.

Never in it: values, passwords, tokens.  A request is described by the fields of ``_TOLD`` and no others, so
that a field that is added to the API is left out until somebody decides about it.

The queue is bounded.  When it is full, because the disk is slower than the requests or takes nothing at all,
``--audit-log-when-full`` decides: ``refuse`` (requests whose record could not be kept are not served) or
``drop`` (they are served, and counted).
"""

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, NamedTuple

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from kvnode.pb import auth_pb2, election_pb2, health_pb2, lock_pb2, rpc_pb2
from kvnode.server.config import AuditWhenFull, NodeConfig
from kvnode.server.errors import ExitCode, StartError

__all__ = ["AuditLog", "AuditRecord", "describe", "encode_record"]

#: Records, and bytes of the requests that they describe, which wait at most.
LIMIT_COUNT: Final = 50_000
LIMIT_BYTES: Final = 64 * 2**20
#: Records that are written together at most.
BATCH: Final = 1000
#: Pause after a write that failed; what could not be written is kept.
RETRY_S: Final = 1.0
#: How long the end of the process waits for the last records.
CLOSE_S: Final = 1.0

#: The services' descriptions are loaded with these modules.
_LOADED = (auth_pb2, election_pb2, health_pb2, lock_pb2, rpc_pb2)

#: Fields that say what a request is about.
_TOLD: Final = frozenset({
    # Keys, leases, and what is done with them.
    "key", "range_end", "name", "ID", "lease", "TTL", "revision", "start_revision", "physical", "leader",
    "compare", "success", "failure", "request_put", "request_range", "request_delete_range", "request_txn",
    "checkpoints", "create_request", "cancel_request", "watch_id",
    # Users and roles.
    "user", "role", "perm", "permType",
    # Members.
    "memberID", "member_id", "alarm", "action", "peerURLs", "isLearner", "targetID", "target",
})  # fmt: skip

#: As many bytes of an answer as its header can take.
HEADER_BYTES: Final = 64

_to_json: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

log = logging.getLogger(__name__)


class AuditRecord(NamedTuple):
    """One request, as it is when it ends; a stream as it is when it begins."""

    begun_s: float
    user: str | None
    common_name: str | None
    address: str
    #: ``/etcdserverpb.KV/Put`` and its like.
    method: str
    #: ``call``, ``stream`` for the beginning of one, ``message`` for a request on it.
    event: str
    request: bytes
    duration_s: float | None
    #: Name of the status; None: not known yet.
    code: str | None
    #: The beginning of the answer.
    answer: bytes


class AuditLog:
    """The file, and the thread that writes it.  The methods belong to the event loop's thread.

    Args:
        path: ``-`` for standard error.
        when_full: what becomes of requests whose record can't be kept.

    Raises:
        OSError: the file can't be written.
    """

    def __init__(self, path: str, when_full: AuditWhenFull) -> None:
        self._path = path
        self._refuses = when_full is AuditWhenFull.REFUSE
        self._descriptor = self._open()
        self._records: queue.SimpleQueue[AuditRecord | str] = queue.SimpleQueue()
        #: Records put and written; the difference waits.
        self.put_count = 0
        self.written_count = 0
        self._put_bytes = self._written_bytes = 0
        #: Records that were dropped, requests that were refused.
        self.dropped_count = 0
        self.refused_count = 0
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="kvnode-audit", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, config: NodeConfig) -> "AuditLog | None":
        """Return the log that was asked for, if one was.

        Raises:
            StartError: It can't be written.
        """
        if not config.audit_log:
            return None
        try:
            return cls(config.audit_log, config.audit_log_when_full)
        except OSError as error:
            raise StartError(
                f"cannot write the audit log {config.audit_log}: {error.strerror} (--audit-log)",
                exit_code=ExitCode.CONFIG,
            ) from error

    @property
    def waiting_count(self) -> int:
        """Records that are not written yet."""
        return self.put_count - self.written_count

    @property
    def is_full(self) -> bool:
        """Whether another record can't be kept."""
        return self.waiting_count >= LIMIT_COUNT or self._put_bytes - self._written_bytes >= LIMIT_BYTES

    def admits(self) -> bool:
        """Say whether a request may be served now; one that may not is counted."""
        if self._refuses and self.is_full:
            self.refused_count += 1
            return False
        return True

    def put(self, record: AuditRecord) -> None:
        """Write a record soon.

        That of a request which was let in is kept even above the limit, which few of them can exceed,
        unless what is above is to be dropped.
        """
        if not self._refuses and self.is_full:
            self.dropped_count += 1
            return
        self.put_count += 1
        self._put_bytes += len(record.request)
        self._records.put(record)

    def reopen(self) -> None:
        """Go on in a new file, as the present one was renamed."""
        self._records.put("reopen")

    def close(self) -> None:
        """Write what waits, for as long as the end may take."""
        self._is_closing = True
        self._records.put("close")
        self._thread.join(CLOSE_S)
        if self.waiting_count:
            log.error("%d records of the audit log were not written", self.waiting_count)

    # The thread.

    def _open(self) -> int:
        if self._path == "-":
            return 2
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _run(self) -> None:
        order: AuditRecord | str = ""
        while order != "close":
            batch: list[AuditRecord] = []
            order = self._records.get()
            while isinstance(order, AuditRecord):
                batch.append(order)
                if len(batch) == BATCH or self._records.empty():
                    break
                order = self._records.get()
            if batch:
                self._write(batch)
            if order == "reopen":
                self._reopen()

    def _reopen(self) -> None:
        if self._path == "-":
            return
        try:
            descriptor = self._open()
        except OSError as error:
            log.error("cannot open the audit log %s anew: %s", self._path, error.strerror)
            return
        os.close(self._descriptor)
        self._descriptor = descriptor

    def _write(self, batch: Sequence[AuditRecord]) -> None:
        data = b"".join(map(encode_record, batch))
        is_failing = False
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except OSError as error:
                if not is_failing:
                    log.error("cannot write the audit log %s: %s", self._path, error.strerror)
                if self._is_closing:
                    return
                is_failing = True
                time.sleep(RETRY_S)
        if is_failing:
            log.warning("the audit log is written again")
        self._written_bytes += sum(len(record.request) for record in batch)
        self.written_count += len(batch)


def encode_record(record: AuditRecord) -> bytes:
    """Return a record's line."""
    begun = datetime.fromtimestamp(record.begun_s, UTC).isoformat(timespec="milliseconds")
    fields: dict[str, Any] = {
        "ts": begun.replace("+00:00", "Z"),
        "event": record.event,
        "method": record.method,
        "user": record.user,
        "address": record.address,
    }
    if record.common_name is not None:
        fields["common_name"] = record.common_name
    if record.code is not None:
        fields["code"] = record.code
    if record.duration_s is not None:
        fields["duration_ms"] = round(record.duration_s * 1000, 3)
    revision = _revision_of(record.answer)
    if revision:
        fields["revision"] = revision
    request = _parsed(record.method, record.request) if record.event != "stream" else None
    if request is not None:
        fields["request"] = describe(request)
    return _to_json(fields).encode("utf-8", "replace") + b"\n"


def describe(message: Message) -> dict[str, Any]:
    """Return what a request is about; bytes as text, with escapes for what is not printable ASCII."""
    told: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name not in _TOLD:
            continue
        if field.is_repeated:
            told[field.name] = [_shown(field, each) for each in value]
        else:
            told[field.name] = _shown(field, value)
    return told


def _shown(field: FieldDescriptor, value: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return describe(value)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return value.decode("latin-1").encode("unicode_escape").decode("ascii")
    if field.type == FieldDescriptor.TYPE_ENUM:
        known = field.enum_type.values_by_number.get(value) if field.enum_type is not None else None
        return known.name if known is not None else value
    return value


def _parsed(path: str, payload: bytes) -> Message | None:
    """Return the request, or None if it is none."""
    try:
        return _request_type(path).FromString(payload)
    except (KeyError, DecodeError):
        return None


@cache
def _request_type(path: str) -> type[Message]:
    """Return the message that a method takes; raises KeyError for one that is none of ours."""
    method = descriptor_pool.Default().FindMethodByName(path[1:].replace("/", "."))
    return message_factory.GetMessageClass(method.input_type)


def _revision_of(answer: bytes) -> int:
    """Return the revision in the header that answers begin with; 0: there is none."""
    if len(answer) < 2 or answer[0] != 0x0A or answer[1] > HEADER_BYTES - 2:
        return 0
    try:
        return rpc_pb2.ResponseHeader.FromString(answer[2 : 2 + answer[1]]).revision
    except DecodeError:
        return 0

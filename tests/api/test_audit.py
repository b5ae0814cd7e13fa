"""The audit log: who asked for what, and what became of it; never a value, a password or a token."""

import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from kvnode.pb import rpc_pb2 as pb
from kvnode.server import audit_log
from kvnode.server.audit_log import AuditLog, AuditRecord, describe, encode_record
from kvnode.server.config import AuditWhenFull, NodeConfig
from kvnode.server.errors import StartError
from kvtest.local_member import LocalMember, local_config
from kvtest.served_member import ServedMember, serve, until

SECRET = "s3cr3t-pa55w0rd"
VALUE = b"a-value-nobody-else-may-see"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
async def log(path: Path) -> AsyncIterator[AuditLog]:
    opened = AuditLog(str(path), AuditWhenFull.REFUSE)
    yield opened
    opened.close()


@pytest.fixture
async def audited(log: AuditLog, transport: None) -> AsyncIterator[ServedMember]:
    async with serve(LocalMember(local_config(bcrypt_cost=4)), log) as served:
        yield served


async def records(log: AuditLog, path: Path) -> list[dict[str, Any]]:
    """Return what was written, once all is."""
    await until(lambda: not log.waiting_count)
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_a_request_is_told_with_its_keys_its_revision_and_its_end(
    audited: ServedMember, log: AuditLog, path: Path
) -> None:
    put = pb.PutRequest(key=b"a/\xff\n", value=VALUE)
    revision = (await audited.client.kv("KV/Put", put)).header.revision
    await audited.client.kv("KV/Range", pb.RangeRequest(key=b"a", range_end=b"b"))
    await audited.client.refused("KV/Put", pb.PutRequest(value=VALUE))
    first, second, third = await records(log, path)
    assert first.pop("duration_ms") >= 0
    assert first.pop("ts").endswith("Z")
    assert ":" in first.pop("address")
    assert first == {
        "event": "call",
        "method": "/etcdserverpb.KV/Put",
        "user": None,
        "code": "OK",
        "revision": revision,
        "request": {"key": "a/\\xff\\n"},
    }
    assert (second["request"], second["code"]) == ({"key": "a", "range_end": "b"}, "OK")
    assert (third["code"], third["request"]) == ("INVALID_ARGUMENT", {})
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_a_transaction_is_told_with_all_that_it_may_touch(
    audited: ServedMember, log: AuditLog, path: Path
) -> None:
    txn = pb.TxnRequest(
        compare=[pb.Compare(key=b"c", target=pb.Compare.VALUE, value=VALUE)],
        success=[pb.RequestOp(request_put=pb.PutRequest(key=b"p", value=VALUE))],
        failure=[
            pb.RequestOp(
                request_txn=pb.TxnRequest(
                    success=[
                        pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=b"d", range_end=b"\0"))
                    ]
                )
            )
        ],
    )
    await audited.client.kv("KV/Txn", txn)
    (record,) = await records(log, path)
    assert record["request"]["success"] == [{"request_put": {"key": "p"}}]
    assert record["request"]["failure"] == [
        {"request_txn": {"success": [{"request_delete_range": {"key": "d", "range_end": "\\x00"}}]}}
    ]
    assert [compare["key"] for compare in record["request"]["compare"]] == ["c"]


async def enable_auth(served: ServedMember) -> str:
    """Switch auth on; returns a token of root's."""
    kv = served.client.kv
    await kv("Auth/UserAdd", pb.AuthUserAddRequest(name="root", password=SECRET))
    await kv("Auth/RoleAdd", pb.AuthRoleAddRequest(name="root"))
    await kv("Auth/UserGrantRole", pb.AuthUserGrantRoleRequest(user="root", role="root"))
    await kv("Auth/AuthEnable", pb.AuthEnableRequest())
    request = pb.AuthenticateRequest(name="root", password=SECRET)
    return str((await kv("Auth/Authenticate", request)).token)


async def test_users_and_failed_logins_are_told_but_no_secret_is(
    audited: ServedMember, log: AuditLog, path: Path
) -> None:
    token = await enable_auth(audited)
    metadata = [("token", token)]
    await audited.client.kv("KV/Put", pb.PutRequest(key=b"k", value=VALUE), metadata)
    await audited.client.refused("KV/Put", pb.PutRequest(key=b"k", value=VALUE))
    await audited.client.refused("KV/Put", pb.PutRequest(key=b"k", value=VALUE), [("token", "wrong.1")])
    await audited.client.refused(
        "Auth/Authenticate", pb.AuthenticateRequest(name="root", password=f"not-{SECRET}")
    )
    change = pb.AuthUserChangePasswordRequest(name="root", password=f"new-{SECRET}")
    await audited.client.kv("Auth/UserChangePassword", change, metadata)
    written = await records(log, path)
    told = [(record["method"].rpartition("/")[2], record["user"], record["code"]) for record in written[4:]]
    assert told == [
        ("Authenticate", None, "OK"),
        ("Put", "root", "OK"),
        ("Put", None, "INVALID_ARGUMENT"),
        ("Put", None, "UNAUTHENTICATED"),
        ("Authenticate", None, "INVALID_ARGUMENT"),
        ("UserChangePassword", "root", "OK"),
    ]
    assert written[8]["request"] == {"name": "root"}
    text = path.read_text()
    for secret in (SECRET, token, VALUE.decode(), "wrong.1"):
        assert secret not in text


async def test_a_stream_is_told_at_its_beginning_and_what_is_watched_on_it(
    audited: ServedMember, log: AuditLog, path: Path
) -> None:
    watch = audited.watch()
    await watch.create(b"w", b"x")
    written = await records(log, path)
    watch.cancel()
    assert [(r["event"], r["method"]) for r in written] == [
        ("stream", "/etcdserverpb.Watch/Watch"),
        ("message", "/etcdserverpb.Watch/Watch"),
    ]
    assert written[1]["request"] == {"create_request": {"key": "w", "range_end": "x"}}


async def test_a_stream_that_is_refused_is_told_with_its_status(
    audited: ServedMember, log: AuditLog, path: Path
) -> None:
    await enable_auth(audited)
    stream = audited.client.server_stream("/etcdserverpb.Maintenance/Snapshot", pb.SnapshotRequest())
    code = await stream.code()
    assert code is not grpc.StatusCode.OK
    assert (await records(log, path))[-1]["code"] == code.name


async def test_a_request_that_nobody_waits_for_any_more_is_told_all_the_same(
    audited: ServedMember, log: AuditLog, path: Path
) -> None:
    audited.member.holds_reads = True
    call = audited.client.method("/etcdserverpb.KV/Range")(pb.RangeRequest(key=b"k").SerializeToString())
    await until(lambda: bool(audited.member._held))
    call.cancel()
    await until(lambda: log.put_count == 1)
    audited.member.release()
    (record,) = await records(log, path)
    assert (record["code"], record["request"]) == ("CANCELLED", {"key": "k"})


async def test_what_can_not_be_recorded_is_refused(
    audited: ServedMember, log: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "LIMIT_COUNT", 0)
    assert await audited.client.refused("KV/Put", pb.PutRequest(key=b"k")) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "etcdserver: audit log is full",
    )
    assert (log.refused_count, audited.member.proposals) == (1, 0)
    monkeypatch.undo()
    await audited.client.kv("KV/Put", pb.PutRequest(key=b"k"))


async def test_or_served_and_counted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = AuditLog(str(path), AuditWhenFull.DROP)
    async with serve(LocalMember(), log) as served:
        monkeypatch.setattr(audit_log, "LIMIT_COUNT", 0)
        await served.client.kv("KV/Put", pb.PutRequest(key=b"k"))
        assert (log.dropped_count, log.put_count) == (1, 0)
    log.close()


def record(key: bytes = b"k") -> AuditRecord:
    request = pb.PutRequest(key=key).SerializeToString()
    return AuditRecord(0.0, "u", None, "a:1", "/etcdserverpb.KV/Put", "call", request, 0.001, "OK", b"")


async def test_after_the_file_was_renamed_a_new_one_is_written(log: AuditLog, path: Path) -> None:
    log.put(record(b"old"))
    await until(lambda: not log.waiting_count)
    path.rename(path.with_suffix(".1"))
    log.reopen()
    log.put(record(b"new"))
    await until(lambda: not log.waiting_count)
    assert "old" in path.with_suffix(".1").read_text()
    assert "new" in path.read_text()


async def test_what_a_full_disk_does_not_take_is_written_later(
    log: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failures = os.write, 3

    def fail(descriptor: int, data: bytes) -> int:
        nonlocal failures
        if descriptor == log._descriptor and failures:
            failures -= 1
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:10])

    monkeypatch.setattr(audit_log, "RETRY_S", 0.001)
    monkeypatch.setattr(os, "write", fail)
    for number in range(100):
        log.put(record(b"%d" % number))
    await until(lambda: not log.waiting_count)
    monkeypatch.undo()
    keys = [json.loads(line)["request"]["key"] for line in path.read_text().splitlines()]
    assert keys == [str(number) for number in range(100)]


async def test_what_waits_at_the_end_is_written(path: Path) -> None:
    log = AuditLog(str(path), AuditWhenFull.REFUSE)
    for _ in range(5000):
        log.put(record())
    log.close()
    assert len(path.read_text().splitlines()) == 5000


async def test_a_log_that_can_not_be_written_is_a_mistake_on_the_command_line(tmp_path: Path) -> None:
    config: NodeConfig = local_config(audit_log=str(tmp_path / "nowhere" / "audit.log"))
    with pytest.raises(StartError, match=r"cannot write the audit log .*: No such file .*\(--audit-log\)"):
        AuditLog.of(config)
    assert AuditLog.of(local_config()) is None


def test_a_request_that_can_not_be_read_is_told_without_what_it_says() -> None:
    line = json.loads(encode_record(record()._replace(request=b"\xff\xff")))
    assert "request" not in line
    assert json.loads(encode_record(record()._replace(method="/nobody.Knows/This")))["code"] == "OK"


def test_no_field_that_may_hold_a_secret_is_ever_told() -> None:
    """Whatever messages there are: bytes and texts that are told are keys, names and addresses."""
    allowed = {"key", "range_end", "name", "user", "role", "peerURLs"}
    found = set()
    for message in pb.DESCRIPTOR.message_types_by_name.values():
        for field in message.fields:
            if field.name in audit_log._TOLD and field.type in (field.TYPE_BYTES, field.TYPE_STRING):
                found.add(field.name)
    assert found - {"version"} <= allowed
    assert describe(pb.AuthUserAddRequest(name="u", password="p", hashedPassword="h")) == {"name": "u"}
    assert describe(pb.PutRequest(key=b"k", value=b"v", lease=7)) == {"key": "k", "lease": 7}

"""The JSON gateway, by etcd3gw."""

import base64
import json
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from etcd3gw import exceptions
from etcd3gw.client import Etcd3Client
from harness import ask, check, equal, eventually, holds, key_of, main, refused

Members = dict[str, Any]
ROOT_PASSWORD = "root's password"

# For requests these go before what the client was told.
for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
    os.environ.pop(variable, None)


def client_of(members: Members, position: int = 0, **options: Any) -> Etcd3Client:
    url = urlsplit(members["gateways"][position])
    return Etcd3Client(host=url.hostname, port=url.port, protocol=url.scheme, timeout=20, **options)


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def post(client: Etcd3Client, path: str, **request: Any) -> Any:
    """Call what the library has no method for."""
    return client.post(client.get_url(path), json=request)


def says(what: str, code: int, message: str, action: Callable[[], object]) -> None:
    """``action`` is refused with this gRPC code and text."""
    error = refused(what, exceptions.Etcd3Exception, action)
    told = json.loads(error.detail_text)
    equal(what, (told["code"], told["message"]), (code, message))


def revision_of(client: Etcd3Client) -> int:
    return int(client.status()["header"]["revision"])


def put(client: Etcd3Client, key: bytes, value: str) -> int:
    """Put a key; returns the revision, which the library's own method keeps to itself."""
    response = post(client, "/kv/put", key=b64(key), value=b64(value.encode()))
    return int(response["header"]["revision"])


class Events:
    """What a watch tells, taken in a thread of its own."""

    def __init__(self, watch: tuple[Iterator[Any], Callable[[], None]]) -> None:
        self._events: queue.Queue[Any] = queue.Queue()
        self._iterator, self.cancel = watch
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        for event in self._iterator:
            self._events.put(event)

    def next(self) -> Any:
        return self._events.get(timeout=30)

    def told(self, count: int) -> list[str]:
        return [told_by(self.next()) for _ in range(count)]


def told_by(event: Any) -> str:
    name = event["kv"]["key"].rpartition(b"/")[2].decode()
    return f"{event.get('type', 'PUT')} {name}={event['kv'].get('value', b'').decode()}"


# Keys and values.


@check("kv/put-get-delete")
def put_get_delete(members: Members) -> None:
    client = client_of(members)
    key = key_of("a")
    equal("before", client.get(key), [])
    holds("put", client.put(key, "1"))
    ((value, first),) = client.get(key, metadata=True)
    equal("value", value, b"1")
    holds("put again", client.put(key, b"\x00\xff bytes"))
    ((value, second),) = client.get(key, metadata=True)
    equal("bytes", value, b"\x00\xff bytes")
    equal("versions", (first["version"], second["version"]), ("1", "2"))
    equal("create revisions", first["create_revision"], second["create_revision"])
    holds("mod revisions", int(second["mod_revision"]) > int(first["mod_revision"]))
    holds("deleted", client.delete(key))
    holds("not deleted twice", not client.delete(key))
    equal("after", client.get(key), [])


@check("kv/ranges")
def ranges(members: Members) -> None:
    client = client_of(members)
    for name in ("c", "a", "d", "b"):
        client.put(key_of(name), name * 2)
    names = [item["key"][-1:] for _, item in client.get_prefix(key_of())]
    equal("prefix", names, [b"a", b"b", b"c", b"d"])
    down = client.get_prefix(key_of(), sort_order="descend", sort_target="key")
    equal("descending", [value for value, _ in down], [b"dd", b"cc", b"bb", b"aa"])
    by_age = client.get_prefix(key_of(), sort_order="ascend", sort_target="mod")
    equal("by age", [value for value, _ in by_age], [b"cc", b"aa", b"dd", b"bb"])
    end = key_of("c").decode()
    equal("range", client.get(key_of("a"), range_end=end), [b"aa", b"bb"])
    equal("limit", client.get(key_of("a"), range_end=end, limit=1), [b"aa"])
    equal("keys only", client.get(key_of("a"), range_end=end, keys_only=True), [b"", b""])
    equal("serializable", client.get(key_of("a"), serializable=True), [b"aa"])
    counted = post(client, "/kv/range", key=b64(key_of("a")), range_end=b64(key_of("z")), count_only=True)
    equal("count", counted["count"], "4")
    holds("all", len(client.get_all()) >= 4)
    holds("prefix deleted", client.delete_prefix(key_of()))
    equal("nothing left", client.get_prefix(key_of()), [])


@check("kv/revisions")
def revisions(members: Members) -> None:
    client = client_of(members)
    first = put(client, key_of("a"), "1")
    second = put(client, key_of("a"), "2")
    equal("old value", client.get(key_of("a"), revision=first), [b"1"])
    equal("by mod revision", client.get(key_of("a"), min_mod_revision=second + 1), [])
    equal("by creation", client.get(key_of("a"), max_create_revision=first), [b"2"])


@check("kv/create-and-replace")
def create_and_replace(members: Members) -> None:
    client = client_of(members)
    holds("created", client.create(key_of("a"), "1"))
    holds("not created twice", not client.create(key_of("a"), "2"))
    holds("replaced", client.replace(key_of("a"), "1", "3"))
    holds("not replaced", not client.replace(key_of("a"), "1", "4"))
    equal("value", client.get(key_of("a")), [b"3"])


@check("kv/transactions")
def transactions(members: Members) -> None:
    client = client_of(members)
    client.put(key_of("a"), "5")
    key, other = b64(key_of("a")), b64(key_of("b"))
    request = {
        "compare": [
            {"key": key, "result": "GREATER", "target": "VALUE", "value": b64(b"4")},
            {"key": key, "result": "EQUAL", "target": "VERSION", "version": 1},
        ],
        "success": [
            {"request_put": {"key": other, "value": b64(b"won")}},
            {"request_range": {"key": other}},
            {"request_delete_range": {"key": key, "prev_kv": True}},
        ],
        "failure": [{"request_range": {"key": other}}],
    }
    won = client.transaction(request)
    holds("succeeded", won["succeeded"])
    _, ranged, deleted = won["responses"]
    equal("sees its own put", ranged["response_range"]["kvs"][0]["value"], b64(b"won"))
    equal("deleted", deleted["response_delete_range"]["prev_kvs"][0]["value"], b64(b"5"))
    lost = client.transaction(request)
    holds("did not succeed", not lost.get("succeeded"))
    equal("the other branch", lost["responses"][0]["response_range"]["count"], "1")
    nested = client.transaction(
        {"success": [{"request_txn": {"success": [{"request_put": {"key": key, "value": b64(b"n")}}]}}]}
    )
    holds("nested", nested["responses"][0]["response_txn"]["succeeded"])
    equal("nested value", client.get(key_of("a")), [b"n"])
    twice = {"request_put": {"key": key, "value": key}}
    says(
        "the same key twice",
        3,
        "etcdserver: duplicate key given in txn request",
        lambda: client.transaction({"success": [twice, twice]}),
    )


@check("kv/refused")
def kv_refused(members: Members) -> None:
    client = client_of(members)
    says("no key", 3, "etcdserver: key is not provided", lambda: client.put("", "x"))
    says("no key to get", 3, "etcdserver: key is not provided", lambda: client.get(""))
    future = revision_of(client) + 1000
    says(
        "a revision to come",
        11,
        "etcdserver: mvcc: required revision is a future revision",
        lambda: client.get(key_of(), revision=future),
    )
    says(
        "an unknown lease",
        5,
        "etcdserver: requested lease not found",
        lambda: post(client, "/kv/put", key=b64(key_of()), lease=4711),
    )
    error = refused(
        "no JSON", exceptions.Etcd3Exception, lambda: client.post(client.get_url("/kv/put"), data="{")
    )
    equal("no JSON", json.loads(error.detail_text)["code"], 3)
    error = refused("no such path", exceptions.Etcd3Exception, lambda: post(client, "/kv/none"))
    holds("no such path", error.args)


@check("kv/compacted")
def compacted(members: Members) -> None:
    client = client_of(members)
    first = put(client, key_of("a"), "1")
    second = put(client, key_of("a"), "2")
    post(client, "/kv/compaction", revision=second, physical=True)
    text = "etcdserver: mvcc: required revision has been compacted"
    says("compacted", 11, text, lambda: client.get(key_of("a"), revision=first))
    equal("not compacted", client.get(key_of("a"), revision=second), [b"2"])
    says("twice", 11, text, lambda: post(client, "/kv/compaction", revision=second))
    future = "etcdserver: mvcc: required revision is a future revision"
    says("to come", 11, future, lambda: post(client, "/kv/compaction", revision=second + 1000))


# Watches.


@check("watch/puts-and-deletions")
def watch_changes(members: Members) -> None:
    client = client_of(members)
    start = put(client, key_of("before"), "x") + 1
    events = Events(client.watch_prefix(key_of(), start_revision=start))
    client.put(key_of("a"), "1")
    client.put(key_of("b"), "2")
    client.delete(key_of("a"))
    equal("events", events.told(3), ["PUT a=1", "PUT b=2", "DELETE a="])
    events.cancel()


@check("watch/from-the-past-and-one-key")
def watch_past(members: Members) -> None:
    client = client_of(members)
    first = put(client, key_of("a"), "1")
    client.put(key_of("ab"), "no")
    client.put(key_of("a"), "2")
    events = Events(client.watch(key_of("a"), start_revision=first))
    equal("past", events.told(2), ["PUT a=1", "PUT a=2"])
    client.put(key_of("a"), "3")
    equal("then", events.told(1), ["PUT a=3"])
    events.cancel()


@check("watch/filters-and-previous-pairs")
def watch_filters(members: Members) -> None:
    client = client_of(members)
    first = put(client, key_of("a"), "1")
    client.put(key_of("a"), "2")
    client.delete(key_of("a"))
    events = Events(client.watch(key_of("a"), start_revision=first, filters=["NOPUT"], prev_kv=True))
    event = events.next()
    equal("a deletion only", told_by(event), "DELETE a=")
    equal("the pair before", event["prev_kv"]["value"], b64(b"2"))
    events.cancel()


@check("watch/many-events-whole-and-in-order")
def watch_many(members: Members) -> None:
    client, watcher = client_of(members), client_of(members)
    start = put(client, key_of("start"), "x") + 1
    events = Events(watcher.watch_prefix(key_of(), start_revision=start))
    for number in range(200):
        client.put(key_of("n"), str(number))
    equal("events", events.told(200), [f"PUT n={number}" for number in range(200)])
    events.cancel()


@check("watch/once")
def watch_once(members: Members) -> None:
    client = client_of(members)
    first = put(client, key_of("a"), "1")
    equal("event", told_by(client.watch_once(key_of("a"), 30, start_revision=first)), "PUT a=1")
    refused("nothing", exceptions.WatchTimedOut, lambda: client.watch_once(key_of("quiet"), 1))


# Leases and locks.


@check("lease/grant-attach-revoke")
def lease_revoke(members: Members) -> None:
    client = client_of(members)
    lease = client.lease(ttl=600)
    client.put(key_of("a"), "1", lease=lease)
    client.create(key_of("b"), "1", lease=lease)
    equal("keys", sorted(lease.keys()), [key_of("a"), key_of("b")])
    holds("time to live", 590 <= lease.ttl() <= 600)
    equal("renewed", lease.refresh(), 600)
    leases = post(client, "/lease/leases")["leases"]
    holds("listed", {"ID": str(lease.id)} in leases)
    holds("revoked", lease.revoke())
    equal("keys after it", client.get_prefix(key_of()), [])
    equal("no time left", lease.ttl(), -1)
    equal("not renewed", lease.refresh(), -1)
    says("revoked twice", 5, "etcdserver: requested lease not found", lease.revoke)


@check("lease/runs-out")
def lease_runs_out(members: Members) -> None:
    client = client_of(members)
    kept, left = client.lease(ttl=3), client.lease(ttl=2)
    client.put(key_of("kept"), "1", lease=kept)
    client.put(key_of("left"), "1", lease=left)

    def is_gone() -> bool:
        holds("kept alive", kept.refresh() == 3)
        return not client.get(key_of("left"))

    eventually("the other runs out", is_gone)
    equal("the kept one's key", client.get(key_of("kept")), [b"1"])
    kept.revoke()


@check("lease/refused")
def lease_refused(members: Members) -> None:
    client = client_of(members)
    lease = client.lease(ttl=60)
    says(
        "twice",
        9,
        "etcdserver: lease already exists",
        lambda: post(client, "/lease/grant", ID=lease.id, TTL=60),
    )
    says("too long", 11, "etcdserver: too large lease TTL", lambda: client.lease(ttl=9_000_000_001))
    lease.revoke()


@check("lock/library")
def library_lock(members: Members) -> None:
    client, other = client_of(members), client_of(members, 1)
    name = key_of().decode()
    with client.lock(name, ttl=60) as lock:
        holds("acquired", lock.is_acquired())
        waiting = other.lock(name, ttl=60)
        holds("not for another", not waiting.acquire() and not waiting.is_acquired())
        equal("refreshed", lock.refresh(), 60)
    holds("released", not lock.is_acquired())
    holds("for another now", waiting.acquire() and waiting.is_acquired())
    holds("released by it", waiting.release())


@check("lock/service")
def service_lock(members: Members) -> None:
    client = client_of(members)
    lease = client.lease(ttl=60)
    held = post(client, "/lock/lock", name=b64(key_of("l")), lease=lease.id)
    stored = base64.b64decode(held["key"])
    holds("the key", stored.startswith(key_of("l") + b"/") and len(client.get(stored)) == 1)
    post(client, "/lock/unlock", key=held["key"])
    equal("no key", client.get(stored), [])
    lease.revoke()


@check("election/service")
def election(members: Members) -> None:
    client = client_of(members)
    lease = client.lease(ttl=60)
    name = b64(key_of("e"))
    leader = post(client, "/election/campaign", name=name, lease=lease.id, value=b64(b"one"))["leader"]
    equal("leader", post(client, "/election/leader", name=name)["kv"]["value"], b64(b"one"))
    post(client, "/election/proclaim", leader=leader, value=b64(b"uno"))
    equal("proclaimed", post(client, "/election/leader", name=name)["kv"]["value"], b64(b"uno"))
    post(client, "/election/resign", leader=leader)
    says("nobody", 2, "election: no leader", lambda: post(client, "/election/leader", name=name))
    lease.revoke()


# The cluster.


@check("cluster/members")
def members_listed(members: Members) -> None:
    listed = client_of(members).members()
    equal("members", len(listed), 3)
    equal(
        "URLs", sorted(url for member in listed for url in member["clientURLs"]), sorted(members["endpoints"])
    )


@check("maintenance/status")
def status(members: Members) -> None:
    said = client_of(members).status()
    holds("version", said["version"].startswith("3."))
    holds("size", int(said["dbSize"]) >= int(said["dbSizeInUse"]) > 0)
    holds("leader", said["leader"] != "0" and int(said["raftTerm"]) > 1)
    holds("index", int(said["raftIndex"]) >= int(said["raftAppliedIndex"]) > 0)


@check("maintenance/calls")
def maintenance(members: Members) -> None:
    client = client_of(members)
    equal("alarms", post(client, "/maintenance/alarm", action="GET").get("alarms", []), [])
    holds("hash", int(post(client, "/maintenance/hash")["hash"]) > 0)
    post(client, "/maintenance/defragment")
    hashes = {
        post(client_of(members, at), "/maintenance/hashkv", revision=revision_of(client))["hash"]
        for at in range(3)
    }
    equal("hashes", len(hashes), 1)
    reply = client.session.post(client.get_url("/maintenance/snapshot"), json={}, stream=True, timeout=20)
    parts = [json.loads(line)["result"] for line in reply.iter_lines() if line]
    size = sum(len(base64.b64decode(part.get("blob", ""))) for part in parts)
    holds("snapshot", size > 1000 and "remaining_bytes" not in parts[-1])


# Auth.


@contextmanager
def auth_enabled(members: Members) -> Iterator[Etcd3Client]:
    anyone = client_of(members)
    post(anyone, "/auth/user/add", name="root", password=ROOT_PASSWORD)
    post(anyone, "/auth/role/add", name="root")
    post(anyone, "/auth/user/grant", user="root", role="root")
    post(anyone, "/auth/enable")
    root = logged_in(members, "root", ROOT_PASSWORD)
    try:
        yield root
    finally:
        post(root, "/auth/disable")
        for user in post(anyone, "/auth/user/list")["users"]:
            post(anyone, "/auth/user/delete", name=user)
        for role in post(anyone, "/auth/role/list")["roles"]:
            post(anyone, "/auth/role/delete", role=role)


def logged_in(members: Members, user: str, password: str) -> Etcd3Client:
    client = client_of(members)
    token = post(client, "/auth/authenticate", name=user, password=password)["token"]
    client.session.headers["Authorization"] = token
    return client


@check("auth/users-and-roles")
def auth(members: Members) -> None:
    anyone = client_of(members)
    says("no root", 9, "etcdserver: root user does not exist", lambda: post(anyone, "/auth/enable"))
    says(
        "not enabled",
        9,
        "etcdserver: authentication is not enabled",
        lambda: post(anyone, "/auth/authenticate", name="a", password="b"),
    )
    with auth_enabled(members) as root:
        holds("status", post(root, "/auth/status")["enabled"])
        post(root, "/auth/user/add", name="ann", password="secret")
        post(root, "/auth/role/add", name="writer")
        permission = {"permType": "READWRITE", "key": b64(key_of("a")), "range_end": b64(key_of("b"))}
        post(root, "/auth/role/grant", name="writer", perm=permission)
        post(root, "/auth/user/grant", user="ann", role="writer")
        equal("roles of a user", post(root, "/auth/user/get", name="ann")["roles"], ["writer"])
        equal("permissions", post(root, "/auth/role/get", role="writer")["perm"], [permission])
        says(
            "ann again",
            9,
            "etcdserver: user name already exists",
            lambda: post(root, "/auth/user/add", name="ann", password="x"),
        )
        ann = logged_in(members, "ann", "secret")
        denied = "etcdserver: permission denied"
        holds("allowed", ann.put(key_of("a"), "1"))
        equal("allowed", ann.get(key_of("a")), [b"1"])
        says("put elsewhere", 7, denied, lambda: ann.put(key_of("c"), "1"))
        says("get elsewhere", 7, denied, lambda: ann.get_prefix(key_of()))
        says("a transaction elsewhere", 7, denied, lambda: ann.create(key_of("c"), "1"))
        says("root's business", 7, denied, lambda: post(ann, "/auth/user/add", name="bob", password="x"))
        says("nobody", 3, "etcdserver: user name is empty", lambda: anyone.get(key_of("a")))
        failed = "etcdserver: authentication failed, invalid user ID or password"
        says("a wrong password", 3, failed, lambda: logged_in(members, "ann", "wrong"))
        ann.session.headers["Authorization"] = "made up"
        says("a wrong token", 16, "etcdserver: invalid auth token", lambda: ann.get(key_of("a")))
        post(root, "/auth/user/changepw", name="ann", password="new")
        holds("the new password", logged_in(members, "ann", "new").get(key_of("a")))
        post(root, "/auth/user/revoke", name="ann", role="writer")
        says("revoked", 7, denied, lambda: logged_in(members, "ann", "new").get(key_of("a")))
    equal("all may again", anyone.get(key_of("a")), [b"1"])


@check("tls/server-and-client-certificates")
def tls(members: Members) -> None:
    server = ask("cluster tls")
    trusted = client_of(server, ca_cert=server["ca_file"])
    holds("put", trusted.put(key_of("a"), "1"))
    failed = exceptions.ConnectionFailedError
    refused("not trusted", failed, lambda: client_of(server).get(key_of("a")))
    both = ask("cluster mtls")
    shown = client_of(both, ca_cert=both["ca_file"], cert_cert=both["cert_file"], cert_key=both["key_file"])
    holds("put", shown.put(key_of("a"), "1"))
    refused("no certificate", failed, lambda: client_of(both, ca_cert=both["ca_file"]).get(key_of("a")))


# The leader dies.


@check("failover/others-go-on")
def failover(members: Members) -> None:
    clients = [client_of(members, position) for position in range(3)]
    said = [client.status() for client in clients]
    follower = next(
        client
        for client, one in zip(clients, said, strict=True)
        if one["header"]["member_id"] != one["leader"]
    )
    start = put(follower, key_of("0"), "x") + 1
    lease = follower.lease(ttl=60)
    events = Events(client_of(members, clients.index(follower)).watch_prefix(key_of(), start_revision=start))
    holds("put", follower.put(key_of("1"), "1", lease=lease))
    ask("kill-leader")

    def writes_succeed() -> bool:
        try:
            return follower.put(key_of("2"), "2")
        except exceptions.Etcd3Exception:
            return False

    eventually("writes succeed again", writes_succeed)
    equal("renewed", lease.refresh(), 60)
    equal("lease's keys", lease.keys(), [key_of("1")])
    ask("restart")
    holds("put", follower.put(key_of("end"), "3"))
    told = []
    while not told or told[-1] != "PUT end=3":
        told += events.told(1)
    # A put that was refused in between may have been applied all the same.
    holds(f"events: {told}", told[0] == "PUT 1=1" and set(told[1:-1]) == {"PUT 2=2"})
    events.cancel()
    lease.revoke()


if __name__ == "__main__":
    main()

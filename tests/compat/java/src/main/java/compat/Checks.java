package compat;

import static compat.Harness.ask;
import static compat.Harness.bytes;
import static compat.Harness.check;
import static compat.Harness.cleanup;
import static compat.Harness.equal;
import static compat.Harness.eventually;
import static compat.Harness.got;
import static compat.Harness.is;
import static compat.Harness.key;
import static compat.Harness.members;
import static compat.Harness.refused;
import static io.grpc.Status.Code.FAILED_PRECONDITION;
import static io.grpc.Status.Code.INVALID_ARGUMENT;
import static io.grpc.Status.Code.NOT_FOUND;
import static io.grpc.Status.Code.OUT_OF_RANGE;
import static io.grpc.Status.Code.PERMISSION_DENIED;
import static io.grpc.Status.Code.UNKNOWN;

import io.etcd.jetcd.Auth;
import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.ClientBuilder;
import io.etcd.jetcd.Cluster;
import io.etcd.jetcd.Election;
import io.etcd.jetcd.KV;
import io.etcd.jetcd.KeyValue;
import io.etcd.jetcd.Lease;
import io.etcd.jetcd.Lock;
import io.etcd.jetcd.Maintenance;
import io.etcd.jetcd.Txn;
import io.etcd.jetcd.Watch;
import io.etcd.jetcd.auth.Permission;
import io.etcd.jetcd.cluster.Member;
import io.etcd.jetcd.cluster.MemberAddResponse;
import io.etcd.jetcd.common.exception.CompactedException;
import io.etcd.jetcd.common.exception.EtcdException;
import io.etcd.jetcd.election.CampaignResponse;
import io.etcd.jetcd.election.LeaderResponse;
import io.etcd.jetcd.election.NoLeaderException;
import io.etcd.jetcd.kv.GetResponse;
import io.etcd.jetcd.kv.TxnResponse;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.maintenance.StatusResponse;
import io.etcd.jetcd.op.Cmp;
import io.etcd.jetcd.op.CmpTarget;
import io.etcd.jetcd.op.Op;
import io.etcd.jetcd.options.CompactOption;
import io.etcd.jetcd.options.DeleteOption;
import io.etcd.jetcd.options.GetOption;
import io.etcd.jetcd.options.LeaseOption;
import io.etcd.jetcd.options.PutOption;
import io.etcd.jetcd.options.WatchOption;
import io.etcd.jetcd.watch.WatchEvent;
import io.etcd.jetcd.watch.WatchResponse;
import io.grpc.stub.StreamObserver;
import io.vertx.core.json.JsonObject;
import java.io.ByteArrayOutputStream;
import java.io.File;
import java.net.URI;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;

/** gRPC from Java, by jetcd. */
public final class Checks {
    private static final String ROOT_PASSWORD = "root's password";
    private static final String COMPACTED = "etcdserver: mvcc: required revision has been compacted";
    private static final String NO_LEASE = "etcdserver: requested lease not found";
    private static final String DENIED = "etcdserver: permission denied";

    private Checks() {}

    public static void main(String[] arguments) throws Exception {
        check("kv/put-get-delete", Checks::putGetDelete);
        check("kv/ranges", Checks::ranges);
        check("kv/namespaces", Checks::namespaces);
        check("kv/transactions", Checks::transactions);
        check("kv/refused", Checks::kvRefused);
        check("kv/compacted", Checks::compacted);
        check("watch/puts-and-deletions", Checks::watchChanges);
        check("watch/from-the-past", Checks::watchPast);
        check("watch/filters-and-previous-pairs", Checks::watchFilters);
        check("watch/progress", Checks::watchProgress);
        check("watch/compacted", Checks::watchCompacted);
        check("watch/many-events-whole-and-in-order", Checks::watchMany);
        check("lease/grant-attach-revoke", Checks::leaseRevoke);
        check("lease/kept-alive-and-runs-out", Checks::leaseKept);
        check("lock/one-at-a-time", Checks::lock);
        check("election/one-after-the-other", Checks::election);
        check("cluster/members", Checks::cluster);
        check("maintenance/calls", Checks::maintenance);
        check("auth/users-and-roles-are-kept", Checks::authKept);
        check("auth/permissions", Checks::authPermissions);
        check("tls/client-certificates", Checks::tls);
        check("failover/watch-lease-and-lock-go-on", Checks::failover);
        Harness.main(arguments);
        System.exit(0);
    }

    // Clients.

    private static List<String> endpoints(JsonObject of) {
        return of.getJsonArray("endpoints").stream().map(String::valueOf).toList();
    }

    private static Client made(ClientBuilder builder) {
        Client client = builder.build();
        cleanup(client::close);
        return client;
    }

    private static Client client() {
        return made(Client.builder().endpoints(endpoints(members()).toArray(String[]::new)));
    }

    /** A client of one member only: what it has been told of, that member knows. */
    private static ClientBuilder alone() {
        return Client.builder().endpoints(endpoints(members()).get(0));
    }

    private static long put(KV kv, ByteSequence key, String value) throws Exception {
        return got(kv.put(key, bytes(value))).getHeader().getRevision();
    }

    private static String value(KV kv, ByteSequence key) throws Exception {
        return values(got(kv.get(key)));
    }

    private static String values(GetResponse response) {
        return response.getKvs().stream().map(pair -> pair.getValue().toString()).collect(Collectors.joining(" "));
    }

    private static GetOption prefix() {
        return GetOption.builder().isPrefix(true).build();
    }

    /** What a watch tells. */
    private static final class Events implements Watch.Listener {
        final BlockingQueue<WatchEvent> events = new LinkedBlockingQueue<>();
        final BlockingQueue<WatchResponse> notices = new LinkedBlockingQueue<>();
        final CompletableFuture<Throwable> failure = new CompletableFuture<>();
        private Watch.Watcher watcher;

        /** Begun, and sure to stand when this returns. */
        static Events of(Client client, ByteSequence key, WatchOption.Builder option) throws Exception {
            Events events = new Events();
            events.watcher = client.getWatchClient()
                    .watch(key, option.withCreateNotify(true).build(), events);
            cleanup(events.watcher::close);
            WatchResponse first = events.notices.poll(30, TimeUnit.SECONDS);
            is("a watch begins with its creation", first != null && first.isCreatedNotify());
            return events;
        }

        @Override
        public void onNext(WatchResponse response) {
            if (response.getEvents().isEmpty()) {
                notices.add(response);
            }
            events.addAll(response.getEvents());
        }

        @Override
        public void onError(Throwable error) {
            failure.complete(error);
        }

        @Override
        public void onCompleted() {}

        WatchEvent next() throws Exception {
            WatchEvent event = events.poll(30, TimeUnit.SECONDS);
            is("an event comes", event != null);
            return event;
        }

        String told(int count) throws Exception {
            List<String> said = new ArrayList<>();
            for (int i = 0; i < count; i++) {
                said.add(toldBy(next()));
            }
            return String.join(", ", said);
        }
    }

    private static String toldBy(WatchEvent event) {
        String key = event.getKeyValue().getKey().toString();
        return event.getEventType() + " " + key.substring(key.lastIndexOf('/') + 1) + "="
                + event.getKeyValue().getValue();
    }

    private static WatchOption.Builder watched() {
        return WatchOption.builder();
    }

    // Keys and values.

    private static void putGetDelete() throws Exception {
        KV kv = client().getKVClient();
        equal("before", got(kv.get(key("a"))).getCount(), 0);
        long first = put(kv, key("a"), "1");
        ByteSequence raw = ByteSequence.from(new byte[] {0, -1, 10});
        var before = got(kv.put(key("a"), raw, PutOption.builder().withPrevKV().build()));
        equal("the pair before", before.getPrevKv().getValue(), "1");
        KeyValue pair = got(kv.get(key("a"))).getKvs().get(0);
        is("bytes", pair.getValue().equals(raw));
        equal("version", pair.getVersion(), 2);
        equal("created", pair.getCreateRevision(), first);
        equal("changed", pair.getModRevision(), before.getHeader().getRevision());
        GetOption old = GetOption.builder().withRevision(first).build();
        equal("old value", values(got(kv.get(key("a"), old))), "1");
        var deleted = got(kv.delete(key("a"), DeleteOption.builder().withPrevKV(true).build()));
        is("deleted", deleted.getDeleted() == 1 && deleted.getPrevKvs().get(0).getValue().equals(raw));
        equal("not deleted twice", got(kv.delete(key("a"))).getDeleted(), 0);
    }

    private static void ranges() throws Exception {
        KV kv = client().getKVClient();
        for (String name : List.of("c", "a", "d", "b")) {
            put(kv, key(name), name + name);
        }
        equal("prefix", values(got(kv.get(key(""), prefix()))), "aa bb cc dd");
        GetOption down = GetOption.builder()
                .isPrefix(true)
                .withSortField(GetOption.SortTarget.KEY)
                .withSortOrder(GetOption.SortOrder.DESCEND)
                .withLimit(3)
                .build();
        GetResponse page = got(kv.get(key(""), down));
        equal("descending", values(page), "dd cc bb");
        is("more", page.isMore() && page.getCount() == 4);
        GetOption byAge = GetOption.builder()
                .isPrefix(true)
                .withSortField(GetOption.SortTarget.MOD)
                .withSortOrder(GetOption.SortOrder.ASCEND)
                .build();
        equal("by age", values(got(kv.get(key(""), byAge))), "cc aa dd bb");
        GetOption range = GetOption.builder().withRange(key("c")).withSerializable(true).build();
        eventually("range", () -> values(got(kv.get(key("a"), range))).equals("aa bb"));
        GetOption counted = GetOption.builder().isPrefix(true).withCountOnly(true).build();
        GetResponse count = got(kv.get(key(""), counted));
        is("count", count.getCount() == 4 && count.getKvs().isEmpty());
        GetOption keys = GetOption.builder().isPrefix(true).withKeysOnly(true).build();
        equal("keys only", values(got(kv.get(key(""), keys))).strip(), "");
        long third = got(kv.get(key("d"))).getKvs().get(0).getModRevision();
        GetOption late = GetOption.builder().isPrefix(true).withMinModRevision(third).build();
        equal("by revision", values(got(kv.get(key(""), late))), "bb dd");
        DeleteOption part = DeleteOption.builder().withRange(key("c")).build();
        equal("range deleted", got(kv.delete(key("a"), part)).getDeleted(), 2);
        DeleteOption all = DeleteOption.builder().isPrefix(true).build();
        equal("prefix deleted", got(kv.delete(key(""), all)).getDeleted(), 2);
    }

    private static void namespaces() throws Exception {
        KV inside = made(Client.builder()
                        .endpoints(endpoints(members()).toArray(String[]::new))
                        .namespace(key("ns/")))
                .getKVClient();
        put(inside, bytes("x"), "1");
        equal("inside", value(inside, bytes("x")), "1");
        equal("outside", value(client().getKVClient(), key("ns/x")), "1");
        equal("its key", got(inside.get(ByteSequence.EMPTY, prefix())).getKvs().get(0).getKey(), "x");
    }

    private static Cmp version(ByteSequence key, Cmp.Op op, long version) {
        return new Cmp(key, op, CmpTarget.version(version));
    }

    private static Op.PutOp putOp(ByteSequence key, String value) {
        return Op.put(key, bytes(value), PutOption.DEFAULT);
    }

    private static void transactions() throws Exception {
        KV kv = client().getKVClient();
        put(kv, key("a"), "5");
        Op.GetOp read = Op.get(key("b"), GetOption.DEFAULT);
        Op.TxnOp nested = Op.txn(new Cmp[] {}, new Op[] {putOp(key("n"), "1")}, new Op[] {});
        Txn attempt = kv.txn()
                .If(
                        new Cmp(key("a"), Cmp.Op.GREATER, CmpTarget.value(bytes("4"))),
                        version(key("a"), Cmp.Op.EQUAL, 1),
                        new Cmp(key("b"), Cmp.Op.EQUAL, CmpTarget.createRevision(0)),
                        new Cmp(key("a"), Cmp.Op.NOT_EQUAL, CmpTarget.modRevision(0)))
                .Then(putOp(key("b"), "won"), read, Op.delete(key("a"), DeleteOption.DEFAULT))
                .Else(read, nested);
        TxnResponse won = got(attempt.commit());
        is("succeeded", won.isSucceeded());
        equal("sees its own put", values(won.getGetResponses().get(0)), "won");
        equal("deleted", won.getDeleteResponses().get(0).getDeleted(), 1);
        equal("one revision", got(kv.get(key("b"))).getKvs().get(0).getModRevision(), won.getHeader().getRevision());
        TxnResponse lost = got(kv.txn()
                .If(version(key("a"), Cmp.Op.EQUAL, 1))
                .Else(read, nested)
                .commit());
        is("did not succeed", !lost.isSucceeded());
        equal("the other branch", values(lost.getGetResponses().get(0)), "won");
        is("nested", lost.getTxnResponses().get(0).isSucceeded());
        equal("nested", value(kv, key("n")), "1");
        refused(
                "the same key twice",
                INVALID_ARGUMENT,
                "etcdserver: duplicate key given in txn request",
                () -> kv.txn().Then(putOp(key("x"), "1"), putOp(key("x"), "2")).commit());
        Op[] many = new Op[129];
        for (int i = 0; i < many.length; i++) {
            many[i] = putOp(key("m" + i), "");
        }
        refused(
                "too many operations",
                INVALID_ARGUMENT,
                "etcdserver: too many operations in txn request",
                () -> kv.txn().Then(many).commit());
    }

    private static void kvRefused() throws Exception {
        KV kv = client().getKVClient();
        long revision = put(kv, key("a"), "1");
        refused(
                "no key",
                INVALID_ARGUMENT,
                "etcdserver: key is not provided",
                () -> kv.put(ByteSequence.EMPTY, bytes("x")));
        GetOption future = GetOption.builder().withRevision(revision + 1000).build();
        refused(
                "a revision to come",
                OUT_OF_RANGE,
                "etcdserver: mvcc: required revision is a future revision",
                () -> kv.get(key("a"), future));
        PutOption leased = PutOption.builder().withLeaseId(4711).build();
        refused("an unknown lease", NOT_FOUND, NO_LEASE, () -> kv.put(key("a"), bytes("x"), leased));
        refused(
                "too large",
                INVALID_ARGUMENT,
                "etcdserver: request is too large",
                () -> kv.put(key("a"), ByteSequence.from(new byte[1_600_000])));
    }

    private static void compacted() throws Exception {
        KV kv = made(alone()).getKVClient();
        long first = put(kv, key("a"), "1");
        long second = put(kv, key("a"), "2");
        got(kv.compact(second, CompactOption.builder().withCompactPhysical(true).build()));
        GetOption old = GetOption.builder().withRevision(first).build();
        refused("compacted", OUT_OF_RANGE, COMPACTED, () -> kv.get(key("a"), old));
        refused("twice", OUT_OF_RANGE, COMPACTED, () -> kv.compact(second));
        GetOption kept = GetOption.builder().withRevision(second).build();
        equal("not compacted", values(got(kv.get(key("a"), kept))), "2");
    }

    // Watches.

    private static void watchChanges() throws Exception {
        Client client = client();
        KV kv = client.getKVClient();
        Events all = Events.of(client, key(""), watched().isPrefix(true));
        Events one = Events.of(client, key("a"), watched());
        put(kv, key("a"), "1");
        put(kv, key("b"), "2");
        got(kv.delete(key("a")));
        equal("of the prefix", all.told(3), "PUT a=1, PUT b=2, DELETE a=");
        equal("of the key", one.told(2), "PUT a=1, DELETE a=");
        all.watcher.close();
        put(kv, key("a"), "3");
        equal("the other goes on", one.told(1), "PUT a=3");
        is("closed", all.events.isEmpty());
    }

    private static void watchPast() throws Exception {
        Client client = client();
        KV kv = client.getKVClient();
        long first = put(kv, key("a"), "1");
        put(kv, key("b"), "2");
        got(kv.delete(key("a")));
        Events events = Events.of(client, key(""), watched().isPrefix(true).withRevision(first));
        equal("past", events.told(3), "PUT a=1, PUT b=2, DELETE a=");
        long next = put(kv, key("c"), "3") + 1;
        equal("then", events.told(1), "PUT c=3");
        Events later = Events.of(client, key("a"), watched().withRevision(next));
        put(kv, key("a"), "4");
        equal("from the future", later.told(1), "PUT a=4");
    }

    private static void watchFilters() throws Exception {
        Client client = client();
        KV kv = client.getKVClient();
        Events puts = Events.of(client, key("a"), watched().withNoDelete(true).withPrevKV(true));
        Events deletions = Events.of(client, key("a"), watched().withNoPut(true).withPrevKV(true));
        put(kv, key("a"), "1");
        got(kv.delete(key("a")));
        put(kv, key("a"), "2");
        put(kv, key("a"), "3");
        equal("puts", puts.told(2), "PUT a=1, PUT a=2");
        equal("the pair before", puts.next().getPrevKV().getValue(), "2");
        WatchEvent deletion = deletions.next();
        equal("deletions", toldBy(deletion), "DELETE a=");
        equal("the pair before", deletion.getPrevKV().getValue(), "1");
        is("no more", deletions.events.isEmpty());
    }

    private static void watchProgress() throws Exception {
        Client client = client();
        Events events = Events.of(client, key("a"), watched().withProgressNotify(true));
        long revision = put(client.getKVClient(), key("other"), "1");
        // The members are told to notify every second.
        eventually("progress", () -> {
            WatchResponse notice = events.notices.poll(30, TimeUnit.SECONDS);
            is("a notice comes", notice != null);
            return notice.isProgressNotify() && notice.getHeader().getRevision() >= revision;
        });
    }

    private static void watchCompacted() throws Exception {
        Client client = made(alone());
        KV kv = client.getKVClient();
        long first = put(kv, key("a"), "1");
        long second = put(kv, key("a"), "2");
        got(kv.compact(second));
        Events events = new Events();
        cleanup(client.getWatchClient().watch(key("a"), watched().withRevision(first).build(), events)::close);
        Throwable error = events.failure.get(30, TimeUnit.SECONDS);
        is("compacted: " + error, error instanceof CompactedException);
        equal("below", ((CompactedException) error).getCompactedRevision(), second);
    }

    private static void watchMany() throws Exception {
        Client client = client();
        List<Events> watches = new ArrayList<>();
        for (int i = 0; i < 20; i++) {
            watches.add(Events.of(client, key(""), watched().isPrefix(true)));
        }
        List<CompletableFuture<?>> puts = new ArrayList<>();
        for (int i = 0; i < 200; i++) {
            puts.add(client.getKVClient().put(key("n"), bytes("v")));
        }
        for (CompletableFuture<?> put : puts) {
            got(put);
        }
        for (Events events : watches) {
            long revision = events.next().getKeyValue().getModRevision();
            for (int i = 1; i < 200; i++) {
                equal("in order", events.next().getKeyValue().getModRevision(), revision + i);
            }
        }
    }

    // Leases.

    private static void leaseRevoke() throws Exception {
        Client client = client();
        KV kv = client.getKVClient();
        Lease leases = client.getLeaseClient();
        long id = got(leases.grant(600)).getID();
        PutOption leased = PutOption.builder().withLeaseId(id).build();
        got(kv.put(key("a"), bytes("1"), leased));
        got(kv.put(key("b"), bytes("1"), leased));
        equal("attached", got(kv.get(key("a"))).getKvs().get(0).getLease(), id);
        var told = got(leases.timeToLive(id, LeaseOption.builder().withAttachedKeys().build()));
        equal("keys", new HashSet<>(told.getKeys()).equals(Set.of(key("a"), key("b"))), true);
        is("time to live", told.getTTL() > 590 && told.getGrantedTTL() == 600);
        equal("renewed", got(leases.keepAliveOnce(id)).getTTL(), 600);
        got(leases.revoke(id));
        equal("keys after it", got(kv.get(key(""), prefix())).getCount(), 0);
        equal("no time left", got(leases.timeToLive(id, LeaseOption.DEFAULT)).getTTL(), -1);
        refused("revoked twice", NOT_FOUND, NO_LEASE, () -> leases.revoke(id));
        refused("not renewed", NOT_FOUND, NO_LEASE, () -> leases.keepAliveOnce(id));
        refused("too long", OUT_OF_RANGE, "etcdserver: too large lease TTL", () -> leases.grant(9_000_000_001L));
    }

    private static final class Renewals implements StreamObserver<LeaseKeepAliveResponse> {
        final AtomicInteger count = new AtomicInteger();
        final CompletableFuture<String> end = new CompletableFuture<>();

        @Override
        public void onNext(LeaseKeepAliveResponse response) {
            count.incrementAndGet();
        }

        @Override
        public void onError(Throwable error) {
            end.complete(String.valueOf(error.getMessage()));
        }

        @Override
        public void onCompleted() {
            end.complete("completed");
        }
    }

    private static void leaseKept() throws Exception {
        Client client = client();
        KV kv = client.getKVClient();
        Lease leases = client.getLeaseClient();
        long kept = got(leases.grant(2)).getID();
        long left = got(leases.grant(2)).getID();
        Renewals renewals = new Renewals();
        cleanup(leases.keepAlive(kept, renewals)::close);
        got(kv.put(key("kept"), bytes("1"), PutOption.builder().withLeaseId(kept).build()));
        got(kv.put(key("left"), bytes("1"), PutOption.builder().withLeaseId(left).build()));
        eventually("the other runs out", () -> value(kv, key("left")).isEmpty());
        equal("the kept one's key", value(kv, key("kept")), "1");
        eventually("renewals", () -> renewals.count.get() > 2);
        got(leases.revoke(kept));
        is("it is told", !renewals.end.get(30, TimeUnit.SECONDS).isEmpty());
        equal("its key", value(kv, key("kept")), "");
    }

    // Locks and elections.

    private static void lock() throws Exception {
        Client first = client();
        Client second = client();
        long mine = got(first.getLeaseClient().grant(60)).getID();
        long other = got(second.getLeaseClient().grant(60)).getID();
        Lock lock = first.getLockClient();
        ByteSequence held = got(lock.lock(key("l"), mine)).getKey();
        is("its key", held.startsWith(key("l/")));
        equal("again", got(lock.lock(key("l"), mine)).getKey(), held);
        var waiting = second.getLockClient().lock(key("l"), other);
        eventually("it stands in the queue", () -> got(first.getKVClient().get(key("l/"), prefix())).getCount() == 2);
        is("it waits", !waiting.isDone());
        got(lock.unlock(held));
        ByteSequence next = got(waiting).getKey();
        is("another key", !next.equals(held));
        // A lock ends with its lease.
        got(second.getLeaseClient().revoke(other));
        equal("free", got(first.getKVClient().get(key("l/"), prefix())).getCount(), 0);
        refused("a lease that is gone", UNKNOWN, NO_LEASE, () -> second.getLockClient().lock(key("l"), other));
        got(first.getLeaseClient().revoke(mine));
    }

    private static void election() throws Exception {
        Client client = client();
        Election election = client.getElectionClient();
        long mine = got(client.getLeaseClient().grant(60)).getID();
        long other = got(client.getLeaseClient().grant(60)).getID();
        List<String> observed = new CopyOnWriteArrayList<>();
        CampaignResponse first = got(election.campaign(key("e"), mine, bytes("one")));
        election.observe(key("e"), new Election.Listener() {
            @Override
            public void onNext(LeaderResponse response) {
                observed.add(response.getKv().getValue().toString());
            }

            @Override
            public void onError(Throwable error) {}

            @Override
            public void onCompleted() {}
        });
        eventually("observed", () -> observed.contains("one"));
        equal("leader", got(election.leader(key("e"))).getKv().getValue(), "one");
        var waiting = election.campaign(key("e"), other, bytes("two"));
        got(election.proclaim(first.getLeader(), bytes("uno")));
        eventually("observed", () -> observed.contains("uno"));
        is("the other waits", !waiting.isDone());
        got(election.resign(first.getLeader()));
        CampaignResponse second = got(waiting);
        eventually("observed", () -> observed.contains("two"));
        equal("all that was observed", observed, List.of("one", "uno", "two"));
        got(election.resign(second.getLeader()));
        try {
            got(election.leader(key("e")));
            is("nobody leads", false);
        } catch (NoLeaderException error) {
            // As it should be.
        }
        got(client.getLeaseClient().revoke(mine));
        got(client.getLeaseClient().revoke(other));
    }

    // The cluster.

    private static void cluster() throws Exception {
        Cluster cluster = client().getClusterClient();
        List<Member> listed = got(cluster.listMember()).getMembers();
        equal("names", listed.stream().map(Member::getName).sorted().toList(), List.of("m1", "m2", "m3"));
        equal(
                "URLs",
                listed.stream().flatMap(m -> m.getClientURIs().stream()).map(String::valueOf).sorted().toList(),
                endpoints(members()).stream().sorted().toList());
        String peer = ask("new-member").getString("peer_url");
        List<MemberAddResponse> answers = new ArrayList<>();
        eventually("added", () -> {
            try {
                return answers.add(got(cluster.addMember(List.of(URI.create(peer)), true)));
            } catch (EtcdException error) {
                // The members have known each other for a few seconds only.
                equal("not yet", error.getMessage(), "etcdserver: unhealthy cluster");
                return false;
            }
        });
        MemberAddResponse added = answers.get(0);
        is("a learner", added.getMember().isLearner() && added.getMembers().size() == 4);
        long id = added.getMember().getId();
        ask("start-member");
        eventually("promoted", () -> {
            try {
                got(cluster.promoteMember(id));
                return true;
            } catch (EtcdException error) {
                equal(
                        "not yet",
                        error.getMessage(),
                        "etcdserver: can only promote a learner member which is in sync with leader");
                return false;
            }
        });
        got(cluster.removeMember(id));
        eventually("gone", () -> got(cluster.listMember()).getMembers().size() == 3);
        ask("drop-member");
        refused("nobody", NOT_FOUND, "etcdserver: member not found", () -> cluster.removeMember(4711));
    }

    private static void maintenance() throws Exception {
        Maintenance maintenance = client().getMaintenanceClient();
        Set<Integer> hashes = ConcurrentHashMap.newKeySet();
        Set<Long> leaders = ConcurrentHashMap.newKeySet();
        long revision = 0;
        for (String endpoint : endpoints(members())) {
            StatusResponse status = got(maintenance.statusMember(endpoint));
            is("version", status.getVersion().startsWith("3."));
            is("numbers", status.getDbSize() >= status.getDbSizeInUse() && status.getRaftTerm() > 1);
            is("errors", status.getErrorList().isEmpty() && !status.isLearner());
            leaders.add(status.getLeader());
            revision = revision == 0 ? status.getHeader().getRevision() : revision;
            long hashed = revision;
            eventually("applied", () ->
                    got(maintenance.statusMember(endpoint)).getHeader().getRevision() >= hashed);
            hashes.add(got(maintenance.hashKV(endpoint, revision)).getHash());
            got(maintenance.defragmentMember(endpoint));
        }
        equal("one leader", leaders.size(), 1);
        equal("one hash", hashes.size(), 1);
        equal("alarms", got(maintenance.listAlarms()).getAlarms(), List.of());
        ByteArrayOutputStream stored = new ByteArrayOutputStream();
        long size = got(maintenance.snapshot(stored));
        is("snapshot", size > 1000 && stored.size() == size);
    }

    // Auth.

    private static void forgetUsers(Auth auth) throws Exception {
        for (String user : got(auth.userList()).getUsers()) {
            got(auth.userDelete(bytes(user)));
        }
        for (String role : got(auth.roleList()).getRoles()) {
            got(auth.roleDelete(bytes(role)));
        }
    }

    private static void authKept() throws Exception {
        Auth auth = made(alone()).getAuthClient();
        ByteSequence ann = bytes("ann");
        ByteSequence writer = bytes("writer");
        refused("no root", FAILED_PRECONDITION, "etcdserver: root user does not exist", auth::authEnable);
        got(auth.userAdd(ann, bytes("secret")));
        got(auth.roleAdd(writer));
        refused(
                "ann twice",
                FAILED_PRECONDITION,
                "etcdserver: user name already exists",
                () -> auth.userAdd(ann, bytes("x")));
        refused(
                "the role twice", FAILED_PRECONDITION, "etcdserver: role name already exists", () -> auth.roleAdd(writer));
        refused(
                "nobody", FAILED_PRECONDITION, "etcdserver: user name not found", () -> auth.userDelete(bytes("bob")));
        refused(
                "no role", FAILED_PRECONDITION, "etcdserver: role name not found", () -> auth.roleGet(bytes("reader")));
        got(auth.roleGrantPermission(writer, bytes("a"), bytes("b"), Permission.Type.READWRITE));
        got(auth.userGrantRole(ann, writer));
        equal("roles", got(auth.userGet(ann)).getRoles(), List.of("writer"));
        Permission permission = got(auth.roleGet(writer)).getPermissions().get(0);
        equal("permission", permission.getPermType() + " " + permission.getKey(), "READWRITE a");
        got(auth.roleRevokePermission(writer, bytes("a"), bytes("b")));
        equal("permissions", got(auth.roleGet(writer)).getPermissions().size(), 0);
        got(auth.userRevokeRole(ann, writer));
        equal("roles", got(auth.userGet(ann)).getRoles().size(), 0);
        forgetUsers(auth);
    }

    private static Client as(String user, String password) {
        return made(alone().user(bytes(user)).password(bytes(password)));
    }

    private static void authPermissions() throws Exception {
        Client anyone = made(alone());
        Auth auth = anyone.getAuthClient();
        got(auth.userAdd(bytes("root"), bytes(ROOT_PASSWORD)));
        got(auth.roleAdd(bytes("root")));
        got(auth.userGrantRole(bytes("root"), bytes("root")));
        got(auth.authEnable());
        Auth root = as("root", ROOT_PASSWORD).getAuthClient();
        cleanup(() -> {
            got(root.authDisable());
            forgetUsers(auth);
        });
        got(root.userAdd(bytes("ann"), bytes("secret")));
        got(root.roleAdd(bytes("writer")));
        got(root.roleGrantPermission(bytes("writer"), key("a/"), key("a0"), Permission.Type.READWRITE));
        got(root.userGrantRole(bytes("ann"), bytes("writer")));
        Client ann = as("ann", "secret");
        KV kv = ann.getKVClient();
        Events events = Events.of(ann, key("a/"), watched().isPrefix(true));
        put(kv, key("a/1"), "1");
        equal("allowed", value(kv, key("a/1")), "1");
        equal("an allowed watch", events.told(1), "PUT 1=1");
        refused("put elsewhere", PERMISSION_DENIED, DENIED, () -> kv.put(key("b"), bytes("x")));
        refused("get elsewhere", PERMISSION_DENIED, DENIED, () -> kv.get(key(""), prefix()));
        refused(
                "a transaction elsewhere",
                PERMISSION_DENIED,
                DENIED,
                () -> kv.txn().If(version(key("a/1"), Cmp.Op.GREATER, 0)).Then(putOp(key("b"), "x")).commit());
        refused(
                "root's business",
                PERMISSION_DENIED,
                DENIED,
                () -> ann.getAuthClient().userAdd(bytes("bob"), bytes("x")));
        refused(
                "nobody",
                INVALID_ARGUMENT,
                "etcdserver: user name is empty",
                () -> anyone.getKVClient().get(key("a/1")));
        got(root.userChangePassword(bytes("ann"), bytes("new")));
        equal("the new password", value(as("ann", "new").getKVClient(), key("a/1")), "1");
    }

    private static void tls() throws Exception {
        JsonObject secured = ask("cluster mtls");
        File authority = new File(secured.getString("ca_file"));
        ClientBuilder builder = Client.builder()
                .endpoints(endpoints(secured).toArray(String[]::new))
                .sslContext(context -> context.trustManager(authority)
                        .keyManager(
                                new File(secured.getString("cert_file")), new File(secured.getString("key_file"))));
        Client client = made(builder);
        Events events = Events.of(client, key("a"), watched());
        put(client.getKVClient(), key("a"), "1");
        equal("event", events.told(1), "PUT a=1");
    }

    // The leader dies.

    private static void failover() throws Exception {
        Client client = client();
        KV kv = client.getKVClient();
        long start = put(kv, key("start"), "") + 1;
        Events events = Events.of(client, key("w/"), watched().isPrefix(true).withRevision(start));
        long lease = got(client.getLeaseClient().grant(20)).getID();
        cleanup(client.getLeaseClient().keepAlive(lease, new Renewals())::close);
        got(kv.put(key("leased"), bytes("1"), PutOption.builder().withLeaseId(lease).build()));
        ByteSequence held = got(client.getLockClient().lock(key("l"), lease)).getKey();
        List<String> acknowledged = new CopyOnWriteArrayList<>();
        AtomicBoolean isStopped = new AtomicBoolean();
        cleanup(() -> isStopped.set(true));
        KV writer = client().getKVClient();
        Thread writing = new Thread(() -> {
            for (int i = 0; !isStopped.get(); i++) {
                try {
                    String name = "w/" + i;
                    writer.put(key(name), bytes("v")).get(2, TimeUnit.SECONDS);
                    acknowledged.add(name);
                } catch (Exception error) {
                    // What was not acknowledged may be there or not.
                }
            }
        });
        writing.start();
        moreIsWritten(acknowledged);
        ask("kill-leader");
        moreIsWritten(acknowledged);
        ask("restart");
        moreIsWritten(acknowledged);
        isStopped.set(true);
        writing.join();
        eventually("a last write", () -> {
            try {
                return put(kv, key("w/end"), "") > 0;
            } catch (EtcdException error) {
                return false;
            }
        });
        Set<ByteSequence> seen = new HashSet<>();
        long previous = 0;
        while (!seen.contains(key("w/end"))) {
            KeyValue pair = events.next().getKeyValue();
            is("each once, in order", pair.getModRevision() > previous);
            previous = pair.getModRevision();
            seen.add(pair.getKey());
        }
        for (String name : acknowledged) {
            is("event of " + name, seen.contains(key(name)));
        }
        for (KeyValue pair : got(kv.get(key("w/"), prefix())).getKvs()) {
            is("event of " + pair.getKey(), seen.contains(pair.getKey()));
        }
        equal("renewed", got(client.getLeaseClient().keepAliveOnce(lease)).getTTL(), 20);
        equal("leased", value(kv, key("leased")), "1");
        equal("still locked", got(kv.get(held)).getCount(), 1);
        got(client.getLockClient().unlock(held));
        got(client.getLeaseClient().revoke(lease));
    }

    private static void moreIsWritten(List<String> acknowledged) throws Exception {
        int target = acknowledged.size() + 30;
        eventually("more is written", () -> acknowledged.size() >= target);
    }
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/clientv3util"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/naming/resolver"
	"go.etcd.io/etcd/client/v3/ordering"
	etcdsnapshot "go.etcd.io/etcd/client/v3/snapshot"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
)

var wrapperChecks = []check{
	{"namespace/kv", namespaceKV},
	{"namespace/watch-and-lease", namespaceWatch},
	{"ordering/reads-never-go-back", orderingKV},
	{"leasing/cached-reads", leasingReads},
	{"leasing/two-clients", leasingTwo},
	{"mirror/base-and-updates", mirrored},
	{"naming/endpoints", namingEndpoints},
	{"naming/resolver", namingResolver},
	{"kubernetes/optimistic-writes", kubernetesKV},
	{"snapshot/save", snapshotSave},
	{"clientv3util/key-exists", keyExists},
	{"grpc/health", health},
}

func namespaceKV(t *T) {
	kv := namespace.NewKV(t.cli.KV, t.key(""))
	for _, key := range []string{"a", "b", "c"} {
		_, err := kv.Put(t.ctx, key, key)
		t.must(err)
	}
	t.equal("below the prefix", keysOf(t.get(t.key(""), clientv3.WithPrefix()).Kvs), "a b c")
	got, err := kv.Get(t.ctx, "", clientv3.WithPrefix())
	t.must(err)
	t.equal("all", keysOf(got.Kvs), "a b c")
	got, err = kv.Get(t.ctx, "b", clientv3.WithFromKey())
	t.must(err)
	t.equal("from b on, and not beyond the prefix", keysOf(got.Kvs), "b c")
	txn, err := kv.Txn(t.ctx).If(clientv3.Compare(clientv3.Value("a"), "=", "a")).
		Then(clientv3.OpPut("d", "d"), clientv3.OpGet("a"), clientv3.OpDelete("b", clientv3.WithPrevKV())).Commit()
	t.must(err)
	t.is("branch", txn.Succeeded)
	t.equal("key in a transaction", string(txn.Responses[1].GetResponseRange().Kvs[0].Key), "a")
	t.equal("deleted in a transaction", string(txn.Responses[2].GetResponseDeleteRange().PrevKvs[0].Key), "b")
	deleted, err := kv.Delete(t.ctx, "", clientv3.WithPrefix())
	t.must(err)
	t.equal("deleted", deleted.Deleted, 3)
}

func namespaceWatch(t *T) {
	watcher := namespace.NewWatcher(t.cli.Watcher, t.key(""))
	events := t.watchBy(watcher, "", clientv3.WithPrefix())
	lessor := namespace.NewLease(t.cli.Lease, t.key(""))
	id := t.grant(600)
	t.put("beside/"+t.key("x"), "no")
	t.put(t.key("a"), "1", clientv3.WithLease(id))
	response := receive(t, "event", events)
	t.equal("key", string(response.Events[0].Kv.Key), "a")
	got, err := lessor.TimeToLive(t.ctx, id, clientv3.WithAttachedKeys())
	t.must(err)
	t.equal("attached", string(got.Keys[0]), "a")
	t.revoke(id)
	t.delete("beside/" + t.key("x"))
}

func orderingKV(t *T) {
	cli := t.another()
	kv := ordering.NewKV(cli.KV, ordering.NewOrderViolationSwitchEndpointClosure(cli))
	var last int64
	for i := range 30 {
		put, err := t.cli.Put(t.ctx, t.key("a"), fmt.Sprint(i))
		t.must(err)
		got, err := kv.Get(t.ctx, t.key("a"), clientv3.WithSerializable())
		t.must(err)
		t.is("no revision below the last one seen", got.Header.Revision >= last)
		last = got.Header.Revision
		if i%10 == 0 {
			now, err := kv.Get(t.ctx, t.key("a"))
			t.must(err)
			t.is("a linearizable read", now.Header.Revision >= put.Header.Revision)
			last = now.Header.Revision
		}
	}
	txn, err := kv.Txn(t.ctx).Then(clientv3.OpGet(t.key("a"), clientv3.WithSerializable())).Commit()
	t.must(err)
	t.is("a transaction", txn.Header.Revision >= last)
}

func (t *T) leasing() clientv3.KV {
	kv, stop, err := leasing.NewKV(t.another(), "leasing-of/")
	t.must(err)
	t.cleanup(stop)
	return kv
}

func leasingReads(t *T) {
	kv := t.leasing()
	_, err := kv.Put(t.ctx, t.key("a"), "1")
	t.must(err)
	first, err := kv.Get(t.ctx, t.key("a"))
	t.must(err)
	t.equal("value", valuesOf(first.Kvs), "1")
	t.put(t.key("elsewhere"), "x")
	second, err := kv.Get(t.ctx, t.key("a"))
	t.must(err)
	t.equal("revision of a cached read", second.Header.Revision, first.Header.Revision)
	_, err = kv.Put(t.ctx, t.key("a"), "2")
	t.must(err)
	third, err := kv.Get(t.ctx, t.key("a"))
	t.must(err)
	t.equal("after an own write", valuesOf(third.Kvs), "2")
	txn, err := kv.Txn(t.ctx).If(clientv3.Compare(clientv3.Value(t.key("a")), "=", "2")).
		Then(clientv3.OpPut(t.key("b"), "3")).Commit()
	t.must(err)
	t.is("transaction", txn.Succeeded)
	deleted, err := kv.Delete(t.ctx, t.key(""), clientv3.WithPrefix())
	t.must(err)
	t.equal("deleted", deleted.Deleted, 3)
	gone, err := kv.Get(t.ctx, t.key("a"))
	t.must(err)
	t.equal("left", len(gone.Kvs), 0)
}

// leasingTwo has two clients that each own the key in turn: a write of one ends the other's cache.
func leasingTwo(t *T) {
	one, two := t.leasing(), t.leasing()
	for i := range 6 {
		writer, reader := one, two
		if i%2 == 1 {
			writer, reader = two, one
		}
		_, err := reader.Get(t.ctx, t.key("a"))
		t.must(err)
		_, err = writer.Put(t.ctx, t.key("a"), fmt.Sprint(i))
		t.must(err)
		got, err := reader.Get(t.ctx, t.key("a"))
		t.must(err)
		t.equal("value", valuesOf(got.Kvs), fmt.Sprint(i))
	}
}

func mirrored(t *T) {
	for i := range 30 {
		t.put(t.key(fmt.Sprintf("%02d", i)), "v")
	}
	syncer := mirror.NewSyncer(t.cli, t.key(""), 0)
	pages, failures := syncer.SyncBase(t.ctx)
	keys := 0
	for page := range pages {
		keys += len(page.Kvs)
	}
	t.must(<-failures)
	t.equal("keys", keys, 30)
	t.put(t.key("later"), "1")
	t.equal("update", t.told(syncer.SyncUpdates(t.ctx), 1), "PUT later=1")
}

func namingEndpoints(t *T) {
	manager, err := endpoints.NewManager(t.cli, t.key("service"))
	t.must(err)
	t.must(manager.AddEndpoint(t.ctx, t.key("service/one"), endpoints.Endpoint{Addr: "127.0.0.1:1", Metadata: "first"}))
	updates, err := manager.NewWatchChannel(t.ctx)
	t.must(err)
	t.equal("updates at first", len(receive(t, "update", updates)), 1)
	id := t.grant(600)
	t.must(manager.AddEndpoint(t.ctx, t.key("service/two"), endpoints.Endpoint{Addr: "127.0.0.1:2"}, clientv3.WithLease(id)))
	t.equal("added", receive(t, "update", updates)[0].Endpoint.Addr, "127.0.0.1:2")
	list, err := manager.List(t.ctx)
	t.must(err)
	t.equal("endpoints", len(list), 2)
	t.equal("metadata", list[t.key("service/one")].Metadata, any("first"))
	t.revoke(id)
	update := receive(t, "update", updates)[0]
	t.is("removed with its lease", update.Op == endpoints.Delete && update.Key == t.key("service/two"))
	t.must(manager.DeleteEndpoint(t.ctx, t.key("service/one")))
}

// namingResolver finds the members themselves by names that they hold, and calls one.
func namingResolver(t *T) {
	manager, err := endpoints.NewManager(t.cli, t.key("service"))
	t.must(err)
	for i, endpoint := range t.cluster.Endpoints {
		address := strings.TrimPrefix(endpoint, "http://")
		t.must(manager.AddEndpoint(t.ctx, t.key(fmt.Sprint("service/", i)), endpoints.Endpoint{Addr: address}))
	}
	builder, err := resolver.NewBuilder(t.cli)
	t.must(err)
	connection, err := grpc.NewClient("etcd:///"+t.key("service"), grpc.WithResolvers(builder),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	t.must(err)
	defer connection.Close()
	response, err := grpc_health_v1.NewHealthClient(connection).Check(t.ctx, &grpc_health_v1.HealthCheckRequest{})
	t.must(err)
	t.equal("health", response.Status, grpc_health_v1.HealthCheckResponse_SERVING)
}

func kubernetesKV(t *T) {
	client, err := kubernetes.New(configOf(t.cluster))
	t.must(err)
	defer client.Close()
	created, err := client.Kubernetes.OptimisticPut(t.ctx, t.key("a"), []byte("1"), 0, kubernetes.PutOptions{})
	t.must(err)
	t.is("created", created.Succeeded)
	stale, err := client.Kubernetes.OptimisticPut(t.ctx, t.key("a"), []byte("2"), 0, kubernetes.PutOptions{GetOnFailure: true})
	t.must(err)
	t.is("stale", !stale.Succeeded && string(stale.KV.Value) == "1")
	updated, err := client.Kubernetes.OptimisticPut(t.ctx, t.key("a"), []byte("2"), created.Revision, kubernetes.PutOptions{})
	t.must(err)
	t.is("updated", updated.Succeeded)
	for i := range 9 {
		_, err = client.Kubernetes.OptimisticPut(t.ctx, t.key(fmt.Sprint(i)), []byte("x"), 0, kubernetes.PutOptions{})
		t.must(err)
	}
	page, err := client.Kubernetes.List(t.ctx, t.key(""), kubernetes.ListOptions{Limit: 4})
	t.must(err)
	t.equal("page and count", words(len(page.Kvs), page.Count), "4 10")
	rest, err := client.Kubernetes.List(t.ctx, t.key(""), kubernetes.ListOptions{
		Revision: page.Revision, Continue: string(page.Kvs[3].Key) + "\x00"})
	t.must(err)
	t.equal("rest", len(rest.Kvs), 6)
	count, err := client.Kubernetes.Count(t.ctx, t.key(""), kubernetes.CountOptions{})
	t.must(err)
	t.equal("count", count, 10)
	old, err := client.Kubernetes.Get(t.ctx, t.key("a"), kubernetes.GetOptions{Revision: created.Revision})
	t.must(err)
	t.equal("old value", string(old.KV.Value), "1")
	kept, err := client.Kubernetes.OptimisticDelete(t.ctx, t.key("a"), created.Revision, kubernetes.DeleteOptions{GetOnFailure: true})
	t.must(err)
	t.is("kept", !kept.Succeeded && kept.KV.ModRevision == updated.Revision)
	deleted, err := client.Kubernetes.OptimisticDelete(t.ctx, t.key("a"), updated.Revision, kubernetes.DeleteOptions{})
	t.must(err)
	t.is("deleted", deleted.Succeeded)
}

func snapshotSave(t *T) {
	directory, err := os.MkdirTemp("", "compat")
	t.must(err)
	defer os.RemoveAll(directory)
	config := configOf(t.cluster)
	config.Endpoints = config.Endpoints[:1]
	path := filepath.Join(directory, "snapshot")
	version, err := etcdsnapshot.SaveWithVersion(t.ctx, zap.NewNop(), config, path)
	t.must(err)
	t.is("version", version != "")
	file, err := os.Stat(path)
	t.must(err)
	t.is("size", file.Size() > 0)
}

func keyExists(t *T) {
	missing := clientv3util.KeyMissing(t.key("a"))
	t.is("missing", t.commit(t.cli.Txn(t.ctx).If(missing).Then(clientv3.OpPut(t.key("a"), "1"))).Succeeded)
	t.is("not missing", !t.holds(missing))
	t.is("exists", t.holds(clientv3util.KeyExists(t.key("a"))))
}

func health(t *T) {
	var said []string
	for _, endpoint := range t.cluster.Endpoints {
		connection, err := grpc.NewClient(strings.TrimPrefix(endpoint, "http://"),
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		t.must(err)
		response, err := grpc_health_v1.NewHealthClient(connection).Check(t.ctx, &grpc_health_v1.HealthCheckRequest{})
		t.must(err)
		said = append(said, response.Status.String())
		watch, err := grpc_health_v1.NewHealthClient(connection).Watch(t.ctx, &grpc_health_v1.HealthCheckRequest{})
		t.must(err)
		first, err := watch.Recv()
		t.must(err)
		said = append(said, first.Status.String())
		connection.Close()
	}
	sort.Strings(said)
	t.equal("health", strings.Join(said, " "), "SERVING SERVING SERVING SERVING SERVING SERVING")
}

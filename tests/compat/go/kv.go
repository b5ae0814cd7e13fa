package main

import (
	"bytes"
	"context"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var kvChecks = []check{
	{"kv/put-and-get", putAndGet},
	{"kv/versions-and-revisions", versionsAndRevisions},
	{"kv/put-options", putOptions},
	{"kv/put-refused", putRefused},
	{"kv/binary-keys-and-empty-values", binaryKeys},
	{"kv/large-values", largeValues},
	{"kv/ranges", ranges},
	{"kv/limits-counts-and-pages", pages},
	{"kv/keys-only-and-count-only", keysOnly},
	{"kv/sorts", sorts},
	{"kv/first-and-last", firstAndLast},
	{"kv/revision-filters", revisionFilters},
	{"kv/old-revisions", oldRevisions},
	{"kv/serializable", serializable},
	{"kv/deletes", deletes},
	{"kv/do", do},
	{"kv/compaction", compaction},
	{"kv/deadlines-and-cancellation", deadlines},
	{"kv/many-at-once", manyAtOnce},
}

func (t *T) put(key, value string, options ...clientv3.OpOption) int64 {
	response, err := t.cli.Put(t.ctx, key, value, options...)
	t.must(err)
	return response.Header.Revision
}

func (t *T) get(key string, options ...clientv3.OpOption) *clientv3.GetResponse {
	response, err := t.cli.Get(t.ctx, key, options...)
	t.must(err)
	return response
}

func keysOf(kvs []*mvccpb.KeyValue) string {
	var keys []string
	for _, kv := range kvs {
		keys = append(keys, string(kv.Key[bytes.LastIndexByte(kv.Key, '/')+1:]))
	}
	return strings.Join(keys, " ")
}

func valuesOf(kvs []*mvccpb.KeyValue) string {
	var values []string
	for _, kv := range kvs {
		values = append(values, string(kv.Value))
	}
	return strings.Join(values, " ")
}

func putAndGet(t *T) {
	put, err := t.cli.Put(t.ctx, t.key("a"), "1")
	t.must(err)
	t.is("no pair before unless asked for", put.PrevKv == nil)
	got := t.get(t.key("a"))
	t.equal("value", valuesOf(got.Kvs), "1")
	t.equal("revision", got.Header.Revision, put.Header.Revision)
	t.equal("cluster", got.Header.ClusterId, put.Header.ClusterId)
	t.is("a member and a term", got.Header.MemberId != 0 && got.Header.RaftTerm != 0)
	missing := t.get(t.key("missing"))
	t.equal("pairs of a missing key", len(missing.Kvs), 0)
	t.equal("count of a missing key", missing.Count, 0)
	t.equal("revision, when nothing is found", missing.Header.Revision, put.Header.Revision)
}

func versionsAndRevisions(t *T) {
	first := t.put(t.key("a"), "1")
	second := t.put(t.key("a"), "1")
	t.equal("revision of an equal put", second, first+1)
	kv := t.get(t.key("a")).Kvs[0]
	t.equal("version, create, mod, lease", []int64{kv.Version, kv.CreateRevision, kv.ModRevision, kv.Lease},
		[]int64{2, first, second, 0})
	_, err := t.cli.Delete(t.ctx, t.key("a"))
	t.must(err)
	again := t.put(t.key("a"), "2")
	kv = t.get(t.key("a")).Kvs[0]
	t.equal("version, create, mod after a deletion", []int64{kv.Version, kv.CreateRevision, kv.ModRevision},
		[]int64{1, again, again})
}

func putOptions(t *T) {
	key := t.key("a")
	created, err := t.cli.Put(t.ctx, key, "1", clientv3.WithPrevKV())
	t.must(err)
	t.is("nothing before the first put", created.PrevKv == nil)
	changed, err := t.cli.Put(t.ctx, key, "2", clientv3.WithPrevKV())
	t.must(err)
	t.equal("value before", string(changed.PrevKv.Value), "1")
	t.equal("mod revision before", changed.PrevKv.ModRevision, created.Header.Revision)

	lease, err := t.cli.Grant(t.ctx, 600)
	t.must(err)
	t.put(key, "3", clientv3.WithLease(lease.ID))
	t.equal("lease", t.get(key).Kvs[0].Lease, lease.ID)
	t.put(key, "4", clientv3.WithIgnoreLease())
	kv := t.get(key).Kvs[0]
	t.equal("value and lease, lease ignored", words(string(kv.Value), kv.Lease), words(4, int64(lease.ID)))
	t.put(key, "", clientv3.WithIgnoreValue())
	kv = t.get(key).Kvs[0]
	t.equal("value and lease, value ignored", words(string(kv.Value), kv.Lease), "4 0")
	_, err = t.cli.Revoke(t.ctx, lease.ID)
	t.must(err)
	t.equal("a detached key after its lease", valuesOf(t.get(key).Kvs), "4")
}

func putRefused(t *T) {
	_, err := t.cli.Put(t.ctx, "", "v")
	t.refused("no key", err, rpctypes.ErrEmptyKey)
	_, err = t.cli.Put(t.ctx, t.key("none"), "", clientv3.WithIgnoreValue())
	t.refused("no value to keep", err, rpctypes.ErrKeyNotFound)
	_, err = t.cli.Put(t.ctx, t.key("none"), "v", clientv3.WithIgnoreLease())
	t.refused("no lease to keep", err, rpctypes.ErrKeyNotFound)
	_, err = t.cli.Put(t.ctx, t.key("none"), "v", clientv3.WithIgnoreValue())
	t.refused("a value, and not", err, rpctypes.ErrValueProvided)
	_, err = t.cli.Put(t.ctx, t.key("none"), "v", clientv3.WithIgnoreLease(), clientv3.WithLease(9))
	t.refused("a lease, and not", err, rpctypes.ErrLeaseProvided)
	_, err = t.cli.Put(t.ctx, t.key("none"), "v", clientv3.WithLease(4711))
	t.refused("unknown lease", err, rpctypes.ErrLeaseNotFound)
	t.equal("keys after all that", t.get(t.key(""), clientv3.WithPrefix()).Count, 0)
	_, err = t.cli.Get(t.ctx, "")
	t.refused("get without a key", err, rpctypes.ErrEmptyKey)
	_, err = t.cli.Delete(t.ctx, "")
	t.refused("delete without a key", err, rpctypes.ErrEmptyKey)
}

func binaryKeys(t *T) {
	keys := []string{"\x00", "\x00\x00", "\n", "\xc3\x28", "ü", "\xfe", "\xff", "\xff\xff", "\xff\xff\x01"}
	for i, key := range keys {
		t.put(t.key(key), strconv.Itoa(i))
	}
	t.equal("in the order of their bytes", valuesOf(t.get(t.key(""), clientv3.WithPrefix()).Kvs), "0 1 2 3 4 5 6 7 8")
	t.equal("prefix ff", valuesOf(t.get(t.key("\xff"), clientv3.WithPrefix()).Kvs), "6 7 8")
	t.equal("prefix ff ff", valuesOf(t.get(t.key("\xff\xff"), clientv3.WithPrefix()).Kvs), "7 8")
	t.put(t.key("empty"), "")
	got := t.get(t.key("empty"))
	t.is("an empty value is a value", got.Count == 1 && len(got.Kvs[0].Value) == 0)
	value := string([]byte{0, 1, 0xff, 0xfe, '\n', 0})
	t.put(t.key("value"), value)
	t.equal("binary value", string(t.get(t.key("value")).Kvs[0].Value), value)
	_, err := t.cli.Put(t.ctx, "\xff\xff", "last")
	t.must(err)
	t.is("the last key of all", keysOf(t.get("\xff", clientv3.WithPrefix()).Kvs) == "\xff\xff")
	_, err = t.cli.Delete(t.ctx, "\xff\xff")
	t.must(err)
}

func largeValues(t *T) {
	value := strings.Repeat("0123456789abcdef", 1<<16)
	for i := range 4 {
		t.put(t.key(strconv.Itoa(i)), value)
	}
	got := t.get(t.key(""), clientv3.WithPrefix())
	t.equal("values", len(got.Kvs), 4)
	for _, kv := range got.Kvs {
		t.is("each comes back whole", string(kv.Value) == value)
	}
	_, err := t.cli.Put(t.ctx, t.key("x"), strings.Repeat("x", 1600*1024))
	t.refused("above the limit of a request", err, rpctypes.ErrRequestTooLarge)
	_, err = t.cli.Put(t.ctx, t.key("x"), strings.Repeat("x", 3<<20))
	t.is("above the client's own limit", err != nil && strings.Contains(err.Error(), "larger than max"))
	_, err = t.cli.Delete(t.ctx, t.key(""), clientv3.WithPrefix())
	t.must(err)
}

func fill(t *T) (revisions []int64) {
	for _, word := range strings.Fields("a=1 b=5 c=3 d=4 e=2 b=0 a=9") {
		key, value, _ := strings.Cut(word, "=")
		revisions = append(revisions, t.put(t.key(key), value))
	}
	return revisions
}

func ranges(t *T) {
	fill(t)
	all := t.get(t.key(""), clientv3.WithPrefix())
	t.equal("prefix", keysOf(all.Kvs), "a b c d e")
	t.equal("[b, d)", keysOf(t.get(t.key("b"), clientv3.WithRange(t.key("d"))).Kvs), "b c")
	t.equal("end before start", t.get(t.key("d"), clientv3.WithRange(t.key("b"))).Count, 0)
	t.equal("start is end", t.get(t.key("b"), clientv3.WithRange(t.key("b"))).Count, 0)
	t.equal("from a key on, three", keysOf(t.get(t.key("c"), clientv3.WithFromKey(), clientv3.WithLimit(3)).Kvs), "c d e")
	everything := t.get("", clientv3.WithPrefix(), clientv3.WithCountOnly())
	t.is("everything is at least that", everything.Count >= 5)
	t.equal("everything, from key", t.get("\x00", clientv3.WithFromKey(), clientv3.WithCountOnly()).Count, everything.Count)
}

func pages(t *T) {
	const keys = 250
	t.all(10, func(t *T, worker int) {
		for i := range keys / 10 {
			t.put(t.key(fmt.Sprintf("%04d", worker*25+i)), "v")
		}
	})
	limited := t.get(t.key(""), clientv3.WithPrefix(), clientv3.WithLimit(3))
	t.equal("limited", words(len(limited.Kvs), limited.Count, limited.More), "3 250 true")
	exact := t.get(t.key(""), clientv3.WithPrefix(), clientv3.WithLimit(keys))
	t.equal("limit is count", words(len(exact.Kvs), exact.Count, exact.More), "250 250 false")

	pinned := limited.Header.Revision
	t.put(t.key("0200-later"), "v")
	var seen []string
	start, end, left := t.key(""), clientv3.GetPrefixRangeEnd(t.key("")), int64(keys)
	for {
		page := t.get(start, clientv3.WithRange(end), clientv3.WithLimit(40), clientv3.WithRev(pinned))
		t.equal("count from the page's start on", page.Count, left)
		for _, kv := range page.Kvs {
			seen = append(seen, string(kv.Key))
		}
		left -= int64(len(page.Kvs))
		if !page.More {
			break
		}
		start = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
	t.is("all, in order, and none of later", len(seen) == keys && sort.StringsAreSorted(seen))
}

func keysOnly(t *T) {
	fill(t)
	got := t.get(t.key(""), clientv3.WithPrefix(), clientv3.WithKeysOnly())
	t.equal("keys", keysOf(got.Kvs), "a b c d e")
	t.equal("values", valuesOf(got.Kvs), "    ")
	t.equal("version of a", got.Kvs[0].Version, 2)
	count := t.get(t.key(""), clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithLimit(2))
	t.equal("count only", words(len(count.Kvs), count.Count, count.More), "0 5 false")
}

func sorts(t *T) {
	fill(t)
	for _, want := range []struct {
		target clientv3.SortTarget
		order  clientv3.SortOrder
		keys   string
	}{
		{clientv3.SortByKey, clientv3.SortNone, "a b c d e"},
		{clientv3.SortByKey, clientv3.SortAscend, "a b c d e"},
		{clientv3.SortByKey, clientv3.SortDescend, "e d c b a"},
		{clientv3.SortByCreateRevision, clientv3.SortNone, "a b c d e"},
		{clientv3.SortByCreateRevision, clientv3.SortAscend, "a b c d e"},
		{clientv3.SortByCreateRevision, clientv3.SortDescend, "e d c b a"},
		{clientv3.SortByModRevision, clientv3.SortNone, "c d e b a"},
		{clientv3.SortByModRevision, clientv3.SortAscend, "c d e b a"},
		{clientv3.SortByModRevision, clientv3.SortDescend, "a b e d c"},
		{clientv3.SortByValue, clientv3.SortAscend, "b e c d a"},
		{clientv3.SortByValue, clientv3.SortDescend, "a d c e b"},
	} {
		what := fmt.Sprintf("target %d, order %d", want.target, want.order)
		got := t.get(t.key(""), clientv3.WithPrefix(), clientv3.WithSort(want.target, want.order))
		t.equal(what, keysOf(got.Kvs), want.keys)
		if want.order == clientv3.SortNone {
			continue // the limit would be applied before the order that the target implies, or after
		}
		top := t.get(t.key(""), clientv3.WithPrefix(), clientv3.WithSort(want.target, want.order), clientv3.WithLimit(2))
		t.equal(what+", limited", keysOf(top.Kvs), want.keys[:3])
		t.equal(what+", count and more", words(top.Count, top.More), "5 true")
	}
	versions := t.get(t.key(""), clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByVersion, clientv3.SortDescend))
	t.equal("versions", versions.Kvs[0].Version+versions.Kvs[1].Version, 4)
}

func firstAndLast(t *T) {
	fill(t)
	for what, want := range map[string]struct {
		options []clientv3.OpOption
		key     string
	}{
		"first created":  {clientv3.WithFirstCreate(), "a"},
		"last created":   {clientv3.WithLastCreate(), "e"},
		"first key":      {clientv3.WithFirstKey(), "a"},
		"last key":       {clientv3.WithLastKey(), "e"},
		"first modified": {clientv3.WithFirstRev(), "c"},
		"last modified":  {clientv3.WithLastRev(), "a"},
	} {
		t.equal(what, keysOf(t.get(t.key(""), want.options...).Kvs), want.key)
	}
}

func revisionFilters(t *T) {
	r := fill(t)
	for what, want := range map[string]struct {
		option clientv3.OpOption
		keys   string
	}{
		"min mod":    {clientv3.WithMinModRev(r[4]), "a b e"},
		"max mod":    {clientv3.WithMaxModRev(r[3]), "c d"},
		"min create": {clientv3.WithMinCreateRev(r[2]), "c d e"},
		"max create": {clientv3.WithMaxCreateRev(r[1]), "a b"},
	} {
		got := t.get(t.key(""), clientv3.WithPrefix(), want.option)
		t.equal(what, keysOf(got.Kvs), want.keys)
		t.equal(what+": count without the filter", got.Count, 5)
	}
	both := t.get(t.key(""), clientv3.WithPrefix(), clientv3.WithMinModRev(r[3]), clientv3.WithMaxModRev(r[5]), clientv3.WithLimit(2))
	t.equal("bounds and a limit", keysOf(both.Kvs), "b d")
}

func oldRevisions(t *T) {
	r := fill(t)
	for i, want := range []string{"1", "1 5", "1 5 3", "1 5 3 4", "1 5 3 4 2", "1 0 3 4 2", "9 0 3 4 2"} {
		got := t.get(t.key(""), clientv3.WithPrefix(), clientv3.WithRev(r[i]))
		t.equal("values at "+strconv.Itoa(i), valuesOf(got.Kvs), want)
		t.equal("header at "+strconv.Itoa(i), got.Header.Revision, r[6])
	}
	_, err := t.cli.Get(t.ctx, t.key("a"), clientv3.WithRev(r[6]+1000))
	t.refused("a future revision", err, rpctypes.ErrFutureRev)
	t.equal("a negative revision is the latest", valuesOf(t.get(t.key("a"), clientv3.WithRev(-7)).Kvs), "9")
}

func serializable(t *T) {
	revision := t.put(t.key("a"), "1")
	for _, endpoint := range t.cluster.Endpoints {
		config := configOf(t.cluster)
		config.Endpoints = []string{endpoint}
		cli := t.client(config)
		t.eventually("each member has it", func() bool {
			got, err := cli.Get(t.ctx, t.key("a"), clientv3.WithSerializable())
			t.must(err)
			return got.Header.Revision >= revision && valuesOf(got.Kvs) == "1"
		})
	}
}

func deletes(t *T) {
	fill(t)
	before := t.get(t.key("a")).Header.Revision
	none, err := t.cli.Delete(t.ctx, t.key("none"))
	t.must(err)
	t.equal("deleted of none, revision", []int64{none.Deleted, none.Header.Revision}, []int64{0, before})
	one, err := t.cli.Delete(t.ctx, t.key("a"), clientv3.WithPrevKV())
	t.must(err)
	t.equal("deleted of one, revision", []int64{one.Deleted, one.Header.Revision}, []int64{1, before + 1})
	t.equal("pair before", valuesOf(one.PrevKvs), "9")
	some, err := t.cli.Delete(t.ctx, t.key("b"), clientv3.WithRange(t.key("d")), clientv3.WithPrevKV())
	t.must(err)
	t.equal("deleted of a range", words(some.Deleted, keysOf(some.PrevKvs)), "2 b c")
	rest, err := t.cli.Delete(t.ctx, t.key(""), clientv3.WithPrefix())
	t.must(err)
	t.equal("deleted of the rest", rest.Deleted, 2)
	t.is("pairs only when asked for", len(rest.PrevKvs) == 0)
	t.equal("left", t.get(t.key(""), clientv3.WithPrefix()).Count, 0)
	t.equal("the old revision still has all", t.get(t.key(""), clientv3.WithPrefix(), clientv3.WithRev(before)).Count, 5)
}

func do(t *T) {
	put, err := t.cli.Do(t.ctx, clientv3.OpPut(t.key("a"), "1"))
	t.must(err)
	got, err := t.cli.Do(t.ctx, clientv3.OpGet(t.key("a")))
	t.must(err)
	t.equal("value", valuesOf(got.Get().Kvs), "1")
	txn, err := t.cli.Do(t.ctx, clientv3.OpTxn(
		[]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(t.key("a")), "=", put.Put().Header.Revision)},
		[]clientv3.Op{clientv3.OpDelete(t.key("a"))}, nil))
	t.must(err)
	t.is("the transaction's branch", txn.Txn().Succeeded)
	gone, err := t.cli.Do(t.ctx, clientv3.OpDelete(t.key("a")))
	t.must(err)
	t.equal("deleted", gone.Del().Deleted, 0)
}

func compaction(t *T) {
	r := fill(t)
	_, err := t.cli.Compact(t.ctx, r[5])
	t.must(err)
	t.equal("at the compacted revision", valuesOf(t.get(t.key(""), clientv3.WithPrefix(), clientv3.WithRev(r[5])).Kvs), "1 0 3 4 2")
	_, err = t.cli.Get(t.ctx, t.key("a"), clientv3.WithRev(r[4]))
	t.refused("below it", err, rpctypes.ErrCompacted)
	_, err = t.cli.Compact(t.ctx, r[5])
	t.refused("the same again", err, rpctypes.ErrCompacted)
	_, err = t.cli.Compact(t.ctx, r[6]+1000)
	t.refused("the future", err, rpctypes.ErrFutureRev)
	_, err = t.cli.Txn(t.ctx).Then(clientv3.OpGet(t.key("a"), clientv3.WithRev(r[0]))).Commit()
	t.refused("in a transaction", err, rpctypes.ErrCompacted)
	latest := t.put(t.key("a"), "10")
	_, err = t.cli.Compact(t.ctx, latest, clientv3.WithCompactPhysical())
	t.must(err)
	t.equal("after a physical compaction of everything", valuesOf(t.get(t.key(""), clientv3.WithPrefix()).Kvs), "10 0 3 4 2")
}

func deadlines(t *T) {
	ctx, cancel := context.WithCancel(t.ctx)
	cancel()
	_, err := t.cli.Get(ctx, t.key("a"))
	t.refused("cancelled before", err, context.Canceled)
	ctx, cancel = context.WithTimeout(t.ctx, time.Nanosecond)
	defer cancel()
	_, err = t.cli.Put(ctx, t.key("a"), "never")
	t.refused("too late before", err, context.DeadlineExceeded)
	t.equal("written", t.get(t.key("a")).Count, 0)
}

// manyAtOnce is what compare-and-swap must withstand: no increment is lost, none counts twice.
func manyAtOnce(t *T) {
	const workers, each = 16, 10
	key := t.key("counter")
	t.put(key, "0")
	t.all(workers, func(t *T, _ int) {
		for done := 0; done < each; {
			kv := t.get(key).Kvs[0]
			value, err := strconv.Atoi(string(kv.Value))
			t.must(err)
			response, err := t.cli.Txn(t.ctx).
				If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).
				Then(clientv3.OpPut(key, strconv.Itoa(value+1))).Commit()
			t.must(err)
			if response.Succeeded {
				done++
			}
		}
	})
	kv := t.get(key).Kvs[0]
	t.equal("value and version", words(string(kv.Value), kv.Version), words(workers*each, workers*each+1))
}

package main

import (
	"strconv"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var txnChecks = []check{
	{"txn/branches", txnBranches},
	{"txn/compares", txnCompares},
	{"txn/compares-of-ranges", txnRangeCompares},
	{"txn/one-revision", txnOneRevision},
	{"txn/reads-its-own-writes", txnReadsOwnWrites},
	{"txn/nested", txnNested},
	{"txn/refused", txnRefused},
	{"txn/read-only", txnReadOnly},
}

func (t *T) commit(txn clientv3.Txn) *clientv3.TxnResponse {
	response, err := txn.Commit()
	t.must(err)
	return response
}

// holds tells whether all compares do, now: a transaction that reads nothing may be answered from the past.
func (t *T) holds(compares ...clientv3.Cmp) bool {
	return t.commit(t.cli.Txn(t.ctx).If(compares...).Then(clientv3.OpGet(t.key("a"))).Else(clientv3.OpGet(t.key("a")))).Succeeded
}

func txnBranches(t *T) {
	absent := clientv3.Compare(clientv3.CreateRevision(t.key("a")), "=", 0)
	create := func() *clientv3.TxnResponse {
		return t.commit(t.cli.Txn(t.ctx).If(absent).
			Then(clientv3.OpPut(t.key("a"), "1")).
			Else(clientv3.OpGet(t.key("a"))))
	}
	first := create()
	t.is("created", first.Succeeded && first.Responses[0].GetResponsePut() != nil)
	t.equal("header of the put", first.Responses[0].GetResponsePut().Header.Revision, first.Header.Revision)
	second := create()
	t.is("found", !second.Succeeded)
	t.equal("value", valuesOf(second.Responses[0].GetResponseRange().Kvs), "1")
	t.equal("revision, nothing written", second.Header.Revision, first.Header.Revision)
	empty := t.commit(t.cli.Txn(t.ctx))
	t.is("nothing at all succeeds", empty.Succeeded && len(empty.Responses) == 0)
}

func txnCompares(t *T) {
	first := t.put(t.key("a"), "m")
	lease, err := t.cli.Grant(t.ctx, 600)
	t.must(err)
	second := t.put(t.key("a"), "m", clientv3.WithLease(lease.ID))
	for _, c := range []struct {
		target func() clientv3.Cmp
		less   any
		equal  any
		more   any
	}{
		{func() clientv3.Cmp { return clientv3.Version(t.key("a")) }, 1, 2, 3},
		{func() clientv3.Cmp { return clientv3.CreateRevision(t.key("a")) }, first - 1, first, first + 1},
		{func() clientv3.Cmp { return clientv3.ModRevision(t.key("a")) }, second - 1, second, second + 1},
		{func() clientv3.Cmp { return clientv3.Value(t.key("a")) }, "a", "m", "z"},
		{func() clientv3.Cmp { return clientv3.LeaseValue(t.key("a")) }, int64(lease.ID) - 1, lease.ID, int64(lease.ID) + 1},
	} {
		for _, want := range []struct {
			than     any
			operator string
			holds    bool
		}{
			{c.less, ">", true}, {c.equal, ">", false}, {c.more, ">", false},
			{c.less, "=", false}, {c.equal, "=", true}, {c.more, "=", false},
			{c.less, "<", false}, {c.equal, "<", false}, {c.more, "<", true},
			{c.less, "!=", true}, {c.equal, "!=", false}, {c.more, "!=", true},
		} {
			compare := clientv3.Compare(c.target(), want.operator, want.than)
			t.equal(words(compare.Target, want.operator, want.than), t.holds(compare), want.holds)
		}
	}
	for _, zero := range []clientv3.Cmp{clientv3.Version(t.key("none")), clientv3.ModRevision(t.key("none"))} {
		t.is("a missing key is all zero", t.holds(clientv3.Compare(zero, "=", 0)))
	}
	nothing := clientv3.Compare(clientv3.Value(t.key("none")), "!=", "x")
	t.is("a missing key has no value", !t.holds(nothing))
	version := clientv3.Version(t.key("a"))
	t.is("all must hold", !t.holds(clientv3.Compare(version, "=", 2), clientv3.Compare(version, "=", 3)))
	_, err = t.cli.Revoke(t.ctx, lease.ID)
	t.must(err)
}

func txnRangeCompares(t *T) {
	for i := range 4 {
		t.put(t.key(strconv.Itoa(i)), "same")
	}
	same := clientv3.Compare(clientv3.Value(t.key("")), "=", "same")
	t.is("each has the value", t.holds(same.WithPrefix()))
	t.put(t.key("2"), "other")
	t.is("one has not", !t.holds(same.WithPrefix()))
	t.is("the others have", t.holds(clientv3.Compare(clientv3.Value(t.key("0")), "=", "same").WithRange(t.key("2"))))
	t.is("no key is there", t.holds(clientv3.Compare(clientv3.CreateRevision(t.key("none")), "=", 0).WithPrefix()))
	t.is("some key is there", !t.holds(clientv3.Compare(clientv3.CreateRevision(t.key("")), "=", 0).WithPrefix()))
}

func txnOneRevision(t *T) {
	before := t.put(t.key("z"), "0")
	response := t.commit(t.cli.Txn(t.ctx).Then(
		clientv3.OpPut(t.key("a"), "1"), clientv3.OpPut(t.key("b"), "2"), clientv3.OpDelete(t.key("z"))))
	t.equal("revision", response.Header.Revision, before+1)
	for _, kv := range t.get(t.key(""), clientv3.WithPrefix()).Kvs {
		t.equal("mod revision of "+string(kv.Key), kv.ModRevision, before+1)
	}
	t.equal("events of it, in order", t.replay(before+1), "PUT a PUT b DELETE z")
}

// replay is what a watch of the check's keys gets from a revision on, as one response.
func (t *T) replay(revision int64) string {
	text := ""
	for _, event := range receive(t, "events", t.watch(t.key(""), clientv3.WithPrefix(), clientv3.WithRev(revision))).Events {
		if text != "" {
			text += " "
		}
		text += event.Type.String() + " " + string(event.Kv.Key[len(t.key("")):])
	}
	return text
}

func txnReadsOwnWrites(t *T) {
	before := t.put(t.key("a"), "old")
	response := t.commit(t.cli.Txn(t.ctx).Then(
		clientv3.OpGet(t.key("a")),
		clientv3.OpPut(t.key("a"), "new", clientv3.WithPrevKV()),
		clientv3.OpGet(t.key("a")),
		clientv3.OpGet(t.key("a"), clientv3.WithRev(before)),
		clientv3.OpPut(t.key("b"), "x"),
		clientv3.OpDelete(t.key("b2")),
		clientv3.OpGet(t.key(""), clientv3.WithPrefix(), clientv3.WithCountOnly())))
	r := response.Responses
	t.equal("before", valuesOf(r[0].GetResponseRange().Kvs), "old")
	t.equal("prev", string(r[1].GetResponsePut().PrevKv.Value), "old")
	t.equal("after", valuesOf(r[2].GetResponseRange().Kvs), "new")
	t.equal("at the revision before", valuesOf(r[3].GetResponseRange().Kvs), "old")
	t.equal("deleted", r[5].GetResponseDeleteRange().Deleted, 0)
	t.equal("count", r[6].GetResponseRange().Count, 2)
}

func txnNested(t *T) {
	t.put(t.key("a"), "1")
	is := func(key, value string) []clientv3.Cmp {
		return []clientv3.Cmp{clientv3.Compare(clientv3.Value(t.key(key)), "=", value)}
	}
	inner := clientv3.OpTxn(is("a", "1"),
		[]clientv3.Op{clientv3.OpPut(t.key("c"), "then"), clientv3.OpTxn(is("a", "2"), nil, []clientv3.Op{clientv3.OpPut(t.key("d"), "deep")})},
		[]clientv3.Op{clientv3.OpPut(t.key("c"), "else")})
	response := t.commit(t.cli.Txn(t.ctx).If(is("a", "1")...).
		Then(clientv3.OpPut(t.key("a"), "2"), inner, clientv3.OpGet(t.key("c"))))
	t.is("outer branch", response.Succeeded)
	nested := response.Responses[1].GetResponseTxn()
	t.is("inner branch by the state before", nested.Succeeded)
	t.is("innermost branch too", !nested.Responses[1].GetResponseTxn().Succeeded)
	t.equal("what it sees", valuesOf(response.Responses[2].GetResponseRange().Kvs), "then")
	t.equal("what there is", valuesOf(t.get(t.key(""), clientv3.WithPrefix()).Kvs), "2 then deep")
}

func txnRefused(t *T) {
	put := func(key string) clientv3.Op { return clientv3.OpPut(t.key(key), "v") }
	remove := clientv3.OpDelete(t.key(""), clientv3.WithPrefix())
	_, err := t.cli.Txn(t.ctx).Then(put("a"), put("a")).Commit()
	t.refused("twice", err, rpctypes.ErrDuplicateKey)
	_, err = t.cli.Txn(t.ctx).Then(put("a"), remove).Commit()
	t.refused("put and deleted", err, rpctypes.ErrDuplicateKey)
	_, err = t.cli.Txn(t.ctx).Else(put("a"), clientv3.OpTxn(nil, []clientv3.Op{put("a")}, nil)).Commit()
	t.refused("twice, nested, in the other branch", err, rpctypes.ErrDuplicateKey)
	t.commit(t.cli.Txn(t.ctx).Then(remove, remove))
	t.commit(t.cli.Txn(t.ctx).Then(clientv3.OpTxn(nil, []clientv3.Op{put("b")}, []clientv3.Op{put("b")})))
	var many []clientv3.Op
	for i := range 128 {
		many = append(many, put(strconv.Itoa(i)))
	}
	t.equal("the most there may be", len(t.commit(t.cli.Txn(t.ctx).Then(many...)).Responses), 128)
	_, err = t.cli.Txn(t.ctx).Then(append(many, put("more"))...).Commit()
	t.refused("one more", err, rpctypes.ErrTooManyOps)
	_, err = t.cli.Txn(t.ctx).Then(clientv3.OpPut("", "v")).Commit()
	t.refused("no key", err, rpctypes.ErrEmptyKey)
	_, err = t.cli.Txn(t.ctx).Then(clientv3.OpGet(t.key("a"), clientv3.WithRev(1<<40))).Commit()
	t.refused("a future revision", err, rpctypes.ErrFutureRev)
	revision := t.get(t.key("a")).Header.Revision
	_, err = t.cli.Txn(t.ctx).Then(put("x"), clientv3.OpPut(t.key("y"), "v", clientv3.WithLease(4711))).Commit()
	t.refused("an unknown lease", err, rpctypes.ErrLeaseNotFound)
	t.equal("revision after it", t.get(t.key("x")).Header.Revision, revision)
	t.equal("written by it", t.get(t.key("x")).Count, 0)
}

func txnReadOnly(t *T) {
	revision := t.put(t.key("a"), "1")
	response := t.commit(t.cli.Txn(t.ctx).Then(clientv3.OpGet(t.key("a")), clientv3.OpGet(t.key("b"))))
	t.equal("revision", response.Header.Revision, revision)
	t.equal("values", valuesOf(response.Responses[0].GetResponseRange().Kvs), "1")
	local := t.commit(t.cli.Txn(t.ctx).Then(clientv3.OpGet(t.key("a"), clientv3.WithSerializable())))
	t.equal("count", len(local.Responses), 1)
}

package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var leaseChecks = []check{
	{"lease/grant", leaseGrant},
	{"lease/time-to-live", leaseTimeToLive},
	{"lease/list", leaseList},
	{"lease/revoke", leaseRevoke},
	{"lease/attach-and-detach", leaseAttach},
	{"lease/expiry", leaseExpiry},
	{"lease/keep-alive", leaseKeepAlive},
	{"lease/keep-alive-once", leaseKeepAliveOnce},
	{"lease/keep-alive-of-many", leaseKeepAliveMany},
	{"lease/keep-alive-ends-with-the-lease", leaseKeepAliveEnds},
}

func (t *T) grant(ttl int64) clientv3.LeaseID {
	response, err := t.cli.Grant(t.ctx, ttl)
	t.must(err)
	return response.ID
}

func (t *T) revoke(id clientv3.LeaseID) int64 {
	response, err := t.cli.Revoke(t.ctx, id)
	t.must(err)
	return response.Header.Revision
}

func (t *T) timeToLive(id clientv3.LeaseID) *clientv3.LeaseTimeToLiveResponse {
	response, err := t.cli.TimeToLive(t.ctx, id, clientv3.WithAttachedKeys())
	t.must(err)
	return response
}

func leaseGrant(t *T) {
	before := t.get(t.key("a")).Header.Revision
	granted, err := t.cli.Grant(t.ctx, 600)
	t.must(err)
	t.is("a positive ID", granted.ID > 0)
	t.equal("TTL", granted.TTL, 600)
	t.equal("revision: a lease is no write", granted.ResponseHeader.Revision, before)
	short, err := t.cli.Grant(t.ctx, 1)
	t.must(err)
	t.equal("TTL, raised to the least", short.TTL, 2)
	_, err = t.cli.Grant(t.ctx, 9_000_000_001)
	t.refused("above the most", err, rpctypes.ErrLeaseTTLTooLarge)
	t.revoke(granted.ID)
}

func leaseTimeToLive(t *T) {
	id := t.grant(600)
	t.put(t.key("a"), "1", clientv3.WithLease(id))
	t.put(t.key("b"), "1", clientv3.WithLease(id))
	got := t.timeToLive(id)
	t.equal("granted", got.GrantedTTL, 600)
	t.is("left", got.TTL > 590 && got.TTL <= 600)
	t.equal("keys", len(got.Keys), 2)
	without, err := t.cli.TimeToLive(t.ctx, id)
	t.must(err)
	t.equal("keys, not asked for", len(without.Keys), 0)
	gone := t.timeToLive(4711)
	t.equal("of an unknown one", []int64{gone.TTL, gone.GrantedTTL}, []int64{-1, 0})
	t.revoke(id)
}

func leaseList(t *T) {
	first, second := t.grant(600), t.grant(700)
	// Listed by the member that is asked, which may be a moment behind.
	t.eventually("both are listed", func() bool {
		response, err := t.cli.Leases(t.ctx)
		t.must(err)
		found := 0
		for _, lease := range response.Leases {
			if lease.ID == first || lease.ID == second {
				found++
			}
		}
		return found == 2
	})
	t.revoke(first)
	t.revoke(second)
}

func leaseRevoke(t *T) {
	id := t.grant(600)
	events := t.watch(t.key(""), clientv3.WithPrefix())
	for _, key := range []string{"b", "a", "c"} {
		t.put(t.key(key), "1", clientv3.WithLease(id))
	}
	last := t.put(t.key("d"), "1")
	t.equal("revision", t.revoke(id), last+1)
	t.equal("left", keysOf(t.get(t.key(""), clientv3.WithPrefix()).Kvs), "d")
	t.equal("puts", t.told(events, 4), "PUT b=1, PUT a=1, PUT c=1, PUT d=1")
	t.equal("deletions, in one, in order", t.told(events, 3), "DELETE a=, DELETE b=, DELETE c=")
	_, err := t.cli.Revoke(t.ctx, id)
	t.refused("again", err, rpctypes.ErrLeaseNotFound)
	bare := t.grant(600)
	t.equal("revision, no keys", t.revoke(bare), last+1)
}

func leaseAttach(t *T) {
	first, second := t.grant(600), t.grant(600)
	t.put(t.key("a"), "1", clientv3.WithLease(first))
	t.put(t.key("b"), "1", clientv3.WithLease(first))
	t.put(t.key("c"), "1", clientv3.WithLease(first))
	t.put(t.key("a"), "2", clientv3.WithLease(second))
	t.put(t.key("b"), "2")
	t.delete(t.key("c"))
	t.put(t.key("c"), "again")
	t.equal("keys of the first", len(t.timeToLive(first).Keys), 0)
	t.equal("keys of the second", len(t.timeToLive(second).Keys), 1)
	t.revoke(first)
	t.equal("left", keysOf(t.get(t.key(""), clientv3.WithPrefix()).Kvs), "a b c")
	t.revoke(second)
	t.equal("left in the end", keysOf(t.get(t.key(""), clientv3.WithPrefix()).Kvs), "b c")
}

func leaseExpiry(t *T) {
	events := t.watch(t.key(""), clientv3.WithPrefix())
	start := time.Now()
	id := t.grant(2)
	revision := t.put(t.key("a"), "1", clientv3.WithLease(id))
	t.equal("events", t.told(events, 2), "PUT a=1, DELETE a=")
	after := time.Since(start)
	t.is(fmt.Sprintf("it lives for its time and not much longer: %v", after), after >= 2*time.Second && after < 8*time.Second)
	t.equal("revision", t.get(t.key("a")).Header.Revision, revision+1)
	t.equal("time to live", t.timeToLive(id).TTL, -1)
	_, err := t.cli.Put(t.ctx, t.key("b"), "1", clientv3.WithLease(id))
	t.refused("put with it", err, rpctypes.ErrLeaseNotFound)
}

func leaseKeepAlive(t *T) {
	kept, left := t.grant(2), t.grant(2)
	t.put(t.key("kept"), "1", clientv3.WithLease(kept))
	t.put(t.key("left"), "1", clientv3.WithLease(left))
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	answers, err := t.cli.KeepAlive(ctx, kept)
	t.must(err)
	for range 6 { // a third of the time to live apart
		answer := receive(t, "answer", answers)
		t.equal("ID and TTL", []int64{int64(answer.ID), answer.TTL}, []int64{int64(kept), 2})
	}
	t.eventually("the other expires", func() bool { return t.get(t.key("left")).Count == 0 })
	t.equal("the kept key", t.get(t.key("kept")).Count, 1)
	cancel()
	closed(t, "answers, given up", answers)
	t.revoke(kept)
}

func leaseKeepAliveOnce(t *T) {
	id := t.grant(600)
	answer, err := t.cli.KeepAliveOnce(t.ctx, id)
	t.must(err)
	t.equal("ID and TTL", []int64{int64(answer.ID), answer.TTL}, []int64{int64(id), 600})
	t.revoke(id)
	_, err = t.cli.KeepAliveOnce(t.ctx, id)
	t.refused("of one that is gone", err, rpctypes.ErrLeaseNotFound)
}

func leaseKeepAliveMany(t *T) {
	const leases = 200
	cli := t.another()
	var ids [leases]clientv3.LeaseID
	t.all(10, func(t *T, worker int) {
		for i := worker; i < leases; i += 10 {
			ids[i] = t.grant(60)
			t.put(t.key(strconv.Itoa(i)), "v", clientv3.WithLease(ids[i]))
		}
	})
	var answers [leases]<-chan *clientv3.LeaseKeepAliveResponse
	for i, id := range ids {
		var err error
		answers[i], err = cli.KeepAlive(t.ctx, id)
		t.must(err)
	}
	for _, answer := range answers {
		t.equal("TTL", receive(t, "answer", answer).TTL, 60)
	}
	t.all(10, func(t *T, worker int) {
		for i := worker; i < leases; i += 10 {
			t.revoke(ids[i])
		}
	})
	t.equal("keys left", t.get(t.key(""), clientv3.WithPrefix()).Count, 0)
}

func leaseKeepAliveEnds(t *T) {
	id := t.grant(2)
	answers, err := t.cli.KeepAlive(t.ctx, id)
	t.must(err)
	receive(t, "answer", answers)
	t.revoke(id)
	closed(t, "answers", answers)
}

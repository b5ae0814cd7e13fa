package main

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

var failoverChecks = []check{
	{"failover/watch-resumes", watchResumes},
	{"failover/lease-and-session-survive", leaseSurvives},
	{"failover/mutex-is-still-held", mutexSurvives},
	{"failover/election-goes-on", electionSurvives},
}

// replaceLeader has the leader killed, waits until another leads, and has the killed one started again.
func (t *T) replaceLeader() {
	t.ask("kill-leader", nil)
	t.pauseUntilLed()
	t.ask("restart", nil)
}

// pauseUntilLed waits until a write succeeds, which a new leader alone can bring about.
func (t *T) pauseUntilLed() {
	t.eventually("writes succeed again", func() bool {
		ctx, cancel := context.WithTimeout(t.ctx, 2*time.Second)
		defer cancel()
		_, err := t.cli.Put(ctx, t.key("led"), "1")
		return err == nil
	})
}

// watchResumes: two watches, one of them begun long ago, miss nothing and see nothing twice
// while the leader is killed under them; nothing that was acknowledged is lost.
func watchResumes(t *T) {
	prefix := t.key("w/")
	start := t.put(t.key("start"), "")
	watcher := t.another()
	live := watcher.Watch(t.ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(start+1))
	acknowledged := map[string]int64{}
	writer := t.another()
	var written atomic.Int64
	var isStopped atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := 0; !isStopped.Load() && t.ctx.Err() == nil; i++ {
			key := prefix + strconv.Itoa(i)
			ctx, cancel := context.WithTimeout(t.ctx, time.Second)
			response, err := writer.Put(ctx, key, "v")
			cancel()
			if err == nil {
				acknowledged[key] = response.Header.Revision
				written.Add(1)
			}
		}
	}()
	more := func() {
		target := written.Load() + 50
		t.eventually("more is written", func() bool { return written.Load() >= target })
	}
	more()
	t.replaceLeader()
	more()
	isStopped.Store(true)
	<-ended
	last := t.put(prefix+"end", "")
	seen := map[string]int64{}
	var previous int64
	for previous < last {
		response := receive(t, "event", live)
		t.must(response.Err())
		for _, event := range response.Events {
			t.is(fmt.Sprintf("revision %d after %d", event.Kv.ModRevision, previous), event.Kv.ModRevision > previous)
			previous = event.Kv.ModRevision
			seen[string(event.Kv.Key)] = event.Kv.ModRevision
		}
	}
	for key, revision := range acknowledged {
		t.equal("event of "+key, seen[key], revision)
	}
	stored := t.get(prefix, clientv3.WithPrefix())
	t.equal("keys stored and seen", len(stored.Kvs), len(seen))
	for _, kv := range stored.Kvs {
		t.equal("event of "+string(kv.Key), seen[string(kv.Key)], kv.ModRevision)
	}
}

func leaseSurvives(t *T) {
	s := t.session(concurrency.WithTTL(5))
	id := t.grant(600)
	t.put(t.key("session"), "1", clientv3.WithLease(s.Lease()))
	t.put(t.key("lease"), "1", clientv3.WithLease(id))
	t.replaceLeader()
	select {
	case <-s.Done():
		t.fail("the session has ended")
	default:
	}
	t.equal("keys", t.get(t.key(""), clientv3.WithPrefix()).Count, 3)
	left := t.timeToLive(id)
	t.is("the lease's time", left.TTL > 500 && left.GrantedTTL == 600 && len(left.Keys) == 1)
	t.must(s.Close())
	t.equal("keys without the session", t.get(t.key(""), clientv3.WithPrefix()).Count, 2)
	t.revoke(id)
}

func mutexSurvives(t *T) {
	mutex := concurrency.NewMutex(t.session(concurrency.WithTTL(10)), t.key("lock"))
	t.must(mutex.Lock(t.ctx))
	waiting := concurrency.NewMutex(t.session(), t.key("lock"))
	gained := make(chan error, 1)
	go func() { gained <- waiting.Lock(t.ctx) }()
	t.replaceLeader()
	select {
	case err := <-gained:
		t.fail("the other has the lock, or has given up: %v", err)
	default:
	}
	t.is("still the owner", t.holds(mutex.IsOwner()))
	t.must(mutex.Unlock(t.ctx))
	t.must(receive(t, "the other's turn", gained))
	t.must(waiting.Unlock(t.ctx))
}

func electionSurvives(t *T) {
	first := concurrency.NewElection(t.session(concurrency.WithTTL(10)), t.key("e"))
	t.must(first.Campaign(t.ctx, "one"))
	observed := first.Observe(t.ctx)
	t.equal("observed", valuesOf(receive(t, "leader", observed).Kvs), "one")
	t.replaceLeader()
	t.must(first.Proclaim(t.ctx, "uno"))
	t.eventually("observed after it", func() bool {
		return valuesOf(receive(t, "leader", observed).Kvs) == "uno"
	})
	t.must(first.Resign(t.ctx))
}

package main

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	recipe "go.etcd.io/etcd/client/v3/experimental/recipes"
)

var recipeChecks = []check{
	{"concurrency/session", session},
	{"concurrency/session-orphaned", sessionOrphaned},
	{"concurrency/mutex-contended", mutexContended},
	{"concurrency/mutex-try", mutexTry},
	{"concurrency/mutex-given-up", mutexGivenUp},
	{"concurrency/mutex-of-a-lost-session", mutexOfLostSession},
	{"concurrency/election", election},
	{"concurrency/election-resumed", electionResumed},
	{"concurrency/election-contended", electionContended},
	{"concurrency/stm-transfers", stmTransfers},
	{"concurrency/stm-isolations", stmIsolations},
	{"concurrency/stm-aborted", stmAborted},
	{"recipes/barrier", barrier},
	{"recipes/double-barrier", doubleBarrier},
	{"recipes/queue", queue},
	{"recipes/priority-queue", priorityQueue},
	{"recipes/rw-mutex", rwMutex},
}

// session is one that is closed when the check ends.
func (t *T) session(options ...concurrency.SessionOption) *concurrency.Session {
	s, err := concurrency.NewSession(t.cli, options...)
	t.must(err)
	t.cleanup(func() { s.Close() })
	return s
}

func session(t *T) {
	s := t.session(concurrency.WithTTL(2))
	t.put(t.key("a"), "1", clientv3.WithLease(s.Lease()))
	t.is("its lease is alive", t.timeToLive(s.Lease()).TTL > 0)
	start := time.Now()
	t.eventually("more than its time has passed", func() bool { return time.Since(start) > 3*time.Second })
	t.equal("the key of a session that is kept", t.get(t.key("a")).Count, 1)
	t.must(s.Close())
	closed(t, "done", s.Done())
	t.equal("the key of a closed session", t.get(t.key("a")).Count, 0)
}

func sessionOrphaned(t *T) {
	id := t.grant(2)
	s := t.session(concurrency.WithLease(id))
	t.equal("lease", s.Lease(), id)
	t.put(t.key("a"), "1", clientv3.WithLease(id))
	s.Orphan()
	closed(t, "done", s.Done())
	t.equal("the key at once", t.get(t.key("a")).Count, 1)
	t.eventually("the key goes with the lease", func() bool { return t.get(t.key("a")).Count == 0 })
}

func mutexContended(t *T) {
	const workers, each = 8, 5
	var holders, counter int64
	t.all(workers, func(t *T, _ int) {
		s, err := concurrency.NewSession(t.cli)
		t.must(err)
		defer s.Close()
		mutex := concurrency.NewMutex(s, t.key("lock"))
		for range each {
			t.must(mutex.Lock(t.ctx))
			t.equal("holders", atomic.AddInt64(&holders, 1), 1)
			counter++ // the lock is what guards it
			owned := t.commit(t.cli.Txn(t.ctx).If(mutex.IsOwner()).Then(clientv3.OpPut(t.key("counter"), fmt.Sprint(counter))))
			t.is("the key says so too", owned.Succeeded)
			atomic.AddInt64(&holders, -1)
			t.must(mutex.Unlock(t.ctx))
		}
	})
	t.equal("turns", counter, workers*each)
	t.equal("turns, stored", valuesOf(t.get(t.key("counter")).Kvs), strconv.Itoa(workers*each))
	t.equal("keys left", t.get(t.key("lock"), clientv3.WithPrefix()).Count, 0)
}

func mutexTry(t *T) {
	first := concurrency.NewMutex(t.session(), t.key("lock"))
	second := concurrency.NewMutex(t.session(), t.key("lock"))
	t.must(first.TryLock(t.ctx))
	t.refused("while it is held", second.TryLock(t.ctx), concurrency.ErrLocked)
	t.must(first.Unlock(t.ctx))
	t.must(second.TryLock(t.ctx))
	t.must(second.Unlock(t.ctx))
}

func mutexGivenUp(t *T) {
	first := concurrency.NewMutex(t.session(), t.key("lock"))
	second := concurrency.NewMutex(t.session(), t.key("lock"))
	t.must(first.Lock(t.ctx))
	ctx, cancel := context.WithTimeout(t.ctx, 300*time.Millisecond)
	defer cancel()
	t.refused("in vain", second.Lock(ctx), context.DeadlineExceeded)
	t.equal("who waits or holds", t.get(t.key("lock"), clientv3.WithPrefix()).Count, 1)
	t.must(first.Unlock(t.ctx))
}

func mutexOfLostSession(t *T) {
	lost := t.session(concurrency.WithTTL(2))
	t.must(concurrency.NewMutex(lost, t.key("lock")).Lock(t.ctx))
	lost.Orphan() // nobody renews its lease any more
	second := concurrency.NewMutex(t.session(), t.key("lock"))
	t.must(second.Lock(t.ctx))
	t.must(second.Unlock(t.ctx))
}

func election(t *T) {
	first := concurrency.NewElection(t.session(), t.key("e"))
	second := concurrency.NewElection(t.session(), t.key("e"))
	_, err := first.Leader(t.ctx)
	t.refused("before there is one", err, concurrency.ErrElectionNoLeader)
	t.refused("proclaimed by nobody", first.Proclaim(t.ctx, "x"), concurrency.ErrElectionNotLeader)
	t.must(first.Campaign(t.ctx, "one"))
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	observed := second.Observe(ctx)
	t.equal("observed", valuesOf(receive(t, "leader", observed).Kvs), "one")
	t.must(first.Proclaim(t.ctx, "uno"))
	t.equal("observed, proclaimed anew", valuesOf(receive(t, "leader", observed).Kvs), "uno")
	won := make(chan error, 1)
	go func() { won <- second.Campaign(t.ctx, "two") }()
	t.eventually("the second waits", func() bool { return t.get(t.key("e"), clientv3.WithPrefix()).Count == 2 })
	leader, err := second.Leader(t.ctx)
	t.must(err)
	t.equal("leader", valuesOf(leader.Kvs), "uno")
	t.must(first.Resign(t.ctx))
	t.must(receive(t, "the second wins", won))
	t.equal("observed, after the resignation", valuesOf(receive(t, "leader", observed).Kvs), "two")
	t.must(second.Resign(t.ctx))
	t.equal("keys left", t.get(t.key("e"), clientv3.WithPrefix()).Count, 0)
	cancel()
	closed(t, "observation", observed)
}

func electionResumed(t *T) {
	s := t.session()
	first := concurrency.NewElection(s, t.key("e"))
	t.must(first.Campaign(t.ctx, "one"))
	resumed := concurrency.ResumeElection(s, t.key("e"), first.Key(), first.Rev())
	t.must(resumed.Proclaim(t.ctx, "still one"))
	t.must(resumed.Resign(t.ctx))
}

func electionContended(t *T) {
	const candidates = 6
	var leaders, terms int64
	t.all(candidates, func(t *T, candidate int) {
		s, err := concurrency.NewSession(t.cli)
		t.must(err)
		defer s.Close()
		e := concurrency.NewElection(s, t.key("e"))
		t.must(e.Campaign(t.ctx, strconv.Itoa(candidate)))
		t.equal("leaders", atomic.AddInt64(&leaders, 1), 1)
		leader, err := e.Leader(t.ctx)
		t.must(err)
		t.equal("leader", valuesOf(leader.Kvs), strconv.Itoa(candidate))
		terms++
		atomic.AddInt64(&leaders, -1)
		t.must(e.Resign(t.ctx))
	})
	t.equal("terms", terms, candidates)
}

// stmTransfers moves money between accounts; the sum never changes, whatever the contention.
func stmTransfers(t *T) {
	const accounts, workers, each = 4, 8, 10
	cli := t.alone() // another member might not know yet the revision that this client reads at
	for i := range accounts {
		t.put(t.key(strconv.Itoa(i)), "100")
	}
	t.all(workers, func(t *T, worker int) {
		for i := range each {
			from, to := t.key(strconv.Itoa((worker+i)%accounts)), t.key(strconv.Itoa((worker+3*i+1)%accounts))
			_, err := concurrency.NewSTM(cli, func(s concurrency.STM) error {
				if from == to {
					return nil
				}
				a, _ := strconv.Atoi(s.Get(from))
				b, _ := strconv.Atoi(s.Get(to))
				s.Put(from, strconv.Itoa(a-1))
				s.Put(to, strconv.Itoa(b+1))
				return nil
			}, concurrency.WithAbortContext(t.ctx))
			t.must(err)
		}
	})
	sum := 0
	for _, kv := range t.get(t.key(""), clientv3.WithPrefix()).Kvs {
		amount, err := strconv.Atoi(string(kv.Value))
		t.must(err)
		sum += amount
	}
	t.equal("sum", sum, accounts*100)
}

func stmIsolations(t *T) {
	cli := t.alone()
	for name, isolation := range map[string]concurrency.Isolation{
		"snapshot":     concurrency.SerializableSnapshot,
		"serializable": concurrency.Serializable,
		"repeatable":   concurrency.RepeatableReads,
	} {
		key := t.key(name)
		t.put(key, "0")
		t.all(6, func(t *T, _ int) {
			for range 5 {
				_, err := concurrency.NewSTM(cli, func(s concurrency.STM) error {
					value, _ := strconv.Atoi(s.Get(key))
					s.Put(key, strconv.Itoa(value+1))
					return nil
				}, concurrency.WithIsolation(isolation), concurrency.WithAbortContext(t.ctx), concurrency.WithPrefetch(key))
				t.must(err)
			}
		})
		t.equal(name, valuesOf(t.get(key).Kvs), "30")
	}
	_, err := concurrency.NewSTM(cli, func(s concurrency.STM) error {
		s.Del(t.key("snapshot"))
		s.Put(t.key("committed"), s.Get(t.key("serializable")))
		return nil
	}, concurrency.WithIsolation(concurrency.ReadCommitted))
	t.must(err)
	t.equal("after a deletion and a copy", keysOf(t.get(t.key(""), clientv3.WithPrefix()).Kvs), "committed repeatable serializable")
}

func stmAborted(t *T) {
	cli := t.alone()
	reason := fmt.Errorf("changed my mind")
	_, err := concurrency.NewSTM(cli, func(s concurrency.STM) error {
		s.Put(t.key("a"), "1")
		return reason
	})
	t.refused("aborted", err, reason)
	t.equal("written", t.get(t.key("a")).Count, 0)
}

func barrier(t *T) {
	b := recipe.NewBarrier(t.cli, t.key("b"))
	t.must(b.Hold())
	passed := make(chan error, 3)
	for range 3 {
		go func() { passed <- b.Wait() }()
	}
	select {
	case <-passed:
		t.fail("passed a barrier that is held")
	case <-time.After(200 * time.Millisecond):
	}
	t.must(b.Release())
	for range 3 {
		t.must(receive(t, "passage", passed))
	}
}

func doubleBarrier(t *T) {
	var inside int64
	t.all(3, func(t *T, _ int) {
		s, err := concurrency.NewSession(t.cli)
		t.must(err)
		defer s.Close()
		b := recipe.NewDoubleBarrier(s, t.key("b"), 3)
		atomic.AddInt64(&inside, 1)
		t.must(b.Enter())
		t.equal("who has come when one may enter", atomic.LoadInt64(&inside), 3)
		t.must(b.Leave())
	})
}

func queue(t *T) {
	q := recipe.NewQueue(t.cli, t.key("q"))
	for i := range 5 {
		t.must(q.Enqueue(strconv.Itoa(i)))
	}
	for i := range 5 {
		value, err := q.Dequeue()
		t.must(err)
		t.equal("value", value, strconv.Itoa(i))
	}
	late := make(chan string, 1)
	go func() {
		value, err := q.Dequeue()
		late <- fmt.Sprint(value, err)
	}()
	t.must(q.Enqueue("late"))
	t.equal("what was waited for", receive(t, "value", late), "late<nil>")
}

func priorityQueue(t *T) {
	q := recipe.NewPriorityQueue(t.cli, t.key("q"))
	t.must(q.Enqueue("low", 9))
	t.must(q.Enqueue("high", 1))
	t.must(q.Enqueue("high too", 1))
	for _, want := range []string{"high", "high too", "low"} {
		value, err := q.Dequeue()
		t.must(err)
		t.equal("value", value, want)
	}
}

func rwMutex(t *T) {
	one, two := recipe.NewRWMutex(t.session(), t.key("m")), recipe.NewRWMutex(t.session(), t.key("m"))
	writer := recipe.NewRWMutex(t.session(), t.key("m"))
	t.must(one.RLock())
	t.must(two.RLock())
	written := make(chan error, 1)
	go func() { written <- writer.Lock() }()
	t.must(one.RUnlock())
	select {
	case <-written:
		t.fail("locked for writing while one reads")
	case <-time.After(200 * time.Millisecond):
	}
	t.must(two.RUnlock())
	t.must(receive(t, "the writer's turn", written))
	t.must(writer.Unlock())
}

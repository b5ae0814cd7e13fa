package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var watchChecks = []check{
	{"watch/puts-and-deletions", watchPutsAndDeletions},
	{"watch/ranges", watchRanges},
	{"watch/from-the-past", watchFromThePast},
	{"watch/from-the-future", watchFromTheFuture},
	{"watch/created-notification", watchCreated},
	{"watch/progress-on-request", watchProgressOnRequest},
	{"watch/progress-by-itself", watchProgressByItself},
	{"watch/filters", watchFilters},
	{"watch/previous-pairs", watchPrevKV},
	{"watch/fragments", watchFragments},
	{"watch/transactions-whole", watchTransactions},
	{"watch/compacted", watchCompacted},
	{"watch/refused", watchRefused},
	{"watch/cancelled", watchCancelled},
	{"watch/require-leader", watchRequireLeader},
	{"watch/many-on-one-stream", watchMany},
	{"watch/many-streams", watchManyStreams},
	{"watch/order-under-load", watchOrder},
	{"watch/long-history", watchLongHistory},
	{"watch/slow-reader", watchSlowReader},
}

// watch begins one that is sure to stand when this returns.
func (t *T) watch(key string, options ...clientv3.OpOption) clientv3.WatchChan {
	return t.watchBy(t.cli, key, options...)
}

func (t *T) watchBy(watcher clientv3.Watcher, key string, options ...clientv3.OpOption) clientv3.WatchChan {
	ctx, cancel := context.WithCancel(t.ctx)
	t.cleanup(cancel)
	events := watcher.Watch(ctx, key, append(options, clientv3.WithCreatedNotify())...)
	t.is("a watch begins with its creation", receive(t, "creation", events).Created)
	return events
}

// told joins what a watch says until it has said count events.
func (t *T) told(events clientv3.WatchChan, count int) string {
	var words []string
	for len(words) < count {
		response := receive(t, fmt.Sprintf("event %d of %d", len(words)+1, count), events)
		t.must(response.Err())
		for _, event := range response.Events {
			key := string(event.Kv.Key)
			words = append(words, fmt.Sprintf("%s %s=%s", event.Type, key[strings.LastIndexByte(key, '/')+1:], event.Kv.Value))
		}
	}
	return strings.Join(words, ", ")
}

func (t *T) delete(key string, options ...clientv3.OpOption) int64 {
	response, err := t.cli.Delete(t.ctx, key, options...)
	t.must(err)
	return response.Header.Revision
}

func watchPutsAndDeletions(t *T) {
	events := t.watch(t.key("a"))
	created := t.put(t.key("a"), "1")
	response := receive(t, "the put", events)
	t.equal("header", response.Header.Revision, created)
	event := response.Events[0]
	t.is("a creation", event.IsCreate() && !event.IsModify())
	t.equal("value", string(event.Kv.Value), "1")
	t.put(t.key("b"), "not watched")
	changed := t.put(t.key("a"), "2")
	event = receive(t, "the change", events).Events[0]
	t.is("a change", event.IsModify())
	t.equal("revisions", []int64{event.Kv.CreateRevision, event.Kv.ModRevision, event.Kv.Version}, []int64{created, changed, 2})
	deleted := t.delete(t.key("a"))
	event = receive(t, "the deletion", events).Events[0]
	t.is("a deletion", event.Type == clientv3.EventTypeDelete)
	t.equal("its revisions", []int64{event.Kv.CreateRevision, event.Kv.ModRevision, event.Kv.Version}, []int64{0, deleted, 0})
}

func watchRanges(t *T) {
	prefix := t.watch(t.key(""), clientv3.WithPrefix())
	between := t.watch(t.key("b"), clientv3.WithRange(t.key("d")))
	onward := t.watch(t.key("d"), clientv3.WithFromKey())
	for _, key := range strings.Fields("a b c d e") {
		t.put(t.key(key), key)
	}
	t.delete(t.key("b"), clientv3.WithRange(t.key("e")))
	t.equal("prefix", t.told(prefix, 8), "PUT a=a, PUT b=b, PUT c=c, PUT d=d, PUT e=e, DELETE b=, DELETE c=, DELETE d=")
	t.equal("between", t.told(between, 4), "PUT b=b, PUT c=c, DELETE b=, DELETE c=")
	t.equal("onward", t.told(onward, 3), "PUT d=d, PUT e=e, DELETE d=")
}

func watchFromThePast(t *T) {
	first := t.put(t.key("a"), "1")
	t.put(t.key("a"), "2")
	third := t.delete(t.key("a"))
	t.put(t.key("a"), "3")
	t.equal("from the first", t.told(t.watch(t.key("a"), clientv3.WithRev(first)), 4), "PUT a=1, PUT a=2, DELETE a=, PUT a=3")
	later := t.watch(t.key("a"), clientv3.WithRev(third))
	t.equal("from the third", t.told(later, 2), "DELETE a=, PUT a=3")
	t.put(t.key("a"), "4")
	t.equal("and on", t.told(later, 1), "PUT a=4")
}

func watchFromTheFuture(t *T) {
	now := t.put(t.key("a"), "1")
	events := t.watch(t.key("a"), clientv3.WithRev(now+3))
	t.put(t.key("a"), "2")
	t.put(t.key("a"), "3")
	t.put(t.key("a"), "4")
	t.put(t.key("a"), "5")
	t.equal("events", t.told(events, 2), "PUT a=4, PUT a=5")
}

func watchCreated(t *T) {
	t.cli = t.alone()
	revision := t.put(t.key("a"), "1")
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	response := receive(t, "creation", t.cli.Watch(ctx, t.key("a"), clientv3.WithCreatedNotify()))
	t.is("created, without events", response.Created && len(response.Events) == 0)
	t.equal("header", response.Header.Revision, revision)
}

func watchProgressOnRequest(t *T) {
	cli := t.another() // whose stream has this watch alone
	events := t.watchBy(cli, t.key("a"))
	revision := t.put(t.key("other"), "1")
	// A request is answered only if all watches are in step, so ask again.
	var response clientv3.WatchResponse
	for asked := false; !asked; {
		t.must(cli.RequestProgress(t.ctx))
		select {
		case response = <-events:
			asked = response.IsProgressNotify() && response.Header.Revision >= revision
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.equal("revision", response.Header.Revision, revision)
	t.put(t.key("a"), "2")
	for {
		response = receive(t, "event", events)
		if !response.IsProgressNotify() {
			break
		}
	}
	t.equal("the event after it", string(response.Events[0].Kv.Value), "2")
}

func watchProgressByItself(t *T) {
	events := t.watch(t.key("a"), clientv3.WithProgressNotify())
	quiet := t.watch(t.key("a"))
	revision := t.put(t.key("other"), "1")
	// The members are told to notify every second.
	for {
		response := receive(t, "progress", events)
		t.is("nothing else", response.IsProgressNotify())
		if response.Header.Revision >= revision {
			break
		}
	}
	select {
	case <-quiet:
		t.fail("a watch that did not ask was notified")
	default:
	}
}

func watchFilters(t *T) {
	puts := t.watch(t.key(""), clientv3.WithPrefix(), clientv3.WithFilterDelete())
	deletions := t.watch(t.key(""), clientv3.WithPrefix(), clientv3.WithFilterPut())
	t.put(t.key("a"), "1")
	t.delete(t.key("a"))
	t.put(t.key("a"), "2")
	t.delete(t.key("a"))
	t.put(t.key("a"), "3")
	t.equal("puts", t.told(puts, 3), "PUT a=1, PUT a=2, PUT a=3")
	t.equal("deletions", t.told(deletions, 2), "DELETE a=, DELETE a=")
}

func watchPrevKV(t *T) {
	first := t.put(t.key("a"), "0")
	second := t.put(t.key("a"), "1")
	live := t.watch(t.key("a"), clientv3.WithPrevKV(), clientv3.WithRev(second+1))
	past := t.watch(t.key("a"), clientv3.WithPrevKV(), clientv3.WithRev(first))
	t.put(t.key("a"), "2")
	t.delete(t.key("a"))
	t.put(t.key("a"), "3")
	before := func(events clientv3.WatchChan, count int) (text string) {
		for seen := 0; seen < count; {
			for _, event := range receive(t, "event", events).Events {
				seen++
				if event.PrevKv == nil {
					text += "- "
				} else {
					text += string(event.PrevKv.Value) + " "
				}
			}
		}
		return text
	}
	t.equal("live", before(live, 3), "1 2 - ")
	t.equal("from the past", before(past, 5), "- 0 1 2 - ")
}

func watchFragments(t *T) {
	value := strings.Repeat("v", 1<<20)
	first := t.put(t.key("0"), value)
	for i := 1; i < 6; i++ {
		t.put(t.key(strconv.Itoa(i)), value)
	}
	// The client joins the parts again, so a whole answer is what it must hand out.
	events := t.watch(t.key(""), clientv3.WithPrefix(), clientv3.WithRev(first), clientv3.WithFragment())
	seen := 0
	for seen < 6 {
		for _, event := range receive(t, "event", events).Events {
			t.is("in order and whole", string(event.Kv.Key) == t.key(strconv.Itoa(seen)) && string(event.Kv.Value) == value)
			seen++
		}
	}
	t.delete(t.key(""), clientv3.WithPrefix())
	t.equal("deletions in one", len(receive(t, "deletions", events).Events), 6)
}

func watchTransactions(t *T) {
	events := t.watch(t.key(""), clientv3.WithPrefix())
	var puts []clientv3.Op
	for i := range 100 {
		puts = append(puts, clientv3.OpPut(t.key(fmt.Sprintf("%03d", i)), "v"))
	}
	response := t.commit(t.cli.Txn(t.ctx).Then(puts...))
	told := receive(t, "transaction", events)
	t.equal("events", len(told.Events), 100)
	for _, event := range told.Events {
		t.equal("mod revision", event.Kv.ModRevision, response.Header.Revision)
	}
}

func watchCompacted(t *T) {
	first := t.put(t.key("a"), "1")
	second := t.put(t.key("a"), "2")
	third := t.put(t.key("a"), "3")
	cli := t.alone()
	_, err := cli.Compact(t.ctx, second)
	t.must(err)
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	events := cli.Watch(ctx, t.key("a"), clientv3.WithRev(first))
	response := receive(t, "cancellation", events)
	t.refused("from below", response.Err(), rpctypes.ErrCompacted)
	t.equal("compact revision", response.CompactRevision, second)
	closed(t, "the channel after it", events)
	t.equal("from the compacted revision itself", t.told(t.watch(t.key("a"), clientv3.WithRev(second)), 2), "PUT a=2, PUT a=3")
	t.equal("from above", t.told(t.watch(t.key("a"), clientv3.WithRev(third)), 1), "PUT a=3")
}

func watchRefused(t *T) {
	ctx, cancel := context.WithCancel(t.ctx)
	defer cancel()
	response := receive(t, "cancellation", t.cli.Watch(ctx, t.key("b"), clientv3.WithRange(t.key("a"))))
	t.is("an empty range is cancelled at once", response.Canceled)
	t.refused("an empty range", response.Err(), "mvcc: watcher range is empty")
	response = receive(t, "cancellation", t.cli.Watch(ctx, t.key("a"), clientv3.WithRev(-1)))
	t.refused("a negative revision", response.Err(), rpctypes.ErrCompacted)
}

func watchCancelled(t *T) {
	ctx, cancel := context.WithCancel(t.ctx)
	events := t.cli.Watch(ctx, t.key("a"), clientv3.WithCreatedNotify())
	receive(t, "creation", events)
	other := t.watch(t.key("a"))
	cancel()
	closed(t, "a cancelled watch", events)
	t.put(t.key("a"), "1")
	t.equal("the other goes on", t.told(other, 1), "PUT a=1")

	cli := t.another()
	events = cli.Watch(t.ctx, t.key("a"), clientv3.WithCreatedNotify())
	receive(t, "creation", events)
	t.must(cli.Watcher.Close())
	closed(t, "a closed watcher's watch", events)
}

func watchRequireLeader(t *T) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(t.ctx))
	defer cancel()
	events := t.cli.Watch(ctx, t.key("a"), clientv3.WithCreatedNotify())
	receive(t, "creation", events)
	t.put(t.key("a"), "1")
	t.equal("event", t.told(events, 1), "PUT a=1")
	_, err := t.cli.Get(ctx, t.key("a"))
	t.must(err)
}

func watchMany(t *T) {
	const watches = 400
	cli := t.another()
	channels := make([]clientv3.WatchChan, watches)
	for i := range watches {
		channels[i] = cli.Watch(t.ctx, t.key(strconv.Itoa(i)), clientv3.WithCreatedNotify())
	}
	for _, events := range channels {
		t.is("creation", receive(t, "creation", events).Created)
	}
	all := t.watchBy(cli, t.key(""), clientv3.WithPrefix())
	t.all(8, func(t *T, worker int) {
		for i := worker; i < watches; i += 8 {
			t.put(t.key(strconv.Itoa(i)), strconv.Itoa(i))
		}
	})
	for i, events := range channels {
		t.equal("event", t.told(events, 1), fmt.Sprintf("PUT %d=%d", i, i))
	}
	t.equal("events of all", strings.Count(t.told(all, watches), "PUT"), watches)
}

func watchManyStreams(t *T) {
	const streams = 20
	cli := t.another()
	var channels []clientv3.WatchChan
	for range streams {
		watcher := clientv3.NewWatcher(cli)
		t.cleanup(func() { watcher.Close() })
		channels = append(channels, t.watchBy(watcher, t.key("a")))
	}
	t.put(t.key("a"), "1")
	for _, events := range channels {
		t.equal("event", t.told(events, 1), "PUT a=1")
	}
}

// watchOrder: every event of many writers once, in the order of revisions, the same for all watches.
func watchOrder(t *T) {
	const writers, each = 10, 30
	start := t.put(t.key("start"), "")
	live := t.watch(t.key(""), clientv3.WithPrefix(), clientv3.WithRev(start+1))
	t.all(writers, func(t *T, writer int) {
		for i := range each {
			t.put(t.key(strconv.Itoa(writer)), strconv.Itoa(i))
		}
	})
	late := t.watch(t.key(""), clientv3.WithPrefix(), clientv3.WithRev(start+1))
	first, second := t.revisions(live, writers*each), t.revisions(late, writers*each)
	t.equal("live and late", first, second)
	for i, revision := range first {
		t.equal("revision of event "+strconv.Itoa(i), revision, start+1+int64(i))
	}
}

// revisions are the next count events' own; each must be above the one before.
func (t *T) revisions(events clientv3.WatchChan, count int) (revisions []int64) {
	for len(revisions) < count {
		response := receive(t, fmt.Sprintf("event %d of %d", len(revisions)+1, count), events)
		t.must(response.Err())
		for _, event := range response.Events {
			if n := len(revisions); n > 0 && event.Kv.ModRevision <= revisions[n-1] {
				t.fail("revision %d after %d", event.Kv.ModRevision, revisions[n-1])
			}
			revisions = append(revisions, event.Kv.ModRevision)
		}
	}
	return revisions
}

func watchLongHistory(t *T) {
	const writes = 2500 // more than a member sends at once to a watch that catches up
	start := t.put(t.key("start"), "")
	t.all(25, func(t *T, writer int) {
		for range writes / 25 {
			t.put(t.key(strconv.Itoa(writer)), "v")
		}
	})
	revisions := t.revisions(t.watch(t.key(""), clientv3.WithPrefix(), clientv3.WithRev(start+1)), writes)
	t.equal("first", revisions[0], start+1)
	t.equal("last", revisions[writes-1], start+writes)
}

// watchSlowReader reads nothing while much is written; its events wait, another watch's do not.
func watchSlowReader(t *T) {
	const writes = 60
	slow := t.watchBy(t.another(), t.key(""), clientv3.WithPrefix())
	fast := t.watchBy(t.another(), t.key(""), clientv3.WithPrefix())
	value := strings.Repeat("v", 100_000)
	for i := range writes {
		t.put(t.key(strconv.Itoa(i)), value)
		receive(t, "the fast one's event", fast)
	}
	t.equal("the slow one's events", len(t.revisions(slow, writes)), writes)
	t.delete(t.key(""), clientv3.WithPrefix())
}

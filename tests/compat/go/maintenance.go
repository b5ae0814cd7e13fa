package main

import (
	"bytes"
	"crypto/sha256"
	"io"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var maintenanceChecks = []check{
	{"maintenance/status", status},
	{"maintenance/hash", hashKV},
	{"maintenance/defragment", defragment},
	{"maintenance/snapshot", snapshot},
	{"maintenance/move-leader", moveLeader},
	{"maintenance/alarms", alarms},
	{"maintenance/quota", quota},
	{"maintenance/downgrade", downgrade},
}

// statuses are those of all members, by endpoint.
func (t *T) statuses() map[string]*clientv3.StatusResponse {
	all := map[string]*clientv3.StatusResponse{}
	for _, endpoint := range t.cluster.Endpoints {
		response, err := t.cli.Status(t.ctx, endpoint)
		t.must(err)
		all[endpoint] = response
	}
	return all
}

// leader is the endpoint of the member that leads, and the IDs of the others.
func (t *T) leader() (endpoint string, others []uint64) {
	t.eventually("a leader", func() bool {
		endpoint, others = "", nil
		for at, status := range t.statuses() {
			if status.Leader == status.Header.MemberId {
				endpoint = at
			} else {
				others = append(others, status.Header.MemberId)
			}
		}
		return endpoint != "" && len(others) == len(t.cluster.Endpoints)-1
	})
	return endpoint, others
}

func status(t *T) {
	revision := t.put(t.key("a"), "1")
	leaders := map[uint64]bool{}
	for _, status := range t.statuses() {
		leaders[status.Leader] = true
		t.equal("version's parts", strings.Count(status.Version, "."), 2)
		t.is("sizes", status.DbSize > 0 && status.DbSizeInUse > 0 && status.DbSizeInUse <= status.DbSize)
		t.is("progress", status.RaftIndex > 0 && status.RaftTerm > 0 && status.RaftAppliedIndex <= status.RaftIndex)
		t.is("a voter", !status.IsLearner)
		t.equal("errors", len(status.Errors), 0)
		t.is("quota", status.DbSizeQuota > 0)
		t.is("storage version", status.StorageVersion != "")
	}
	t.is("all know the same leader", len(leaders) == 1 && !leaders[0])
	t.is("revision", t.get(t.key("a")).Header.Revision >= revision)
}

func hashKV(t *T) {
	var revision int64
	for i := range 20 {
		revision = t.put(t.key(words(i%3)), words(i))
	}
	t.delete(t.key("0"))
	hashes := map[string]bool{}
	for _, endpoint := range t.cluster.Endpoints {
		t.eventually("each member has applied it", func() bool {
			response, err := t.cli.HashKV(t.ctx, endpoint, revision)
			if err == rpctypes.ErrFutureRev {
				return false
			}
			t.must(err)
			hashes[words(response.Hash, response.CompactRevision)] = true
			t.equal("revision of the hash", response.HashRevision, revision)
			return true
		})
	}
	t.equal("different hashes", len(hashes), 1)
	_, err := t.cli.HashKV(t.ctx, t.cluster.Endpoints[0], revision+1000)
	t.refused("of the future", err, rpctypes.ErrFutureRev)
}

func defragment(t *T) {
	t.put(t.key("a"), "1")
	for _, endpoint := range t.cluster.Endpoints {
		_, err := t.cli.Defragment(t.ctx, endpoint)
		t.must(err)
	}
	t.equal("value", valuesOf(t.get(t.key("a")).Kvs), "1")
}

func snapshot(t *T) {
	for i := range 50 {
		t.put(t.key(words(i)), strings.Repeat("v", 1000))
	}
	response, err := t.cli.SnapshotWithVersion(t.ctx)
	t.must(err)
	defer response.Snapshot.Close()
	content, err := io.ReadAll(response.Snapshot)
	t.must(err)
	t.is("a version", response.Version != "")
	body, sum := content[:len(content)-sha256.Size], content[len(content)-sha256.Size:]
	t.equal("size, as etcdctl wants it", len(content)%512, sha256.Size)
	want := sha256.Sum256(body)
	t.is("the checksum at its end", bytes.Equal(sum, want[:]))
	plain, err := t.cli.Snapshot(t.ctx)
	t.must(err)
	again, err := io.ReadAll(plain)
	t.must(err)
	t.is("once more", len(again) > 0)
	t.must(plain.Close())
}

func moveLeader(t *T) {
	for range 2 {
		endpoint, others := t.leader()
		config := configOf(t.cluster)
		config.Endpoints = []string{endpoint}
		leader := t.client(config)
		_, err := leader.MoveLeader(t.ctx, others[0])
		t.must(err)
		t.eventually("all follow the other", func() bool {
			for _, status := range t.statuses() {
				if status.Leader != others[0] {
					return false
				}
			}
			return true
		})
		_, err = leader.MoveLeader(t.ctx, others[1])
		t.refused("asked of a follower", err, rpctypes.ErrNotLeader)
	}
	endpoint, _ := t.leader()
	config := configOf(t.cluster)
	config.Endpoints = []string{endpoint}
	_, err := t.client(config).MoveLeader(t.ctx, 4711)
	t.refused("to nobody", err, rpctypes.ErrBadLeaderTransferee)
	t.put(t.key("a"), "1")
}

func alarms(t *T) {
	none, err := t.cli.AlarmList(t.ctx)
	t.must(err)
	t.equal("alarms", len(none.Alarms), 0)
	disarmed, err := t.cli.AlarmDisarm(t.ctx, &clientv3.AlarmMember{})
	t.must(err)
	t.equal("disarmed", len(disarmed.Alarms), 0)
}

// quota fills a cluster whose members may hold little, and makes room again.
func quota(t *T) {
	small := t.askCluster("small")
	cli := t.client(configOf(small))
	value := strings.Repeat("v", 500_000)
	var err error
	for i := 0; err == nil && i < 200; i++ {
		_, err = cli.Put(t.ctx, t.key(words(i)), value)
	}
	t.refused("the put that is too much", err, rpctypes.ErrNoSpace)
	t.eventually("an alarm", func() bool {
		raised, err := cli.AlarmList(t.ctx)
		t.must(err)
		return len(raised.Alarms) > 0 && raised.Alarms[0].Alarm == etcdserverpb.AlarmType_NOSPACE
	})
	_, err = cli.Put(t.ctx, t.key("more"), "v")
	t.refused("a put after it", err, rpctypes.ErrNoSpace)
	_, err = cli.Txn(t.ctx).Then(clientv3.OpPut(t.key("more"), "v")).Commit()
	t.refused("a transaction that puts", err, rpctypes.ErrNoSpace)
	_, err = cli.Grant(t.ctx, 60)
	t.refused("a lease", err, rpctypes.ErrNoSpace)
	got, err := cli.Get(t.ctx, t.key("0"))
	t.must(err)
	t.equal("what can be read", got.Count, 1)
	deleted, err := cli.Delete(t.ctx, t.key(""), clientv3.WithPrefix())
	t.must(err)
	_, err = cli.Compact(t.ctx, deleted.Header.Revision, clientv3.WithCompactPhysical())
	t.must(err)
	for _, endpoint := range small.Endpoints {
		t.eventually("room is made", func() bool {
			_, err = cli.Defragment(t.ctx, endpoint)
			t.must(err)
			status, err := cli.Status(t.ctx, endpoint)
			t.must(err)
			return status.DbSize < 4_000_000
		})
	}
	raised, err := cli.AlarmDisarm(t.ctx, &clientv3.AlarmMember{})
	t.must(err)
	t.is("alarms disarmed", len(raised.Alarms) > 0)
	left, err := cli.AlarmList(t.ctx)
	t.must(err)
	t.equal("alarms left", len(left.Alarms), 0)
	_, err = cli.Put(t.ctx, t.key("again"), "v")
	t.must(err)
}

func downgrade(t *T) {
	_, err := t.cli.Downgrade(t.ctx, clientv3.DowngradeValidate, "no version")
	t.refused("what is no version", err, rpctypes.ErrWrongDowngradeVersionFormat)
	_, err = t.cli.Downgrade(t.ctx, clientv3.DowngradeValidate, "3.0.0")
	t.refused("too far", err, rpctypes.ErrInvalidDowngradeTargetVersion)
	_, err = t.cli.Downgrade(t.ctx, clientv3.DowngradeCancel, "")
	t.must(err) // though there is none to cancel
}

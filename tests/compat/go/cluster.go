package main

import (
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

var clusterChecks = []check{
	{"cluster/list", memberList},
	{"cluster/sync", memberSync},
	{"cluster/refused", memberRefused},
	{"cluster/learner", learner},
	{"cluster/update", memberUpdate},
}

func (t *T) members() *clientv3.MemberListResponse {
	response, err := t.cli.MemberList(t.ctx)
	t.must(err)
	return response
}

func memberList(t *T) {
	list := t.members()
	t.equal("members", len(list.Members), 3)
	for i, member := range list.Members {
		t.is("a name and URLs", member.Name != "" && len(member.PeerURLs) == 1 && len(member.ClientURLs) == 1)
		t.is("no learner", !member.IsLearner)
		t.is("sorted by ID", i == 0 || member.ID > list.Members[i-1].ID)
	}
	local, err := t.cli.MemberList(t.ctx, clientv3.WithSerializable())
	t.must(err)
	t.equal("members, not linearizable", len(local.Members), 3)
}

func memberSync(t *T) {
	config := configOf(t.cluster)
	config.Endpoints = config.Endpoints[:1]
	cli := t.client(config)
	t.must(cli.Sync(t.ctx))
	t.equal("endpoints", len(cli.Endpoints()), 3)
	_, err := cli.Get(t.ctx, t.key("a"))
	t.must(err)
}

func memberRefused(t *T) {
	members := t.members().Members
	t.patientlyRefused("a URL that is another's", rpctypes.ErrPeerURLExist, func() error {
		_, err := t.cli.MemberAddAsLearner(t.ctx, members[0].PeerURLs)
		return err
	})
	t.patientlyRefused("removing nobody", rpctypes.ErrMemberNotFound, func() error {
		_, err := t.cli.MemberRemove(t.ctx, 4711)
		return err
	})
	_, err := t.cli.MemberUpdate(t.ctx, 4711, []string{"http://127.0.0.1:1"})
	t.refused("updating nobody", err, rpctypes.ErrMemberNotFound)
	_, err = t.cli.MemberPromote(t.ctx, 4711)
	t.refused("promoting nobody", err, rpctypes.ErrMemberNotFound)
	_, err = t.cli.MemberPromote(t.ctx, members[0].ID)
	t.refused("promoting a voter", err, rpctypes.ErrMemberNotLearner)
	t.equal("members after all that", len(t.members().Members), 3)
}

// member is one that has addresses and does not run yet.
type member struct {
	PeerURL   string `json:"peer_url"`
	ClientURL string `json:"client_url"`
}

// learner adds one, promotes it when it has caught up, and removes it.
func learner(t *T) {
	t.put(t.key("a"), "1")
	var joining member
	t.ask("new-member", &joining)
	var added *clientv3.MemberAddResponse
	t.patiently("added", func() (err error) {
		added, err = t.cli.MemberAddAsLearner(t.ctx, []string{joining.PeerURL})
		return err
	})
	id := added.Member.ID
	t.is("a learner without a name", added.Member.IsLearner && added.Member.Name == "")
	t.equal("members", len(added.Members), 4)
	_, err := t.cli.MemberPromote(t.ctx, id)
	t.refused("promoted before it runs", err, rpctypes.ErrMemberLearnerNotReady)
	t.patientlyRefused("a second learner", rpctypes.ErrTooManyLearners, func() error {
		_, err := t.cli.MemberAddAsLearner(t.ctx, []string{"http://127.0.0.1:1"})
		return err
	})

	t.ask("start-member", nil)
	config := configOf(t.cluster)
	config.Endpoints = []string{joining.ClientURL}
	cli := t.client(config)
	t.eventually("it has the data", func() bool {
		got, err := cli.Get(t.ctx, t.key("a"), clientv3.WithSerializable())
		return err == nil && valuesOf(got.Kvs) == "1"
	})
	_, err = cli.Get(t.ctx, t.key("a"))
	t.refused("a linearizable read of a learner", err, "etcdserver: rpc not supported for learner")
	_, err = cli.Put(t.ctx, t.key("a"), "2")
	t.refused("a put to a learner", err, "etcdserver: rpc not supported for learner")
	status, err := cli.Status(t.ctx, joining.ClientURL)
	t.must(err)
	t.is("its status says it learns", status.IsLearner)

	t.patiently("promoted", func() error {
		_, err := t.cli.MemberPromote(t.ctx, id)
		return err
	})
	t.eventually("it serves all", func() bool {
		_, err := cli.Put(t.ctx, t.key("a"), "2")
		return err == nil
	})
	t.patiently("removed", func() error {
		_, err := t.cli.MemberRemove(t.ctx, id)
		return err
	})
	t.ask("drop-member", nil)
	t.equal("members in the end", len(t.members().Members), 3)
	t.patientlyRefused("removed again", rpctypes.ErrMemberNotFound, func() error {
		_, err := t.cli.MemberRemove(t.ctx, id)
		return err
	})
}

// patiently repeats what is refused while members have not yet been connected for long enough.
func (t *T) patiently(what string, change func() error) {
	var err error
	for range 200 {
		err = change()
		if err == nil {
			return
		}
		switch err {
		case rpctypes.ErrUnhealthy, rpctypes.ErrMemberLearnerNotReady, rpctypes.ErrMemberNotEnoughStarted:
		default:
			t.fail("%s: %v", what, err)
		}
		t.pause()
	}
	t.fail("%s: still %v", what, err)
}

// patientlyRefused says that a change is refused as want, once the members are healthy enough to look at it.
func (t *T) patientlyRefused(what string, want error, change func() error) {
	err := change()
	for err == rpctypes.ErrUnhealthy {
		t.pause()
		err = change()
	}
	t.refused(what, err, want)
}

// memberUpdate gives a member a second peer URL and takes it away again.
func memberUpdate(t *T) {
	first := t.members().Members[0]
	both := append([]string{"http://127.0.0.1:1"}, first.PeerURLs...)
	for _, urls := range [][]string{both, first.PeerURLs} {
		t.patiently("updated", func() error {
			_, err := t.cli.MemberUpdate(t.ctx, first.ID, urls)
			return err
		})
		for _, member := range t.members().Members {
			if member.ID == first.ID {
				t.equal("peer URLs", strings.Join(member.PeerURLs, " "), strings.Join(urls, " "))
			}
		}
	}
}
